"""The real smtpd asks a real `tcpmapkit run` for its policy, at every stage of a mail."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tcpmapkit.config import ListenerConfig
from tcpmapkit.protocols.policy import ATTRIBUTES
from tcpmapkit.query import Found
from tests.endpoints import KINDS, endpoint, named, postfix_name, serving
from tests.private_postfix import TEXT, PrivatePostfix, Reply, Session, running_postfix
from tests.running_tcpmapkit import RunningTcpmapkit, lasting_port, running_tcpmapkit

# Writes down every request that it is asked.
RECORDER = """
import json
from pathlib import Path
import attrs
from tcpmapkit import hookimpl

@attrs.define(eq=False)
class Recorder:
    path: str

    def resolve(self, query):
        with Path(self.path).open("a") as file:
            file.write(json.dumps(dict(query.attributes)) + "\\n")

@hookimpl
def register_resolvers(register):
    register("recorder", Recorder, attributes="*", special_keys=True)
"""

# The client addresses that end in "66" are refused; writes down each question.
VERDICT = """
from pathlib import Path
import attrs
from tcpmapkit import Found, hookimpl

@attrs.define(eq=False)
class Verdict:
    path: str

    def resolve(self, query):
        client = query.attributes["client_address"]
        with Path(self.path).open("a") as file:
            file.write(f"{query.key} {client}\\n")
        return Found(f"REJECT not from {client}" if client.endswith("66") else f"WARN from {client}")

@hookimpl
def register_resolvers(register):
    register("verdict", Verdict, attributes=("client_address",), special_keys=True)
"""

# For clients that are not in mynetworks.
ANYBODY = "check_recipient_access static:OK, reject"

# smtpd sleeps for a second before it tries again, and fails then.
ONE_TRY = {"smtpd_policy_service_try_limit": "1"}

STAGES = ("client", "helo", "sender", "recipient", "data", "end_of_data")


@pytest.fixture(scope="module")
def shared_postfix() -> Iterator[PrivatePostfix]:
    with running_postfix() as mail:
        yield mail


@pytest.fixture
def mail(shared_postfix: PrivatePostfix) -> Iterator[PrivatePostfix]:
    """A running Postfix whose parameters are its own again when the test ends."""
    before = dict(shared_postfix.parameters)
    yield shared_postfix
    shared_postfix.configure(**dict.fromkeys(shared_postfix.parameters.keys() - before.keys()))


def listener(where: str, *options: str) -> str:
    return "\n".join(
        (
            "[[listeners]]",
            'protocol = "policy"',
            f'endpoint = "{where}"',
            'mode = "0666"' if where.startswith("unix:") else "",
            'map = "verdicts"',
            *options,
            "",
        )
    )


def free_endpoint(kind: str, mail: PrivatePostfix) -> str:
    """As main.cf and tcpmapkit.toml have it."""
    return f"unix:{mail.directory}/policy" if kind == "unix" else f"inet:127.0.0.1:{lasting_port()}"


def check_at(mail: PrivatePostfix, where: str, *stages: str, **more: str) -> None:
    restrictions = {f"smtpd_{stage}_restrictions": f"check_policy_service {where}" for stage in stages}
    mail.configure(**restrictions, smtpd_relay_restrictions=ANYBODY, **more)


def offer(
    session: Session, sender: str, recipients: list[str], text: str = TEXT, size: bool = False
) -> Reply:
    """Offer a message, to its end or to the first refusal; the last reply, after which there is no mail
    under way."""
    declared = f" SIZE={len(text)}" if size else ""
    commands = [
        f"MAIL FROM:<{sender}>{declared} SMTPUTF8",
        *(f"RCPT TO:<{address}>" for address in recipients),
        "DATA",
    ]
    for command in commands:
        reply = session.ask(command)
        if not 200 <= reply[0] < 400:
            session.accepted("RSET")
            return reply
    session.send("".join(f"{line}\r\n" for line in text.splitlines()).encode())
    reply = session.ask(".")
    session.accepted("RSET")  # a message refused here is still under way for smtpd
    return reply


def queue_id(reply: Reply) -> str:
    assert reply[0] == 250, reply
    return reply[1].rpartition(" ")[2]


# ---- what arrives


@pytest.fixture(params=KINDS)
def recorded(
    request: pytest.FixtureRequest, mail: PrivatePostfix, tmp_path: Path
) -> Iterator[list[dict[str, str]]]:
    """Every stage asks; the list is filled by `read`."""
    where, seen = free_endpoint(request.param, mail), tmp_path / "seen"
    text = listener(where) + f'[maps.verdicts]\nresolvers = [{{ type = "recorder", path = "{seen}" }}]\n'
    with running_tcpmapkit(tmp_path, text, recorder=RECORDER):
        check_at(mail, where, *STAGES, smtpd_etrn_restrictions=f"check_policy_service {where}",
                 smtpd_delay_reject="no")  # fmt: skip
        yield Seen(seen)


class Seen(list[dict[str, str]]):
    """The requests so far, in order."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def since(self) -> list[dict[str, str]]:
        """Those that came since the last time."""
        before = len(self)
        self[:] = [json.loads(line) for line in self.file.read_text().splitlines()]
        return self[before:]


def test_every_stage_of_a_mail_asks_and_says_what_is_known_by_then(
    mail: PrivatePostfix, recorded: Seen
) -> None:
    with mail.session() as session:
        at_connect = recorded.since()
        assert [one["protocol_state"] for one in at_connect] == ["CONNECT", "EHLO"]
        assert [one["client_address"] for one in at_connect] == ["127.0.0.1"] * 2
        assert session.become("2001:db8::25", "mx.example.net", login="joe@example.org")[0] == 220
        session.accepted("EHLO mx.example.net")
        assert queue_id(offer(session, "süd@example.net", ["a@example.com", "b@example.com"], size=True))
        requests = recorded.since()
        assert queue_id(offer(session, "", ["c@example.com"]))
        second = recorded.since()
    stages = ["XCLIENT", "EHLO", "MAIL", "RCPT", "RCPT", "DATA", "END-OF-MESSAGE"]
    assert [one["protocol_state"] for one in requests] == stages
    for one in requests:
        assert one["request"] == "smtpd_access_policy"
        assert one["client_address"] == "2001:db8::25"
        assert (one["client_name"], one["sasl_username"]) == ("mx.example.net", "joe@example.org")
        assert one["server_port"] == str(mail.port)
    xclient, ehlo, mail_from, first_rcpt, second_rcpt, data, end = requests
    assert [one["sender"] for one in requests] == ["", ""] + ["süd@example.net"] * 5
    assert (first_rcpt["recipient"], second_rcpt["recipient"]) == ("a@example.com", "b@example.com")
    assert [one["recipient_count"] for one in requests] == ["0"] * 5 + ["2"] * 2
    assert (data["recipient"], end["recipient"]) == ("", "")  # there is more than one
    assert [one["size"] for one in requests[:-1]] == ["0"] * 2 + [str(len(TEXT))] * 4
    assert int(end["size"]) >= len(TEXT)
    assert (xclient["helo_name"], ehlo["helo_name"]) == ("client.example.net", "mx.example.net")
    assert mail_from["protocol_name"] == "ESMTP"
    # smtpd(8) makes the instance of a message after MAIL.
    assert {one["instance"] for one in requests[:3] + second[:1]} == {""}
    instances = [{one["instance"] for one in message} for message in (requests[3:], second[1:])]
    assert [len(some) for some in instances] == [1, 1]
    assert len({""}.union(*instances)) == 3
    assert [one["recipient"] for one in second] == ["", *["c@example.com"] * 3]


def test_the_attributes_that_smtpd_sends_are_those_that_a_template_may_read(
    mail: PrivatePostfix, recorded: Seen
) -> None:
    with mail.session() as session:
        assert queue_id(offer(session, "user@example.net", ["a@example.com"]))
    for one in recorded.since():
        assert set(one) <= set(ATTRIBUTES), "a newer Postfix sends more"
        # An older one, and one without TLS, does not send these.
        optional = {"compatibility_level", "mail_version", "tls_sni"}
        optional |= {name for name in ATTRIBUTES if name.startswith(("ccert_", "encryption_"))}
        assert set(ATTRIBUTES) - set(one) <= optional


def test_bdat_vrfy_and_etrn_are_told_by_the_stages_that_a_listener_knows(
    mail: PrivatePostfix, recorded: Seen
) -> None:
    with mail.session() as session:
        recorded.since()
        session.ask("VRFY user@local.example.org")
        session.ask("ETRN example.net")
        session.accepted("MAIL FROM:<user@example.net>")
        session.accepted("RCPT TO:<a@example.com>")
        session.send(b"BDAT 6 LAST\r\ntest\r\n")
        assert session.getreply()[0] == 250
    requests = recorded.since()
    told = [one["protocol_state"] for one in requests]
    assert told == ["VRFY", "ETRN", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE"]
    assert requests[1]["etrn_domain"] == "example.net"
    assert [one["recipient_count"] for one in requests[2:]] == ["0", "0", "1", "1"]


# ---- verdicts

RULES = """
[[maps.verdicts.resolvers]]
type = "rules"
[[maps.verdicts.resolvers.rules]]
action = "REJECT Too many recipients"
when = [{ attribute = "sasl_username", equals = "" }, { attribute = "recipient_count", compare = "> 3" }]
"""


@pytest.mark.parametrize(
    ("kind", "stage", "state"), [("inet", "data", "DATA"), ("unix", "end_of_data", "END-OF-MESSAGE")]
)
def test_a_rule_against_too_many_recipients_rejects_those_not_logged_in_and_nobody_else(
    mail: PrivatePostfix, tmp_path: Path, kind: str, stage: str, state: str
) -> None:
    where = free_endpoint(kind, mail)
    three = [f"user{number}@example.com" for number in range(3)]
    four = [*three, "one.more@example.com"]
    with running_tcpmapkit(tmp_path, listener(where, f'stage = "{state}"') + RULES) as server:
        check_at(mail, where, stage)
        with mail.session() as session:
            assert queue_id(offer(session, "", three))
            code, text = offer(session, "", four)
            assert (code, "Too many recipients" in text) == (554, True)
            assert queue_id(offer(session, "", three))
            assert session.become("192.0.2.1", login="joe")[0] == 220
            session.accepted("EHLO client.example.net")
            assert queue_id(offer(session, "", four))
            assert session.become("192.0.2.1", login="")[0] == 220
    assert "meant for" not in server.log()


def test_a_client_is_refused_at_connect_before_it_says_anything(mail: PrivatePostfix, tmp_path: Path) -> None:
    where = free_endpoint("inet", mail)
    rules = """
[[maps.verdicts.resolvers]]
type = "cidr"
rules = [{ network = "127.0.0.0/8", result = "REJECT not this host" }]
"""
    with running_tcpmapkit(tmp_path, listener(where, 'stage = "CONNECT"') + rules) as server:
        check_at(mail, where, "client", smtpd_delay_reject="no")
        address = ("127.0.0.1", mail.port)
        with socket.create_connection(address, timeout=30) as client, client.makefile("rb") as greeting:
            assert re.match(rb"554 .*not this host", greeting.readline())
        assert "meant for" not in server.log()


def test_a_client_is_judged_by_its_own_address_ipv4_and_ipv6(mail: PrivatePostfix, tmp_path: Path) -> None:
    where = free_endpoint("inet", mail)
    rules = """
[[maps.verdicts.resolvers]]
type = "cidr"
rules = [
  { network = "192.0.2.66", result = "REJECT not this address" },
  { network = "2001:db8:66::/48", result = "REJECT not this network" },
]
"""
    with running_tcpmapkit(tmp_path, listener(where) + rules):
        check_at(mail, where, "client", smtpd_delay_reject="no")
        for client, verdict in {
            "192.0.2.65": (220, ""),
            "192.0.2.66": (554, "not this address"),
            "2001:db8:65::1": (220, ""),
            "2001:db8:66::1": (554, "not this network"),
        }.items():
            with mail.session() as session:
                code, text = session.become(client, name="mx.example.net")
                assert (code, verdict[1] in text) == (verdict[0], True)


def test_requests_from_another_stage_are_answered_and_warned_about(
    mail: PrivatePostfix, tmp_path: Path
) -> None:
    where = free_endpoint("inet", mail)
    with running_tcpmapkit(tmp_path, listener(where, 'stage = "DATA"') + RULES) as server:
        check_at(mail, where, "recipient")
        with mail.session() as session:
            for _ in range(3):
                assert queue_id(offer(session, "", ["a@example.com"]))
    assert server.log().count(f"{where}: asked at stage RCPT, and meant for DATA") == 1


@pytest.mark.parametrize("together", [False, True], ids=["in turn", "together"])
def test_no_client_gets_anothers_verdict_out_of_the_cache(
    mail: PrivatePostfix, tmp_path: Path, together: bool
) -> None:
    where, asked = free_endpoint("inet", mail), tmp_path / "asked"
    text = f"""
[maps.verdicts]
cache = {{ ttl = "5m" }}
resolvers = [{{ type = "verdict", path = "{asked}" }}]
"""
    clients = ("192.0.2.66", "192.0.2.65", "2001:db8::66", "2001:db8::65")
    senders = ("user@example.net", "User@example.net", "other@example.net")

    def send(client: str, rounds: int) -> None:
        with mail.session() as session:
            assert session.become(client)[0] == 220
            session.accepted("EHLO client.example.net")
            for sender in senders * rounds:
                code, reply = offer(session, sender, ["a@example.com"])
                refused = client.endswith("66")
                assert (code, f"not from {client}" in reply) == ((554, True) if refused else (250, False))

    with running_tcpmapkit(tmp_path, listener(where, 'key = "{sender}"') + text, verdict=VERDICT):
        check_at(mail, where, "recipient")
        with ThreadPoolExecutor() as pool:
            if together:
                list(pool.map(send, clients, [5] * len(clients)))
            else:
                for client in clients * 2:
                    send(client, 1)
    # Every pair was asked once: they were kept, and apart.
    questions = asked.read_text().splitlines()
    pairs = {f"{sender} {client}" for sender in {one.lower() for one in senders} for client in clients}
    assert len(questions) == len(set(questions)) >= len(pairs)
    assert {question.lower() for question in questions} == pairs


# ---- failures


@pytest.fixture(params=["down", "hung"])
def broken_source(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of an API that refuses connections, or takes them and never says a word."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        if request.param == "hung":
            taken.listen()
        yield taken.getsockname()[1]


def failing(port: int) -> str:
    return f"""
[maps.verdicts]
deadline = "300ms"
resolvers = [{{ type = "http", url = "http://127.0.0.1:{port}/{{key}}" }}]
"""


@pytest.mark.parametrize(("stage", "tries"), [("recipient", "2"), ("end_of_data", "1")])
def test_a_failing_chain_makes_smtpd_take_its_own_default_action_and_defer(
    mail: PrivatePostfix, tmp_path: Path, broken_source: int, stage: str, tries: str
) -> None:
    where = free_endpoint("unix", mail)
    with running_tcpmapkit(tmp_path, listener(where) + failing(broken_source)) as server:
        check_at(mail, where, stage, smtpd_policy_service_try_limit=tries)
        with mail.session() as session:
            code, text = offer(session, "", ["a@example.com"])
    assert (code, "Server configuration problem" in text) == (451, True)
    assert "a lookup failed" in server.log()


@pytest.mark.parametrize("stage", ["recipient", "end_of_data"])
def test_the_default_action_defer_if_permit_defers_with_its_text_what_would_have_passed(
    mail: PrivatePostfix, tmp_path: Path, broken_source: int, stage: str
) -> None:
    where = free_endpoint("inet", mail)
    text = listener(where, 'default_action = "DEFER_IF_PERMIT Service unavailable"') + failing(broken_source)
    with running_tcpmapkit(tmp_path, text):
        check_at(mail, where, stage)
        with mail.session() as session:
            code, reply = offer(session, "", ["a@example.com"])
    assert (code, "Service unavailable" in reply) == (450, True)


# ---- connections


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_one_connection_serves_all_mail_of_one_smtpd(
    mail: PrivatePostfix, tmp_path: Path, kind: str
) -> None:
    clients = named("verdicts", {"127.0.0.1": Found("DUNNO")})
    place = mail.directory if kind == "unix" else tmp_path

    def send() -> list[str]:
        sent = []
        for _ in range(3):
            with mail.session() as session:
                messages = [offer(session, "", ["a@example.com", "b@example.com"]) for _ in range(10)]
                sent += [queue_id(reply) for reply in messages]
        mail.wait_delivered(sent)
        return sent

    config = ListenerConfig("policy", endpoint(kind, place), "verdicts", mode=0o666)
    async with serving(config, clients) as server:
        await asyncio.to_thread(
            check_at, mail, postfix_name(server), "sender", "recipient", "data", "end_of_data"
        )
        sent = await asyncio.to_thread(send)
        counters = server.counters[0]
        assert counters.found == 3 * 10 * 6  # smtpd_delay_reject: the sender at each recipient
    daemons = {re.search(rf"/smtpd\[(\d+)\]: {one}: client=", mail.log())[1] for one in sent}  # type: ignore[index]
    assert counters.connections == len(daemons)


@pytest.mark.parametrize(("kind", "end"), [("inet", RunningTcpmapkit.stop), ("unix", RunningTcpmapkit.kill)])
def test_a_restart_between_two_messages_of_a_session_is_not_noticed(
    mail: PrivatePostfix, tmp_path: Path, kind: str, end: object
) -> None:
    where = free_endpoint(kind, mail)
    with running_tcpmapkit(tmp_path, listener(where) + RULES) as server:
        check_at(mail, where, "recipient", "data", "end_of_data")
        with mail.session() as session:
            messages = [queue_id(offer(session, "", ["a@example.com"]))]
            end(server)  # type: ignore[operator]
            server.start()
            messages += [queue_id(offer(session, "", ["a@example.com"])) for _ in range(2)]
            code, text = offer(session, "", ["a@example.com"] * 4)
            assert (code, "Too many recipients" in text) == (554, True)
    mail.wait_delivered(messages)


def test_while_there_is_no_server_mail_is_deferred_in_the_session_and_passes_after(
    mail: PrivatePostfix, tmp_path: Path
) -> None:
    where = free_endpoint("unix", mail)
    with running_tcpmapkit(tmp_path, listener(where) + RULES) as server:
        check_at(mail, where, "end_of_data")
        with mail.session() as session:
            messages = [queue_id(offer(session, "", ["a@example.com"]))]
            server.stop()
            code, text = offer(session, "", ["a@example.com"])
            assert (code, "Server configuration problem" in text) == (451, True)
            server.start()
            messages.append(queue_id(offer(session, "", ["a@example.com"])))
    mail.wait_delivered(messages)

"""``query --policy``: what a policy listener answers a request, asked without a server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tcpmapkit.cli import main
from tcpmapkit.protocols.actions import is_none, smtpd_does
from tcpmapkit.protocols.policy import MAX_REPLY, encode_request
from tests.private_postfix import PrivatePostfix, running_postfix
from tests.real_postfix import settle

SITE = """
[[listeners]]
protocol = "policy"
endpoint = "inet:127.0.0.1:4243"
map = "clients"
stage = "RCPT"

[[listeners]]
protocol = "policy"
endpoint = "unix:sockets/policy"
map = "pairs"
key = "{sender}|{ccert_subject}"
default_action = "DEFER_IF_PERMIT come again"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:4242"
map = "plain"

[maps.clients]
search = "access"
[[maps.clients.resolvers]]
type = "static"

[maps.clients.resolvers.entries]
"192.0.2" = "REJECT spam"
"192.0.2.9" = "OK"
"192.0.2.53" = "DUNNO"
"198.51.100.1" = "dunno as ever"

[[maps.clients.resolvers]]
type = "python"
callable = "failing_policy:ask"
inline = true

[maps.pairs]
[[maps.pairs.resolvers]]
type = "static"
entries = { "joe@example.org|CN=Jö" = "PREPEND X-Joe: yes", "|" = "WARN nothing known" }
[[maps.pairs.resolvers]]
type = "python"
callable = "failing_policy:ask"
inline = true

[maps.plain]
resolvers = [{ type = "static", value = "x" }]

[maps.broken]
resolvers = [{ type = "file", path = "not there" }]
"""

FAILING_SOURCE = f"""
from tcpmapkit import LookupPermFail, LookupTempFail

def ask(key):
    if key.startswith("down"):
        raise LookupTempFail("source is down")
    if key.startswith("wrong"):
        raise LookupPermFail("no such table")
    if key == "long":
        return "x" * {MAX_REPLY}
"""

CLIENTS = "inet:127.0.0.1:4243"
CLOSED = (
    "the connection is closed, and Postfix takes smtpd_policy_service_default_action"
    " (by default 451 4.3.5, which defers the mail)"
)
DEFERS = "Postfix is told DEFER_IF_PERMIT come again"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "failing_policy.py").write_text(FAILING_SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(SITE)
    return file


def query(site: Path, *args: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["query", "-c", str(site), *args], input=given, catch_exceptions=False)


@pytest.mark.parametrize(
    ("listener", "words", "status", "stdout", "stderr"),
    [
        (CLIENTS, ["client_address=192.0.2.7"], 0, "REJECT spam\n", ""),
        (CLIENTS, ["client_address=192.0.2.9", "sender="], 0, "OK\n", ""),
        (CLIENTS, ["client_address=203.0.113.1"], 1, "DUNNO\n", ""),
        (CLIENTS, ["client_address=192.0.2.53"], 1, "DUNNO\n", ""),
        (CLIENTS, ["client_address=198.51.100.1"], 1, "dunno as ever\n", ""),
        (CLIENTS, ["sender=joe@example.org"], 1, "DUNNO\n", ""),
        (CLIENTS, ["request=smtpd_access_policy", "client_address=192.0.2.7"], 0, "REJECT spam\n", ""),
        (CLIENTS, ["client_address=x", "client_address=192.0.2.7"], 0, "REJECT spam\n", ""),
        (CLIENTS, ["client_address=down"], 75, "", f"source is down ({CLOSED})\n"),
        (CLIENTS, ["client_address=wrong"], 75, "", f"no such table ({CLOSED})\n"),
        (CLIENTS, ["client_address=long"], 75, "", f"the action is too long for a reply ({CLOSED})\n"),
        (CLIENTS, [f"client_address={'x' * 10_001}"], 75, "", f"key too long ({CLOSED})\n"),
        ("clients", ["client_address=192.0.2.7"], 0, "REJECT spam\n", ""),
        ("unix:sockets/policy", [], 2, "", "the request is missing"),
        ("unix:sockets/policy", ["size=1"], 0, "WARN nothing known\n", ""),
        (
            "unix:sockets/policy",
            ["sender=Joe@Example.org", "ccert_subject=CN=Jö"],
            0,
            "PREPEND X-Joe: yes\n",
            "",
        ),
        ("unix:sockets/policy", ["sender=down"], 75, "", f"source is down ({DEFERS})\n"),
    ],
)
def test_the_action_is_printed_and_the_status_tells_the_outcome(
    site: Path, listener: str, words: list[str], status: int, stdout: str, stderr: str
) -> None:
    result = query(site, "--policy", listener, *words)
    assert (result.exit_code, result.stdout) == (status, stdout)
    assert result.stderr == stderr if status != 2 else stderr in result.stderr


def test_an_absolute_path_is_the_same_endpoint(site: Path) -> None:
    assert query(site, "--policy", f"unix:{site.parent}/sockets/policy", "size=1").exit_code == 0


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--policy", "inet:127.0.0.1:4244", "size=1"], "did you mean 'inet:127.0.0.1:424"),
        (["--policy", "client", "size=1"], "did you mean 'clients'?"),
        (["--policy", "rubbish", "size=1"], "there is no listener 'rubbish'"),
        (["--policy", "inet:127.0.0.1:4242", "size=1"], "inet:127.0.0.1:4242 speaks tcp_table, not policy"),
        (["--policy", CLIENTS, "size"], "'size' is not NAME=VALUE"),
        (["--policy", CLIENTS, "-", "size=1"], "'-' is not NAME=VALUE"),
        (["--policy", CLIENTS, "=1"], "no request can hold the attribute ''"),
        (["--policy", CLIENTS, "sender=a\nb"], "no request can hold the attribute 'sender'"),
        (["--policy", CLIENTS, "request=junk"], "no request=smtpd_access_policy"),
        (["--policy", CLIENTS, f"sender={'x' * 70_000}"], "no end of request within 65536 bytes"),
        (["clients"], "MAP and KEY are needed"),
        (["clients", "a", "b"], "MAP and KEY are needed"),
        ([], "MAP and KEY are needed"),
    ],
)
def test_wrong_usage_is_told_with_status_2(site: Path, args: list[str], told: str) -> None:
    result = query(site, *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["client_adress=x"], "Postfix sends no attribute 'client_adress' (did you mean 'client_address'?)"),
        (["zzz=x"], "Postfix sends no attribute 'zzz'"),
        (["protocol_state=DATA"], f"{CLIENTS} is meant to be asked at stage RCPT, not DATA"),
    ],
)
def test_what_looks_like_a_mistake_is_hinted_at_and_asked_all_the_same(
    site: Path, words: list[str], hint: str
) -> None:
    result = query(site, "--policy", CLIENTS, "client_address=192.0.2.7", *words)
    assert (result.exit_code, result.stdout) == (0, "REJECT spam\n")
    assert result.stderr == f"hint: {hint}\n"


def test_the_right_stage_needs_no_hint(site: Path) -> None:
    assert query(site, "--policy", CLIENTS, "protocol_state=RCPT").stderr == ""


def test_what_is_not_utf_8_is_what_it_is_in_a_request(site: Path) -> None:
    result = query(site, "--policy", "unix:sockets/policy", "--explain", "sender=\udcff@example.org")
    assert "attribute\tsender\t'\ufffd@example.org'" in result.stdout


# Requests on standard input.

REQUEST = encode_request({"client_address": "192.0.2.7"})


@pytest.mark.parametrize(
    ("given", "status", "stdout", "stderr"),
    [
        (REQUEST, 0, "REJECT spam\n", ""),
        (REQUEST.removesuffix(b"\n"), 0, "REJECT spam\n", ""),
        (REQUEST.removesuffix(b"\n\n"), 0, "REJECT spam\n", ""),
        (REQUEST.replace(b"\n", b"\r\n"), 0, "REJECT spam\n", ""),
        (b"\n" + REQUEST + b"\n\n" + REQUEST + b"\n", 0, "REJECT spam\n" * 2, ""),
        (
            encode_request({"client_address": "down"}) + encode_request({"client_address": "x"}) + REQUEST,
            75,
            "DUNNO\nREJECT spam\n",
            f"request 1: source is down ({CLOSED})\n",
        ),
        (
            b"client_address=192.0.2.7\n\nrequest=smtpd_access_policy\nrubbish\n\n" + REQUEST,
            75,
            "REJECT spam\n",
            f"request 1: no request=smtpd_access_policy ({CLOSED})\n"
            f"request 2: an attribute is name=value ({CLOSED})\n",
        ),
        (encode_request({"client_address": "x"}), 1, "DUNNO\n", ""),
        (encode_request({"client_address": "x"}) + REQUEST, 0, "DUNNO\nREJECT spam\n", ""),
        (b"", 1, "", ""),
    ],
)
def test_requests_as_postfix_sends_them_are_all_asked(
    site: Path, given: bytes, status: int, stdout: str, stderr: str
) -> None:
    result = query(site, "--policy", CLIENTS, "-", given=given)
    assert (result.exit_code, result.stdout, result.stderr) == (status, stdout, stderr)


def test_xtext_is_decoded_there_as_the_server_does_it(site: Path) -> None:
    request = encode_request({"sender": "joe@example.org", "ccert_subject": "CN=Jö"})
    assert b"CN=J+C3+B6" in request
    assert query(site, "--policy", "unix:sockets/policy", "-", given=request).stdout == "PREPEND X-Joe: yes\n"


# --explain


def explained(site: Path, *args: str) -> list[str]:
    stdout = query(site, "--explain", "--policy", *args).stdout
    return re.sub(r"\d+\.\d+ ms", "0.00 ms", stdout).splitlines()


def test_explain_shows_attributes_key_steps_reply_and_what_postfix_does(site: Path) -> None:
    assert explained(site, CLIENTS, "client_address=192.0.2.7", "sender=") == [
        f"listener\t{CLIENTS}",
        "attribute\trequest\t'smtpd_access_policy'",
        "attribute\tclient_address\t'192.0.2.7'",
        "attribute\tsender\t''",
        "map\tclients",
        "key\t'192.0.2.7'\tmade by {client_address}",
        "cache\toff",
        "key 1\t'192.0.2.7'\tfull",
        "step 1\tstatic\tasked '192.0.2.7'\tmiss\t0.00 ms",
        "step 2\tpython\tasked '192.0.2.7'\tmiss\t0.00 ms",
        "key 2\t'192.0.2'\tpartial",
        "step 1\tstatic\tasked '192.0.2'\tfound 'REJECT spam'\t0.00 ms",
        "matched\t'192.0.2'",
        "outcome\tfound 'REJECT spam'\t0.00 ms",
        r"reply	policy	'action=REJECT spam\n\n'",
        "Postfix\trejects for good ($access_map_reject_code, 5xx)",
    ]


@pytest.mark.parametrize(
    ("listener", "word", "last"),
    [
        (
            CLIENTS,
            "client_address=down",
            [
                "outcome\ttemporary failure: source is down\t0.00 ms",
                "reply\tpolicy\tnothing: the connection is closed",
                "Postfix\tasks once more, then takes smtpd_policy_service_default_action"
                " (by default 451 4.3.5, which defers the mail)",
            ],
        ),
        (
            "unix:sockets/policy",
            "sender=down",
            [
                "outcome\ttemporary failure: source is down\t0.00 ms",
                "default_action\t'DEFER_IF_PERMIT come again'",
                r"reply	policy	'action=DEFER_IF_PERMIT come again\n\n'",
                "Postfix\tgoes on with the next restriction, and what none of them rejects is rejected"
                " for now (4xx)",
            ],
        ),
        (
            CLIENTS,
            "client_address=203.0.113.1",
            [
                "outcome\tnot found\t0.00 ms",
                r"reply	policy	'action=DUNNO\n\n'",
                "Postfix\tgoes on with the next restriction, as if nothing had been found",
            ],
        ),
    ],
)
def test_explain_shows_what_a_failure_or_no_action_becomes(
    site: Path, listener: str, word: str, last: list[str]
) -> None:
    assert explained(site, listener, word)[-len(last) :] == last


# What smtpd does with an action.

#: Action -> the first digit of what the real smtpd answers RCPT where a `reject` follows, and where a
#: `permit` does.
ACTIONS = {
    "DUNNO": ("5", "2"),
    "dunno whatever": ("5", "2"),
    "OK": ("2", "2"),
    "ok to go": ("2", "2"),
    "RELAY": ("2", "2"),
    "4711": ("2", "2"),
    "550": ("2", "2"),
    "REJECT": ("5", "5"),
    "reject 5.7.1 no": ("5", "5"),
    "DEFER": ("4", "4"),
    "DEFER_IF_PERMIT": ("5", "4"),
    "DEFER_IF_REJECT": ("4", "2"),
    "450 later": ("4", "4"),
    "550 no": ("5", "5"),
    "INFO x": ("5", "2"),
    "WARN x": ("5", "2"),
    "HOLD x": ("5", "2"),
    "BCC a@example.org": ("5", "2"),
    "REDIRECT a@example.org": ("5", "2"),
    "FILTER discard:": ("5", "2"),
    "PREPEND X-A: b": ("5", "2"),
    "DISCARD x": ("2", "2"),
    "permit": ("2", "2"),
    "no such restriction": ("4", "4"),
    "tcp:127.0.0.1:1": ("4", "4"),
}

#: How the words begin -> the same digits.
WORDS = {
    "goes on with the next restriction, as if": ("5", "2"),
    "accepts, and skips": ("2", "2"),
    "accepts the message": ("2", "2"),
    "rejects for good": ("5", "5"),
    "rejects for now": ("4", "4"),
    "goes on with the next restriction, and what none": ("5", "4"),
    "goes on with the next restriction, and what one": ("4", "2"),
    "logs": ("5", "2"),
    "puts": ("5", "2"),
    "sends": ("5", "2"),
}


@pytest.fixture(scope="module")
def smtpd() -> Iterator[PrivatePostfix]:
    with running_postfix({"soft_bounce": "no"}) as mail:
        table = mail.directory / "actions"
        lines = [f"a{number}@example.org {action}\n" for number, action in enumerate(ACTIONS)]
        table.write_text("".join(lines))
        settle(table)
        yield mail


@pytest.mark.parametrize(("position", "follows"), [(0, "reject"), (1, "permit")])
def test_the_words_for_every_action_are_what_the_real_smtpd_does(
    smtpd: PrivatePostfix, position: int, follows: str
) -> None:
    access = f"check_recipient_access texthash:{smtpd.directory}/actions"
    smtpd.configure(smtpd_recipient_restrictions=f"{access}, {follows}")
    for number, action in enumerate(ACTIONS):
        with smtpd.session() as session:
            session.accepted("MAIL FROM:<joe@example.net>")
            code, text = session.ask(f"RCPT TO:<a{number}@example.org>")
            session.ask("RSET")
        assert str(code)[0] == ACTIONS[action][position], (action, code, text)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_words_say_so(action: str) -> None:
    words = smtpd_does(action)
    if action in ("permit", "no such restriction"):
        assert words.startswith("takes it for restrictions")
        return
    [digits] = [digits for begin, digits in WORDS.items() if words.startswith(begin)]
    assert digits == ACTIONS[action], words


@pytest.mark.parametrize("action", ["421 bye", "521 bye"])
def test_two_codes_hang_up(action: str) -> None:
    assert smtpd_does(action).endswith("and hangs up")
    assert not smtpd_does("550 bye").endswith("hangs up")


def test_dunno_is_no_action_in_any_case_and_with_any_text() -> None:
    assert all(map(is_none, ("DUNNO", "dunno", "Dunno because", "DUNNO\tx")))
    assert not any(map(is_none, ("DUNNOT", "OK DUNNO", "OK")))

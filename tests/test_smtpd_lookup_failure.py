"""A source that fails defers the real Postfix's mail: an outage of ours is never "User unknown"."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest

from tests.private_postfix import PrivatePostfix, Reply, running_postfix, wait_until
from tests.running_tcpmapkit import lasting_port, running_tcpmapkit
from tests.smtp_sink import running_login_server

LISTENER = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:{port}"
map = "{name}"
"""
SOCKETMAPS = """
[[listeners]]
protocol = "socketmap"
endpoint = "{inet}"
[[listeners]]
protocol = "socketmap"
endpoint = "{unix}"
mode = "0666"
"""
MAPS = """
[maps.empty]
resolvers = [{{ type = "static", entries = {{ "known@example.com" = "known@example.com" }} }}]
[maps.down]
resolvers = [{{ type = "http", url = "http://127.0.0.1:{down}/{{key}}" }}]
[maps.hung]
deadline = "200ms"
resolvers = [{{ type = "http", url = "http://127.0.0.1:{hung}/{{key}}" }}]
[maps.wrong]
resolvers = [{{ type = "regex", rules = [{{ pattern = "(x?)", result = "$1" }}] }}]
"""
NAMES = ("empty", "down", "hung", "wrong")

TABLES = [
    *(("tcp", name) for name in NAMES),
    *(("socketmap:inet", name) for name in ("empty", "down", "wrong", "unknown")),
    *(("socketmap:unix", name) for name in ("empty", "hung", "unknown")),
]
by_table = pytest.mark.parametrize(("protocol", "name"), TABLES)


@pytest.fixture(scope="module")
def mail() -> Iterator[PrivatePostfix]:
    with running_postfix() as mail, running_login_server(mail.queue_directory / "auth"):
        yield mail


@pytest.fixture(scope="module")
def tables(mail: PrivatePostfix) -> Iterator[Mapping[tuple[str, str], str]]:
    """What main.cf says for each of `TABLES`, from one running tcpmapkit."""
    ports = {name: lasting_port() for name in NAMES}
    inet, unix = f"inet:127.0.0.1:{lasting_port()}", f"unix:{mail.directory}/socketmap"
    with closing(socket.socket()) as down, closing(socket.create_server(("127.0.0.1", 0))) as hung:
        down.bind(("127.0.0.1", 0))
        sources = {"down": down.getsockname()[1], "hung": hung.getsockname()[1]}
        listeners = [LISTENER.format(port=port, name=name) for name, port in ports.items()]
        listeners.append(SOCKETMAPS.format(inet=inet, unix=unix))
        with running_tcpmapkit(mail.directory, "".join(listeners) + MAPS.format(**sources)):
            told = {("tcp", name): f"tcp:127.0.0.1:{port}" for name, port in ports.items()}
            for name in (*NAMES, "unknown"):
                told["socketmap:inet", name] = f"socketmap:{inet}:{name}"
                told["socketmap:unix", name] = f"socketmap:{unix}:{name}"
            yield told


def offered(mail: PrivatePostfix, recipient: str = "user@example.com") -> Reply:
    """The answer to a message: that to the first command refused, or to its end."""
    with mail.session() as session:
        for command in ("MAIL FROM:<sender@example.net>", f"RCPT TO:<{recipient}>", "DATA"):
            reply = session.ask(command)
            if not 200 <= reply[0] < 400:
                return reply
        session.send(b"Subject: test\r\n\r\ntest\r\n")
        return session.ask(".")


def check_deferred(mail: PrivatePostfix, name: str) -> None:
    """That a message is accepted with the table named "empty", and put off with any other."""
    code, text = offered(mail)
    if name == "empty":
        assert code == 250, text
    else:
        assert 400 <= code < 500, f"{code} {text}"


def configure(mail: PrivatePostfix, **parameters: str) -> None:
    """These parameters, and none that another test has set."""
    mail.configure(**(dict.fromkeys(mail.parameters) | parameters))


@by_table
@pytest.mark.parametrize(
    ("parameter", "domains"),
    [
        ("virtual_alias_maps", "virtual_alias_domains"),
        ("relay_recipient_maps", "relay_domains"),
        ("local_recipient_maps", "mydestination"),
    ],
)
def test_only_a_table_that_says_so_makes_a_recipient_unknown(
    mail: PrivatePostfix,
    tables: Mapping[tuple[str, str], str],
    parameter: str,
    domains: str,
    protocol: str,
    name: str,
) -> None:
    needed = {parameter: tables[protocol, name], domains: "example.com"}
    configure(mail, smtpd_reject_unlisted_recipient="yes", **needed)
    code, text = offered(mail)
    if name == "empty":
        assert (code, "User unknown" in text) == (550, True)
        assert offered(mail, "known@example.com")[0] == 250
    else:
        assert 400 <= code < 500, f"{code} {text}"
        assert "unknown" not in text


@by_table
@pytest.mark.parametrize(
    ("parameter", "restriction"),
    [
        ("smtpd_recipient_restrictions", "check_recipient_access TABLE"),
        ("smtpd_sender_restrictions", "check_sender_access TABLE"),
        ("smtpd_sender_login_maps", "TABLE"),
    ],
)
def test_a_failure_defers_where_nothing_found_would_have_let_the_mail_pass(
    mail: PrivatePostfix,
    tables: Mapping[tuple[str, str], str],
    parameter: str,
    restriction: str,
    protocol: str,
    name: str,
) -> None:
    needed = {parameter: restriction.replace("TABLE", tables[protocol, name])}
    if parameter == "smtpd_sender_login_maps":
        needed |= {
            "smtpd_sender_restrictions": "reject_sender_login_mismatch",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": "auth",
        }
    configure(mail, **needed)
    check_deferred(mail, name)


@by_table
def test_cleanup_takes_no_mail_whose_aliases_it_cannot_find_out(
    mail: PrivatePostfix, tables: Mapping[tuple[str, str], str], protocol: str, name: str
) -> None:
    configure(mail, virtual_alias_maps=tables[protocol, name])
    check_deferred(mail, name)


@by_table
def test_mail_whose_transport_cannot_be_found_out_waits_in_the_queue(
    mail: PrivatePostfix, tables: Mapping[tuple[str, str], str], protocol: str, name: str
) -> None:
    configure(mail, transport_maps=tables[protocol, name])
    code, text = offered(mail)
    assert code == 250, text
    queue_id = text.rpartition(" ")[2]
    wait_until(lambda: mail.deliveries(queue_id), 20, mail.log)
    (delivery,) = mail.deliveries(queue_id)
    assert delivery.status == ("sent" if name == "empty" else "deferred")

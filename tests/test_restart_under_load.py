"""tcpmapkit is stopped, killed and started again under a real Postfix that sends mail: none is lost,
none delivered twice, none bounced, none rejected."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import attrs
import pytest

from tests.private_postfix import PrivatePostfix, Reply, Session, running_postfix, wait_until
from tests.running_tcpmapkit import RunningTcpmapkit, lasting_port, running_tcpmapkit
from tests.smtp_sink import SmtpSink, running_login_server, running_sink

CLIENTS = 5
MESSAGES_OF_EACH = 40
PATIENCE = 60.0

# Answers a little later, so that lookups are under way whenever the server is told to stop.
LATER = """
import asyncio
import attrs
from tcpmapkit import hookimpl

@attrs.define(eq=False)
class Later:
    async def resolve(self, query):
        await asyncio.sleep(0.01)

@hookimpl
def register_resolvers(register):
    register("later", Later)
"""

CONFIGURATION = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:{ports[0]}"
map = "aliases"
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:{ports[1]}"
map = "senders"
[[listeners]]
protocol = "socketmap"
endpoint = "inet:127.0.0.1:{ports[2]}"
[[listeners]]
protocol = "socketmap"
endpoint = "unix:{directory}/socketmap"
mode = "0666"
[[listeners]]
protocol = "policy"
endpoint = "unix:{directory}/policy"
mode = "0666"
map = "policy"
key = "{{sender}}"

[maps.aliases]
cache = false
[[maps.aliases.resolvers]]
type = "later"
[[maps.aliases.resolvers]]
type = "regex"
rules = [{{ pattern = '^user-(\\d+)@example\\.com$', result = "a-$1@example.net, b-$1@example.net" }}]

[maps.senders]
[[maps.senders.resolvers]]
type = "regex"
rules = [{{ pattern = '^client-[-\\d]+@example\\.org$', result = "DUNNO" }}]

[maps.transport]
search = "transport"
resolvers = [{{ type = "static", entries = {{ "example.net" = "{nexthop}" }} }}]

[maps.recipients]
[[maps.recipients.resolvers]]
type = "later"
[[maps.recipients.resolvers]]
type = "regex"
rules = [{{ pattern = '^[ab]-(\\d+)@example\\.net$', result = "known" }}]

[maps.logins]
resolvers = [{{ type = "static", entries = {{ "owned@example.org" = "joe" }} }}]

[maps.policy]
[[maps.policy.resolvers]]
type = "later"
[[maps.policy.resolvers]]
type = "static"
value = "DUNNO"
"""


def parameters(ports: list[int], directory: Path) -> dict[str, str]:
    socketmap = f"socketmap:inet:127.0.0.1:{ports[2]}"
    unix = f"socketmap:unix:{directory}/socketmap"
    return {
        "virtual_alias_domains": "example.com",
        "virtual_alias_maps": f"tcp:127.0.0.1:{ports[0]}",
        "relay_domains": "example.net",
        "relay_recipient_maps": f"{socketmap}:recipients",
        "smtpd_reject_unlisted_recipient": "yes",
        "transport_maps": f"{unix}:transport",
        "smtpd_sender_login_maps": f"{unix}:logins",
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": "auth",
        "smtpd_sender_restrictions": (
            f"reject_sender_login_mismatch, check_sender_access tcp:127.0.0.1:{ports[1]}"
        ),
        "smtpd_recipient_restrictions": f"check_recipient_access {socketmap}:logins",
        "smtpd_data_restrictions": f"check_policy_service unix:{directory}/policy",
    }


@attrs.define(eq=False)
class Site:
    """A Postfix, all lookups of which one tcpmapkit answers, and what comes out of it."""

    mail: PrivatePostfix
    server: RunningTcpmapkit
    sink: SmtpSink

    def noticed(self) -> int:
        """How often Postfix has missed its server: warnings of it in the log."""
        return len(
            re.findall(r"warning: (?:.*connect to|.*read |.*problem talking|.*socketmap)", self.mail.log())
        )

    def delivered(self) -> Counter[str]:
        """How often each recipient has got its mail."""
        return Counter(address for one in list(self.sink.received) for address, _ in one.recipients)

    def empty(self) -> bool:
        """Whether nothing waits in the queue."""
        return b"Mail queue is empty" in self.mail.run("postqueue", "-p").stdout

    def flush(self) -> None:
        """Deliver what was deferred; raises `AssertionError` when something stays."""

        def flushed() -> bool:
            assert self.mail.run("postqueue", "-f").returncode == 0
            return self.empty()

        wait_until(flushed, PATIENCE, lambda: f"mail stays in the queue:\n{self.mail.log()}")


@pytest.fixture
def site() -> Iterator[Site]:
    ports = [lasting_port() for _ in range(3)]
    with (
        running_postfix() as mail,
        running_login_server(mail.queue_directory / "auth"),
        running_sink() as sink,
    ):
        text = CONFIGURATION.format(ports=ports, directory=mail.directory, nexthop=sink.nexthop)
        with running_tcpmapkit(mail.directory, text, later=LATER) as server:
            mail.configure(**parameters(ports, mail.directory))
            yield Site(mail, server, sink)


def offer(session: Session, sender: str, recipient: str) -> Reply:
    """Offer a message; the first refusal, or the reply to its end."""
    for command in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
        reply = session.ask(command)
        if not 200 <= reply[0] < 400:
            break
    else:
        session.send(f"Subject: {recipient}\r\n\r\ntest\r\n".encode())
        reply = session.ask(".")
    session.accepted("RSET")
    return reply


@attrs.define(eq=False)
class Load:
    """Clients that offer each message until it is accepted; `accepted` and `deferred` grow meanwhile."""

    site: Site
    working: list[Future[None]] = attrs.Factory(list)
    accepted: list[str] = attrs.Factory(list)
    deferred: list[Reply] = attrs.Factory(list)
    stop: threading.Event = attrs.Factory(threading.Event)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait, as long as all clients are well."""

        def looked() -> bool:
            for one in self.working:
                if one.done():
                    one.result()
            return holds()

        wait_until(
            looked, PATIENCE, lambda: f"{len(self.accepted)} accepted, last deferred {self.deferred[-3:]}"
        )

    def client(self, number: int) -> None:
        """One SMTP session."""
        with self.site.mail.session() as session:
            for message in range(MESSAGES_OF_EACH):
                recipient = f"user-{number * MESSAGES_OF_EACH + message}@example.com"
                give_up = time.monotonic() + PATIENCE
                for attempt in count():
                    # Another sender each time: smtpd(8) keeps what it was told of the transport of a
                    # sender's mail to a recipient, a failure too, until its process ends.
                    sender = f"client-{number}-{attempt}@example.org"
                    reply = offer(session, sender, recipient)
                    if reply[0] == 250:
                        self.accepted.append(recipient)
                        break
                    assert 400 <= reply[0] < 500, f"{recipient}: {reply}"
                    self.deferred.append(reply)
                    assert time.monotonic() < give_up, f"{recipient} is never accepted: {reply}"
                    # A real client waits for minutes.
                    assert not self.stop.wait(0.1), "stopped"


@contextmanager
def load(site: Site) -> Iterator[Load]:
    """Clients at work; at the end they must have done it."""
    clients = Load(site)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients.working = [pool.submit(clients.client, number) for number in range(CLIENTS)]
        try:
            yield clients
            for one in clients.working:
                one.result(PATIENCE)
        except BaseException:
            clients.stop.set()
            raise


def test_restarts_under_load_lose_bounce_reject_and_double_no_mail(site: Site) -> None:
    total = CLIENTS * MESSAGES_OF_EACH
    endings: list[Callable[[RunningTcpmapkit], None]] = [
        RunningTcpmapkit.stop,
        RunningTcpmapkit.kill,
        RunningTcpmapkit.stop,
    ]
    with load(site) as clients:
        for number, end in enumerate(endings, 1):
            enough = number * total // (len(endings) + 2)
            clients.wait_until(lambda: len(clients.accepted) >= enough)  # noqa: B023
            before = site.noticed() + len(clients.deferred)
            end(site.server)
            clients.wait_until(lambda: site.noticed() + len(clients.deferred) > before)  # noqa: B023
            site.server.start()
    site.flush()
    log = site.mail.log()
    assert sorted(clients.accepted) == sorted(f"user-{number}@example.com" for number in range(total))
    expected = {f"{name}-{number}@example.net": 1 for name in "ab" for number in range(total)}
    assert site.delivered() == expected
    assert "status=bounced" not in log
    assert not re.search(r"reject: .*: 5\d\d ", log)
    assert not re.search(r": (fatal|panic): ", log)
    assert "stale socket was removed" in site.server.log()
    assert "did not finish within the grace" not in site.server.log()


def test_mail_that_was_accepted_waits_for_a_server_that_is_down(site: Site) -> None:
    site.mail.configure(smtpd_recipient_restrictions="check_recipient_access static:HOLD")
    with site.mail.session() as session:
        queued = offer(session, "client-1@example.org", "user-1@example.com")[1].rpartition(" ")[2]
    site.server.stop()
    assert site.mail.run("postsuper", "-H", "ALL").returncode == 0
    assert site.mail.run("postqueue", "-f").returncode == 0
    wait_until(lambda: len(site.mail.deliveries(queued)) == 2, PATIENCE, site.mail.log)
    assert {one.status for one in site.mail.deliveries(queued)} == {"deferred"}
    site.server.start()
    site.flush()
    assert site.delivered() == {"a-1@example.net": 1, "b-1@example.net": 1}
    assert "status=bounced" not in site.mail.log()


@attrs.define(eq=False)
class Gate:
    """An API that answers nobody until it is opened."""

    port: int = 0
    asked: threading.Event = attrs.Factory(threading.Event)
    opened: threading.Event = attrs.Factory(threading.Event)


@contextmanager
def running_gate() -> Iterator[Gate]:
    gate = Gate()

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            gate.asked.set()
            gate.opened.wait(PATIENCE)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'"REJECT says the API"')

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        gate.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield gate
        finally:
            gate.opened.set()
            server.shutdown()
            thread.join(10)


@pytest.mark.parametrize(
    ("protocol", "endpoint", "restriction"),
    [
        ("tcp_table", "inet:127.0.0.1:{port}", "check_recipient_access tcp:127.0.0.1:{port}"),
        ("socketmap", "inet:127.0.0.1:{port}", "check_recipient_access socketmap:{endpoint}:verdicts"),
        ("socketmap", "unix:{directory}/socket", "check_recipient_access socketmap:{endpoint}:verdicts"),
        ("policy", "inet:127.0.0.1:{port}", "check_policy_service {endpoint}"),
        ("policy", "unix:{directory}/socket", "check_policy_service {endpoint}"),
    ],
)
def test_a_lookup_under_way_is_answered_before_the_server_stops(
    private_postfix: PrivatePostfix, protocol: str, endpoint: str, restriction: str
) -> None:
    names = {"port": lasting_port(), "directory": private_postfix.directory}
    names["endpoint"] = endpoint.format(**names)
    with running_gate() as gate:
        text = f"""
[[listeners]]
protocol = "{protocol}"
endpoint = "{names["endpoint"]}"
{"" if protocol == "socketmap" else 'map = "verdicts"'}
{'mode = "0666"' if endpoint.startswith("unix:") else ""}
[maps.verdicts]
resolvers = [{{ type = "http", url = "http://127.0.0.1:{gate.port}/{{key}}" }}]
"""
        with running_tcpmapkit(private_postfix.directory, text) as server:
            private_postfix.configure(smtpd_recipient_restrictions=restriction.format(**names))
            with private_postfix.session() as session:
                session.accepted("MAIL FROM:<user@example.net>")
                session.send(b"RCPT TO:<user@example.com>\r\n")
                assert gate.asked.wait(PATIENCE)
                server.terminate()
                wait_until(lambda: "SIGTERM: stopping" in server.log(), PATIENCE, server.log)
                gate.opened.set()
                code, reply = session.getreply()
                assert (code, b"says the API" in reply) == (554, True), reply
                server.wait()

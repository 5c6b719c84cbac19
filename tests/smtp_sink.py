"""What the private Postfix talks to: an SMTP server that keeps what it gets, and a server for SASL logins."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

PATH = re.compile(r"(?:FROM|TO):\s*<(.*)>(.*)$", re.IGNORECASE)


@attrs.frozen
class Received:
    """One message: its envelope as in SMTP, without the brackets, and its header and body.

    `recipients` are pairs of the address and what the sender's RCPT gave for ORCPT ("rfc822;..."), "" if
    nothing.
    """

    sender: str
    recipients: tuple[tuple[str, str], ...]
    text: str

    def header(self, name: str) -> list[str]:
        """The values of the header fields of that name, in order, on one line each."""
        head = re.sub(r"\r?\n[ \t]+", " ", self.text.partition("\n\n")[0])
        lines = (line.partition(":") for line in head.split("\n"))
        return [value.strip() for field, _, value in lines if field.lower() == name.lower()]


@attrs.define(eq=False)
class SmtpSink:
    """Where the sink listens on 127.0.0.1, and what it has got so far."""

    port: int
    received: list[Received]

    @property
    def nexthop(self) -> str:
        """The sink as the nexthop of the private Postfix's transport ``sink``."""
        return f"sink:[127.0.0.1]:{self.port}"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    received: list[Received]


class _SmtpSession(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: _Server

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self) -> None:
        sender, recipients = "", list[tuple[str, str]]()
        self.say("220 sink.example.net ESMTP")
        for line in self.rfile:
            command = line.decode(errors="surrogateescape").rstrip("\r\n")
            verb = command[:4].upper()
            path = PATH.search(command)
            if verb == "EHLO":
                self.say("250-sink.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8")
            elif verb == "MAIL" and path:
                sender, recipients = path[1], []
                self.say("250 2.1.0 ok")
            elif verb == "RCPT" and path:
                given = re.search(r" ORCPT=(\S+)", path[2])
                recipients.append((path[1], given[1] if given else ""))
                self.say("250 2.1.5 ok")
            elif verb == "DATA":
                self.say("354 go on")
                self.server.received.append(Received(sender, tuple(recipients), self.text()))
                self.say("250 2.0.0 kept")
            elif verb == "QUIT":
                self.say("221 2.0.0 bye")
                return
            else:
                self.say("250 2.0.0 ok" if verb in ("HELO", "RSET", "NOOP") else "502 5.5.1 what?")

    def text(self) -> str:
        lines = []
        for line in self.rfile:
            if line == b".\r\n":
                break
            lines.append(line.removeprefix(b"."))
        return b"".join(lines).decode(errors="surrogateescape").replace("\r\n", "\n")


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def running_sink() -> Iterator[SmtpSink]:
    """An SMTP server on 127.0.0.1 in threads of its own, for as long as the context lasts."""
    server = _Server(("127.0.0.1", 0), _SmtpSession)
    server.received = []
    with _served(server):
        yield SmtpSink(server.server_address[1], server.received)


class _LoginSession(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        """Dovecot's handshake, after which nobody is let in: logins come by XCLIENT."""
        self.wfile.write(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n")
        for line in self.rfile:
            verb, _, rest = line.partition(b"\t")
            if verb == b"AUTH":
                self.wfile.write(b"FAIL\t" + rest.split(b"\t")[0] + b"\n")


@contextmanager
def running_login_server(socket: Path) -> Iterator[None]:
    """Make smtpd_sasl_type dovecot work: a server on the unix socket, which everybody may connect to.

    smtpd applies its restrictions on login names only where it offers AUTH.
    """
    server = socketserver.ThreadingUnixStreamServer(str(socket), _LoginSession)
    server.daemon_threads = True
    socket.chmod(0o666)
    with _served(server):
        yield
    socket.unlink()

"""What the private Postfix says: its replies in SMTP, and its log."""

from __future__ import annotations

import re
import smtplib
import socket
from collections.abc import Iterable
from typing import Any

import attrs

Reply = tuple[int, str]


@attrs.frozen
class Delivery:
    """What the log says about one recipient of one message.

    `service` is the transport's name, `status` "sent", "deferred" or "bounced", `reason` what stands in
    the parentheses: after a delivery by a discarding transport, the nexthop.
    """

    queue_id: str
    service: str
    recipient: str
    original: str
    relay: str
    status: str
    reason: str


DELIVERY = re.compile(
    r" postfix/(?:(?P<name>[\w-]+)/)?(?P<daemon>[\w-]+)\[\d+\]: (?P<queue_id>\w+): to=<(?P<to>.*?)>,"
    r" (?:orig_to=<(?P<orig>.*?)>, )?relay=(?P<relay>.+?), (?:conn_use=\d+, )?delay=\S+ delays=\S+"
    r" dsn=\S+ status=(?P<status>\w+) \((?P<reason>.*)\)$"
)


def deliveries(log: str, queue_id: str) -> list[Delivery]:
    """What a log says about the recipients of a message."""
    found = []
    for line in log.splitlines():
        match = DELIVERY.search(line) if queue_id in line else None
        if match:
            to = match["to"]
            found.append(
                Delivery(
                    queue_id=match["queue_id"],
                    service=match["name"] or match["daemon"],
                    recipient=to,
                    original=to if match["orig"] is None else match["orig"],
                    relay=match["relay"],
                    status=match["status"],
                    reason=match["reason"],
                )
            )
    return found


class Session(smtplib.SMTP):
    """One SMTP session with the private Postfix: strict, in UTF-8, with pipelining and XCLIENT."""

    def connect(self, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        greeting = super().connect(*args, **kwargs)
        assert self.sock is not None
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or each group waits 40 ms
        return greeting

    def ask(self, command: str) -> Reply:
        """Send one command; the reply's code and text."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Iterable[str], at_once: int = 50) -> list[Reply]:
        """Send commands in groups (RFC 2920), and give the reply to each."""
        commands = list(commands)
        replies = []
        for start in range(0, len(commands), at_once):
            group = commands[start : start + at_once]
            for command in group:
                if set(command) & set("\r\n\0"):
                    raise ValueError(f"no SMTP command: {command!r}")
            self.send("".join(f"{command}\r\n" for command in group).encode(errors="surrogateescape"))
            for _ in group:
                code, text = self.getreply()
                replies.append((code, text.decode(errors="surrogateescape")))
        return replies

    def become(
        self,
        address: str = "",
        name: str = "[UNAVAILABLE]",
        login: str = "",
        helo: str = "client.example.net",
    ) -> Reply:
        """XCLIENT: be the client at `address` (IPv4 or IPv6) called `name`, logged in as `login`.

        The reply is the new greeting, or what smtpd_client_restrictions say instead.
        """
        wanted = {"NAME": name, "ADDR": f"IPV6:{address}" if ":" in address else address, "LOGIN": login}
        wanted["HELO"] = helo
        return self.ask("XCLIENT " + " ".join(f"{key}={value}" for key, value in wanted.items() if value))

    def accepted(self, command: str) -> str:
        """Send a command that must succeed; the reply's text. Raises `AssertionError` else."""
        code, text = self.ask(command)
        if not 200 <= code < 400:
            raise AssertionError(f"{command}: {code} {text}")
        return text

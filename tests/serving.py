"""For the tests of the server: a map whose answers the test gives, a transport that is memory, a listener."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.config import Endpoint, ListenerConfig, ServerConfig
from tcpmapkit.counters import Counters, Outcomes
from tcpmapkit.protocols.tcp_table import TcpTableCodec
from tcpmapkit.query import Found, NotFound, Outcome, Query
from tcpmapkit.server import Server
from tcpmapkit.service import Service

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


class HeldMap:
    """A map that answers the keys in `table` at once, holds those that begin with "slow" until `answer`
    is called, raises for "bug", and has no others."""

    name = "held"
    generation = 1
    ready_sizes = (1 << 20, 1 << 20)

    def __init__(self, **table: Outcome) -> None:
        self.table = table
        self.asked: list[str] = []
        self.held: dict[str, list[Callable[[Answer], None]]] = {}
        self.used = bytearray(1)
        self.expires = 0.0

    def query(
        self,
        key: str,
        protocol: str = "",
        attributes: Mapping[str, str] | None = None,
        began: float | None = None,
    ) -> Query:
        return Query(key, self.name, protocol, attributes or {})

    def ask(self, query: Query, answered: Callable[[Answer], None]) -> Answer | None:
        self.asked.append(query.key)
        if query.key.startswith("slow"):
            self.held.setdefault(query.key, []).append(answered)
            return None
        if query.key == "bug":
            raise RuntimeError("no such thing")
        return Answer(self.table.get(query.key, NotFound()), self.expires, self.generation)

    def answer(self, key: str, outcome: Outcome | None = None) -> None:
        """The answer to everybody who waits for `key`."""
        for answered in self.held.pop(key):
            answered(Answer(outcome or Found(key.upper()), self.expires, self.generation))


class Transport:
    """What a connection does to its transport. `takes` False: the peer reads nothing."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reading = True
        self.closing = False
        self.aborted = False
        self.takes = True
        self.connection: Any = None

    @property
    def bytes(self) -> bytes:
        return b"".join(self.written)

    def write(self, data: bytes) -> None:
        assert not self.closing, "written after the close"
        self.written.append(data)
        if not self.takes:
            self.connection.pause_writing()

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 4711) if name == "peername" else None


@attrs.define(eq=False)
class Replies:
    """Ready replies without a limit, for a map that has none of its own."""

    kept: dict[bytes, bytes] = attrs.Factory(dict)
    outcomes: Outcomes = attrs.Factory(Outcomes)

    def serve(self, maps: Any) -> None:
        """Nothing is thrown away."""

    def find(self, raw: bytes) -> bytes | None:
        self.outcomes.ready_found += raw in self.kept
        return self.kept.get(raw)

    def keep(self, name: str, raw: bytes, reply: bytes, answer: Answer) -> None:
        if answer.expires:
            self.kept[raw] = reply


def make_service(map: Any, clock: Callable[[], float]) -> tuple[Service, Replies, list[Any]]:
    """A listener's service, its ready replies, and its connections while they are open."""
    replies = Replies()
    connections: list[Any] = []
    service = Service(
        name="inet:127.0.0.1:4242",
        protocol="tcp_table",
        ready=replies,
        new_codec=TcpTableCodec,
        idle_timeout=3600.0,
        clock=clock,
        opened=connections.append,
        closed=connections.remove,
        counters=Counters({map.name: replies.outcomes}),
    )
    service.serve({"": map})
    return service, replies, connections


def make_server(
    *maps: Any,
    clock: Callable[[], float],
    host: str = "127.0.0.1",
    allow: tuple[Any, ...] = (),
    ports: tuple[int, ...] = (),
    **options: Any,
) -> Server:
    """A server with a listener for each map, by default on ports of the system's choosing."""
    endpoints = [Endpoint("inet", host, port) for port in ports or [0] * len(maps)]
    listeners = [
        (ListenerConfig("tcp_table", endpoint, map.name, allow=allow), [map])
        for endpoint, map in zip(endpoints, maps, strict=True)
    ]
    return Server(ServerConfig(**options), listeners, clock=clock)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[None]:
    """Serve as long as this is entered."""
    server.bind()
    await server.start()
    try:
        yield
    finally:
        await server.stop()

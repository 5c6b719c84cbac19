"""A running server asked over its protocol: one question at a time on each of so many connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs

from tcpmapkit.bench.passes import Pass
from tcpmapkit.protocols import socketmap, tcp_table
from tcpmapkit.protocols.framing import TOO_LONG, LineBuffer, ProtocolError
from tcpmapkit.protocols.netstrings import NetstringBuffer
from tcpmapkit.query import Outcome

if TYPE_CHECKING:
    from tcpmapkit.config import Endpoint

__all__ = ["CLIENTS", "PATIENCE", "WireProtocol", "ask_over_the_wire"]

#: Seconds without a reply after which a question is given up; a map's own deadline is 5 unless it says.
PATIENCE: Final = 10.0

#: Seconds between two looks for replies that are overdue.
WATCH: Final = 0.5

#: Connections in a row without one reply, after which no more are made.
_FRUITLESS: Final = 3


_Buffer = tuple[Callable[[bytes], None], Callable[[], bytes | None], Callable[[], int]]


@attrs.frozen
class WireProtocol:
    """What a client has to know: how to ask a map for a key, how replies are told apart, what they mean.

    `new_replies` makes the parts of a buffer: what stores bytes, what gives the next reply, None while it
    is not whole, and what says how many bytes are left.
    """

    request: Callable[[str, str], bytes]
    decode: Callable[[bytes], Outcome]
    new_replies: Callable[[], _Buffer]


def _lines() -> _Buffer:
    buffer = LineBuffer(tcp_table.MAX_REPLY)
    return buffer.receive, buffer.next_line, buffer.__len__


def _netstrings() -> _Buffer:
    buffer = NetstringBuffer(socketmap.MAX_REPLY)
    return buffer.receive, buffer.next_netstring, buffer.__len__


#: The protocols in which a key can be asked, by name.
CLIENTS: Mapping[str, WireProtocol] = MappingProxyType(
    {
        "tcp_table": WireProtocol(lambda map, key: tcp_table.encode_request(key), tcp_table.decode, _lines),
        "socketmap": WireProtocol(socketmap.encode_request, socketmap.decode, _netstrings),
    }
)


class _Client(asyncio.Protocol):
    """One connection, which asks the next key when it has had its reply."""

    def __init__(self, run: Pass, protocol: WireProtocol) -> None:
        self._run = run
        self._receive, self._next_reply, self._left = protocol.new_replies()
        self._transport: Any = None
        self._number: int | None = None
        self._began = 0.0
        self.replies = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._number = self._run.next()
        if self._number is None:
            self._transport.close()
            return
        self._began = self._run.clock()
        self._transport.write(self._run.requests[self._number])

    def data_received(self, data: bytes) -> None:
        if self._number is None:
            self._transport.abort()  # more than was asked for
            return
        try:
            self._receive(data)
            reply = self._next_reply()
        except ProtocolError as error:
            self._give_up(f"malformed reply: {error}")
            return
        if reply is None:
            return
        if reply is TOO_LONG:
            self._give_up("malformed reply: too long")
            return
        if self._left():
            self._give_up("more than one reply to a question")  # the rest would answer the next one
            return
        self.replies += 1
        self._run.take(self._number, self._began, reply)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._failed("the server closed the connection")
        if not self.closed.done():
            self.closed.set_result(None)

    def check(self, now: float) -> None:
        """Give up a question whose reply is overdue."""
        if self._number is not None and now - self._began >= PATIENCE:
            self._give_up(f"no reply within {PATIENCE:g} s")

    def drop(self) -> None:
        """End at once; a question under way is not counted."""
        self._number = None
        self._transport.abort()

    def _give_up(self, reason: str) -> None:
        self._failed(reason)
        self._transport.abort()

    def _failed(self, reason: str) -> None:
        number, self._number = self._number, None
        if number is not None:
            self._run.fail(number, self._began, reason)


async def ask_over_the_wire(endpoint: Endpoint, protocol: WireProtocol, run: Pass, connections: int) -> None:
    """Ask what the pass has to ask on so many connections; one that is lost is made again.

    Raises `OSError` when the server cannot be connected to, at the beginning or later; `TimeoutError`
    is one.
    """
    clients: set[_Client] = set()

    async def watch() -> None:
        while True:
            await asyncio.sleep(WATCH)
            for client in tuple(clients):
                client.check(run.clock())

    async def ask() -> None:
        fruitless = 0
        while fruitless < _FRUITLESS and not run.over:
            client = await _connect(endpoint, lambda: _Client(run, protocol))
            clients.add(client)
            try:
                await client.closed
            finally:
                clients.discard(client)
                client.drop()
            fruitless = 0 if client.replies else fruitless + 1

    watching = asyncio.create_task(watch())
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(ask())
    except BaseExceptionGroup as failed:
        # Not by `except*`: before Python 3.11.4 that puts into a group again what is raised in it.
        first: BaseException = failed
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if not isinstance(first, OSError):
            raise
        raise first from None
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _connect(endpoint: Endpoint, new: Callable[[], _Client]) -> _Client:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        if endpoint.kind == "unix":
            _, client = await loop.create_unix_connection(new, endpoint.path)
        else:
            _, client = await loop.create_connection(new, endpoint.host, endpoint.port)
    return client

"""For the tests of single protocols: a server with one listener of any kind, and plain clients of it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tcpmapkit.config import Endpoint, ListenerConfig, ServerConfig
from tcpmapkit.query import Outcome
from tcpmapkit.server import Server
from tcpmapkit.testing import FakeClock
from tests.serving import HeldMap, running

KINDS = ("inet", "unix")


def endpoint(kind: str, directory: Path) -> Endpoint:
    """A free one on the loopback, or a socket in `directory`."""
    if kind == "inet":
        return Endpoint("inet", "127.0.0.1", 0)
    return Endpoint("unix", path=str(directory / "socket"))


def named(name: str, table: dict[str, Outcome]) -> HeldMap:
    map = HeldMap(**table)
    map.name = name
    return map


@asynccontextmanager
async def serving(
    config: ListenerConfig, *maps: HeldMap, clock: FakeClock | None = None, **options: Any
) -> AsyncIterator[Server]:
    server = Server(ServerConfig(**options), [(config, maps)], clock=clock or FakeClock())  # type: ignore[arg-type]
    async with running(server):
        yield server


def postfix_name(server: Server) -> str:
    """The endpoint as main.cf has it, whatever port the system chose."""
    [[address]] = server.addresses
    return "unix:" + address[0] if len(address) == 1 else f"inet:{address[0]}:{address[1]}"


class Peer:
    """A client that sends and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, data: bytes) -> None:
        """Read exactly `data`, no more and no less, as far as there is more yet."""
        async with asyncio.timeout(10):
            assert await self.reader.readexactly(len(data)) == data

    async def ask(self, request: bytes, reply: bytes) -> None:
        self.send(request)
        await self.read(reply)

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    @property
    def resets(self) -> bool:
        """Whether the server is told of a hang-up while the end of input alone may be half of one."""
        return self.writer.get_extra_info("socket").family != socket.AF_UNIX

    def hang_up(self, reset: bool = False) -> None:
        """Close; with `reset`, in a way that says that no reply is wanted, where there is one."""
        if reset and self.resets:
            self.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self.writer.transport.abort()


@asynccontextmanager
async def connected(server: Server, listener: int = 0) -> AsyncIterator[Peer]:
    [address] = server.addresses[listener]
    if len(address) == 1:
        reader, writer = await asyncio.open_unix_connection(address[0])
    else:
        reader, writer = await asyncio.open_connection(*address)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)

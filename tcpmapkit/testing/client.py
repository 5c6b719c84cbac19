"""A tcp_table client on the loopback, with asyncio and without."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from tcpmapkit.protocols import tcp_table
from tcpmapkit.query import Found, NotFound, TempFail

__all__ = ["Client", "PlainClient"]

#: Seconds to wait for the server before a test fails.
_PATIENCE: Final = 10.0

Answer = Found | NotFound | TempFail


class Client:
    """A tcp_table client on the loopback, as strict as Postfix about what it is told.

    async with Client(port) as client:
        assert await client.get("joe@example.org") == NotFound()
        await client.send(b"get a\\nget b\\n")
        assert await client.reply() == b"500 not%20found\\n"
    """

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with suppress(ConnectionError):  # the server was faster
            await self._writer.wait_closed()

    async def get(self, key: str) -> Answer:
        """Ask and wait for the answer; a PermFail looks like a `TempFail`, as it does to Postfix.

        Raises `ProtocolError` for a malformed reply, `EOFError` when the server hangs up.
        """
        await self.send(tcp_table.encode_request(key))
        return tcp_table.decode(await self.reply())

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self) -> bytes:
        """The next reply, its newline included. Raises `EOFError` when the server hangs up."""
        async with asyncio.timeout(_PATIENCE):
            return await self._reader.readuntil()

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        async with asyncio.timeout(_PATIENCE):
            return await self._reader.read()


class PlainClient:
    """`Client` without asyncio, for a server in another process: the same methods, not awaited."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def get(self, key: str) -> Answer:
        """As `Client.get`."""
        self.send(tcp_table.encode_request(key))
        return tcp_table.decode(self.reply())

    def send(self, data: bytes) -> None:
        """As `Client.send`."""
        self._socket.sendall(data)

    def reply(self) -> bytes:
        """As `Client.reply`."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"the server hung up after {line!r}")
        return line

    def rest(self) -> bytes:
        """As `Client.rest`."""
        return self._file.read()

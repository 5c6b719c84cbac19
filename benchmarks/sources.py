"""The sources behind the measured maps: callables (resolver type ``python``), and, as a program, an API and
a name server that take `WAIT` seconds for everything. The program prints their two ports.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from benchmarks.data import ADDRESS, value

__all__ = ["WAIT", "hangs", "value", "waits"]

WAIT: Final = 0.02
"""Seconds that a source which takes its time takes."""


async def waits(key: str) -> str | None:
    """A source that takes its time."""
    await asyncio.sleep(WAIT)
    return value(key)


async def hangs(key: str) -> str | None:
    """A source that never answers."""
    await asyncio.get_running_loop().create_future()
    return None


class _Api(asyncio.Protocol):
    """As little HTTP as a client needs: GET /KEY gives the key's value."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        key = data.split(b" ", 2)[1][1:].replace(b"%40", b"@").decode()
        body = (value(key) or "").encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
        asyncio.get_running_loop().call_later(WAIT, self.transport.write, head % len(body) + body)


class _Names(asyncio.DatagramProtocol):
    """Every name has the address `ADDRESS` (RFC 1035: the header, the question, one A record)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, peer: Any) -> None:
        question = data[12 : data.index(b"\0", 12) + 5]
        address = bytes(map(int, ADDRESS.split(".")))
        reply = data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question
        reply += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + address
        asyncio.get_running_loop().call_later(WAIT, self.transport.sendto, reply, peer)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    api = await loop.create_server(_Api, "127.0.0.1", 0, backlog=1024)
    names, _ = await loop.create_datagram_endpoint(_Names, ("127.0.0.1", 0))
    for place in (api.sockets[0], names.get_extra_info("socket")):
        print(place.getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())

"""A DNS server on the loopback, over UDP and TCP, that answers on the wire whatever a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

SOA = "example.org. 900 IN SOA ns.example.org. hostmaster.example.org. 1 3600 600 86400 300"

Reply = dns.message.Message | bytes | None


@attrs.frozen
class Asked:
    """One request as it arrived: the labels of its name (without the root's), the type, UDP or TCP."""

    labels: tuple[bytes, ...]
    kind: str
    tcp: bool


@attrs.define(eq=False)
class LoopbackDns:
    """`answer(request, tcp)` gives a message, raw bytes, or None for silence; `asked` is what arrived."""

    port: int
    answer: Callable[[dns.message.Message, bool], Reply]
    asked: list[Asked] = attrs.Factory(list)

    @property
    def nameserver(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wire_for(self, wire: bytes, tcp: bool) -> bytes | None:
        request = dns.message.from_wire(wire)
        question = request.question[0]
        self.asked.append(
            Asked(tuple(question.name.labels[:-1]), dns.rdatatype.to_text(question.rdtype), tcp)
        )
        reply = self.answer(request, tcp)
        return reply.to_wire(max_size=65535) if isinstance(reply, dns.message.Message) else reply


def reply(
    request: dns.message.Message,
    answer: Sequence[str] = (),
    *,
    authority: Sequence[str] = (),
    rcode: str = "NOERROR",
    flags: int = 0,
) -> dns.message.Message:
    """A response to `request` with these records, each a line of a zone file (``owner TTL IN TYPE data``)."""
    response = dns.message.make_response(request, recursion_available=True)
    response.set_rcode(dns.rcode.from_text(rcode))
    response.flags |= flags
    for section, lines in ((response.answer, answer), (response.authority, authority)):
        for line in lines:
            owner, ttl, rdclass, kind, data = line.split(None, 4)
            records = dns.rrset.from_text(owner, int(ttl), rdclass, kind, data)
            same = next(
                (one for one in section if one.match(records.name, records.rdclass, records.rdtype, 0)), None
            )
            if same is None:
                section.append(records)
            else:
                same.update(records)
    return response


def records(*lines: str) -> Callable[[dns.message.Message, bool], Reply]:
    """Always these records, whoever asks for what."""
    return lambda request, tcp: reply(request, lines)


def status(rcode: str) -> Callable[[dns.message.Message, bool], Reply]:
    """Always this response code."""
    return lambda request, tcp: reply(request, rcode=rcode)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: LoopbackDns) -> None:
        self.server = server

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        wire = self.server.wire_for(data, tcp=False)
        if wire is not None:
            self.transport.sendto(wire, address)


@asynccontextmanager
async def loopback_dns(
    answer: Callable[[dns.message.Message, bool], Reply],
) -> AsyncIterator[LoopbackDns]:
    """A server for the time of the context."""
    server = LoopbackDns(0, answer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = int.from_bytes(await reader.readexactly(2))
            wire = server.wire_for(await reader.readexactly(length), tcp=True)
            if wire is not None:
                writer.write(len(wire).to_bytes(2) + wire)
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    for attempt in range(10):
        streams = await asyncio.start_server(serve, "127.0.0.1", 0)
        server.port = streams.sockets[0].getsockname()[1]
        try:
            datagrams, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(server), local_addr=("127.0.0.1", server.port)
            )
            break
        except OSError:
            streams.close()
            if attempt == 9:
                raise
    try:
        yield server
    finally:
        datagrams.close()
        streams.close()
        # The transports of both sides close in the loop's next turns.
        for _ in range(3):
            await asyncio.sleep(0)

"""HTTP servers on the loopback: one that behaves (aiohttp.web), one that sends whatever bytes it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web


@attrs.frozen
class Received:
    """One request as it arrived: `target` is the path and query, byte for byte as on the wire."""

    method: str
    target: str
    headers: Any
    body: bytes
    connection: int


@attrs.define(eq=False)
class LoopbackHttp:
    """A running server; `received` is what arrived, `connections` how many clients ever connected."""

    url: str
    received: list[Received] = attrs.Factory(list)
    connections: int = 0
    open: int = 0

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.received]


Answer = Callable[[web.BaseRequest], web.StreamResponse]


def answering(text: str = '"found"', **options: Any) -> Answer:
    """Always this response: JSON, status 200, unless `options` of `web.Response` say otherwise."""
    options.setdefault("content_type", "application/json")
    return lambda request: web.Response(text=text, **options)


@asynccontextmanager
async def loopback_api(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[LoopbackHttp]:
    """A well-behaved server for the time of the context."""
    state = LoopbackHttp("")

    async def receive(request: web.BaseRequest) -> web.StreamResponse:
        state.received.append(
            Received(
                request.method, request.raw_path, request.headers, await request.read(), id(request.transport)
            )
        )
        return answer(request)

    runner = web.ServerRunner(
        web.Server(receive, access_log=None), handle_signals=False, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    state.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield state
    finally:
        await runner.cleanup()


Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def sending(*pieces: bytes, then: str = "close") -> Script:
    """Send these bytes, then ``close``, ``reset``, or ``wait`` until the client hangs up."""

    async def script(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then == "reset":
            writer.transport.abort()

    script.waits = then == "wait"  # type: ignore[attr-defined]
    return script


@asynccontextmanager
async def loopback_raw(script: Script) -> AsyncIterator[LoopbackHttp]:
    """A server that reads one request's head and then does as `script` says."""
    state = LoopbackHttp("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        state.open += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
            state.received.append(Received(method, target, {}, b"", state.connections))
            await script(writer)
            if getattr(script, "waits", False):
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            state.open -= 1
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.close()
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def http_client() -> AsyncIterator[ClientSession]:
    """A session as the server opens it for all its resolvers."""
    async with ClientSession(
        connector=TCPConnector(),
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=None),
        trust_env=False,
    ) as session:
        yield session


def connections_in_use(session: ClientSession) -> int:
    """How many of the client's connections no request has given back."""
    connector = session.connector
    assert connector is not None
    return len(connector._acquired)

"""The API behind a map goes away and returns: answers that are known are served, nobody waits for it, and
the log says so in a few lines."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tcpmapkit import Found, TempFail
from tcpmapkit.build import build_maps
from tcpmapkit.built_maps import BuiltMaps
from tcpmapkit.config import read_document, structure
from tcpmapkit.plugins import load_plugins
from tcpmapkit.step_failures import NOT_ASKED
from tcpmapkit.testing import FakeClock
from tests.running_tcpmapkit import RunningTcpmapkit

KNOWN = [f"user{number}@example.org" for number in range(5)]


class Api:
    """An HTTP API that answers every key with "found", until `goes_away`; `requests` counts."""

    def __init__(self) -> None:
        self.how = ""
        self.requests = 0
        self._server: asyncio.Server | None = None
        self._hung: list[asyncio.StreamWriter] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._hung:
            writer.close()
        self._hung.clear()
        await asyncio.sleep(0)

    async def goes_away(self, how: str) -> None:
        self.how = how
        if how == "refused":
            await self.close()

    async def returns(self) -> None:
        if self.how == "refused":
            await self.open()
        self.how = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            if self.how == "hangs":
                self._hung.append(writer)
                await reader.read()
            elif self.how == "status 500":
                writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            elif not self.how:
                body = json.dumps("found").encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def an_api() -> AsyncIterator[Api]:
    api = Api()
    await api.open()
    try:
        yield api
    finally:
        await api.close()


CONFIGURATION = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "routes"

[maps.routes]
cache = {{ ttl = "{ttl}", stale = "1h", stale_wait = "{stale_wait}", error_ttl = "2s", jitter = 0.0 }}

[[maps.routes.resolvers]]
type = "http"
url = "{url}/{{key}}"
timeout = "{timeout}"
"""


@asynccontextmanager
async def started(path: Path, api: Api, clock: FakeClock) -> AsyncIterator[BuiltMaps]:
    text = CONFIGURATION.format(url=api.url, ttl="60s", stale_wait="10ms", timeout="20ms")
    path.write_text(text.replace("timeout", 'name = "api"\ntimeout'))
    plugins = load_plugins()
    config, errors = structure(read_document(path), plugins.types)
    maps, more = build_maps(config, plugins, clock)
    assert not [*errors, *more]
    await maps.start()
    try:
        yield maps
    finally:
        await maps.stop()


@pytest.mark.parametrize("how", ["refused", "hangs", "status 500", "broken"])
async def test_while_an_api_is_away_for_a_minute_what_is_known_is_answered_and_nobody_waits(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    async with an_api() as api, started(tmp_path / "tcpmapkit.toml", api, clock) as maps:
        map = maps.maps["routes"]
        breaker = maps.steps[0].step.breaker  # type: ignore[union-attr]
        assert breaker is not None
        for key in KNOWN:
            assert await map.lookup(map.query(key)) == Found("found", 60.0)
        clock.advance(60.0)  # all of it has expired
        await api.goes_away(how)
        for second in range(60):
            before = api.requests
            known = [await map.lookup(map.query(key)) for key in KNOWN]
            assert [type(outcome) for outcome in known] == [Found] * len(KNOWN), (second, known)
            unknown = await asyncio.gather(
                *(map.lookup(map.query(f"new{second}.{number}@example.org")) for number in range(5))
            )
            assert {type(outcome) for outcome in unknown} == {TempFail}
            if second > 5:
                assert unknown.count(NOT_ASKED) >= 4
                # One lookup; the HTTP client tries a GET once more whose connection broke.
                assert api.requests - before <= (2 if how == "broken" else 1)
                assert breaker.state == "open"
            await map.finish()  # one may hang still, and takes milliseconds that this clock does not have
            clock.advance(1.0)
        await api.returns()
        clock.advance(2.0)  # the last failures of the known keys are forgotten
        for key in KNOWN:
            assert await map.lookup(map.query(key)) == Found("found", 60.0)
        assert await map.lookup(map.query("new@example.org")) == Found("found", 60.0)
        assert breaker.state == "closed"
    lines = [line.getMessage() for line in caplog.records if line.name == "tcpmapkit.map.routes.api"]
    assert [line.split(":")[0].split(" after ")[0] for line in lines] == [
        "api is failing",
        "api has failed 20 times in a row",
        "api has recovered",
    ]
    assert [line.getMessage() for line in caplog.records if line.name == "tcpmapkit.map.routes"] == [
        "map routes: the chain fails, and a stale answer is served"
    ]


class Client:
    """A tcp_table client."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("inet:").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._replies = self._socket.makefile("rb")

    def ask(self, *keys: str) -> list[bytes]:
        self._socket.sendall(b"".join(b"get %s\n" % key.encode() for key in keys))
        return [self._replies.readline() for _ in keys]

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_server_serves_on_without_its_api_and_names_nobody_in_its_log(tmp_path: Path) -> None:
    async with an_api() as api:
        configuration = tmp_path / "tcpmapkit.toml"
        configuration.write_text(
            CONFIGURATION.format(url=api.url, ttl="10ms", stale_wait="50ms", timeout="200ms")
            + '\n[log]\nslow_lookup = "100ms"\n'
        )
        server = RunningTcpmapkit(configuration)
        await asyncio.to_thread(server.start)
        client = Client(server.endpoints[0])
        try:
            assert await asyncio.to_thread(client.ask, *KNOWN) == [b"200 found\n"] * len(KNOWN)
            await api.goes_away("hangs")
            others = [Client(server.endpoints[0]) for _ in range(25)]
            replies = await asyncio.gather(
                *(asyncio.to_thread(one.ask, f"new{at}@example.org") for at, one in enumerate(others))
            )
            assert {reply[0][:4] for reply in replies} == {b"400 "}
            for one in others:
                one.close()
            for _ in range(20):
                assert await asyncio.to_thread(client.ask, *KNOWN) == [b"200 found\n"] * len(KNOWN)
            replied = await asyncio.to_thread(client.ask, *(f"more{at}@example.org" for at in range(50)))
            assert replied.count(b"400 source%20is%20failing,%20not%20asked\n") >= 48
            await api.returns()
            async with asyncio.timeout(20):
                while "has recovered" not in server.log():
                    await asyncio.to_thread(client.ask, f"later{api.requests}@example.org")
                    await asyncio.sleep(0.1)
        finally:
            client.close()
            await asyncio.to_thread(server.stop)
    log = server.log()
    for told in ("is failing", "20 times in a row", "has recovered", "a stale answer is served"):
        assert log.count(told) == 1, log
    assert log.count("map routes: the lookup of #") == 1, log
    assert "http 0.2" in log
    assert "example.org" not in log

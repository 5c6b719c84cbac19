"""The whole way: bytes of a tcp_table client, server, cache, chain, a source on the loopback, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tcpmapkit.query import Found, NotFound, TempFail
from tcpmapkit.site import Site, open_site
from tcpmapkit.testing import Client, FakeClock, serve

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Api:
    """An HTTP API that counts what it is asked; `answer` is the whole response, None for silence."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.paths: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                self.paths.append(request.split(b" ")[1].decode())
                self.asked.set()
                await self.may_answer.wait()
                if self.answer is None:
                    await reader.read()
                    break
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def response(status: str, body: bytes, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


FOUND = response("200 OK", b'"carol@example.org"')


@asynccontextmanager
async def listening(api: Api) -> AsyncIterator[int]:
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        api.may_answer.set()
        server.close()


@asynccontextmanager
async def site_of(tmp_path: Path, text: str, clock: Callable[[], float] | None = None) -> AsyncIterator[Site]:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(text)
    site = open_site(file) if clock is None else open_site(file, clock=clock)
    await site.start()
    try:
        yield site
    finally:
        await site.maps.stop()


def api_map(port: int, *more: str, options: str = "") -> str:
    return "\n".join(
        (
            "[maps.aliases]",
            options,
            "[[maps.aliases.resolvers]]",
            'type = "http"',
            f'url = "http://127.0.0.1:{port}/alias"',
            'params = { address = "{key}" }',
            *more,
        )
    )


async def test_a_hundred_clients_asking_the_same_cold_key_cause_one_http_request(tmp_path: Path) -> None:
    api = Api(FOUND)
    api.may_answer.clear()
    async with (
        listening(api) as port,
        site_of(tmp_path, api_map(port)) as site,
        serve(site.maps.maps["aliases"]) as served,
    ):
        async with Client(served) as leader:
            await leader.send(b"get carol@example.com\n")
            await api.asked.wait()
        # The one whose lookup it was has hung up.
        clients = [Client(served) for _ in range(100)]
        await asyncio.gather(*(client.__aenter__() for client in clients))
        asking = [asyncio.ensure_future(client.get("Carol@example.com")) for client in clients]
        await asyncio.sleep(0)
        api.may_answer.set()
        answers = await asyncio.gather(*asking)
        await asyncio.gather(*(client.__aexit__(None, None, None) for client in clients))
    assert answers == [Found("carol@example.org")] * 100
    assert api.paths == ["/alias?address=carol%40example.com"]


async def test_a_first_step_that_accepts_and_never_answers_does_not_starve_its_fallback(
    tmp_path: Path,
) -> None:
    api = Api(None)
    fallback = (
        'on_error = "next"',
        "[[maps.aliases.resolvers]]",
        'type = "static"',
        'entries = { known = "fallback" }',
    )
    async with (
        listening(api) as port,
        site_of(tmp_path, api_map(port, *fallback, options='deadline = "400ms"')) as site,
        serve(site.maps.maps["aliases"]) as served,
        Client(served) as client,
    ):
        assert await client.get("known") == Found("fallback")
        assert await client.get("unknown") == TempFail("timed out")
    assert len(api.paths) == 2


async def test_a_stale_answer_is_served_while_the_source_fails_and_never_a_stale_miss(
    tmp_path: Path,
) -> None:
    api, clock = Api(FOUND), FakeClock()
    options = 'cache = { ttl = "1m", negative_ttl = "1m", error_ttl = "1s", stale = "1h", jitter = 0.0 }'
    async with (
        listening(api) as port,
        site_of(tmp_path, api_map(port, options=options), clock) as site,
        serve(site.maps.maps["aliases"]) as served,
        Client(served) as client,
    ):
        assert await client.get("known") == Found("carol@example.org")
        api.answer = response("404 Not Found", b"{}")
        assert await client.get("unknown") == NotFound()
        api.answer = response("503 Service Unavailable", b"")
        clock.advance(61)
        assert await client.get("known") == Found("carol@example.org")
        assert isinstance(await client.get("unknown"), TempFail)
        clock.advance(3600)
        assert isinstance(await client.get("known"), TempFail)
        clock.advance(2)
        api.answer = response("404 Not Found", b"{}")
        assert await client.get("known") == NotFound()
    assert site.maps.maps["aliases"].counters.stale >= 1


@pytest.mark.parametrize(
    "answer",
    [
        response("500 Internal Server Error", b"{}"),
        response("429 Too Many Requests", b""),
        response("200 OK", b"<html>", "text/html"),
        response("200 OK", b'{"no": "value"'),
        response("200 OK", b'"' + b"x" * (10 << 20) + b'"'),
        response("302 Found", b""),
        response("403 Forbidden", b""),
        b"not HTTP at all\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"short',
    ],
    ids=["500", "429", "HTML", "wrong JSON", "10 MB", "redirect", "403", "no HTTP", "cut off"],
)
async def test_trouble_of_an_api_defers_mail_and_is_never_not_found(tmp_path: Path, answer: bytes) -> None:
    api = Api(answer)
    async with (
        listening(api) as port,
        site_of(tmp_path, api_map(port, 'timeout = "300ms"')) as site,
        serve(site.maps.maps["aliases"]) as served,
        Client(served) as client,
    ):
        assert isinstance(await client.get("key"), TempFail)


async def test_an_api_that_refuses_connections_is_a_temporary_failure_at_once(tmp_path: Path) -> None:
    async with (
        site_of(tmp_path, api_map(1)) as site,
        serve(site.maps.maps["aliases"]) as served,
        Client(served) as client,
    ):
        assert isinstance(await client.get("key"), TempFail)


HOSTILE = (
    "..", ".", "/", "%2e%2e", "a/../b", "?", "#", "a\r\nSET x", "\0", "x" * 300 + ".example.org", "' OR 1=1",
    "{key}", "${HOME}", "a b", "é@example.org", "\\", '"',
)  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE)
async def test_a_hostile_key_reaches_every_kind_of_source_as_data_or_misses(tmp_path: Path, key: str) -> None:
    api = Api(response("404 Not Found", b"{}"))
    (tmp_path / "table").write_text("harmless value\n")
    (tmp_path / "table.csv").write_text("key,value\nharmless,value\n")
    import sqlite3

    with sqlite3.connect(tmp_path / "table.sqlite") as database:
        database.execute("CREATE TABLE t (k TEXT, v TEXT)")
        database.execute("INSERT INTO t VALUES ('harmless', 'value')")
    database.close()
    text = """
[maps.every]
[[maps.every.resolvers]]
type = "file"
path = "table"
[[maps.every.resolvers]]
type = "csv"
path = "table.csv"
[[maps.every.resolvers]]
type = "regex"
rules = [{ pattern = "^harmless$", result = "value" }]
[[maps.every.resolvers]]
type = "cidr"
rules = [{ network = "192.0.2.0/24", result = "value" }]
[[maps.every.resolvers]]
type = "sqlite"
path = "table.sqlite"
query = "SELECT v FROM t WHERE k = :key"
[[maps.every.resolvers]]
type = "http"
url = "http://127.0.0.1:PORT/by-path/{key}"
[[maps.every.resolvers]]
type = "http"
url = "http://127.0.0.1:PORT/by-parameter"
params = { key = "{key}" }
"""
    async with (
        listening(api) as port,
        site_of(tmp_path, text.replace("PORT", str(port))) as site,
        serve(site.maps.maps["every"]) as served,
        Client(served) as client,
    ):
        assert await client.get(key) == NotFound()
    for path in api.paths:
        assert path.startswith(("/by-path/", "/by-parameter?key="))
        assert "/" not in path.partition("/by-path/")[2]
        assert path.count("?") <= 1
        assert not set(path) & set("#\\\"' {}")

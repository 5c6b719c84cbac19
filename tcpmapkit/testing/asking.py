"""Asking: a resolver, a chain, a whole configuration; in this process or over the loopback."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tcpmapkit.config import Endpoint, ListenerConfig, ServerConfig, read_document
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.keys import splitter
from tcpmapkit.maps import Map
from tcpmapkit.query import Miss, Outcome, Query
from tcpmapkit.server import Server
from tcpmapkit.site import build_site, located
from tcpmapkit.site_tests import run_site_tests
from tcpmapkit.testing.building import build_steps, load_for

__all__ = ["ask", "ask_now", "query", "serve", "started", "started_file", "toml_blocks"]


def query(
    key: str = "",
    *,
    map: str = "test",
    protocol: str = "",
    attributes: Mapping[str, str] | None = None,
    time_left: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
    recipient_delimiter: str = "+",
    partial: bool = False,
) -> Query:
    """A query as a resolver gets it, with `time_left` seconds to be answered in.

    >>> query("joe+lists@example.org").extension
    'lists'
    """
    split = splitter(recipient_delimiter)
    return Query(key, map, protocol, attributes or {}, clock() + time_left, clock, split, partial)


@asynccontextmanager
async def started(
    *steps: Any,
    plugins: Iterable[ModuleType] = (),
    directory: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Map]:
    """A map without a cache whose chain is these steps, started; stopped at the end.

    `plugins` are modules with hookimpls that need not be installed; `directory` is where relative
    paths begin. Raises `ConfigErrors` as ``tcpmapkit check`` would tell them.

        async with started('type = "redis"\\nget = "virtual:{key}"') as virtual:
            assert await ask(virtual, "joe@example.org") == Miss()
    """
    built = build_steps(steps, plugins, directory, clock)
    await built.start()
    try:
        yield built.maps["test"]
    finally:
        await built.stop()


@asynccontextmanager
async def started_file(
    configuration: str | Path, *, plugins: Iterable[ModuleType] = (), run_tests: bool = True
) -> AsyncIterator[Mapping[str, Map]]:
    """The maps of a whole configuration, a file or its text, started; stopped at the end.

    Its tests, of maps and of listeners, are run first. Raises `ConfigErrors`, also for a test that fails.
    """
    with tempfile.TemporaryDirectory() as place:
        if isinstance(configuration, str):
            file = Path(place) / "tcpmapkit.toml"
            file.write_text(configuration, encoding="utf-8")
        else:
            file = configuration
        document = read_document(file)
        site = build_site(document, load_for(document, plugins))
        if site.mistakes:
            raise ConfigErrors(site.mistakes)
        await site.start()
        try:
            if run_tests:
                results = await run_site_tests(site)
                if results.wrong or results.failed:
                    raise located(document, [*results.wrong, *results.failed])
            yield site.maps.maps
        finally:
            await site.maps.stop()


async def ask(asked: Any, key: str | Query, **about: Any) -> Outcome | Miss:
    """What the chain of a map answers: an outcome, or a miss where a later step would be asked.

    `asked` is a map, or steps (one, or a list of several), which are started for this one question.
    `key` is a key, with `about` it as for `query`, or a whole query.

        await ask(resolver, "joe@example.org")
        await ask([first, 'type = "static"\\nvalue = "x"'], "joe@example.org", time_left=0.1)
    """
    if isinstance(asked, Map):
        chain = asked.current.chain
        question = key if isinstance(key, Query) else query(key, **about)
        return await chain.resolve(question) if chain.can_wait else chain.resolve(question)
    async with started(*(asked if isinstance(asked, (list, tuple)) else (asked,))) as map:
        return await ask(map, key, **about)


def ask_now(asked: Any, key: str | Query, **about: Any) -> Outcome | Miss:
    """As `ask`, without an event loop: for resolvers that answer at once. Nothing is started.

    Raises `TypeError` when a step can wait.

    >>> ask_now(FakeResolver({"a": "1"}), "A")
    Found(value='1', ttl=None, values=(), separator=',')
    """
    if not isinstance(asked, Map):
        steps = asked if isinstance(asked, (list, tuple)) else (asked,)
        asked = build_steps(steps).maps["test"]
    chain = asked.current.chain
    if chain.can_wait:
        raise TypeError("a step can wait: await ask(...) instead")
    outcome: Outcome | Miss = chain.resolve(key if isinstance(key, Query) else query(key, **about))
    return outcome


@asynccontextmanager
async def serve(map: Map) -> AsyncIterator[int]:
    """Serve a started map over tcp_table on a free port of 127.0.0.1, in this event loop; the port.

    async with started(resolver) as map, serve(map) as port, Client(port) as client:
        assert await client.get("joe@example.org") == Found("joe")
    """
    listener = ListenerConfig("tcp_table", Endpoint("inet", "127.0.0.1", 0), map.name)
    server = Server(ServerConfig(max_connections=1000), [(listener, [map])], clock=map.clock)
    server.bind()
    try:
        await server.start()
        yield server.addresses[0][0][1]
    finally:
        await server.stop()


def toml_blocks(markdown: Path) -> list[str]:
    """The TOML blocks of a README, so that its examples can be run (`started_file`)."""
    return re.findall(r"^```toml\n(.*?)^```", markdown.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

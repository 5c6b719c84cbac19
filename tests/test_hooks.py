"""When each hook is called, and with what."""

from __future__ import annotations

import asyncio
import inspect
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from tcpmapkit import Found, NotFound, Query, TempFail, hookimpl
from tcpmapkit.build import build_maps
from tcpmapkit.config import Config, Document, structure
from tcpmapkit.errors import ConfigError
from tcpmapkit.plugin_sources import Origin
from tcpmapkit.plugins import Plugins, load_plugins
from tcpmapkit.serve import serve
from tcpmapkit.site import Site
from tcpmapkit.testing import Client, ask
from tcpmapkit.testing import serve as serve_map

Calls = list[tuple[Any, ...]]


@attrs.define(eq=False)
class Noting:
    """A resolver that notes what becomes of it."""

    calls: Calls

    async def start(self, context: Any) -> None:
        self.calls.append(("start", context.name))

    def resolve(self, query: Query) -> Found | None:
        self.calls.append(("resolve", query))
        return Found("found") if query.key.startswith("a") else None

    async def stop(self) -> None:
        self.calls.append(("stop",))


def plugin_that_notes_its_calls(calls: Calls) -> ModuleType:
    """A plugin that implements every hook that a plugin can."""

    @hookimpl
    def register_resolvers(register: Any) -> None:
        calls.append(("register_resolvers", register))
        register("noting", lambda: Noting(calls))

    @hookimpl
    def query_resolved(query: Query, outcome: Any, resolver: str, elapsed: float) -> None:
        calls.append(("query_resolved", query.key, outcome, resolver))
        assert elapsed >= 0

    @hookimpl
    def startup(config: Any) -> None:
        calls.append(("startup", config))

    @hookimpl
    def shutdown() -> None:
        calls.append(("shutdown",))

    plugin = ModuleType("noting")
    vars(plugin).update(
        register_resolvers=register_resolvers,
        query_resolved=query_resolved,
        startup=startup,
        shutdown=shutdown,
    )
    return plugin


def load(plugin: ModuleType, name: str = "noting") -> Plugins:
    loaded = load_plugins()
    loaded.load(Origin(name, name, "", name), lambda: plugin)
    assert [broken for broken in loaded.broken if broken.name == name] == []
    return loaded


def site_of(plugins: Plugins, place: Path, **map_options: Any) -> Site:
    """A site with the map "m" of the resolver type "noting", and a listener for it."""
    data = {
        "listeners": [{"protocol": "tcp_table", "endpoint": "inet:127.0.0.1:0", "map": "m"}],
        "maps": {"m": {"resolvers": [{"type": "noting"}], **map_options}},
    }
    document = Document(place / "tcpmapkit.toml", "", data)
    config, errors = structure(document, plugins.types)
    maps, more = build_maps(config, plugins)
    assert [*errors, *more] == []
    return Site(document, config, plugins, maps)


@pytest.fixture
def calls() -> Calls:
    return []


def test_hook_register_resolvers_is_called_once_when_plugins_are_loaded(calls: Calls) -> None:
    loaded = load(plugin_that_notes_its_calls(calls))
    assert [name for name, *_ in calls] == ["register_resolvers"]
    assert loaded.types["noting"].distribution == "noting"
    (register,) = calls[0][1:]
    assert list(inspect.signature(register).parameters)[:2] == ["name", "factory"]


def test_hook_register_resolvers_says_what_a_type_is_like() -> None:
    plugin = ModuleType("said")

    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("plain", Noting)
        register(
            "said",
            Noting,
            folded=False,
            partial_keys=False,
            special_keys=True,
            in_memory=True,
            attributes=["sender", "recipient"],
        )

    vars(plugin).update(register_resolvers=register_resolvers)
    types = load(plugin, "said").types
    plain, said = types["plain"], types["said"]
    assert (plain.folded, plain.partial_keys, plain.special_keys, plain.in_memory) == (
        True,
        True,
        False,
        False,
    )
    assert (said.folded, said.partial_keys, said.special_keys, said.in_memory) == (False, False, True, True)
    assert (plain.attributes, said.attributes) == (frozenset(), {"sender", "recipient"})


async def test_hook_resolve_is_the_resolvers_own_method_asked_by_its_step(
    calls: Calls, tmp_path: Path
) -> None:
    site = site_of(load(plugin_that_notes_its_calls(calls)), tmp_path)
    calls.clear()
    assert await ask(site.maps.maps["m"], "Ann+x@example.org", map="m") == Found("found")
    ((name, query),) = calls
    assert (name, query.key, query.map) == ("resolve", "ann+x@example.org", "m")
    assert (query.user, query.extension, query.domain) == ("ann", "x", "example.org")
    assert 0 < query.time_left() <= 5


def test_hook_resolve_is_refused_in_a_plugin_module() -> None:
    plugin = ModuleType("loose")

    @hookimpl
    def resolve(query: Query) -> None: ...

    vars(plugin).update(resolve=resolve)
    loaded = load_plugins()
    loaded.load(Origin("loose", "loose", "", "loose"), lambda: plugin)
    assert "register a resolver type" in loaded.broken[-1].reason


@pytest.mark.parametrize("cache", [True, False])
async def test_hook_query_resolved_is_called_after_every_lookup_hits_included(
    calls: Calls, tmp_path: Path, cache: bool
) -> None:
    site = site_of(load(plugin_that_notes_its_calls(calls)), tmp_path, **({} if cache else {"cache": False}))
    async with serve_map(site.maps.maps["m"]) as port, Client(port) as client:
        for key in ("Ann", "Ann", "bob", "bob"):
            await client.get(key)
    told = [call[1:] for call in calls if call[0] == "query_resolved"]
    again = "cache" if cache else "noting"
    assert [(key, type(outcome), resolver) for key, outcome, resolver in told] == [
        ("Ann", Found, "noting"),
        ("Ann", Found, again),
        ("bob", NotFound, ""),
        ("bob", NotFound, "cache" if cache else ""),
    ]
    assert told[0][1].value == told[1][1].value == "found"


async def test_hook_query_resolved_can_fail_without_harm(calls: Calls, tmp_path: Path) -> None:
    plugin = plugin_that_notes_its_calls(calls)

    @hookimpl
    def query_resolved(outcome: Any) -> None:
        calls.append(("failing", outcome))
        raise RuntimeError("bug")

    vars(plugin).update(query_resolved=query_resolved)
    served = site_of(load(plugin), tmp_path).maps.maps["m"]
    outcome = await served.lookup(served.query("ann"))
    assert isinstance(outcome, Found)
    assert calls[-1] == ("failing", outcome)


async def test_hook_startup_comes_before_the_first_connection_and_hook_shutdown_after_the_last(
    calls: Calls, tmp_path: Path
) -> None:
    site = site_of(load(plugin_that_notes_its_calls(calls)), tmp_path)
    calls.clear()

    def ready(listeners: object) -> None:
        calls.append(("ready",))
        signal.raise_signal(signal.SIGTERM)

    try:
        async with asyncio.timeout(10):
            await serve(site, ready)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)
    assert calls == [("start", "noting"), ("startup", site.config), ("ready",), ("stop",), ("shutdown",)]


async def test_hook_shutdown_comes_though_leaving_connections_to_the_next_start_fails(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hand_over(connections: object, notifier: object) -> int:
        raise OSError("no descriptor")

    monkeypatch.setattr("tcpmapkit.serve.hand_over", hand_over)
    site = site_of(load(plugin_that_notes_its_calls(calls)), tmp_path)
    try:
        with pytest.raises(OSError, match="no descriptor"):
            async with asyncio.timeout(10):
                await serve(site, lambda listeners: signal.raise_signal(signal.SIGTERM))
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)
    assert calls[-2:] == [("stop",), ("shutdown",)]


def test_hook_startup_is_given_the_whole_configuration(calls: Calls, tmp_path: Path) -> None:
    plugins = load(plugin_that_notes_its_calls(calls))
    site = site_of(plugins, tmp_path)
    plugins.startup(site.config)
    assert isinstance(calls[-1][1], Config)
    assert list(calls[-1][1].maps) == ["m"]


def test_hook_startup_that_fails_is_an_error_that_names_its_plugin(calls: Calls) -> None:
    plugin = plugin_that_notes_its_calls(calls)

    @hookimpl
    def startup() -> None:
        raise OSError("no such device")

    vars(plugin).update(startup=startup)
    with pytest.raises(ConfigError, match="plugin noting: startup failed: OSError: no such device"):
        load(plugin).startup(None)


def test_hook_shutdown_is_called_on_every_plugin_though_one_fails(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(plugin_that_notes_its_calls(calls))
    failing = ModuleType("failing")

    @hookimpl
    def shutdown() -> None:
        raise OSError("stuck")

    vars(failing).update(shutdown=shutdown)
    loaded.load(Origin("failing", "failing", "", "failing"), lambda: failing)
    loaded.shutdown()
    assert calls[-1] == ("shutdown",)
    assert "plugin failing: shutdown failed" in caplog.text


async def test_a_hook_takes_only_the_arguments_that_it_wants(calls: Calls, tmp_path: Path) -> None:
    plugin = ModuleType("noting")

    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("noting", lambda: Noting(calls))

    @hookimpl
    def query_resolved(resolver: str) -> None:
        calls.append(("resolver", resolver))

    vars(plugin).update(register_resolvers=register_resolvers, query_resolved=query_resolved)
    served = site_of(load(plugin), tmp_path).maps.maps["m"]
    assert not isinstance(await served.lookup(served.query("ann")), TempFail)
    assert calls[-1] == ("resolver", "noting")

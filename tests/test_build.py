"""From configuration to maps: what a group is like, what cannot be built, what starting tells."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import attrs
import pytest

from tcpmapkit import Chain, ConfigError, Found, Map, NotFound, TempFail, hookimpl
from tcpmapkit.build import build_maps
from tcpmapkit.built_maps import BuiltMaps
from tcpmapkit.config import read_document, structure
from tcpmapkit.plugin_sources import Origin
from tcpmapkit.plugins import Plugins, load_plugins
from tcpmapkit.site import examine_site
from tcpmapkit.testing import FakeWaitingResolver, started, started_file


@attrs.define(eq=False)
class Told:
    """Answers what it is told to; keeps what it was asked."""

    value: Annotated[Any, "template"] = "{key}"
    template: Any = None
    fail: str = ""
    started: list[str] = attrs.field(init=False, factory=list)

    async def start(self, context: Any) -> None:
        self.started.append(context.name)
        if self.fail:
            raise ConfigError(self.fail, file="table", line=3)

    def resolve(self, query: Any) -> Any:
        value = self.value(query)
        return Found(value) if value else None


@attrs.define(eq=False)
class Bug:
    raising: str = "start"

    def __attrs_post_init__(self) -> None:
        if self.raising == "make":
            raise LookupError("a bug of the factory")

    async def start(self, context: Any) -> None:
        raise RuntimeError("a bug of start")

    def resolve(self, query: Any) -> Any:
        return None


class Marked:
    @hookimpl(tryfirst=True)
    def resolve(self, query: Any) -> Any:
        return None


def outer(resolvers: Chain, map: Map | None = None) -> Any:
    return resolvers


def plugin() -> ModuleType:
    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("told", Told, in_memory=True)
        register("plain", Told, folded=False, partial_keys=False, in_memory=True, special_keys=True)
        register("reader", Told, attributes=("sasl_username",))
        register("any_reader", Told, attributes="*")
        register("waiting", lambda: FakeWaitingResolver({}))
        register("bug", Bug)
        register("marked", Marked)
        register("nothing", lambda: object())
        register("outer", outer)

    module = ModuleType("told_plugin")
    module.register_resolvers = register_resolvers  # type: ignore[attr-defined]
    return module


def build(tmp_path: Path, text: str) -> tuple[BuiltMaps, Sequence[ConfigError]]:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(text)
    loaded: Plugins = load_plugins()
    loaded.load(Origin("told", "told", "1", "told"), plugin)
    assert not loaded.broken
    document = read_document(file)
    config, errors = structure(document, loaded.types)
    built, more = build_maps(config, loaded)
    return built, [*errors, *more]


def chain_of(*types: str, group: str = "chain") -> str:
    inner = ", ".join(f'{{ type = "{one}" }}' for one in types)
    return f'[maps.m]\n[[maps.m.resolvers]]\ntype = "{group}"\nresolvers = [{inner}]\n'


@pytest.mark.parametrize("group", ["chain", "pipe", "union", "outer"])
@pytest.mark.parametrize(
    ("members", "folded", "in_memory", "can_wait", "attributes"),
    [
        (("told", "told"), True, True, False, ()),
        (("told", "plain"), False, True, False, ()),
        (("told", "waiting"), True, False, True, ()),
        (("told", "reader"), True, False, False, ("sasl_username",)),
        (("any_reader", "reader"), True, False, False, None),
    ],
)
def test_a_group_is_what_its_members_are(
    tmp_path: Path,
    group: str,
    members: tuple[str, ...],
    folded: bool,
    in_memory: bool,
    can_wait: bool,
    attributes: tuple[str, ...] | None,
) -> None:
    built, errors = build(tmp_path, chain_of(*members, group=group))
    assert not errors
    generation = built.maps["m"].current
    assert (generation.folded, generation.in_memory, generation.chain.can_wait, generation.attributes) == (
        folded,
        in_memory,
        can_wait,
        attributes,
    )


@pytest.mark.parametrize(
    ("member", "in_memory", "can_wait"),
    [("told", True, False), ("plain", True, False), ("waiting", False, True)],
)
def test_a_map_step_is_what_the_other_map_is(
    tmp_path: Path, member: str, in_memory: bool, can_wait: bool
) -> None:
    text = '[maps.first]\nresolvers = [{ type = "map", map = "second" }]\n'
    text += f'[maps.second]\nresolvers = [{{ type = "{member}" }}]\n'
    built, errors = build(tmp_path, text)
    assert not errors
    generation = built.maps["first"].current
    assert (generation.in_memory, generation.chain.can_wait) == (in_memory, can_wait)
    assert generation.folded is (member != "plain")


def test_fold_false_folds_nothing(tmp_path: Path) -> None:
    built, errors = build(tmp_path, '[maps.m]\nfold = false\nresolvers = [{ type = "told" }]\n')
    assert not errors
    asked = built.maps["m"]
    answer = asked.ask(asked.query("MiXed"), lambda answer: None)
    assert answer is not None
    assert answer.outcome == Found("MiXed")
    assert not asked.current.folded


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (
            '[maps.a]\nresolvers = [{ type = "map", map = "b" }]\n'
            '[maps.b]\nresolvers = [{ type = "map", map = "a" }]\n',
            ("maps", "b", "resolvers", 0, "map"),
            "maps refer to one another in a circle: a -> b -> a",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "map", map = "a" }]\n',
            ("maps", "a", "resolvers", 0, "map"),
            "maps refer to one another in a circle: a -> a",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "map", map = "aa" }]\n',
            ("maps", "a", "resolvers", 0, "map"),
            "unknown map 'aa'",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "told", value = "{kez}" }]\n',
            ("maps", "a", "resolvers", 0, "value"),
            "unknown variable {kez}",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "told", key = "{value}" }]\n',
            ("maps", "a", "resolvers", 0, "key"),
            "unknown variable {value}",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "chain", resolvers = [{ type = "told", result = "{" }] }]\n',
            ("maps", "a", "resolvers", 0, "resolvers", 0, "result"),
            "a lone '{'",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "told", name = "x" }, { type = "told", name = "x" }]\n',
            ("maps", "a", "resolvers", 1, "name"),
            "another step of the map is named 'x'",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "bug", raising = "make" }]\n',
            ("maps", "a", "resolvers", 0),
            "resolver type bug of told failed: LookupError: a bug of the factory",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "marked" }]\n',
            ("maps", "a", "resolvers", 0),
            "`resolve` is marked tryfirst",
        ),
        (
            '[maps.a]\nresolvers = [{ type = "nothing" }]\n',
            ("maps", "a", "resolvers", 0),
            "resolver type nothing of told has no `resolve`",
        ),
        (
            '[maps.a]\ncache = { ttl = "5m" }\nresolvers = [{ type = "any_reader" }]\n',
            ("maps", "a", "cache"),
            "the map cannot be cached",
        ),
        (
            '[[listeners]]\nprotocol = "tcp_table"\nendpoint = "inet:127.0.0.1:1"\nmap = "a"\n'
            '[maps.a]\nresolvers = [{ type = "reader" }]\n',
            ("listeners", 0, "map"),
            "map a reads attributes of a policy request",
        ),
        (
            '[[listeners]]\nprotocol = "socketmap"\nendpoint = "inet:127.0.0.1:1"\n'
            '[maps.a]\nresolvers = [{ type = "reader" }]\n',
            ("listeners", 0),
            "there is no map for it to serve",
        ),
        (
            '[[listeners]]\nprotocol = "socketmap"\nendpoint = "inet:127.0.0.1:1"\nmaps = ["b"]\n'
            '[maps.b]\nresolvers = [{ type = "reader" }]\n',
            ("listeners", 0, "maps", 0),
            "map b reads attributes of a policy request",
        ),
    ],
)
def test_what_only_building_shows_is_told_with_its_path(
    tmp_path: Path, text: str, path: tuple[str | int, ...], message: str
) -> None:
    _, errors = build(tmp_path, text)
    assert [error.path for error in errors] == [path]
    assert message in errors[0].message


def test_steps_are_named_after_their_types_with_a_number_where_there_are_several(tmp_path: Path) -> None:
    built, _ = build(
        tmp_path,
        '[maps.m]\nresolvers = [{ type = "told" }, { type = "told" }, { type = "plain", name = "x" }]\n',
    )
    assert [one.context.name for one in built.steps] == ["told", "told-2", "x"]


async def test_everything_that_does_not_start_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    text = """
[maps.m]
[[maps.m.resolvers]]
type = "told"
fail = "bad row"
[[maps.m.resolvers]]
type = "bug"
[[maps.m.resolvers]]
type = "told"
"""
    with pytest.raises(ConfigError) as caught:
        async with started_file(text, plugins=[plugin()]):
            pass
    told = str(caught.value)
    assert "table:3: maps.m.resolvers[0]: bad row" in told
    assert "maps.m.resolvers[1]: could not start: RuntimeError: a bug of start" in told


async def test_only_the_maps_asked_for_and_those_they_refer_to_are_started(tmp_path: Path) -> None:
    text = """
[maps.first]
resolvers = [{ type = "map", map = "second" }]
[maps.second]
resolvers = [{ type = "told" }]
[maps.third]
resolvers = [{ type = "bug" }]
"""
    built, errors = build(tmp_path, text)
    assert not errors
    await built.start(["first"])
    try:
        first = built.maps["first"]
        assert await first.lookup(first.query("key")) == Found("key")
    finally:
        await built.stop()


async def test_inside_a_chain_group_a_failure_lets_the_next_be_asked_and_stands_otherwise() -> None:
    text = """
[maps.m]
[[maps.m.resolvers]]
type = "chain"
[[maps.m.resolvers.resolvers]]
type = "python"
callable = "nothing.here:gone"
[[maps.m.resolvers.resolvers]]
type = "static"
entries = { a = "found" }
"""

    def gone(key: str) -> str:
        raise OSError("the source is gone")

    module = ModuleType("nothing")
    inner = ModuleType("nothing.here")
    inner.gone = gone  # type: ignore[attr-defined]
    sys.modules["nothing"], sys.modules["nothing.here"] = module, inner
    try:
        async with started_file(text) as maps:
            asked = maps["m"]
            found = await asked.lookup(asked.query("a"))
            assert isinstance(found, Found)
            assert found.value == "found"
            assert isinstance(await asked.lookup(asked.query("b")), TempFail)
    finally:
        del sys.modules["nothing"], sys.modules["nothing.here"]


@pytest.mark.parametrize(
    "outer",
    [
        'type = "chain"\ntimeout = "10ms"\nresolvers = [{STEPS}]',
        'type = "chain"\nresolvers = [{type = "chain", timeout = "10ms", resolvers = [{STEPS}]}]',
        'type = "union"\nresolvers = [{type = "chain", timeout = "10ms", resolvers = [{STEPS}]}]',
        'type = "map"\ntimeout = "10ms"\nmap = "inner"',
    ],
    ids=["chain", "chain in a chain", "chain in a union", "map"],
)
async def test_a_step_that_cannot_wait_is_asked_when_the_time_of_its_group_is_up(
    outer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = """
    {type = "python", callable = "silent_source:ask", timeout = "10ms", on_error = "next"},
    {type = "static", value = "fallback"}
"""
    silent = ModuleType("silent_source")

    async def ask(key: str) -> str:
        await asyncio.Event().wait()
        return key

    silent.ask = ask  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "silent_source", silent)
    text = f"""
[maps.m]
[[maps.m.resolvers]]
{outer.replace("{STEPS}", steps)}
[maps.inner]
resolvers = [{steps}]
"""
    async with started_file(text) as maps:
        found = await maps["m"].lookup(maps["m"].query("key"))
        assert isinstance(found, Found)
        assert found.value == "fallback"


async def test_what_a_map_step_does_not_find_lets_the_next_step_be_asked() -> None:
    text = """
[maps.first]
resolvers = [
    { type = "map", map = "second" },
    { type = "static", entries = { other = "from the first" } },
]
[maps.second]
resolvers = [{ type = "static", entries = { key = "from the second" } }]
"""
    async with started_file(text) as maps:
        first = maps["first"]
        assert await first.lookup(first.query("key")) == Found("from the second")
        assert await first.lookup(first.query("OTHER")) == Found("from the first")
        assert await first.lookup(first.query("none")) == NotFound()


async def test_a_resolver_that_does_not_stop_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @attrs.define(eq=False)
    class Stubborn:
        async def stop(self) -> None:
            await asyncio.Event().wait()

        def resolve(self, query: Any) -> Any:
            return None

    monkeypatch.setattr("tcpmapkit.built_step._STOP_TIME", 0.01)
    async with started(Stubborn()):
        pass
    assert "a resolver could not stop" in caplog.text


async def test_a_lookup_through_a_map_step_is_observed_once(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    @hookimpl
    def query_resolved(query: Any, resolver: str) -> None:
        seen.append((query.map, resolver))

    watching = ModuleType("watching")
    watching.query_resolved = query_resolved  # type: ignore[attr-defined]
    text = '[maps.first]\nresolvers = [{ type = "map", map = "second" }]\n'
    text += '[maps.second]\nresolvers = [{ type = "static", value = "x" }]\n'
    async with started_file(text, plugins=[watching]) as maps:
        await maps["first"].lookup(maps["first"].query("key"))
        await maps["second"].lookup(maps["second"].query("key"))
    assert seen == [("first", "map"), ("second", "static")]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_resolver_is_stopped_once_and_only_if_it_was_started(tmp_path: Path, fails: bool) -> None:
    calls: list[str] = []

    @attrs.define(eq=False)
    class Counted:
        name: str
        fail: bool = False

        async def start(self, context: Any) -> None:
            calls.append(f"start {self.name}")
            if self.fail:
                raise ConfigError("no")

        async def stop(self) -> None:
            calls.append(f"stop {self.name}")

        def resolve(self, query: Any) -> Any:
            return None

    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("counted", lambda fail=False: Counted("one", fail))
        register("never", lambda: Counted("never"))

    module = ModuleType("counted_plugin")
    module.register_resolvers = register_resolvers  # type: ignore[attr-defined]
    loaded = load_plugins()
    loaded.load(Origin("counted", "counted", "1", "counted"), lambda: module)
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(
        f'[maps.m]\nresolvers = [{{ type = "counted", fail = {str(fails).lower()} }}]\n'
        '[maps.other]\nresolvers = [{ type = "never" }]\n'
    )
    config, errors = structure(read_document(file), loaded.types)
    built, more = build_maps(config, loaded)
    assert not [*errors, *more]
    with pytest.raises(ConfigError) if fails else nullcontext():
        await built.start(["m"])
    await built.stop()
    await built.stop()
    assert calls == ["start one", "stop one"]


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("type = 'csv', path = 'x.csv', max_shrink = 0.9", []),
        ("type = 'csv', path = 'x.csv', max_shrink = false", []),
        ("type = 'static', value = 'x'", []),
        ("type = 'static', value = 'x', max_shrink = false", ["a step of type static"]),
        (
            "type = 'python', callable = 'os:stat', max_shrink = 0.1",
            ["a step of type python"],
        ),
    ],
)
def test_only_a_table_can_lose_rows(tmp_path: Path, step: str, told: list[str]) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(f"[maps.m]\nresolvers = [{{ {step} }}]\n")
    mistakes = [error.message for error in examine_site(file).mistakes]
    assert len(mistakes) == len(told)
    assert all(mistake.startswith(text) for mistake, text in zip(mistakes, told, strict=True))

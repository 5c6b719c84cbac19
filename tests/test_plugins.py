"""Plugins: found one by one, the broken named, and every trap of pluggy's closed."""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import attrs
import pytest

from tcpmapkit import Found, hookimpl
from tcpmapkit.errors import ConfigError
from tcpmapkit.markers import refuse_marked_resolver
from tcpmapkit.plugin_sources import Origin, installed
from tcpmapkit.plugins import BUILT_IN, Plugins, load_plugins, order_steps
from tcpmapkit.query import Query
from tcpmapkit.step import InlineStep
from tcpmapkit.testing import FakeClock
from tests.chains import LOGGER, inline, question, walk

SHOUT = """
    import attrs
    from tcpmapkit import Found, hookimpl

    @attrs.define(eq=False)
    class Shout:
        suffix: str = "!"
        def resolve(self, query): return Found(query.key.upper() + self.suffix)

    @hookimpl
    def register_resolvers(register): register("{name}", Shout)
"""

HOOKIMPL = "from tcpmapkit import hookimpl\n@hookimpl\n"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution of one module, with an entry point that names it."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(
        distribution: str, module: str, code: str, entry: str | None = None, value: str | None = None
    ) -> None:
        (tmp_path / f"{module}.py").write_text(dedent(code))
        metadata = tmp_path / f"{module}-1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(f"[tcpmapkit]\n{entry or module} = {value or module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


@pytest.fixture
def drop_in(tmp_path: Path) -> Path:
    """A directory for drop-in files that nobody else can write to."""
    directory = tmp_path / "plugins"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    return directory


def write(directory: Path, name: str, code: str, mode: int = 0o644) -> Path:
    file = directory / f"{name}.py"
    file.write_text(dedent(code))
    file.chmod(mode)
    return file


def broken(plugins: Plugins) -> dict[str, str]:
    return {one.name: one.reason for one in plugins.broken}


def module(**members: Any) -> ModuleType:
    made = ModuleType("a_plugin")
    vars(made).update(members)
    return made


def load(plugins: Plugins, plugin: object, name: str = "a-plugin") -> str | None:
    """Load one plugin; why it is broken, if it is."""
    plugins.load(Origin(name, f"dist-{name}", "1", name), lambda: plugin)
    return broken(plugins).get(name)


# Three ways to add a resolver.


def test_the_built_in_resolvers_come_in_through_the_same_hook() -> None:
    plugins = load_plugins()
    assert {name for name, one in plugins.types.items() if one.distribution == "tcpmapkit"} == set(BUILT_IN)
    assert not {one.name for one in plugins.broken} & set(BUILT_IN)
    assert plugins.types["chain"].source == "tcpmapkit.resolvers.chain"


def test_an_installed_package_brings_its_types(install: Install) -> None:
    install("shout-resolver", "shout_one", SHOUT.format(name="shout"))
    shout = load_plugins().types["shout"]
    assert (shout.distribution, shout.version, shout.source) == ("shout-resolver", "1.2", "shout_one")
    assert shout.factory(suffix="?").resolve(Query("a")) == Found("A?")


def test_installed_packages_are_found_as_the_standard_library_finds_them(install: Install) -> None:
    install("Shout.Resolver", "shout_one", "x = [print]", value="shout_one:x.append [extra]")
    for group in {*importlib.metadata.entry_points().groups, "tcpmapkit"}:
        expected = {
            Origin(entry.name, entry.dist.name, entry.dist.version, entry.value)
            for entry in importlib.metadata.entry_points(group=group)
            if entry.dist is not None
        }
        assert {origin for origin, _ in installed(group)} == expected
    (_, load) = next(one for one in installed("tcpmapkit") if one[0].name == "shout_one")
    load()(sorted)
    assert sys.modules["shout_one"].x == [print, sorted]


def test_of_two_installations_the_one_that_is_imported_counts(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("shout-resolver", "shout_one", SHOUT.format(name="shout"))
    shadowed = tmp_path / "behind" / "shout_one-9.0.dist-info"
    shadowed.mkdir(parents=True)
    (shadowed / "entry_points.txt").write_text("[tcpmapkit]\nother = elsewhere\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(shadowed.parent)])
    assert {"other", "shout_one"} & {origin.name for origin, _ in installed("tcpmapkit")} == {"shout_one"}


def test_where_packages_may_be_in_archives_the_standard_library_looks(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "packages.zip", "w") as archive:
        archive.writestr("zipped.py", "")
        archive.writestr("zipped-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1\n")
        archive.writestr("zipped-1.dist-info/entry_points.txt", "[tcpmapkit]\nzipped = zipped\n")
    monkeypatch.syspath_prepend(tmp_path / "packages.zip")
    assert Origin("zipped", "zipped", "1", "zipped") in [origin for origin, _ in installed("tcpmapkit")]


def test_a_place_that_we_may_not_look_at_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    before = [origin for origin, _ in installed("tcpmapkit")]

    def refused(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if self.is_relative_to(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return os.stat(self, follow_symlinks=follow_symlinks)  # noqa: PTH116

    monkeypatch.setattr(Path, "stat", refused)
    monkeypatch.setattr(sys, "path", [str(closed / "inner"), *sys.path])
    assert [origin for origin, _ in installed("tcpmapkit")] == before


@pytest.mark.parametrize("value", ["a b", "module:", "module::name"])
def test_an_entry_point_that_names_nothing_is_broken(install: Install, value: str) -> None:
    install("shout-resolver", "shout_one", "", value=value)
    assert "does not name a module" in broken(load_plugins())["shout_one"]


def test_built_ins_that_nobody_asks_for_are_not_imported_and_keep_their_names(drop_in: Path) -> None:
    write(drop_in, "shout", SHOUT.format(name="sqlite"))
    write(drop_in, "regex", SHOUT.format(name="shout"))
    plugins = load_plugins(drop_in, types={"csv", "shout"})
    assert set(plugins.types) & {*BUILT_IN, "shout"} == {"csv"}
    assert "resolver type 'sqlite' of shout.py is taken by tcpmapkit" in broken(plugins)["shout"]
    assert "the plugin name 'regex' of regex.py is taken by tcpmapkit" in broken(plugins)["regex"]
    plugins.load_postponed()
    assert set(BUILT_IN) <= set(plugins.types)


def test_a_disabled_built_in_is_not_loaded_later_either() -> None:
    plugins = load_plugins(disable=["regex"], types=())
    plugins.load_postponed()
    assert set(BUILT_IN) - set(plugins.types) == {"regex"}


def test_a_file_in_the_drop_in_directory_brings_its_types(drop_in: Path) -> None:
    file = write(drop_in, "shout", SHOUT.format(name="shout"))
    write(drop_in, "notes", "'not a plugin, which is no mistake'")
    (drop_in / "README").write_text("not Python")
    plugins = load_plugins(drop_in)
    assert plugins.types["shout"].source == str(file)
    assert not plugins.broken


def test_the_classes_of_a_drop_in_find_the_names_in_their_annotations(drop_in: Path) -> None:
    code = """
        from __future__ import annotations
        from pathlib import Path
        import attrs
        from tcpmapkit import hookimpl

        @attrs.define(eq=False)
        class Reads:
            path: Path
            def resolve(self, query): ...

        @hookimpl
        def register_resolvers(register): register("reads", Reads)
    """
    write(drop_in, "reads", code)
    factory = load_plugins(drop_in).types["reads"].factory
    assert attrs.fields(attrs.resolve_types(factory)).path.type is Path


def test_a_type_has_the_properties_that_were_said_and_the_defaults() -> None:
    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("plain", dict)
        register(
            "special",
            dict,
            folded=False,
            partial_keys=False,
            special_keys=True,
            in_memory=True,
            attributes="*",
        )
        register("reads", dict, attributes=["sender", "size"])

    plugins = Plugins()
    assert load(plugins, module(register_resolvers=register_resolvers)) is None
    plain, special, reads = (plugins.types[name] for name in ("plain", "special", "reads"))
    assert (plain.folded, plain.partial_keys, plain.special_keys, plain.in_memory) == (
        True,
        True,
        False,
        False,
    )
    assert plain.attributes == frozenset()
    assert (special.folded, special.partial_keys, special.special_keys, special.in_memory) == (
        False,
        False,
        True,
        True,
    )
    assert (special.attributes, reads.attributes) == ({"*"}, {"sender", "size"})


# Broken plugins: named, and alone in it.


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit('no')", "SystemExit: no"),
        (
            HOOKIMPL + "def register_resolvers(register): raise ValueError('oh')",
            "ValueError: oh",
        ),
        (
            HOOKIMPL + "def register_resolvers(register): register('x', 7)",
            "not callable",
        ),
        (
            HOOKIMPL + "def register_resolvers(register): register('x', dict, fold=1)",
            "unexpected keyword argument 'fold'",
        ),
        (
            HOOKIMPL + "def register_resolver(register): ...",
            "register_resolver",
        ),
        (HOOKIMPL + "def startup(conf): ...", "{'conf'}"),
    ],
)
@pytest.mark.parametrize("way", ["installed", "drop-in"])
def test_a_broken_plugin_is_named_and_stops_nobody_else(
    code: str, reason: str, way: str, install: Install, drop_in: Path
) -> None:
    if way == "installed":
        install("bad-package", "bad_module", code, entry="bad")
        install("shout-resolver", "shout_two", SHOUT.format(name="shout"))
    else:
        write(drop_in, "bad", code)
        write(drop_in, "shout", SHOUT.format(name="shout"))
    plugins = load_plugins(drop_in)
    assert [(one.name, one.distribution) for one in plugins.broken] == [
        ("bad", "bad-package" if way == "installed" else "bad.py")
    ]
    assert reason in plugins.broken[0].reason
    assert "\n" not in plugins.broken[0].reason
    assert {"shout", *BUILT_IN} <= set(plugins.types)
    assert "x" not in plugins.types


def test_a_plugin_that_breaks_half_way_leaves_nothing_behind() -> None:
    calls: list[object] = []

    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("first", dict)
        raise ValueError("second")

    @hookimpl
    def shutdown() -> None:
        calls.append("shutdown")

    plugins = Plugins()
    assert (
        load(plugins, module(register_resolvers=register_resolvers, shutdown=shutdown))
        == "ValueError: second"
    )
    plugins.shutdown()
    assert (dict(plugins.types), calls) == ({}, [])


def test_a_type_name_that_is_taken_names_both_distributions(install: Install) -> None:
    install("first-package", "a_shout", SHOUT.format(name="shout"))
    install("second-package", "b_shout", SHOUT.format(name="shout"))
    plugins = load_plugins()
    assert plugins.types["shout"].distribution == "first-package"
    assert "second-package" in broken(plugins)["b_shout"]
    assert "first-package" in broken(plugins)["b_shout"]


def test_a_built_in_type_cannot_be_taken_over(drop_in: Path) -> None:
    write(drop_in, "mine", SHOUT.format(name="static"))
    plugins = load_plugins(drop_in)
    assert plugins.types["static"].distribution == "tcpmapkit"
    assert "taken by tcpmapkit" in broken(plugins)["mine"]


def test_a_plugin_name_that_is_taken_names_both_distributions_and_is_not_imported(install: Install) -> None:
    install("first-package", "a_shout", SHOUT.format(name="one"), entry="shout")
    install("second-package", "b_shout", "raise AssertionError('imported')", entry="shout")
    plugins = load_plugins()
    assert "one" in plugins.types
    assert "'shout' of second-package is taken by first-package" in broken(plugins)["shout"]


def test_one_module_under_two_names_is_taken_once_and_stays(install: Install) -> None:
    calls: list[str] = []

    @hookimpl
    def shutdown() -> None:
        calls.append("shutdown")

    plugins, plugin = Plugins(), module(shutdown=shutdown)
    assert load(plugins, plugin, "one") is None
    assert load(plugins, plugin, "two") is not None
    plugins.shutdown()
    assert calls == ["shutdown"]


# Disabling.


@pytest.mark.parametrize("way", ["installed", "drop-in"])
def test_a_disabled_plugin_is_not_even_imported(way: str, install: Install, drop_in: Path) -> None:
    code = "import sys; sys.modules['imported_all_the_same'] = sys"
    if way == "installed":
        install("bad-package", "disabled_module", code, entry="bad")
    else:
        write(drop_in, "bad", code)
    plugins = load_plugins(drop_in, ["bad"])
    assert not plugins.broken
    assert "bad" not in plugins.loaded
    assert "imported_all_the_same" not in sys.modules


def test_a_built_in_can_be_disabled() -> None:
    assert set(BUILT_IN) - set(load_plugins(disable=["python", "sqlite"]).types) == {"python", "sqlite"}


# The drop-in directory.


@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_directory_that_everybody_can_write_to_is_refused(drop_in: Path, mode: int) -> None:
    write(drop_in, "shout", "raise AssertionError('imported')")
    drop_in.chmod(mode)
    with pytest.raises(ConfigError, match="written to by everybody") as caught:
        load_plugins(drop_in)
    assert caught.value.path == ("plugins", "directory")


def test_a_file_that_everybody_can_write_to_is_refused(drop_in: Path) -> None:
    write(drop_in, "shout", "raise AssertionError('imported')", mode=0o646)
    with pytest.raises(ConfigError, match=r"shout\.py can be written to by everybody"):
        load_plugins(drop_in)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("owner", "group", "mode", "who"), [(12345, 0, 0o755, "another user"), (0, 12345, 0o775, "another group")]
)
def test_what_belongs_to_others_is_refused(
    drop_in: Path, owner: int, group: int, mode: int, who: str
) -> None:
    os.chown(drop_in, owner, group)
    drop_in.chmod(mode)
    with pytest.raises(ConfigError, match=who):
        load_plugins(drop_in)


def test_a_directory_that_is_missing_or_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("missing", "file"):
        with pytest.raises(ConfigError, match=f"cannot read .*{name}") as caught:
            load_plugins(tmp_path / name)
        assert caught.value.path == ("plugins", "directory")


# The hooks.


def test_hook_register_resolvers_may_leave_out_its_argument() -> None:
    @hookimpl
    def register_resolvers() -> None: ...

    assert load(Plugins(), module(register_resolvers=register_resolvers)) is None


def test_hook_query_resolved_tells_every_observer_whatever_one_of_them_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Any] = []

    @hookimpl(specname="query_resolved")
    def first(query: Query, outcome: Any) -> None:
        seen.append((query.key, outcome))

    @hookimpl(specname="query_resolved")
    def second() -> None:
        raise ValueError("observer")

    @hookimpl(specname="query_resolved")
    def third(elapsed: float, resolver: str) -> None:
        seen.append((resolver, elapsed))

    plugins = Plugins()
    for name, function in (("one", first), ("two", second), ("three", third)):
        assert load(plugins, module(function=function), name) is None
    tell = plugins.query_resolved
    assert tell is not None
    clock = FakeClock()
    for _ in range(3):
        tell(question(clock=clock), Found("x"), "step", 0.5)
    clock.now += 60
    tell(question(clock=clock), Found("x"), "step", 0.5)
    assert sorted(map(str, seen)) == sorted([str(("joe@example.org", Found("x"))), str(("step", 0.5))] * 4)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "plugin two" in caplog.text
    assert "2 more" in caplog.messages[1]


def test_hook_query_resolved_costs_nothing_when_no_plugin_implements_it() -> None:
    assert Plugins().query_resolved is None


def test_hook_startup_gets_the_configuration_and_its_failure_names_the_plugin() -> None:
    got: list[object] = []

    @hookimpl(specname="startup")
    def good(config: object) -> None:
        got.append(config)

    @hookimpl(specname="startup")
    def bad(config: object) -> None:
        raise OSError("no room")

    plugins = Plugins()
    load(plugins, module(startup=good), "good")
    plugins.startup("the configuration")
    assert got == ["the configuration"]
    load(plugins, module(startup=bad), "bad")
    with pytest.raises(ConfigError, match="plugin bad: startup failed: OSError: no room"):
        plugins.startup("the configuration")


def test_hook_shutdown_is_called_on_all_though_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    def implementation(name: str) -> Any:
        @hookimpl(specname="shutdown")
        def shutdown() -> None:
            called.append(name)
            if name == "two":
                raise ValueError(name)

        return shutdown

    plugins = Plugins()
    for name in ("one", "two", "three"):
        load(plugins, module(shutdown=implementation(name)), name)
    plugins.shutdown()
    assert sorted(called) == ["one", "three", "two"]
    assert "plugin two: shutdown failed" in caplog.text


# pluggy's traps (each was seen to bite).


def steps_named(*names: str) -> list[InlineStep]:
    return [inline(Found(name), name=name) for name in names]


def test_trap_pluggy_calls_the_last_registered_first() -> None:
    ordered = order_steps(steps_named("a", "b", "c"), ["map[0] a", "map[1] b", "map[2] c"])
    assert [step.name for step in ordered] == ["a", "b", "c"]


async def test_trap_plugins_are_compared_with_equality_yet_two_of_equal_configuration_coexist() -> None:
    @attrs.define
    class Equal:
        entries: list[str] = attrs.Factory(list)

        def resolve(self, query: Query) -> None: ...

    one, other = Equal(), Equal()
    assert one == other
    made = [InlineStep("one", one, LOGGER), InlineStep("other", other, LOGGER), inline(Found("x"))]
    ordered = order_steps(made, ["1", "2", "3"])
    assert [id(step) for step in ordered] == [id(step) for step in made]
    assert await walk(ordered) == Found("x")


def test_trap_registering_reads_every_attribute_but_none_of_a_resolvers() -> None:
    class Connects:
        @property
        def connection(self) -> object:
            raise AssertionError("a property was read")

        def resolve(self, query: Query) -> None: ...

    assert len(order_steps([InlineStep("x", Connects(), LOGGER)], ["x"])) == 1


@pytest.mark.parametrize("option", ["tryfirst", "trylast", "wrapper", "hookwrapper"])
def test_trap_a_resolver_cannot_ask_for_a_place_in_the_order(option: str) -> None:
    class Pushy:
        @hookimpl(**{option: True})
        def resolve(self, query: Query) -> Any:
            yield

    with pytest.raises(ConfigError, match=option):
        refuse_marked_resolver(Pushy())


@pytest.mark.parametrize("option", ["tryfirst", "trylast"])
def test_trap_a_step_cannot_ask_for_a_place_in_the_order(option: str) -> None:
    class Pushy:
        @hookimpl(**{option: True})
        def resolve(self, query: Query) -> None: ...

    with pytest.raises(ConfigError, match=option):
        order_steps([inline(), Pushy()], ["a", "b"])


def test_trap_a_resolver_with_a_plain_marker_or_none_is_fine() -> None:
    class Plain:
        @hookimpl
        def resolve(self, query: Query) -> None: ...

    refuse_marked_resolver(Plain())
    refuse_marked_resolver(inline().resolver)


def test_trap_the_default_of_a_hooks_argument_is_never_overridden_so_it_is_refused() -> None:
    @hookimpl
    def query_resolved(query: Query, outcome: object = None) -> None: ...

    reason = load(Plugins(), module(query_resolved=query_resolved))
    assert reason is not None
    assert "default of 'outcome'" in reason


def test_trap_a_misspelt_hook_is_not_silent() -> None:
    @hookimpl
    def querry_resolved(query: Query) -> None: ...

    reason = load(Plugins(), module(querry_resolved=querry_resolved))
    assert reason is not None
    assert "querry_resolved" in reason


@pytest.mark.parametrize("name", ["resolve", "another"])
def test_trap_a_module_cannot_put_itself_into_a_chain(name: str) -> None:
    @hookimpl(specname="resolve")
    def resolve(query: Query) -> None: ...

    reason = load(Plugins(), module(**{name: resolve}))
    assert reason is not None
    assert "TOML puts it in a chain" in reason


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper"])
def test_trap_wrappers_are_refused(option: str) -> None:
    @hookimpl(**{option: True})
    def register_resolvers() -> Any:
        return (yield)

    reason = load(Plugins(), module(register_resolvers=register_resolvers))
    assert reason is not None
    assert "wrapper" in reason


def test_trap_a_hook_that_is_a_coroutine_function_would_never_be_awaited() -> None:
    @hookimpl
    async def query_resolved(query: Query) -> None: ...

    reason = load(Plugins(), module(query_resolved=query_resolved))
    assert reason is not None
    assert "coroutine" in reason


def test_trap_an_entry_point_that_names_no_module_is_refused(install: Install) -> None:
    install(
        "object-package",
        "object_module",
        "class Plugin: ...\nplugin = Plugin()",
        value="object_module:plugin",
    )
    assert "not a module" in broken(load_plugins())["object_module"]


def test_trap_things_that_claim_to_have_every_attribute_are_no_hooks() -> None:
    class Anything:
        def __getattr__(self, name: str) -> Anything:
            return self

        def __call__(self) -> None: ...

    assert load(Plugins(), module(anything=Anything())) is None


def test_trap_a_step_needs_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match="same"):
        order_steps(steps_named("a", "b"), ["same", "same"])

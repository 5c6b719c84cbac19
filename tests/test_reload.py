"""Reloads: another configuration and other tables are taken while the server serves, or refused whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit.config import read_document
from tcpmapkit.doubts import look_for_doubts
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.serving import Serving
from tcpmapkit.shown import shown_key
from tcpmapkit.site import open_site

LISTENER = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "aliases"
"""
SOCKETMAP = """
[[listeners]]
protocol = "socketmap"
endpoint = "unix:socketmap"
"""
ALIASES = """
[maps.aliases]
[[maps.aliases.resolvers]]
type = "csv"
path = "aliases.csv"
"""
TEST = """
[[maps.aliases.tests]]
key = "a@example.org"
expect = "one@example.org"
"""
COUNTING = """
from tcpmapkit import Found, hookimpl

class Counting:
    def __init__(self, tag: str = "") -> None:
        self.asked, self.tag = 0, tag

    async def start(self, context): print(f"start {self.tag}")
    async def stop(self): print(f"stop {self.tag}")

    async def resolve(self, query):
        self.asked += 1
        return Found(f"{self.tag}{self.asked}")

@hookimpl
def register_resolvers(register): register("counting", Counting)
"""
PLUGINS = """
[plugins]
directory = "plugins"
"""


class Site:
    """A configuration that is served from a directory; `say` writes it, `table` one of its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "tcpmapkit.toml"
        self.serving: Any = None

    def say(self, *parts: str) -> None:
        self.file.write_text("".join(parts))

    def table(self, *rows: str, name: str = "aliases.csv") -> None:
        new = self.directory / f"{name}.new"
        new.write_text("key,value\n" + "".join(f"{row}\n" for row in rows))
        new.replace(self.directory / name)

    def plugin(self, source: str = COUNTING) -> None:
        (self.directory / "plugins").mkdir(mode=0o755, exist_ok=True)
        (self.directory / "plugins" / "counting.py").write_text(source)

    async def __aenter__(self) -> Site:
        site = open_site(self.file)
        self.serving = Serving(site)
        self.serving.server.bind()
        await site.start()
        await self.serving.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.serving.stop()

    @contextlib.asynccontextmanager
    async def client(self, listener: int = 0) -> AsyncIterator[Any]:
        """What asks a tcp_table listener a key, over one connection."""
        reader, writer = await asyncio.open_connection(*self.serving.server.addresses[listener][0])

        async def ask(key: str) -> bytes:
            writer.write(f"get {key}\n".encode())
            async with asyncio.timeout(5):
                return await reader.readline()

        ask.reader = reader  # type: ignore[attr-defined]
        try:
            yield ask
        finally:
            writer.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.table("a@example.org,one@example.org")
    site.say(LISTENER, ALIASES, TEST)
    return site


async def test_a_table_that_has_changed_is_read_again_and_the_connection_stays(site: Site) -> None:
    async with site, site.client() as ask:
        assert await ask("b@example.org") == b"500 not%20found\n"
        site.table("a@example.org,one@example.org", "b@example.org,two@example.org")
        result = await site.serving.reload()
        assert (result.ok, result.changed) == (True, {"aliases"})
        assert await ask("b@example.org") == b"200 two@example.org\n"


@pytest.mark.parametrize(
    ("parts", "place", "message"),
    [
        ((LISTENER, ALIASES, "x = 1\n"), ":11:1", "unknown key"),
        ((LISTENER, ALIASES, "x = \n"), ":11:", "x = "),
        ((LISTENER, ALIASES.replace("aliases.csv", "none.csv")), ":10:8", "cannot read"),
        ((LISTENER, ALIASES, TEST.replace("one@", "two@")), ":14:10", "gives 'one@example.org', not 'two@"),
        ((ALIASES,), "", "there is nothing to serve"),
        ((LISTENER.replace("127.0.0.1:0", "192.0.2.1:4242"), ALIASES), "", "allow"),
        ((LISTENER, SOCKETMAP.replace("unix:", "unix:no/such/"), ALIASES), "", "there is no directory"),
    ],
)
async def test_what_is_wrong_is_refused_whole_with_its_place_and_changes_nothing(
    site: Site, parts: tuple[str, ...], place: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with site, site.client() as ask:
        before = site.serving.site, site.serving.server.addresses
        site.say(*parts)
        result = await site.serving.reload()
        assert not result.ok
        told = "\n".join(map(str, result.errors))
        assert place in told
        assert message in told
        assert (site.serving.site, site.serving.server.addresses) == before
        assert (site.serving.reloads.good, site.serving.reloads.bad) == (0, 1)
        assert await ask("a@example.org") == b"200 one@example.org\n"
        assert any(place in record.getMessage() for record in caplog.records)
        site.say(LISTENER, ALIASES, TEST)
        assert (await site.serving.reload()).ok


async def test_a_test_that_fails_for_now_is_a_warning_and_refuses_nothing(site: Site) -> None:
    down = """
[maps.down]
resolvers = [{ type = "python", callable = "os:stat", inline = true }]
[[maps.down.tests]]
key = "/no/such/file"
expect = "x"
"""
    async with site:
        site.say(LISTENER, ALIASES, down)
        result = await site.serving.reload()
        assert result.ok
        assert ["could not be looked up" in str(one) for one in result.warnings] == [True]
        assert result.changed == {"down"}


async def test_what_a_map_has_cached_survives_where_neither_definition_nor_tables_changed(site: Site) -> None:
    site.plugin()
    counting = '[maps.aliases]\nresolvers = [{ type = "counting", tag = "x" }]\n'
    other = '[maps.other]\nresolvers = [{ type = "csv", path = "aliases.csv" }]\n'
    site.say(PLUGINS, LISTENER, counting, other)
    async with site, site.client() as ask:
        assert await ask("k") == b"200 x1\n"
        site.table("a@example.org,new@example.org")
        result = await site.serving.reload()
        assert result.changed == {"other"}
        assert await ask("k") == b"200 x1\n"
        site.say(PLUGINS, LISTENER, counting + 'cache = { ttl = "1m" }\n', other)
        assert (await site.serving.reload()).changed == {"aliases"}
        assert await ask("k") == b"200 x2\n"


async def test_a_map_that_refers_to_one_that_changed_is_new_too(site: Site) -> None:
    outer = '[maps.outer]\nresolvers = [{ type = "map", map = "aliases" }]\n'
    apart = '[maps.apart]\nresolvers = [{ type = "static", value = "x" }]\n'
    site.say(LISTENER.replace('"aliases"', '"outer"'), ALIASES, outer, apart)
    async with site, site.client() as ask:
        assert await ask("a@example.org") == b"200 one@example.org\n"
        site.table("a@example.org,two@example.org")
        assert await site.serving.reload_tables() == {"aliases", "outer"}
        assert await ask("a@example.org") == b"200 two@example.org\n"


async def test_a_resolver_whose_options_are_the_same_serves_on_and_one_that_is_gone_is_stopped_once(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.plugin()
    steps = '[[maps.aliases.resolvers]]\ntype = "csv"\npath = "aliases.csv"\n'
    source = '[[maps.aliases.resolvers]]\ntype = "counting"\ntag = "{}"\n'
    site.say(PLUGINS, LISTENER, steps, source.format("x"))
    async with site, site.client() as ask:
        assert await ask("k") == b"200 x1\n"
        site.table("other@example.org,x")
        assert await site.serving.reload_tables() == {"aliases"}
        assert await ask("k") == b"200 x2\n"  # a new map, the same source
        assert capsys.readouterr().out == "start x\n"
        site.say(PLUGINS, LISTENER, steps, source.format("y"))
        assert (await site.serving.reload()).ok
        assert await ask("k") == b"200 y1\n"
    assert sorted(capsys.readouterr().out.split("\n")) == ["", "start y", "stop x", "stop y"]


async def test_listeners_come_and_go_and_those_that_stay_are_not_touched(site: Site) -> None:
    two = LISTENER + LISTENER
    site.say(two, ALIASES)
    async with site, site.client(0) as first, site.client(1) as second:
        for ask in (first, second):
            assert await ask("a@example.org") == b"200 one@example.org\n"
        stays, goes = site.serving.server.addresses
        site.say(LISTENER, SOCKETMAP, ALIASES)
        assert (await site.serving.reload()).ok
        assert site.serving.server.addresses == [stays, [(str(site.directory / "socketmap"),)]]
        assert await first("a@example.org") == b"200 one@example.org\n"
        assert await second.reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*goes[0])
        reader, writer = await asyncio.open_unix_connection(site.directory / "socketmap")
        writer.write(b"21:aliases a@example.org,")
        assert await reader.readexactly(22) == b"18:OK one@example.org,"
        writer.close()
        site.say(LISTENER, ALIASES)
        assert (await site.serving.reload()).ok
        assert not (site.directory / "socketmap").exists()


async def test_a_limit_on_connections_that_is_lowered_is_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmapkit.connections.IDLE_ENOUGH", 0.0)
    site.say("[server]\nmax_connections = 50\n", LISTENER, ALIASES)
    async with site, contextlib.AsyncExitStack() as clients:
        for _ in range(50):
            ask = await clients.enter_async_context(site.client())
            assert await ask("a@example.org") == b"200 one@example.org\n"
        site.say("[server]\nmax_connections = 10\n", LISTENER, ALIASES)
        assert (await site.serving.reload()).ok
        assert len(site.serving.server.connections) == 10
        for _ in range(3):
            ask = await clients.enter_async_context(site.client())
            assert await ask("a@example.org") == b"200 one@example.org\n"
        assert len(site.serving.server.connections) == 10


async def test_a_listener_serves_another_map_over_the_connections_that_it_has(site: Site) -> None:
    other = '[maps.other]\nresolvers = [{ type = "static", value = "x" }]\n'
    site.say(LISTENER, ALIASES, other)
    async with site, site.client() as ask:
        assert await ask("a@example.org") == b"200 one@example.org\n"
        site.say(LISTENER.replace('"aliases"', '"other"'), ALIASES, other)
        assert (await site.serving.reload()).ok
        assert await ask("a@example.org") == b"200 x\n"


async def test_a_lookup_under_way_is_answered_by_the_map_that_it_began_with(site: Site) -> None:
    held = """
import asyncio
from tcpmapkit import Found, hookimpl
gate = asyncio.Event()

class Held:
    def __init__(self, tag: str = "") -> None: self.tag = tag
    async def stop(self): self.tag = "stopped"
    async def resolve(self, query):
        if self.tag == "old": await gate.wait()
        return Found(self.tag)

@hookimpl
def register_resolvers(register): register("held", Held)
"""
    site.plugin(held)
    map = '[maps.aliases]\nresolvers = [{{ type = "held", tag = "{}" }}]\n'
    site.say(PLUGINS, LISTENER, map.format("old"))
    async with site, site.client() as first, site.client() as second:
        waiting = asyncio.ensure_future(first("k"))
        server = site.serving.server
        while not any(connection.in_flight for connection in server.connections):
            await asyncio.sleep(0)
        gate = site.serving.site.maps.steps[0].resolver.resolve.__globals__["gate"]
        site.say(PLUGINS, LISTENER, map.format("new"))
        assert (await site.serving.reload()).ok
        assert await second("k") == b"200 new\n"
        gate.set()
        assert await waiting == b"200 old\n"
        assert await first("k") == b"200 new\n"


async def test_the_level_of_the_log_and_how_keys_are_shown_are_taken(site: Site) -> None:
    root = logging.getLogger()
    level = root.level
    try:
        async with site:
            site.say('[log]\nlevel = "error"\nlog_keys = "full"\n', LISTENER, ALIASES)
            assert (await site.serving.reload()).warnings == ()
            assert (root.level, shown_key("a@example.org")) == (logging.ERROR, "a@example.org")
            site.say('[log]\nto = "syslog"\n', LISTENER, ALIASES)
            [warning] = (await site.serving.reload()).warnings
            assert str(warning).startswith("log.to: ")
            assert "example" not in shown_key("a@example.org")
    finally:
        root.setLevel(level)


async def test_what_only_a_start_takes_is_said(site: Site) -> None:
    site.plugin()
    site.say(PLUGINS, LISTENER, ALIASES)
    async with site:
        site.say(PLUGINS, "[server]\nworkers = 2\n", LISTENER, ALIASES)
        site.plugin(COUNTING + "\n")
        result = await site.serving.reload()
        assert result.ok
        told = [str(one) for one in result.warnings]
        assert [text.split(":")[0] for text in told] == ["server.workers", "plugins.directory"]
        site.say(PLUGINS, LISTENER, ALIASES)
        site.plugin()
        again = await site.serving.reload()
        assert [str(one).split(":")[0] for one in again.warnings] in ([], ["plugins.directory"])


async def test_a_table_that_lost_most_of_its_rows_is_taken_by_force_only(site: Site) -> None:
    site.table(*(f"k{number}@example.org,v" for number in range(100)))
    site.say(LISTENER, ALIASES)
    async with site, site.client() as ask:
        site.table("k1@example.org,new")
        refused = await site.serving.reload()
        assert "the table has 1 rows now and had 100" in str(refused.errors[0])
        assert await ask("k99@example.org") == b"200 v\n"
        assert (await site.serving.reload(force=True)).ok
        assert await ask("k99@example.org") == b"500 not%20found\n"


async def test_what_was_prepared_and_is_discarded_leaves_nothing(site: Site) -> None:
    async with site, site.client() as ask:
        site.table("a@example.org,one@example.org", "b@example.org,new")
        site.say(LISTENER, SOCKETMAP, ALIASES)
        document = read_document(site.file)
        prepared = await site.serving.prepare(document)
        assert (site.directory / "socketmap").exists()
        await site.serving.discard(prepared)
        assert not (site.directory / "socketmap").exists()
        assert await ask("b@example.org") == b"500 not%20found\n"
        await site.serving.take(await site.serving.prepare(document))
        assert await ask("b@example.org") == b"200 new\n"


async def test_a_preparation_that_fails_lets_the_next_one_be(site: Site) -> None:
    async with site:
        site.say("[maps.x]\n")
        for _ in range(2):
            with pytest.raises(ConfigErrors):
                await site.serving.prepare(read_document(site.file))
        site.say(LISTENER, ALIASES)
        assert (await site.serving.reload()).ok


async def test_the_sites_of_before_are_freed(site: Site) -> None:
    import gc
    import weakref

    async with site:
        former = [weakref.ref(site.serving.site.maps)]
        for number in range(3):
            site.table("a@example.org,one@example.org", f"b@example.org,{number}")
            assert await site.serving.reload_tables()
            former.append(weakref.ref(site.serving.site.maps))
        while site.serving._retiring:
            await asyncio.sleep(0)
        gc.collect()
        assert [one() is not None for one in former] == [False, False, False, True]


async def test_tables_are_taken_again_and_again_and_their_tests_stop_nothing(site: Site) -> None:
    async with site, site.client() as ask:
        for number in range(3):
            site.table("a@example.org,one@example.org", f"b@example.org,{number}")
            assert await site.serving.reload_tables() == {"aliases"}
            assert await ask("b@example.org") == f"200 {number}\n".encode()
            [step] = site.serving.site.maps.steps
            assert step.started


GROUP = """
import os
from typing import Any
import attrs
from tcpmapkit import Chain, ConfigError, Found, hookimpl

@attrs.define(eq=False)
class Prefixed:
    resolvers: Chain
    path: str
    text: str = attrs.field(default="", init=False)
    file: Any = attrs.field(default=None, init=False)

    async def start(self, context):
        self.file = context.directory / self.path
        self.text = self.file.read_text()
        if not self.text:
            raise ConfigError("it is empty", path=("path",))

    def is_current(self): return self.file.read_text() == self.text

    def resolve(self, query):
        found = self.resolvers.resolve(query)
        return Found(self.text + found.value) if isinstance(found, Found) else found

@hookimpl
def register_resolvers(register): register("prefixed", Prefixed)
"""


async def test_a_group_with_a_file_of_its_own_is_made_anew_when_that_changes(site: Site) -> None:
    site.plugin(GROUP)
    prefix = site.directory / "prefix"
    prefix.write_text("old-")
    inner = '[{ type = "csv", path = "aliases.csv" }]'
    map = f'[maps.aliases]\nresolvers = [{{ type = "prefixed", path = "prefix", resolvers = {inner} }}]\n'
    site.say(PLUGINS, LISTENER, map)
    async with site, site.client() as ask:
        assert await ask("a@example.org") == b"200 old-one@example.org\n"
        prefix.write_text("new-")
        assert await site.serving.reload_tables() == {"aliases"}
        assert await ask("a@example.org") == b"200 new-one@example.org\n"
        prefix.write_text("")
        assert await site.serving.reload_tables() == set()
        assert "it is empty" in str(site.serving.held["aliases", "prefixed"])
        assert await ask("a@example.org") == b"200 new-one@example.org\n"


PAIR = """
from typing import Any
import attrs
from tcpmapkit import Found, hookimpl

@attrs.define(eq=False)
class Noting:
    path: str
    text: str = attrs.field(default="", init=False)
    file: Any = attrs.field(default=None, init=False)

    async def start(self, context):
        self.file = context.directory / self.path
        self.text = self.file.read_text()
        print(f"start {self.text}")

    async def stop(self): print(f"stop {self.text}")
    def is_current(self): return self.file.read_text() == self.text
    def resolve(self, query): return Found(self.text)

@hookimpl
def register_resolvers(register): register("noting", Noting)
"""


async def test_of_two_tables_that_changed_the_good_one_is_started_once_and_the_bad_one_is_held(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.plugin(PAIR)
    for name in ("one", "other"):
        (site.directory / name).write_text(f"{name}-old")
    site.say(
        PLUGINS,
        LISTENER,
        '[maps.aliases]\nresolvers = [{ type = "noting", path = "one" }]\n',
        '[maps.tested]\nresolvers = [{ type = "noting", path = "other" }]\n',
        '[[maps.tested.tests]]\nkey = "k"\nexpect = "other-old"\n',
    )
    async with site, site.client() as ask:
        capsys.readouterr()
        (site.directory / "one").write_text("one-new")
        (site.directory / "other").write_text("other-new")
        assert await site.serving.reload_tables() == {"aliases"}
        assert await ask("k") == b"200 one-new\n"
        assert list(site.serving.held) == [("tested", "noting")]
        while site.serving._retiring:
            await asyncio.sleep(0)
        assert sorted(capsys.readouterr().out.split()) == sorted(
            ["start", "one-new", "start", "other-new", "stop", "other-new", "stop", "one-old"]
        )


async def test_a_step_before_others_changes_none_of_them(site: Site) -> None:
    step = '[[maps.aliases.resolvers]]\ntype = "csv"\npath = "{}.csv"\nname = "{}"\n'
    site.table("b@example.org,two@example.org", name="more.csv")
    site.say(LISTENER, "[maps.aliases]\n", step.format("aliases", "old"))
    async with site, site.client() as ask:
        [before] = site.serving.site.maps.steps
        site.say(LISTENER, "[maps.aliases]\n", step.format("more", "new"), step.format("aliases", "old"))
        assert (await site.serving.reload()).changed == {"aliases"}
        assert await ask("b@example.org") == b"200 two@example.org\n"
        new, old = site.serving.site.maps.steps
        assert old is before
        assert old.config.path == ("maps", "aliases", "resolvers", 1)
        assert (old.started, new.started) == (True, True)


async def test_a_plugin_that_observes_lookups_is_not_told_of_a_sites_own_tests(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.plugin(
        "from tcpmapkit import hookimpl\n"
        "@hookimpl\ndef query_resolved(query, outcome, resolver, elapsed): print(query.key)\n"
    )
    site.say(PLUGINS, LISTENER, ALIASES, TEST)
    async with site, site.client() as ask:
        await ask("b@example.org")
        site.table("a@example.org,one@example.org", "b@example.org,new")
        assert await site.serving.reload_tables() == {"aliases"}
        assert (await site.serving.reload()).ok
        assert capsys.readouterr().out == "b@example.org\n"


async def test_a_swap_that_fails_is_a_refused_reload_and_the_next_one_is_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site, site.client() as ask:
        before = site.serving.site

        def fails(change: object) -> None:
            raise RuntimeError("a bug")

        site.table("a@example.org,one@example.org", "b@example.org,new")
        with monkeypatch.context() as patched:
            patched.setattr(site.serving.server, "take", fails)
            refused = await site.serving.reload()
        assert "internal error: RuntimeError" in str(refused.errors[0])
        assert (site.serving.site, site.serving.reloads.bad) == (before, 1)
        assert (await site.serving.reload()).ok
        assert await ask("b@example.org") == b"200 new\n"


HANGS = """
import asyncio
from tcpmapkit import Found, hookimpl
begun = asyncio.Event()

class Hangs:
    async def start(self, context): print("start")
    async def stop(self): print("stop")
    async def resolve(self, query):
        begun.set()
        await asyncio.Event().wait()

@hookimpl
def register_resolvers(register): register("hangs", Hangs)
"""


async def test_a_reload_under_way_when_the_server_stops_is_refused_and_leaves_nothing(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.plugin(HANGS)
    site.say(PLUGINS, LISTENER, ALIASES)
    hangs = '[maps.hangs]\nresolvers = [{ type = "hangs" }]\n[[maps.hangs.tests]]\nkey = "k"\nexpect = "v"\n'
    async with site:
        site.say(PLUGINS, LISTENER, ALIASES, hangs)
        first = asyncio.ensure_future(site.serving.reload())
        second = asyncio.ensure_future(site.serving.reload())
        begun = site.serving.site.plugins.types["hangs"].factory.resolve.__globals__["begun"]
        async with asyncio.timeout(5):
            await begun.wait()
            await site.serving.stop()
            results = [await first, await second]
    assert [str(result.errors[0]) for result in results] == ["the server is shutting down"] * 2
    assert site.serving.reloads.good == 0
    assert capsys.readouterr().out.split() == ["start", "stop"]


HANGS_AGAIN = """
import asyncio
from tcpmapkit import NotFound, hookimpl
begun = asyncio.Event()

class HangsAgain:
    count = 0

    def __init__(self, path: str) -> None: self.path = path

    @property
    def files(self): return (self.file,)

    def is_current(self): return self.read == self.file.read_text()

    async def start(self, context):
        self.file = context.directory / self.path
        self.read = self.file.read_text()
        HangsAgain.count += 1
        if HangsAgain.count > 1:
            begun.set()
            await asyncio.Event().wait()

    async def resolve(self, query): return NotFound()

@hookimpl
def register_resolvers(register): register("hangs_again", HangsAgain)
"""


async def test_a_server_stops_while_a_table_that_has_changed_is_loaded(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.plugin(HANGS_AGAIN)
    site.say(
        *(PLUGINS, LISTENER, "[maps.aliases]\n"),
        'resolvers = [{ type = "hangs_again", path = "aliases.csv" }]\n',
    )
    async with site:
        begun = site.serving.site.plugins.types["hangs_again"].factory.start.__globals__["begun"]
        site.table("a@example.org,another")
        async with asyncio.timeout(10):
            await begun.wait()
            await site.serving.stop()
    assert not caplog.records


async def test_a_table_is_freed_when_another_has_taken_its_place_whoever_kept_replies_of_it(
    site: Site,
) -> None:
    import gc
    import weakref

    rules = 'rules = [{{ pattern = "^k([0-9]+)$", result = "{}-$1" }}]'
    map = '[maps.aliases]\nresolvers = [{{ type = "regex", {} }}]\n'
    site.say(LISTENER, map.format(rules.format("old")))
    async with site, site.client() as ask:
        for number in range(50):
            assert await ask(f"k{number}") == f"200 old-{number}\n".encode()
        former = weakref.ref(site.serving.site.maps.steps[0])
        site.say(LISTENER, map.format(rules.format("new")))
        assert (await site.serving.reload()).ok
        while site.serving._retiring:
            await asyncio.sleep(0)
        gc.collect()
        assert former() is None
        assert await ask("k1") == b"200 new-1\n"


GATED = """
import asyncio
from tcpmapkit import Found, hookimpl
gate = asyncio.Event()

class Gated:
    def __init__(self) -> None: self.stopped = False
    async def stop(self): self.stopped = True
    async def resolve(self, query):
        await gate.wait()
        return Found("stopped" if self.stopped else "answered")

@hookimpl
def register_resolvers(register): register("gated", Gated)
"""


async def test_a_source_is_not_stopped_under_a_lookup_of_the_site_before_the_last(site: Site) -> None:
    site.plugin(GATED)
    csv = '[[maps.aliases.resolvers]]\ntype = "csv"\npath = "aliases.csv"\n'
    site.say(PLUGINS, LISTENER, csv, '[[maps.aliases.resolvers]]\ntype = "gated"\n')
    async with site, site.client() as ask:
        waiting = asyncio.ensure_future(ask("k"))
        while not any(connection.in_flight for connection in site.serving.server.connections):
            await asyncio.sleep(0)
        gate = site.serving.site.plugins.types["gated"].factory.resolve.__globals__["gate"]
        site.table("a@example.org,another")
        assert await site.serving.reload_tables() == {"aliases"}
        site.say(PLUGINS, LISTENER, csv)
        assert (await site.serving.reload()).ok
        for _ in range(20):
            await asyncio.sleep(0)
        gate.set()
        assert await waiting == b"200 answered\n"


async def test_what_is_doubtful_at_a_start_is_said_and_served(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.table()
    async with site, site.client() as ask:
        await look_for_doubts(site.serving.site)
        assert await ask("a@example.org") == b"500 not%20found\n"
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told[0] == (
        "WARNING",
        f"map aliases: step csv: there is nothing in {site.directory / 'aliases.csv'}",
    )
    assert told[1][0] == "ERROR"
    assert "tcpmapkit.toml:14:10: maps.aliases.tests[0].expect: 'a@example.org' gives" in told[1][1]


async def test_a_unix_socket_that_cannot_be_given_away_any_more_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.say(SOCKETMAP, ALIASES)
    async with site:
        monkeypatch.setattr("os.chown", refuse)
        site.say(SOCKETMAP, 'group = "0"\n', ALIASES)
        result = await site.serving.reload()
        assert result.ok
        [warning] = result.warnings
        assert warning.path == ("listeners", 0)
        assert "restart" in str(warning)


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


async def test_a_plugin_that_cannot_say_which_files_it_has_stops_no_reload(site: Site) -> None:
    site.plugin(
        "from tcpmapkit import Found, hookimpl\n"
        "class Broken:\n"
        "    @property\n    def files(self): raise RuntimeError('no')\n"
        "    @property\n    def rows(self): raise RuntimeError('no')\n"
        "    def is_current(self): raise RuntimeError('no')\n"
        "    def resolve(self, query): return Found('x')\n"
        "@hookimpl\ndef register_resolvers(register): register('broken', Broken)\n"
    )
    site.say(PLUGINS, LISTENER, ALIASES, '[[maps.aliases.resolvers]]\ntype = "broken"\n')
    async with site, site.client() as ask:
        site.table("a@example.org,two@example.org")
        assert (await site.serving.reload()).ok
        assert await ask("a@example.org") == b"200 two@example.org\n"

"""tcpmapkit.testing does what the server does: what a plugin's tests show holds in production."""

from __future__ import annotations

import asyncio
import doctest
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import attrs
import pytest

import tcpmapkit.testing
from tcpmapkit import (
    ConfigError,
    Found,
    LookupPermFail,
    LookupTempFail,
    Miss,
    NotFound,
    PermFail,
    TempFail,
    blocking,
    hookimpl,
)
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.protocols.framing import ProtocolError
from tcpmapkit.testing import (
    Client,
    FakeClock,
    FakeResolver,
    FakeWaitingResolver,
    PlainClient,
    ask,
    ask_now,
    query,
    serve,
    started,
    started_file,
    step,
    toml_blocks,
)

FAKES = pytest.mark.parametrize("fake", [FakeResolver, FakeWaitingResolver])


@attrs.define(eq=False)
class Shout:
    """The smallest resolver of a plugin, with an option and a template."""

    suffix: str = attrs.field(default="!", metadata={"help": "what is put behind"})
    of: Annotated[Any, "template"] = None

    def resolve(self, query: Any) -> Found:
        return Found((self.of(query) if self.of else query.key).upper() + self.suffix)


@pytest.fixture
def shouting() -> ModuleType:
    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("shout", Shout)

    plugin = ModuleType("shouting")
    plugin.register_resolvers = register_resolvers  # type: ignore[attr-defined]
    return plugin


def test_the_examples_of_the_docstrings_are_right() -> None:
    names = vars(tcpmapkit) | vars(tcpmapkit.testing)
    examples = [
        test
        for module in (tcpmapkit.testing.asking, tcpmapkit.testing.building, tcpmapkit.testing.fakes)
        for test in doctest.DocTestFinder().find(module, globs=names)
        if test.examples
    ]
    assert {test.name.rpartition(".")[2] for test in examples} >= {
        "query",
        "step",
        "ask_now",
        "FakeClock",
        "FakeResolver",
    }
    for test in examples:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_everything_public_is_explained() -> None:
    for name in tcpmapkit.testing.__all__:
        assert getattr(tcpmapkit.testing, name).__doc__, name


def test_a_query_is_split_as_on_the_server() -> None:
    asked = query("Joe+Lists@example.org", map="aliases", protocol="policy", attributes={"sender": "a@b"})
    assert (asked.local, asked.user, asked.extension, asked.domain) == (
        "Joe+Lists",
        "Joe",
        "Lists",
        "example.org",
    )
    assert (asked.map, asked.protocol, asked.attributes) == ("aliases", "policy", {"sender": "a@b"})
    assert query("joe-lists", recipient_delimiter="-").extension == "lists"


def test_the_clock_stands_still_until_it_is_told() -> None:
    clock = FakeClock()
    asked = query("a", time_left=5, clock=clock)
    assert asked.time_left() == 5
    clock.advance(6)
    assert asked.time_left() == -1


# Asking.


@FAKES
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("found", Found("found")),
        (Found("found", 7), Found("found", 7)),
        (NotFound(), NotFound()),
        (TempFail("down"), TempFail("down")),
        (None, Miss()),
        (Miss(3), Miss(3)),
        (LookupTempFail("down", 5), TempFail("down", 5)),
        (LookupPermFail("wrong"), PermFail("wrong")),
        (KeyError("bug"), TempFail("internal error")),
        (17, TempFail("internal error")),
    ],
)
async def test_a_resolver_is_asked_as_a_step_asks_it(
    fake: type[FakeResolver], answer: Any, outcome: Any
) -> None:
    assert await ask(fake({"a": answer}), "A") == outcome


@pytest.mark.parametrize("answer", ["found", None, KeyError("bug")])
def test_an_inline_resolver_needs_no_event_loop(answer: Any) -> None:
    fake = FakeResolver({"a": answer})
    assert ask_now(fake, "A") == {str: Found("found"), KeyError: TempFail("internal error")}.get(
        type(answer), Miss()
    )
    assert fake.asked == ["a"]


def test_asking_now_what_can_wait_is_a_mistake_of_the_test() -> None:
    with pytest.raises(TypeError, match="can wait"):
        ask_now(FakeWaitingResolver(), "a")


async def test_a_blocking_resolver_runs_in_a_thread() -> None:
    class Blocking:
        @blocking
        def resolve(self, query: Any) -> Found:
            return Found(str(threading.current_thread() is threading.main_thread()))

    assert await ask(Blocking(), "a") == Found("False")


@pytest.mark.parametrize("key", ["*", "<>", '""', ""])
async def test_special_keys_reach_only_who_takes_them(key: str) -> None:
    fake = FakeResolver({key: "found"})
    assert await ask(fake, key) == Miss()
    assert await ask(step(fake, special_keys=True), key) == Found("found")


async def test_a_step_has_the_options_of_a_line_of_toml() -> None:
    fake = FakeResolver({"joe": "Joe"})
    mapped = step(fake, key="{user}", result="{value}@{domain}", domains=["example.org"], authoritative=True)
    assert await ask(mapped, "joe+x@example.org") == Found("Joe@example.org")
    assert await ask(mapped, "ann@example.org") == NotFound()
    assert await ask(mapped, "joe@example.com") == Miss()
    assert fake.asked == ["joe", "ann"]


async def test_several_steps_are_a_chain() -> None:
    first, last = FakeResolver({"a": TempFail("down")}), FakeWaitingResolver({"b": "found"})
    steps = [step(first, on_error="next"), 'type = "static"\nentries = { "c" = "static" }', last]
    assert await ask(steps, "a") == TempFail("down")
    assert await ask(steps, "b") == Found("found")
    assert await ask(steps, "c") == Found("static")
    assert last.asked == ["a", "b"]


async def test_a_hung_resolver_is_ended_by_its_steps_time_out() -> None:
    hung = FakeWaitingResolver(gates={"a": asyncio.Event()})
    assert await ask(step(hung, timeout="1ms"), "a") == TempFail("timed out")
    assert await ask(hung, "a", time_left=0.001) == TempFail("timed out")


async def test_a_fake_waits_until_its_gate_is_opened() -> None:
    gate = asyncio.Event()
    slow = FakeWaitingResolver({"a": "found", "b": "at once"}, gates={"a": gate})
    async with started(slow) as map:
        lookups = [asyncio.ensure_future(ask(map, "a")) for _ in range(2)]
        await slow.was_asked(times=2)
        assert await ask(map, "b") == Found("at once")
        assert not any(lookup.done() for lookup in lookups)
        gate.set()
        assert await asyncio.gather(*lookups) == [Found("found")] * 2


async def test_a_resolver_is_started_and_stopped_around_its_lookups() -> None:
    @attrs.define(eq=False)
    class Lifetime:
        seen: list[Any] = attrs.Factory(list)

        async def start(self, context: Any) -> None:
            self.seen.append((context.name, context.map, context.directory))

        async def stop(self) -> None:
            self.seen.append("stopped")

        def resolve(self, query: Any) -> None:
            self.seen.append(query.key)

    resolver = Lifetime()
    async with started(step(resolver, name="mine"), directory=Path("/nowhere")) as map:
        await ask(map, "a")
        await ask(map, "b")
    assert resolver.seen == [("mine", "test", Path("/nowhere")), "a", "b", "stopped"]


# Options as users write them.


async def test_a_plugins_options_are_read_as_in_the_configuration(shouting: ModuleType) -> None:
    async with started('type = "shout"\nsuffix = "?"\nof = "{user}"', plugins=[shouting]) as map:
        assert await ask(map, "joe+x@example.org") == Found("JOE?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type = "shout"\nsufix = "?"', "maps.test.resolvers[0].sufix: unknown key (did you mean 'suffix'?)"),
        ('type = "shout"\nsuffix = 1', "maps.test.resolvers[0].suffix"),
        ('type = "shout"\nof = "{usr}"', "unknown variable {usr} (did you mean {user}?)"),
        ('type = "shoot"', "shoot"),
    ],
)
async def test_a_mistake_in_the_options_is_told_as_check_tells_it(
    shouting: ModuleType, text: str, message: str
) -> None:
    with pytest.raises(ConfigErrors) as raised:
        async with started(text, plugins=[shouting]):
            pass
    assert message in str(raised.value)


async def test_a_broken_plugin_is_told_with_the_reason() -> None:
    @hookimpl
    def register_resolver(register: Any) -> None: ...

    broken = ModuleType("broken")
    broken.register_resolver = register_resolver  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"plugin broken is broken: .*register_resolver"):
        async with started('type = "static"\nvalue = "x"', plugins=[broken]):
            pass


CONFIGURATION = """
[[maps.loud.resolvers]]
type = "shout"

[[maps.loud.tests]]
key = "Joe"
expect = "JOE!"
"""


async def test_a_whole_configuration_is_loaded_and_tested(shouting: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(CONFIGURATION)
    for configuration in (CONFIGURATION, tmp_path / "site.toml"):
        async with started_file(configuration, plugins=[shouting]) as maps:
            assert list(maps) == ["loud"]
            assert await ask(maps["loud"], "ann") == Found("ANN!")
    with pytest.raises(ConfigErrors, match=r"JOE\?"):
        async with started_file(CONFIGURATION.replace("JOE!", "JOE?"), plugins=[shouting]):
            pass
    with pytest.raises(ConfigErrors, match="shout"):
        async with started_file(CONFIGURATION):
            pass


def test_the_toml_blocks_of_a_readme_are_found(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# x\n```toml\na = 1\n```\n```sh\nls\n```\n```toml\n# b\n```\n")
    assert toml_blocks(readme) == ["a = 1\n", "# b\n"]


# Clients.


async def test_a_client_asks_a_served_map_over_the_loopback() -> None:
    answers = {"a b%": "ö %", "down": TempFail("not now"), "wrong": LookupPermFail("never")}
    async with started(FakeWaitingResolver(answers)) as map, serve(map) as port, Client(port) as client:
        assert await client.get("a b%") == Found("ö %")
        assert await client.get("other") == NotFound()
        assert await client.get("down") == TempFail("not now")
        assert await client.get("wrong") == TempFail("never")
        await client.send(b"get other\nget a%20b")
        assert await client.reply() == b"500 not%20found\n"
        await client.send(b"%25\n")
        assert await client.reply() == b"200 %C3%B6%20%25\n"


@pytest.mark.parametrize("now", [0.0, 1e12], ids=["behind the machine's", "ahead of it"])
async def test_a_served_map_is_asked_by_its_own_clock(now: float) -> None:
    fake, clock = FakeWaitingResolver({"a": "b"}), FakeClock(now)
    async with started(fake, clock=clock) as map, serve(map) as port, Client(port) as client:
        assert await client.get("a") == Found("b")


async def test_a_client_takes_no_malformed_reply_and_sees_the_end() -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"500\nmore")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server, Client(server.sockets[0].getsockname()[1]) as client:
        with pytest.raises(ProtocolError):
            await client.get("a")
        with pytest.raises(EOFError):
            await client.reply()
        assert await client.rest() == b""


@contextmanager
def served_elsewhere(answers: dict[str, Any]) -> Iterator[int]:
    """The port of a server in another thread."""
    ready, port = threading.Event(), 0
    stop: asyncio.Event
    loop: asyncio.AbstractEventLoop

    async def run() -> None:
        nonlocal port, stop, loop
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with started(FakeResolver(answers)) as map, serve(map) as port:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def test_the_plain_client_needs_no_event_loop() -> None:
    began = time.monotonic()
    with served_elsewhere({"a": "found"}) as port:
        with PlainClient(port) as client:
            assert client.get("a") == Found("found")
            client.send(b"get b\nget a\n")
            assert client.reply() == b"500 not%20found\n"
            assert client.reply() == b"200 found\n"
        last = PlainClient(port)
        assert last.get("a") == Found("found")  # accepted: one that waits for that is reset, not closed
    with last:
        assert last.rest() == b""
        with pytest.raises(EOFError):
            last.reply()
    assert time.monotonic() - began < 10

"""``tcpmapkit bench``: what is asked, what is counted, and what an administrator is told."""

from __future__ import annotations

import asyncio
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from tcpmapkit.bench.figures import Figures
from tcpmapkit.bench.in_process import ask_in_process, service_of
from tcpmapkit.bench.latencies import Latencies
from tcpmapkit.bench.passes import Keys, Pass
from tcpmapkit.bench.progress import shown_progress
from tcpmapkit.bench.steps import ask_steps
from tcpmapkit.bench.wire import CLIENTS, PATIENCE, ask_over_the_wire
from tcpmapkit.cache import Answer
from tcpmapkit.cli import main
from tcpmapkit.config import Endpoint, ListenerConfig
from tcpmapkit.query import Found, Miss, NotFound, Outcome, PermFail, Query, TempFail
from tcpmapkit.testing import FakeClock, started
from tests.endpoints import KINDS, endpoint, serving
from tests.serving import HeldMap

# Times.


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9, 100])
def test_a_percentile_is_at_most_a_sixty_fourth_above_the_true_one_and_never_below(percent: float) -> None:
    chance = random.Random(7)
    times = sorted(chance.lognormvariate(-9, 3) for _ in range(5000))
    latencies = Latencies()
    for one in chance.sample(times, len(times)):
        latencies.add(one)
    true = times[math.ceil(len(times) * percent / 100) - 1]
    assert true - 1e-9 <= latencies.percentile(percent) <= true * (1 + 1 / 64) + 1e-9
    assert (latencies.count, latencies.longest) == (5000, times[-1])


def test_short_times_are_kept_to_the_nanosecond() -> None:
    latencies = Latencies()
    for nanoseconds in range(1, 101):
        latencies.add(nanoseconds * 1e-9 + 1e-13)
    assert latencies.percentile(50) == pytest.approx(51e-9)


def test_of_nothing_every_percentile_is_nothing() -> None:
    assert Latencies().percentile(99) == 0


# Figures.


def test_each_of_the_slowest_keys_is_told_once_with_its_longest_time() -> None:
    figures = Figures(slowest=2)
    for key, seconds in [("a", 1), ("b", 3), ("a", 2), ("c", 1), ("b", 1), ("d", 5), ("a", 4)]:
        figures.note(key, seconds, Found("x"))
    assert figures.slowest == [("d", 5), ("a", 4)]


def test_no_key_is_named_where_none_is_to_be() -> None:
    figures = Figures(slowest=0)
    figures.note("a", 1, NotFound())
    assert figures.slowest == []


def test_outcomes_are_told_apart_and_the_first_reasons_counted() -> None:
    figures = Figures(slowest=1)
    outcomes = [Found("x"), NotFound(), PermFail("broken"), *(TempFail(f"reason {n}") for n in range(9))]
    for outcome in [*outcomes, TempFail("reason 0"), TempFail("reason 8")]:
        figures.note("a", 0.1, outcome, "chain")
    assert (figures.found, figures.not_found, figures.failed) == (1, 1, 12)
    assert figures.sources == {"chain": 14}
    assert figures.reasons == {"broken": 1, "reason 0": 2, "reason 1": 1, "reason 2": 1, "reason 3": 1}


# A pass.


def new_pass(keys: Sequence[str], clock: FakeClock | None = None, **options: Any) -> Pass:
    client = CLIENTS[options.pop("protocol", "tcp_table")]
    expected = options.pop("expected", {})
    asked = Keys(keys, [client.request(options.pop("map", "held"), key) for key in keys], expected)
    given = {"limit": len(keys), "seconds": 60.0, "decode": client.decode, "clock": clock or FakeClock()}
    return Pass(asked, range(len(keys)), **given | options)


def test_a_pass_begins_again_until_its_limit() -> None:
    run = new_pass(["a", "b"], limit=5)
    assert [run.next() for _ in range(6)] == [0, 1, 0, 1, 0, None]
    assert run.over


def test_a_pass_ends_when_its_time_is_up_or_it_is_stopped() -> None:
    clock = FakeClock()
    run = new_pass(["a"], clock, limit=1000, seconds=2.0)
    assert run.next() == 0
    clock.advance(1.5)
    assert (run.next(), run.progress) == (0, 0.75)
    clock.advance(0.5)
    assert run.next() is None
    run = new_pass(["a"], clock, limit=1000)
    run.stop()
    assert run.next() is None


def test_what_the_pass_does_itself_is_not_time_of_the_lookups() -> None:
    clock = FakeClock()

    def decode(reply: bytes) -> Outcome:
        clock.advance(10)
        return Found(reply.decode())

    run = new_pass(["a", "b"], clock, seconds=1000.0, decode=decode)
    for number in (0, 1):
        began = run.begin()
        clock.advance(0.5)
        run.take(number, began, b"reply")
    figures = run.end(alone=True)
    assert (figures.elapsed, figures.rate, figures.latencies.longest) == (1.0, 2.0, 0.5)
    assert run.end(alone=False).elapsed == 21.0


def test_an_answer_other_than_the_one_expected_is_counted_and_a_failure_is_none() -> None:
    run = new_pass(["a", "b", "c", "d"], expected={"a": "1", "b": None, "c": "3", "d": "4"})
    for number, outcome in enumerate([Found("2"), Found("2"), TempFail("down"), Found("4")]):
        run._decode = lambda _, outcome=outcome: outcome  # type: ignore[assignment]
        run.take(number, run.begin(), b"")
    figures = run.end(alone=True)
    assert figures.wrong == 2
    assert figures.wrong_answers == {"a": "'2', not '1'", "b": "'2', not not found"}
    assert figures.failed == 1


def test_a_malformed_reply_is_a_failure_with_the_reason() -> None:
    run = new_pass(["a"])
    run.take(0, run.begin(), b"not a reply\n")
    [reason] = run.end(alone=True).reasons
    assert reason.startswith("malformed reply: ")


def test_whoever_watches_is_told_every_tenth_of_a_second() -> None:
    clock = FakeClock()
    told: list[int] = []
    run = new_pass(["a"], clock, limit=100, watch=lambda run: told.append(run.asked))
    for _ in range(5):
        number = run.next()
        assert number is not None
        clock.advance(0.04)
        run.take(number, run.begin(), b"500 no\n")
    assert told == [3]


# In process.


class Answering(HeldMap):
    """A `HeldMap` with a clock, which each lookup moves on, and answers from elsewhere than the chain."""

    def __init__(self, clock: FakeClock, seconds: float = 0.25, **table: Any) -> None:
        super().__init__(**table)
        self.clock = clock
        self.seconds = seconds

    def ask(self, query: Query, answered: Callable[[Answer], None]) -> Answer | None:
        self.clock.advance(self.seconds)
        told = self.table.get(query.key)
        return told if isinstance(told, Answer) else super().ask(query, answered)


async def asked_in_process(map: Any, *keys: str, at_once: int = 1, **options: Any) -> Figures:
    run = new_pass(keys, map.clock, **options)
    await ask_in_process(service_of(map, "tcp_table"), run, at_once)
    return run.end(alone=True)


async def test_the_map_is_asked_as_a_listener_asks_it_and_the_source_of_each_answer_is_known() -> None:
    clock = FakeClock()
    map = Answering(
        clock,
        kept=Answer(Found("1"), resolver="cache"),
        old=Answer(Found("2"), resolver="cache", stale=True),
        ready=Answer(Found("3"), expires=clock.now + 999, generation=1),
        broken=TempFail("source is down"),
    )
    long = "x" * 10_001
    figures = await asked_in_process(map, "kept", "old", "ready", "ready", "none", "broken", long)
    assert figures.sources == {"cache": 1, "stale": 1, "chain": 3, "ready": 1, "refused": 1}
    assert (figures.found, figures.not_found, figures.failed) == (4, 2, 1)
    assert figures.reasons == {"source is down": 1}
    assert (figures.elapsed, figures.latencies.longest) == (1.25, 0.25)
    assert map.asked == ["none", "broken"]


async def test_so_many_lookups_wait_at_once() -> None:
    map = Answering(FakeClock())
    asking = asyncio.create_task(asked_in_process(map, *(f"slow{n}" for n in range(5)), at_once=3))
    async with asyncio.timeout(10):
        while len(map.held) < 3:
            await asyncio.sleep(0)
        assert sorted(map.held) == ["slow0", "slow1", "slow2"]
        while not asking.done():
            for key in list(map.held):
                map.answer(key)
            await asyncio.sleep(0)
    assert (await asking).found == 5


async def test_a_lookup_that_waits_when_the_pass_is_ended_may_be_answered_later() -> None:
    map = Answering(FakeClock())
    asking = asyncio.create_task(asked_in_process(map, "slow"))
    while not map.held:
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait((asking,))
    map.answer("slow")
    assert asking.cancelled()


async def test_the_steps_are_asked_past_the_cache_and_each_has_its_own_time() -> None:
    clock = FakeClock()

    @attrs.define(eq=False)
    class Slow:
        seconds: float
        answers: dict[str, Outcome]

        def resolve(self, query: Query) -> Outcome | Miss:
            clock.advance(self.seconds)
            return self.answers.get(query.key, Miss())

    first, second = Slow(0.5, {"a": Found("1")}), Slow(2.0, {"b": TempFail("down")})
    async with started(first, second, clock=clock) as map:
        steps = await ask_steps(map, ["a", "b", "c"], lambda: True)
        assert await ask_steps(map, ["a"], lambda: False) == []
    assert [(one.map, one.latencies.count, one.found, one.failed) for one in steps] == [
        ("test", 3, 1, 0),
        ("test", 2, 0, 1),
    ]
    assert [one.latencies.longest for one in steps] == [0.5, 2.0]


# Over the wire.


TABLE = {"a": Found("1"), "b": TempFail("source is down")}


@pytest.mark.parametrize(
    ("protocol", "kind"), [("tcp_table", "inet"), *(("socketmap", one) for one in KINDS)]
)
async def test_a_running_server_is_asked_over_each_protocol(protocol: Any, kind: str, tmp_path: Path) -> None:
    where = endpoint(kind, tmp_path)
    listener = ListenerConfig(protocol, where, "held")
    async with serving(listener, HeldMap(**TABLE)) as server:
        if kind == "inet":
            where = Endpoint("inet", "127.0.0.1", server.addresses[0][0][1])
        run = new_pass(["a", "b", "c"], protocol=protocol, limit=30)
        await ask_over_the_wire(where, CLIENTS[protocol], run, connections=4)
    figures = run.end(alone=False)
    assert (figures.found, figures.not_found, figures.failed) == (10, 10, 10)
    assert figures.reasons == {"source is down": 10}


class Peer:
    """A server on the loopback that does to each connection what `behave` does to its streams."""

    def __init__(self, behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        self.behave = behave
        self.connections = 0

    async def __aenter__(self) -> Peer:
        self.server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        self.endpoint = Endpoint("inet", "127.0.0.1", self.server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self.behave(reader, writer)
        writer.close()


async def reasons_of(behave: Any, **options: Any) -> tuple[dict[str, int], int]:
    run = new_pass(["a"], limit=10, **options)
    async with Peer(behave) as peer:
        await ask_over_the_wire(peer.endpoint, CLIENTS["tcp_table"], run, connections=1)
    return dict(run.end(alone=False).reasons), peer.connections


async def test_a_server_that_hangs_up_each_time_is_not_connected_to_without_end() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()

    assert await reasons_of(hang_up) == ({"the server closed the connection": 3}, 3)


async def test_a_connection_that_is_lost_is_made_again() -> None:
    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"200 x\n")
        await reader.readline()

    assert await reasons_of(answer_one) == ({"the server closed the connection": 5}, 5)


@pytest.mark.parametrize("reply", [b"nonsense\n", b"200 " + b"x" * 5000 + b"\n", b"600 x\n"])
async def test_what_is_no_reply_is_a_failure_with_its_reason(reply: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(reply)

    reasons, _ = await reasons_of(answer)
    assert [reason.split(":")[0] for reason in reasons] == ["malformed reply"]


@pytest.mark.parametrize(
    ("protocol", "replies"),
    [
        ("tcp_table", b"200 x\n200 y\n"),
        ("tcp_table", b"200 x\n2"),
        ("socketmap", b"4:OK x,4:OK y,"),
        ("socketmap", b"4:OK x,4"),
    ],
)
async def test_of_two_replies_to_one_question_none_answers_another(protocol: str, replies: bytes) -> None:
    async def answer_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(replies)
        await reader.read()

    run = new_pass(["a"], protocol=protocol, limit=10)
    async with Peer(answer_twice) as peer:
        await ask_over_the_wire(peer.endpoint, CLIENTS[protocol], run, connections=1)
    figures = run.end(alone=False)
    assert (figures.found, dict(figures.reasons)) == (0, {"more than one reply to a question": 3})


async def test_a_question_without_a_reply_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("tcpmapkit.bench.wire.WATCH", 0.001)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        clock.advance(PATIENCE)
        await reader.read()

    assert await reasons_of(say_nothing, clock=clock) == ({"no reply within 10 s": 3}, 3)


async def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    async with Peer(lambda *_: None) as peer:
        pass
    run = new_pass(["a"])
    with pytest.raises(ConnectionRefusedError):
        await ask_over_the_wire(peer.endpoint, CLIENTS["tcp_table"], run, connections=3)


# The command.

SITE = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:4242"
map = "aliases"

[[listeners]]
protocol = "policy"
endpoint = "inet:127.0.0.1:4243"
map = "policies"

[[listeners]]
protocol = "socketmap"
endpoint = "unix:socket"
maps = ["aliases", "source"]

[maps.aliases]
[[maps.aliases.resolvers]]
type = "static"
entries = { "a@example.org" = "b@example.org", "long" = "%s" }

[maps.source]
[[maps.source.resolvers]]
type = "python"
callable = "bench_source:ask"

[maps.policies]
[[maps.policies.resolvers]]
type = "static"
key = "{sender}"
entries = { "a@example.org" = "REJECT" }
""" % ("x" * 4200)

SOURCE = """
import asyncio, signal
from tcpmapkit import LookupTempFail

async def ask(key):
    if key == "interrupt":
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)
    if key == "down":
        raise LookupTempFail("source is down")
    return "value" if key == "a@example.org" else None
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bench_source.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bench_source", raising=False)
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(SITE)
    return file


def bench(site: Path, *args: str, given: bytes = b"a@example.org\nnobody@example.org\n") -> Result:
    arguments = ["bench", "-c", str(site), "--keys", "-", *args]
    return CliRunner().invoke(main, arguments, input=given, catch_exceptions=False)


def records(result: Result) -> dict[str, dict[str, list[str]]]:
    """The records of each pass, by what they tell."""
    told: dict[str, dict[str, list[str]]] = {}
    for line in result.stdout.splitlines():
        about, *fields = line.split("\t")
        told.setdefault(about, {})[fields[0]] = fields[1:]
    return told


def test_the_first_pass_asks_each_key_once_and_the_second_asks_them_again(site: Path) -> None:
    result = bench(site, "source", "--count", "2")
    told = records(result)
    assert (result.exit_code, result.stderr) == (0, "")
    for name in ("first pass", "again"):
        assert told[name]["lookups"][0] == "2"
        assert told[name]["found"] == ["1", "50.00%"]
        assert told[name]["not found"] == ["1", "50.00%"]
        assert told[name]["failed"] == ["0", "0.00%"]
        assert [what for what in told[name] if what[0] in "pm"] == ["p50", "p90", "p99", "p99.9", "max"]
    assert told["first pass"]["from chain"] == ["2", "100.00%"]
    assert told["again"]["from ready"] == ["2", "100.00%"]
    assert told["step python"]["map source"][:4] == ["asked 2", "found 1", "failed 0", "passed by 0"]
    assert told["map"] == {"source": ["in process, as over socketmap"]}


def test_failed_lookups_make_the_status_75_with_their_reason(site: Path) -> None:
    result = bench(site, "source", "--count", "1", given=b"down\n")
    assert result.exit_code == 75
    assert "first pass\tfailure\t1\tsource is down\n" in result.stdout


def test_a_value_that_no_reply_of_the_listener_holds_is_a_failure_as_it_is_for_postfix(site: Path) -> None:
    result = bench(site, "aliases", "--count", "1", given=b"long\n")
    assert result.exit_code == 75
    assert "value too long for a tcp_table reply" in result.stdout


def test_expected_answers_are_compared(site: Path) -> None:
    right = b"a@example.org\tb@example.org\nnobody@example.org\n"
    assert bench(site, "aliases", "--expect", "--count", "2", given=right).exit_code == 0
    wrong = b"a@example.org\tc@example.org\nnobody@example.org\tx\n"
    result = bench(site, "aliases", "--expect", "--count", "2", given=wrong)
    assert result.exit_code == 1
    told = records(result)["first pass"]
    assert told["wrong"] == ["2", "100.00%"]
    assert "wrong answer\t'nobody@example.org'\tnot found, not 'x'\n" in result.stdout


def test_a_random_order_asks_the_same_keys(site: Path) -> None:
    keys = "".join(f"user{number}\n" for number in range(50)).encode()
    result = bench(site, "aliases", "--random", "--count", "50", "--slowest", "100", given=keys)
    slowest = {line.split("\t")[3] for line in result.stdout.splitlines() if line.startswith("again\tslow")}
    assert slowest == {f"'user{number}'" for number in range(50)}


def test_an_interrupt_ends_a_lookup_that_waits_and_prints_the_figures_so_far(site: Path) -> None:
    result = bench(site, "source", given=b"a@example.org\ninterrupt\nnobody@example.org\n")
    told = records(result)
    assert told["first pass"]["lookups"][0] == "1"
    assert set(told) == {"map", "start", "keys", "at once", "first pass"}
    assert result.stderr == "interrupted: these are the figures so far\n"
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("args", "given", "text"),
    [
        ([], b"a\n", "MAP is missing"),
        (["alias"], b"a\n", "did you mean 'aliases'?"),
        (["aliases"], b"", "there are no keys"),
        (["policies"], b"a\n", "map policies reads attributes of a policy request"),
        (["--connect", "inet:127.0.0.1:4243"], b"a\n", "asked for actions, not for keys"),
        (["--connect", "unix:socket"], b"a\n", "which map? It serves aliases, source"),
        (["--connect", "unix:socket", "policies"], b"a\n", "does not serve map 'policies'"),
        (["--connect", "inet:127.0.0.1:4299"], b"a\n", "there is no listener"),
        (["--connect", "socketmap:inet:127.0.0.1:1"], b"a\n", "socketmap:inet:127.0.0.1:1"),
        (["--connect", "socketmap:inet:127.0.0.1:1:x", "y"], b"a\n", "leave out 'y'"),
        (["--connections", "0", "aliases"], b"a\n", "--connections"),
        (["--seconds", "0", "aliases"], b"a\n", "--seconds"),
    ],
)
def test_what_cannot_be_asked_is_wrong_usage(site: Path, args: list[str], given: bytes, text: str) -> None:
    result = bench(site, *args, given=given)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_a_table_that_does_not_load_is_the_configurations_mistake(site: Path) -> None:
    site.write_text('[maps.lost]\n[[maps.lost.resolvers]]\ntype = "csv"\npath = "nowhere"\n')
    result = bench(site, "lost")
    assert result.exit_code == 78
    assert "nowhere" in result.stderr


def test_keys_that_are_not_utf_8_are_left_out_and_told(site: Path) -> None:
    result = bench(site, "aliases", "--count", "1", given=b"\xff\na@example.org\r\n")
    assert records(result)["first pass"]["found"] == ["1", "100.00%"]
    assert "1 of the keys are not UTF-8" in result.stderr


def test_a_server_that_is_not_there_makes_the_status_75(site: Path) -> None:
    place = site.parent / "socket"
    result = bench(site, "aliases", "--connect", f"unix:{place}")
    assert result.exit_code == 75
    assert result.stderr == f"unix:{place} cannot be connected to: No such file or directory\n"


@pytest.mark.parametrize("table", ["socketmap:unix:{}:held", "socketmap:unix:{}:other"])
async def test_a_table_as_main_cf_names_it_is_asked_without_a_configuration(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "socket"
    monkeypatch.chdir(tmp_path)
    listener = ListenerConfig("socketmap", Endpoint("unix", path=str(place)), None, ("held",))
    program = "from tcpmapkit.cli import main; main()"
    arguments = ["--keys", "-", "--count", "3", "--connect", table.format(place)]
    async with serving(listener, HeldMap(a=Found("1"))):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, "bench", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        printed, _ = await process.communicate(b"a\n")
    held = table.endswith(":held")
    assert process.returncode == (0 if held else 75)
    expected = "again\tfound\t3\t100.00%\n" if held else "again\tfailure\t3\tunknown map\n"
    assert expected in printed.decode()


async def test_a_server_that_only_hangs_up_is_given_up_and_not_asked_again() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()

    program = "from tcpmapkit.cli import main; main()"
    async with Peer(hang_up) as peer:
        arguments = ["--keys", "-", "--connections", "1", "--connect", f"tcp:127.0.0.1:{peer.endpoint.port}"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, "bench", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        printed, told = await process.communicate(b"a\n" * 20)
    assert (process.returncode, peer.connections) == (75, 3)
    assert "first pass\tfailure\t3\tthe server closed the connection\n" in printed.decode()
    assert "again" not in printed.decode()
    assert told == b"the server closes connections without an answer: given up\n"


def test_a_terminal_is_shown_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with shown_progress("first pass") as watch:
        run = new_pass(["a"], limit=2)
        run.next()
        watch(run)
    printed = capsys.readouterr()
    assert "first pass" in printed.err
    assert printed.out == ""

"""What is counted, and where: steps, maps, listeners; times in the bucket they belong to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tcpmapkit import Found, LookupPermFail, LookupTempFail, Miss, NotFound, PermFail, TempFail
from tcpmapkit.breaker import THRESHOLD, Breaker
from tcpmapkit.cache import CacheOptions
from tcpmapkit.connection import Connection
from tcpmapkit.counters import BOUNDS, Histogram, Outcomes, StepCounters
from tcpmapkit.maps import Map
from tcpmapkit.step import Step, WaitingStep
from tcpmapkit.template import Template
from tcpmapkit.testing import FakeClock
from tcpmapkit.threads import TooBusy
from tests.chains import Hangs, Says, a_map, inline, question, turns, waiting
from tests.serving import HeldMap, Transport, make_service

both_kinds = pytest.mark.parametrize("make", [inline, waiting])


async def ask(step: Step, times: int = 1, clock: Any = None) -> None:
    for _ in range(times):
        answer: Any = step.resolve(question(clock=clock))  # type: ignore[attr-defined]
        if isinstance(step, WaitingStep):
            await answer


def failures(counters: StepCounters) -> dict[str, int]:
    return {kind: times for kind, times in counters.failures.items() if times}


# ---- times


@pytest.mark.parametrize("at", range(len(BOUNDS)))
def test_a_time_that_equals_a_bound_belongs_to_its_bucket(at: int) -> None:
    histogram = Histogram()
    histogram.observe(BOUNDS[at])
    histogram.observe(BOUNDS[at] * 1.0001)
    expected = [0] * (len(BOUNDS) + 1)
    expected[at] = expected[at + 1] = 1
    assert histogram.counts == expected
    assert histogram.total == pytest.approx(BOUNDS[at] * 2.0001)


def test_no_time_at_all_is_in_the_lowest_bucket_and_any_time_in_one() -> None:
    histogram = Histogram()
    for seconds in (0.0, -1e-9, 1e9):
        histogram.observe(seconds)
    assert (histogram.counts[0], histogram.counts[-1], sum(histogram.counts)) == (2, 1, 3)


def test_the_bounds_grow_and_the_longest_deadline_is_below_the_last() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert BOUNDS[-1] > 90


# ---- steps


@both_kinds
@pytest.mark.parametrize(
    ("answer", "found", "missed", "failed"),
    [
        (Found("x"), 1, 0, {}),
        (None, 0, 1, {}),
        (Miss(5.0), 0, 1, {}),
        (NotFound(), 0, 1, {}),
        (TempFail("down"), 0, 0, {"temporary": 1}),
        (LookupTempFail("down"), 0, 0, {"temporary": 1}),
        (PermFail("wrong"), 0, 0, {"permanent": 1}),
        (LookupPermFail("wrong"), 0, 0, {"permanent": 1}),
        (TimeoutError(), 0, 0, {"timed_out": 1}),
        (TooBusy(), 0, 0, {"busy": 1}),
        (ValueError("bug"), 0, 0, {"internal": 1}),
        ("rubbish", 0, 0, {"internal": 1}),
    ],
)
async def test_a_step_counts_what_it_was_asked_and_what_became_of_it(
    make: Any, answer: Any, found: int, missed: int, failed: dict[str, int]
) -> None:
    step = make(answer)
    await ask(step)
    counters = step.counters
    assert (counters.asked, counters.found, counters.missed, failures(counters)) == (1, found, missed, failed)


@both_kinds
@pytest.mark.parametrize("on_error", ["next", "ignore"])
async def test_a_failure_is_counted_whatever_the_chain_makes_of_it(make: Any, on_error: Any) -> None:
    step = make(TempFail("down"), on_error=on_error)
    await ask(step, 3)
    assert (failures(step.counters), step.counters.missed) == ({"temporary": 3}, 0)


@both_kinds
@pytest.mark.parametrize(("result", "found"), [("<{value}>", 1), ("{extension}", 0)])
async def test_what_the_result_template_leaves_of_a_value_is_what_counts(
    make: Any, result: str, found: int
) -> None:
    step = make(Found("x"), result=Template.compile(result, ("value", "extension")))
    await ask(step)
    assert (step.counters.asked, step.counters.found) == (1, found)


@both_kinds
@pytest.mark.parametrize("options", [{"domains": frozenset({"example.net"})}], ids=["elsewhere"])
async def test_a_step_that_a_key_is_not_for_counts_nothing(make: Any, options: dict[str, Any]) -> None:
    step = make(Found("x"), **options)
    await ask(step)
    assert (step.counters.asked, step.counters.found, step.counters.missed) == (0, 0, 0)


async def test_what_a_breaker_keeps_from_a_source_is_a_failure_and_no_call() -> None:
    clock = FakeClock()
    step = waiting(TempFail("down"), breaker=Breaker(clock))
    await ask(step, THRESHOLD + 5, clock)
    assert failures(step.counters) == {"temporary": THRESHOLD, "breaker": 5}
    assert (step.counters.asked, step.counters.missed) == (THRESHOLD, 0)


async def test_a_lookup_whose_time_is_up_is_a_failure_and_no_call() -> None:
    step = waiting(Found("x"))
    await step.resolve(question(time_left=0.0))
    assert (failures(step.counters), step.counters.asked, step.counters.missed) == ({"timed_out": 1}, 0, 0)


async def test_a_lookup_that_is_called_off_counts_nothing() -> None:
    step = waiting(Hangs())
    task = asyncio.ensure_future(step.resolve(question()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (step.counters.asked, step.counters.missed, step.counters.failed) == (0, 0, 0)


@both_kinds
async def test_the_time_of_a_call_is_in_its_bucket(make: Any) -> None:
    clock = FakeClock()

    def slowly(query: object) -> Found:
        clock.advance(0.3)
        return Found("x")

    step = make(slowly) if make is inline else waiting(_Slow(clock))
    await ask(step, 2, clock)
    assert step.counters.latency.total == pytest.approx(0.6)
    assert step.counters.latency.counts[BOUNDS.index(0.5)] == 2
    assert step.counters.slow_calls == (2 if make is inline else 0)


class _Slow(Says):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    async def resolve(self, query: Any) -> Any:
        self.clock.advance(0.3)
        return Found("x")


# ---- maps

CACHE = CacheOptions(ttl=60, negative_ttl=60, error_ttl=5, stale=600, jitter=0.0)


async def test_lookups_that_wait_for_another_are_counted() -> None:
    clock = FakeClock()
    step = waiting(Hangs())
    map = a_map(step, clock=clock)
    tasks = [asyncio.ensure_future(map.lookup(map.query("k"))) for _ in range(3)]
    await turns()
    assert (map.counters.joined, step.counters.asked) == (2, 0)
    await map.stop()
    await asyncio.wait(tasks)


async def test_renewals_ahead_of_time_are_counted() -> None:
    clock = FakeClock()
    map = a_map(waiting(Found("x")), clock=clock, cache=CacheOptions(ttl=60, refresh_ahead=True, jitter=0.0))
    await map.lookup(map.query("k"))
    clock.advance(55)
    await map.lookup(map.query("k"))
    await turns()
    assert map.counters.renewals == 1


@pytest.mark.parametrize(("answer", "kind"), [(Found("x"), "found"), (None, "not_found")])
async def test_entries_that_make_room_are_counted_and_those_that_expire_or_are_freed_are_not(
    answer: Any, kind: str
) -> None:
    clock = FakeClock()
    options = CacheOptions(max_size=5000, negative_max_size=5000, jitter=0.0)
    map = a_map(inline(answer), clock=clock, cache=options)
    for number in range(20):
        await map.lookup(map.query(f"key{number}"))
    assert map.cache is not None
    kept = sum(map.cache.count)
    assert 0 < kept < 20
    expected = {"found": 0, "not_found": 0, kind: 20 - kept}
    assert map.counters.evicted == expected
    clock.advance(1e6)
    await map.lookup(map.query("key19"))
    await map.dismantle()
    assert map.counters.evicted == expected


async def test_what_is_counted_of_a_map_outlives_that_its_cache_is_emptied() -> None:
    clock = FakeClock()
    map = a_map(inline(Found("x")), clock=clock, cache=CacheOptions(max_size=1200, jitter=0.0))
    for _ in range(2):
        for number in range(5):
            await map.lookup(map.query(f"key{number}"))
        map.forget()
    assert map.counters.evicted["found"] >= 4


# ---- listeners


class Line:
    """A connection to a listener with one map."""

    def __init__(self, map: Any, clock: FakeClock) -> None:
        self.service, self.replies, _ = make_service(map, clock)
        self.transport = Transport()
        self.connection = self.transport.connection = Connection(self.service)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    @property
    def outcomes(self) -> Outcomes:
        return self.service.counters.of(next(iter(self.service.maps.values())).name)

    async def ask(self, key: str) -> bytes:
        self.transport.written.clear()
        self.connection.data_received(f"get {key}\n".encode())
        await turns()
        return self.transport.bytes


class SlowMap(HeldMap):
    """Takes some time to answer."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__(k=Found("v"), p=PermFail("wrong"), f=TempFail("down"))
        self.clock, self.seconds = clock, seconds

    def ask(self, query: Any, answered: Any) -> Any:
        self.clock.advance(self.seconds)
        return super().ask(query, answered)


@pytest.mark.parametrize("key", ["k", "no", "p", "f"])
async def test_the_time_from_a_request_to_its_reply_is_counted(key: str) -> None:
    clock = FakeClock()
    line = Line(SlowMap(clock, 0.3), clock)
    await line.ask(key)
    latency = line.outcomes.latency
    assert (latency.counts[BOUNDS.index(0.5)], sum(latency.counts)) == (1, 1)
    assert latency.total == pytest.approx(0.3)


async def test_the_time_of_a_lookup_that_waits_is_counted_when_it_is_answered() -> None:
    clock = FakeClock()
    map = HeldMap()
    line = Line(map, clock)
    await line.ask("slow")
    clock.advance(2.0)
    assert sum(line.outcomes.latency.counts) == 0
    map.answer("slow")
    assert line.outcomes.latency.counts[BOUNDS.index(2.5)] == 1


async def test_ready_replies_cost_no_look_at_the_clock_for_the_histogram() -> None:
    clock = FakeClock()
    map = SlowMap(clock, 0.0)
    map.expires = clock() + 60
    line = Line(map, clock)
    for _ in range(3):
        await line.ask("k")
    assert (line.outcomes.ready_found, line.outcomes.found, sum(line.outcomes.latency.counts)) == (2, 1, 1)


async def test_answers_of_the_cache_are_told_from_fresh_ones() -> None:
    clock = FakeClock()
    step = waiting(Found("x"))
    map: Map = a_map(step, clock=clock, cache=CACHE)
    line = Line(map, clock)
    told = []

    async def ask(*keys: str) -> None:
        for key in keys:
            await line.ask(key)
            line.replies.kept.clear()
        told.append(dict(line.outcomes.cached))

    await ask("k", "k", "k")
    step.resolver.answer = None
    await ask("no", "no")
    step.resolver.answer = TempFail("down")
    await ask("f", "f", "f")
    clock.advance(61)
    await ask("k", "k")  # stale: the chain was asked in vain, then its failure is remembered
    nothing = {"found": 0, "not_found": 0, "temporary": 0, "permanent": 0}
    assert told == [
        nothing | {"found": 2},
        nothing | {"found": 2, "not_found": 1},
        nothing | {"found": 2, "not_found": 1, "temporary": 2},
        nothing | {"found": 4, "not_found": 1, "temporary": 2},
    ]
    assert (line.outcomes.stale, map.counters.stale) == (2, 2)

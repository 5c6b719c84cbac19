"""Maps: cache, single flight, stale answers, generations and ready replies together."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tcpmapkit import Found, NotFound, TempFail
from tcpmapkit.cache import Answer, CacheOptions
from tcpmapkit.cache_store import Store
from tcpmapkit.flight import Flight
from tcpmapkit.generation import Generation
from tcpmapkit.maps import Map
from tcpmapkit.query import Query
from tcpmapkit.ready import ReadyReplies
from tcpmapkit.testing import FakeClock
from tests.chains import Hangs, SaysLater, a_map, inline, turns, waiting

DOWN = TempFail("down")
CACHE = CacheOptions(jitter=0.0)
STALE = CacheOptions(jitter=0.0, stale=3600)


class Timers:
    """The timers of flights, which go off when a test says so."""

    def __init__(self) -> None:
        self.set: list[tuple[float, Callable[[], None]]] = []

    def fire(self, up_to: float) -> None:
        """Let those of at most so many seconds go off."""
        due = [one for one in self.set if one[0] <= up_to]
        self.set = [one for one in self.set if one[0] > up_to]
        for _, call in due:
            call()


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    made = Timers()

    def after(flight: Flight, seconds: float, call: Callable[[], None]) -> None:
        made.set.append((seconds, lambda: None if flight.landed else call()))

    monkeypatch.setattr(Flight, "after", after)
    return made


def ask(map: Map, key: str = "k", told: list[Any] | None = None, **about: Any) -> Answer | None:
    """The map's answer at once; or None, and `told` gets it later."""
    return map.ask(map.query(key, **about), (told if told is not None else []).append)


def outcomes(told: list[Answer]) -> list[Any]:
    return [answer.outcome for answer in told]


def replace(map: Map, *steps: Any, **generation: Any) -> Generation:
    """Give the map another chain; the old generation."""
    return map.replace(a_map(*steps, clock=FakeClock(), generation=generation).current)


# The chain's answer and the cache.


async def test_when_every_step_misses_the_key_is_not_found() -> None:
    answer = ask(a_map(inline(), clock=FakeClock()))
    assert answer is not None
    assert (answer.outcome, answer.resolver, answer.expires) == (NotFound(), "", 0.0)


@pytest.mark.parametrize("make", [inline, waiting])
async def test_a_second_lookup_is_answered_by_the_cache(make: Any) -> None:
    clock = FakeClock()
    step = make(Found("x"), name="source")
    map = a_map(step, clock=clock, cache=CACHE)
    assert await map.lookup(map.query("k")) == Found("x", 300)
    clock.now += 100
    answer = ask(map)
    assert answer is not None
    assert (answer.outcome, answer.resolver) == (Found("x", 200), "cache")
    assert step.resolver.keys == ["k"]


@pytest.mark.parametrize("make", [inline, waiting])
async def test_without_a_cache_every_lookup_walks_the_chain(make: Any) -> None:
    step = make(Found("x"))
    map = a_map(step, clock=FakeClock())
    for _ in range(3):
        assert await map.lookup(map.query("k")) == Found("x")
    assert len(step.resolver.keys) == 3
    assert map.ready_sizes == (0, 0)


@pytest.mark.parametrize(("folded", "asked"), [(True, ["Joe"]), (False, ["Joe", "JOE", "joe"])])
async def test_the_cache_goes_by_the_folded_key_when_every_step_is_folded(
    folded: bool, asked: list[str]
) -> None:
    step = inline(Found("x"))
    map = a_map(step, clock=FakeClock(), cache=CACHE, generation={"folded": folded})
    for key in ("Joe", "JOE", "joe", "Joe"):
        ask(map, key)
    assert step.resolver.keys == asked


async def test_the_cache_goes_by_the_attributes_that_the_chain_reads_and_no_others() -> None:
    step = inline(lambda query: Found(query.attributes.get("sender", "") or "none"))
    map = a_map(step, clock=FakeClock(), cache=CACHE, generation={"attributes": ("sender", "sasl_username")})
    seen = [
        ask(map, attributes=attributes).outcome.value  # type: ignore[union-attr]
        for attributes in (
            {"sender": "a", "size": "1"},
            {"sender": "a", "size": "2"},
            {"sender": "b", "size": "1"},
            {"size": "1"},
            {"sender": ""},
            {"sender": "a", "sasl_username": "u"},
        )
    ]
    assert seen == ["a", "a", "b", "none", "none", "a"]
    assert len(step.resolver.keys) == 4
    assert map.ready_sizes == (0, 0)


@pytest.mark.parametrize("make", [inline, waiting])
async def test_a_map_that_may_read_any_attribute_is_not_cached_and_shares_no_lookup(make: Any) -> None:
    step = make(Found("x"))
    map = a_map(step, clock=FakeClock(), cache=CACHE, generation={"attributes": None})
    assert await asyncio.gather(*(map.lookup(map.query("k")) for _ in range(3))) == [Found("x")] * 3
    assert len(step.resolver.keys) == 3
    assert map.current.flights == {}


# Single flight.


async def test_a_hundred_callers_of_one_cold_key_are_one_lookup() -> None:
    step = waiting(Found("x"))
    step.resolver.gate.clear()
    map = a_map(step, clock=FakeClock(), cache=CACHE)
    told: list[Answer] = []
    assert [ask(map, "K" if each % 2 else "k", told) for each in range(100)] == [None] * 100
    await turns()
    assert told == []
    step.resolver.gate.set()
    await turns()
    assert outcomes(told) == [Found("x", 300)] * 100
    assert len(step.resolver.queries) == 1
    assert map.current.flights == {}


async def test_lookups_are_shared_without_a_cache_too() -> None:
    step = waiting(Found("x"))
    map = a_map(step, clock=FakeClock())
    told: list[Answer] = []
    ask(map, told=told)
    ask(map, told=told)
    await turns()
    assert (outcomes(told), len(step.resolver.queries)) == ([Found("x")] * 2, 1)


async def test_the_first_caller_hanging_up_hurts_nobody() -> None:
    step = waiting(Found("x"))
    step.resolver.gate.clear()
    map = a_map(step, clock=FakeClock(), cache=CACHE)
    leader = asyncio.ensure_future(map.lookup(map.query("k")))
    await turns()
    follower = asyncio.ensure_future(map.lookup(map.query("k")))
    await turns()
    leader.cancel()
    await turns()
    step.resolver.gate.set()
    assert await follower == Found("x", 300)
    assert leader.cancelled()
    assert len(step.resolver.queries) == 1


async def test_a_failure_of_the_shared_lookup_is_told_to_everybody() -> None:
    step = waiting(ValueError("bug"))
    map = a_map(step, clock=FakeClock(), cache=CACHE)
    told: list[Answer] = []
    for _ in range(3):
        ask(map, told=told)
    await turns()
    assert [type(outcome) for outcome in outcomes(told)] == [TempFail] * 3
    assert [answer.expires for answer in told] == [0.0] * 3


async def test_an_answer_that_cannot_be_delivered_keeps_nobody_else_from_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    map = a_map(waiting(Found("x")), clock=FakeClock(), cache=CACHE)
    told: list[Answer] = []

    def broken(answer: Answer) -> None:
        raise ConnectionResetError("gone")

    map.ask(map.query("k"), broken)
    ask(map, told=told)
    await turns()
    assert outcomes(told) == [Found("x", 300)]
    assert "could not be delivered" in caplog.text


async def test_answers_are_never_told_from_within_the_question() -> None:
    map = a_map(waiting(Found("x")), clock=FakeClock())
    told: list[Answer] = []
    assert ask(map, told=told) is None
    assert told == []
    await turns()
    assert len(told) == 1


class Stubborn(SaysLater):
    """Hangs, and does not let itself be cancelled until the test ends."""

    def __init__(self) -> None:
        super().__init__()
        self.over = asyncio.Event()

    async def resolve(self, query: Query) -> Any:
        while not self.over.is_set():
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                continue
        return Found("too late")


async def test_a_resolver_that_ignores_its_cancellation_does_not_silence_the_map(
    timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn = Stubborn()
    map = a_map(waiting(stubborn), clock=FakeClock(), cache=CACHE, deadline=5.0)
    told: list[Answer] = []
    ask(map, told=told)
    await turns()
    assert [seconds for seconds, _ in timers.set] == [5.25]
    timers.fire(5.25)
    assert outcomes(told) == [TempFail("timed out")]
    assert "ignored its deadline" in caplog.text
    assert map.current.flights == {}
    stubborn.over.set()
    await turns()
    assert len(told) == 1
    assert ask(map, told=told).outcome == TempFail("timed out", 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("attributes", [(), None], ids=["shared", "not shared"])
async def test_stopping_tells_whoever_waits(begun: bool, attributes: Any) -> None:
    map = a_map(waiting(Hangs()), clock=FakeClock(), cache=CACHE, generation={"attributes": attributes})
    told: list[Answer] = []
    ask(map, told=told)
    if begun:
        await turns()
    await map.stop()
    assert outcomes(told) == [TempFail("shutting down")]
    assert map.current.flights == {}


async def test_stopping_does_not_wait_for_a_lookup_that_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpmapkit.flight.OVERDUE", 0.01)
    stubborn = Stubborn()
    map = a_map(waiting(stubborn), clock=FakeClock())
    told: list[Answer] = []
    ask(map, told=told)
    await turns()
    await asyncio.wait_for(map.stop(), 5)
    assert outcomes(told) == [TempFail("shutting down")]
    stubborn.over.set()
    await turns()


# Failures and stale answers.


@pytest.mark.parametrize("make", [inline, waiting])
async def test_a_failure_is_remembered_for_a_moment(make: Any) -> None:
    clock = FakeClock()
    step = make(DOWN)
    map = a_map(step, clock=clock, cache=CACHE)
    await map.lookup(map.query("k"))
    assert await map.lookup(map.query("k")) == TempFail("down", 2)
    assert len(step.resolver.queries) == 1
    clock.now += 2
    await map.lookup(map.query("k"))
    assert len(step.resolver.queries) == 2


@pytest.mark.parametrize("make", [inline, waiting])
async def test_while_the_chain_fails_an_expired_answer_is_served_counted_and_logged(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    step = make(Found("x"))
    map = a_map(step, clock=clock, cache=STALE)
    await map.lookup(map.query("k"))
    step.resolver.answer = DOWN
    clock.now += 300
    assert [await map.lookup(map.query("k")) for _ in range(3)] == [Found("x", 0)] * 3
    assert len(step.resolver.queries) == 2  # the failure is remembered
    assert map.counters.stale == 3
    lines = [line.getMessage() for line in caplog.records if line.name == "tcpmapkit.map.test"]
    assert lines == ["map test: the chain fails, and a stale answer is served"]
    step.resolver.answer = NotFound()
    clock.now += 2
    assert await map.lookup(map.query("k")) == NotFound(30)
    step.resolver.answer = DOWN
    clock.now += 30
    assert type(await map.lookup(map.query("k"))) is TempFail


async def test_a_slow_lookup_is_waited_for_a_moment_and_then_goes_on_behind_a_stale_answer(
    timers: Timers,
) -> None:
    clock = FakeClock()
    step = waiting(Found("old"))
    map = a_map(step, clock=clock, cache=CacheOptions(jitter=0.0, stale=3600, stale_wait=0.5))
    await map.lookup(map.query("k"))
    clock.now += 300
    step.resolver.answer = Found("new")
    step.resolver.gate.clear()
    told: list[Answer] = []
    assert [ask(map, told=told), ask(map, told=told)] == [None, None]
    await turns()
    assert told == []
    timers.fire(0.5)
    assert outcomes(told) == [Found("old", 0)] * 2
    assert [(answer.stale, answer.expires) for answer in told] == [(True, 0.0)] * 2
    at_once = ask(map)  # while it goes on, nobody else waits
    assert at_once is not None
    assert at_once.outcome == Found("old", 0)
    step.resolver.gate.set()
    await turns()
    assert len(told) == 2
    assert ask(map).outcome == Found("new", 300)  # type: ignore[union-attr]
    assert len(step.resolver.queries) == 2
    assert map.counters.stale == 3


async def test_a_lookup_that_is_quick_enough_needs_no_stale_answer(timers: Timers) -> None:
    clock = FakeClock()
    step = waiting(Found("old"))
    map = a_map(step, clock=clock, cache=STALE)
    await map.lookup(map.query("k"))
    clock.now += 300
    step.resolver.answer = Found("new")
    assert await map.lookup(map.query("k")) == Found("new", 300)
    timers.fire(100)
    assert map.counters.stale == 0


async def test_a_lookup_without_a_stale_answer_behind_it_waits_to_its_end(timers: Timers) -> None:
    step = waiting(Hangs())
    map = a_map(step, clock=FakeClock(), cache=STALE)
    told: list[Answer] = []
    ask(map, told=told)
    await turns()
    assert [seconds for seconds, _ in timers.set] == [5.25]
    await map.stop()


async def test_a_map_of_steps_that_cannot_wait_arms_no_timer(timers: Timers) -> None:
    map = a_map(inline(), inline(Found("x")), clock=FakeClock(), cache=STALE)
    ask(map)
    in_front = a_map(inline(Found("x")), waiting(), clock=FakeClock(), cache=STALE)
    assert ask(in_front) is not None
    assert timers.set == []


async def test_the_timers_of_a_lookup_are_gone_when_it_has_landed() -> None:
    map = a_map(waiting(Found("x")), clock=FakeClock(), cache=CACHE)
    ask(map)
    flight = next(iter(map.current.flights.values()))
    timer = flight._timers[0]
    await turns()
    assert timer.cancelled()


# Refreshing ahead.


async def test_a_hot_entry_is_renewed_in_the_background_shortly_before_it_expires() -> None:
    clock = FakeClock()
    step = waiting(Found("old"))
    map = a_map(step, clock=clock, cache=CacheOptions(jitter=0.0, refresh_ahead=True))
    await map.lookup(map.query("k"))
    step.resolver.answer = Found("new")
    clock.now += 280
    assert [ask(map).outcome for _ in range(3)] == [Found("old", 20)] * 3  # type: ignore[union-attr]
    await turns()
    assert ask(map).outcome == Found("new", 300)  # type: ignore[union-attr]
    assert len(step.resolver.queries) == 2


async def test_a_renewal_that_fails_is_not_tried_again_at_once_and_not_called_stale(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    step = waiting(Found("old"))
    map = a_map(step, clock=clock, cache=CacheOptions(jitter=0.0, refresh_ahead=True, stale=3600))
    await map.lookup(map.query("k"))
    step.resolver.answer = DOWN
    clock.now += 280
    for _ in range(5):
        assert ask(map).outcome == Found("old", 20)  # type: ignore[union-attr]
        await turns()
    assert len(step.resolver.queries) == 2
    assert map.counters.stale == 0
    assert not [line for line in caplog.records if line.name == "tcpmapkit.map.test"]


async def test_an_entry_that_nobody_asks_for_is_not_renewed() -> None:
    clock = FakeClock()
    step = waiting(Found("x"))
    map = a_map(step, clock=clock, cache=CacheOptions(jitter=0.0, refresh_ahead=True))
    await map.lookup(map.query("k"))
    clock.now += 299
    await turns()
    assert len(step.resolver.queries) == 1


# Generations.


async def test_a_lookup_under_way_keeps_its_chain_its_answer_is_not_stored_and_nobody_joins_it() -> None:
    old, new = waiting(Found("old")), waiting(Found("new"))
    old.resolver.gate.clear()
    map = a_map(old, inline(Found("never")), clock=FakeClock(), cache=CACHE)
    early: list[Answer] = []
    late: list[Answer] = []
    ask(map, told=early)
    await turns()
    replace(map, new)
    ask(map, told=late)
    await turns()
    assert (outcomes(early), outcomes(late)) == ([], [Found("new", 300)])
    old.resolver.gate.set()
    await turns()
    assert outcomes(early) == [Found("old")]
    assert early[0].expires == 0.0
    assert ask(map).outcome == Found("new", 300)  # type: ignore[union-attr]
    assert (len(old.resolver.queries), len(new.resolver.queries)) == (1, 1)


@pytest.mark.parametrize("outcome", [Found("old"), NotFound(), DOWN])
async def test_what_another_generation_answered_does_not_exist(outcome: Any) -> None:
    map = a_map(inline(outcome), clock=FakeClock(), cache=STALE)
    ask(map)
    before = map.generation
    replace(map, inline(Found("new")))
    assert map.generation > before
    assert ask(map).outcome == Found("new", 300)  # type: ignore[union-attr]


async def test_a_stale_answer_of_another_generation_is_not_served() -> None:
    clock = FakeClock()
    map = a_map(inline(Found("old")), clock=clock, cache=STALE)
    ask(map)
    clock.now += 300
    replace(map, inline(DOWN))
    assert ask(map).outcome == DOWN  # type: ignore[union-attr]


async def test_lookups_of_a_former_generation_can_be_ended() -> None:
    map = a_map(waiting(Hangs()), clock=FakeClock(), cache=CACHE)
    told: list[Answer] = []
    ask(map, told=told)
    old = replace(map, inline(Found("new")))
    assert (len(old.flights), len(map.current.flights)) == (1, 0)
    await map.stop()
    assert outcomes(told) == [TempFail("shutting down")]


async def test_lookups_of_a_former_generation_can_be_waited_for() -> None:
    step = waiting(Hangs())
    map = a_map(step, clock=FakeClock(), cache=CACHE)
    told: list[Answer] = []
    ask(map, told=told)
    replace(map, inline(Found("new")))
    finishing = asyncio.ensure_future(map.finish())
    await asyncio.sleep(0)
    assert not finishing.done()
    step.resolver.gate.set()
    await asyncio.wait_for(finishing, 5)
    assert len(told) == 1


# Forgetting.


@pytest.mark.parametrize(("key", "forgotten"), [("A", 1), ("other", 0), (None, 2)])
async def test_what_is_forgotten_is_asked_again(key: str | None, forgotten: int) -> None:
    step = inline(Found("v"))
    map = a_map(step, clock=FakeClock(), cache=CACHE)
    for asked in ("a", "b"):
        ask(map, asked)
    assert map.forget(key) == forgotten
    for asked in ("a", "b"):
        ask(map, asked)
    assert len(step.resolver.queries) == 2 + forgotten


@pytest.mark.parametrize("key", ["k", None])
async def test_a_lookup_that_is_under_way_when_its_key_is_forgotten_is_not_remembered(
    key: str | None,
) -> None:
    step = waiting(Hangs())
    map = a_map(step, clock=FakeClock(), cache=CACHE)
    told: list[Answer] = []
    ask(map, told=told)
    map.forget(key)
    ask(map, told=told)  # does not join the one before
    step.resolver.gate.set()
    await asyncio.wait_for(map.finish(), 5)
    assert len(step.resolver.queries) == 2
    assert len(told) == 2


async def test_all_entries_are_freed_piece_by_piece() -> None:
    map = a_map(inline(Found("v")), clock=FakeClock(), cache=CACHE)
    for number in range(2000):
        ask(map, str(number))
    cache = map._cache
    assert cache is not None
    assert len(list(cache.drain())) == 4
    assert cache.count == (0, 0)


# Ready replies.


def reply(answer: Answer) -> bytes:
    return repr(answer.outcome).encode()


class Listener:
    """Asks a map as a listener does, ready replies first."""

    def __init__(self, map: Map, clock: FakeClock) -> None:
        self.map = map
        self.ready = ReadyReplies([map], clock)

    def get(self, key: str) -> str:
        raw = key.encode()
        known = self.ready.find(raw)
        if known is not None:
            return "ready"
        answer = self.map.ask(self.map.query(key), lambda answer: None)
        assert answer is not None
        self.ready.keep(self.map.name, raw, reply(answer), answer)
        return answer.resolver or "chain"


@pytest.mark.parametrize(("outcome", "lasts"), [(Found("x"), 300), (NotFound(), 30)])
def test_a_ready_reply_lasts_as_long_as_the_answer_behind_it(outcome: Any, lasts: float) -> None:
    clock = FakeClock()
    listener = Listener(a_map(inline(outcome, name="source"), clock=clock, cache=CACHE), clock)
    assert [listener.get("K"), listener.get("K"), listener.get("k")] == ["source", "ready", "cache"]
    clock.now += lasts - 1
    assert [listener.get("K"), listener.get("k")] == ["ready", "ready"]
    clock.now += 1
    assert listener.get("K") == "source"


def test_failures_and_stale_answers_are_never_kept_ready() -> None:
    clock = FakeClock()
    step = inline(Found("x"), name="source")
    listener = Listener(a_map(step, clock=clock, cache=STALE), clock)
    listener.get("k")
    step.resolver.answer = DOWN
    clock.now += 300
    assert [listener.get("k"), listener.get("k"), listener.get("other"), listener.get("other")] == [
        "cache",
        "cache",
        "source",
        "cache",
    ]


def test_without_a_cache_nothing_is_kept_ready() -> None:
    clock = FakeClock()
    for generation in ({}, {"in_memory": True}):
        listener = Listener(
            a_map(inline(Found("x"), name="source"), clock=clock, generation=generation), clock
        )
        assert [listener.get("k"), listener.get("k")] == ["source", "source"]


@pytest.mark.parametrize("outcome", [Found("x"), Found("x", 5), NotFound(), NotFound(5)])
def test_a_map_in_memory_has_no_outcome_cache_only_ready_replies_which_do_not_expire(outcome: Any) -> None:
    clock = FakeClock()
    step = inline(outcome, name="table")
    map = a_map(step, clock=clock, cache=CACHE, generation={"in_memory": True})
    listener = Listener(map, clock)
    assert [listener.get("k"), listener.get("k"), listener.get("K")] == ["table", "ready", "table"]
    clock.now += 1e9
    assert listener.get("k") == "ready"
    assert map._cache is not None
    assert map._cache.count == (0, 0)
    replace(map, inline(Found("new"), name="new table"), in_memory=True)
    assert [listener.get("k"), listener.get("k")] == ["new table", "ready"]


def test_a_failure_of_a_map_in_memory_is_neither_remembered_nor_kept_ready() -> None:
    clock = FakeClock()
    step = inline(DOWN, name="table")
    listener = Listener(a_map(step, clock=clock, cache=CACHE, generation={"in_memory": True}), clock)
    assert [listener.get("k"), listener.get("k")] == ["table", "table"]
    step.resolver.answer = Found("x")
    assert [listener.get("k"), listener.get("k")] == ["table", "ready"]


def test_an_answer_of_an_older_generation_is_not_kept_ready() -> None:
    clock = FakeClock()
    map = a_map(inline(Found("old")), clock=clock, cache=CACHE)
    listener = Listener(map, clock)
    answer = ask(map)
    replace(map, inline(Found("new"), name="new"))
    assert answer is not None
    listener.ready.keep(map.name, b"k", b"old", answer)
    assert listener.get("k") == "new"


def test_a_reply_used_only_ready_keeps_its_entry_from_being_evicted() -> None:
    clock = FakeClock()
    step = inline(Found("x"), name="source")
    map = a_map(step, clock=clock, cache=CacheOptions(jitter=0.0, max_size=5000))
    listener = Listener(map, clock)
    listener.get("hot")
    for each in range(40):
        assert listener.get("hot") == "ready"
        map.ask(map.query(f"cold{each}"), lambda answer: None)
    assert map.ask(map.query("HOT"), lambda answer: None).resolver == "cache"  # type: ignore[union-attr]
    assert map.ask(map.query("cold0"), lambda answer: None).resolver == "source"  # type: ignore[union-attr]


def test_refresh_ahead_sees_requests_that_ready_replies_would_have_hidden() -> None:
    clock = FakeClock()
    map = a_map(
        inline(Found("x"), name="source"), clock=clock, cache=CacheOptions(jitter=0.0, refresh_ahead=True)
    )
    listener = Listener(map, clock)
    listener.get("k")
    clock.now += 269
    assert listener.get("k") == "ready"
    clock.now += 1
    assert [listener.get("k"), listener.get("k")] == ["cache", "cache"]


# Observers.


@pytest.mark.parametrize("make", [inline, waiting])
async def test_observers_see_every_lookup_hits_included_and_switch_the_ready_replies_off(make: Any) -> None:
    clock = FakeClock()
    seen: list[tuple[str, Any, str, float]] = []

    def observe(query: Query, outcome: Any, resolver: str, elapsed: float) -> None:
        seen.append((query.key, outcome, resolver, elapsed))

    def takes_a_second(query: Query) -> Any:
        clock.now += 1
        return Found("x") if query.key == "K" else None

    map = a_map(make(takes_a_second, name="source"), clock=clock, cache=CACHE, observer=observe)
    assert map.ready_sizes == (0, 0)
    told: list[Answer] = []
    for key in ("K", "k", "none", "none"):
        answer = ask(map, key, told)
        await turns()
        assert (answer or told[-1]).expires == 0.0
    assert seen == [
        ("K", Found("x", 300), "source", 1.0),
        ("k", Found("x", 300), "cache", 0.0),
        ("none", NotFound(30), "", 1.0),
        ("none", NotFound(30), "cache", 0.0),
    ]


async def test_everybody_who_shares_a_lookup_is_observed() -> None:
    seen: list[str] = []
    map = a_map(
        waiting(Found("x")),
        clock=FakeClock(),
        observer=lambda query, outcome, resolver, elapsed: seen.append(query.key),
    )
    for key in ("k", "K"):
        ask(map, key)
    await turns()
    assert seen == ["k", "K"]


# A dictionary attack.


class Empty:
    """A table without entries, which remembers nobody who asked."""

    def resolve(self, query: Query) -> None: ...


def in_mixed_case(number: int) -> Iterator[str]:
    chance = random.Random(1)
    for each in range(number):
        key = f"guess{each // 2}@example.org"
        yield key if chance.random() < 0.5 else key.upper()


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_dictionary_attack_evicts_nobody_and_stays_within_the_sizes_with_bounded_work(
    in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    users = {f"user{each}@example.org": Found(f"user{each}") for each in range(200)}
    step = inline(lambda query: users.get(query.key.lower()), name="table")
    size = 1 << 18
    options = CacheOptions(max_size=1 << 20, negative_max_size=size)
    map = a_map(step, clock=clock, cache=options, generation={"in_memory": in_memory})
    listener = Listener(map, clock)
    for user in users:
        listener.get(user)

    evicted = 0
    real = Store.popitem

    def popitem(store: Store) -> Any:
        nonlocal evicted
        evicted += 1
        return real(store)

    monkeypatch.setattr(Store, "popitem", popitem)
    most = 0
    for key in in_mixed_case(1_000_000):
        before, ready = evicted, len(listener.ready)
        listener.get(key)
        most = max(most, evicted - before, ready - len(listener.ready))
    assert most <= 2  # entries dropped by one call
    assert listener.ready.size <= options.max_size + size
    assert map._cache is not None
    assert map._cache.size[1] <= size
    assert {listener.get(user) for user in users} == {"ready"}
    if not in_memory:
        assert evicted > 400_000
        assert map._cache.count[0] == 200
        assert {listener.get(user.upper()) for user in users} == {"cache"}


def test_the_memory_of_an_attack_is_what_the_sizes_say() -> None:
    clock = FakeClock()
    size = 1 << 18
    map = a_map(inline(Empty()), clock=clock, cache=CacheOptions(max_size=size, negative_max_size=size))
    listener = Listener(map, clock)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in in_mixed_case(10_000):
            listener.get(key)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= 2 * size * 1.25

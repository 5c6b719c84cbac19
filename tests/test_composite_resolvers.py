"""chain, pipe, union and map: resolvers made of steps, which pass the query on as it came."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tcpmapkit import ConfigError, Found, Miss, NotFound, PermFail, TempFail
from tcpmapkit.cache import CacheOptions
from tcpmapkit.chain import compile_chain
from tcpmapkit.keys import fold
from tcpmapkit.map_reference import InlineMap, WaitingMap, refer_to
from tcpmapkit.query import Query
from tcpmapkit.resolvers.chain import chain
from tcpmapkit.resolvers.map import map_
from tcpmapkit.resolvers.pipe import pipe
from tcpmapkit.resolvers.union import union
from tcpmapkit.step import Step
from tcpmapkit.testing import FakeClock
from tests.chains import Hangs, SaysLater, a_map, inline, question, turns, waiting, walk

DOWN, AWAY = TempFail("down"), PermFail("away")
JITTERLESS = CacheOptions(jitter=0.0)

kinds = pytest.mark.parametrize(
    "kinds",
    [(inline,), (waiting,), (inline, waiting), (waiting, inline)],
    ids=["inline", "waiting", "mixed", "mixed-2"],
)
Kinds = tuple[Callable[..., Step], ...]


def members(kinds: Kinds, answers: list[Any]) -> tuple[Any, ...]:
    """Chains of one step each, as the core makes them of an option with several chains."""
    made = []
    for number, answer in enumerate(answers):
        answer, options = answer if isinstance(answer, tuple) else (answer, {})
        made.append(compile_chain([kinds[number % len(kinds)](answer, **options)]))
    return tuple(made)


async def ask(resolver: Any, query: Query | None = None) -> Any:
    """As the one step of a chain."""
    waits = getattr(resolver, "can_wait", None)
    if waits is None:
        waits = "Waiting" in type(resolver).__name__
    return await walk([(waiting if waits else inline)(resolver)], query)


def adds(text: str, ttl: float | None = None) -> Callable[[Query], Found]:
    return lambda query: Found(query.key + text, ttl)


@kinds
@pytest.mark.parametrize(
    ("answers", "outcome", "asked"),
    [
        ([adds("1"), adds("2"), adds("3")], Found("k123"), 3),
        ([adds("1")], Found("k1"), 1),
        ([adds("1", 9), adds("2", 5), adds("3", 7)], Found("k123", 5), 3),
        ([adds("1"), adds("2", 5)], Found("k12", 5), 2),
        ([adds("1"), None, adds("3")], Miss(), 2),
        ([adds("1", 5), None], Miss(5), 2),
        ([adds("1", 5), Miss(3)], Miss(3), 2),
        ([Miss(3), adds("2")], Miss(3), 1),
        ([adds("1", 5), NotFound(9), adds("3")], NotFound(5), 2),
        ([adds("1", 5), DOWN, adds("3")], DOWN, 2),
        ([AWAY, adds("2")], AWAY, 1),
        ([adds("1"), (DOWN, {"on_error": "next"})], DOWN, 2),
        ([adds("1"), (DOWN, {"on_error": "ignore"})], Miss(), 2),
        ([Found.joined(["a", "b"], ","), adds("!")], Found("a,b!"), 2),
    ],
)
async def test_in_a_pipe_each_answer_is_the_next_key(
    kinds: Kinds, answers: list[Any], outcome: object, asked: int
) -> None:
    made = members(kinds, answers)
    assert await ask(pipe(made), question("k")) == outcome
    assert sum(len(one.steps[0].resolver.keys) for one in made) == asked


@kinds
@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([Found("a"), Found("b")], Found.joined(["a", "b"], ",")),
        ([Found("a"), Found("a")], Found("a")),
        ([Found("a"), Found("b"), Found("a")], Found.joined(["a", "b"], ",")),
        ([Found.joined(["a", "b"], "; "), Found.joined(["b", "c"], " ")], Found.joined(["a", "b", "c"], ",")),
        ([None, Found("b")], Found("b")),
        ([NotFound(), Found("b")], Found("b")),
        ([None, None], Miss()),
        ([Miss(4), Miss(3)], Miss(3)),
        ([Found("a", 9), Miss(3), Found("b", 5)], Found.joined(["a", "b"], ",", 3)),
        ([Found("a", 9), NotFound(3)], Found("a", 3)),
        ([Found("a"), DOWN], DOWN),
        ([DOWN, Found("b")], DOWN),
        ([None, AWAY], AWAY),
        ([Found("a"), (DOWN, {"on_error": "next"})], DOWN),
        ([Found("a"), (DOWN, {"on_error": "ignore"})], Found("a")),
    ],
)
async def test_a_union_joins_all_answers_once_and_fails_with_a_member(
    kinds: Kinds, answers: list[Any], outcome: Any
) -> None:
    answer = await ask(union(members(kinds, answers)))
    assert answer == outcome


async def test_a_union_joins_with_its_own_separator() -> None:
    made = members((inline,), [Found.joined(["a", "b"], ","), Found("c")])
    assert await ask(union(made, "; ")) == Found.joined(["a", "b", "c"], "; ")


@pytest.mark.parametrize("separator", ["\n", "a\rb", "\0"])
def test_a_union_refuses_a_separator_that_no_reply_can_carry(separator: str) -> None:
    with pytest.raises(ConfigError) as raised:
        union(members((inline,), [Found("a")]), separator)
    assert raised.value.path == ("separator",)


@kinds
async def test_a_group_answers_as_its_chain_does(kinds: Kinds) -> None:
    first = kinds[0](DOWN, on_error="next")
    second = kinds[-1](Found("b", 5))
    assert await ask(chain(compile_chain([first, second]))) == Found("b", 5)
    assert await ask(chain(compile_chain([first]))) == DOWN


@kinds
@pytest.mark.parametrize("composite", [lambda made: chain(made[0]), pipe, union])
async def test_an_inner_step_folds_and_misses_by_its_own_type(
    kinds: Kinds, composite: Callable[[Any], Any]
) -> None:
    own = {"fold": fold, "special_keys": False, "partial_keys": False}
    made = members(kinds, [(Found("x"), own)])
    resolver = made[0].steps[0].resolver
    assert await ask(composite(made), question("A@Example.org")) == Found("x")
    assert await ask(composite(made), question("*")) == Miss()
    assert await ask(composite(made), question("a@example.org", partial=True)) == Miss()
    assert resolver.keys == ["a@example.org"]


@pytest.mark.parametrize("composite", [pipe, union])
@pytest.mark.parametrize(
    ("kinds", "waits"), [((inline,), False), ((waiting,), True), ((inline, waiting), True)]
)
def test_a_composite_can_wait_when_a_member_can(
    kinds: Kinds, waits: bool, composite: Callable[[Any], Any]
) -> None:
    made = composite(members(kinds, [None, None]))
    assert inspect.iscoroutinefunction(made.resolve) is waits


async def test_a_pipe_that_missed_does_not_leave_the_name_of_a_member() -> None:
    query = question()
    assert await walk([inline(pipe(members((inline,), [Found("a"), None])))], query) == Miss()
    assert query.answered_by == ""


# Another map as a step.


@kinds
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Found("x", 7), Found("x", 7)),
        (NotFound(7), Miss(7)),
        (Miss(7), Miss(7)),
        (None, Miss(30)),
        (Found("x"), Found("x", 300)),
        (Found("x", 9999), Found("x", 300)),
        (DOWN, DOWN),
        (AWAY, AWAY),
    ],
)
async def test_a_map_step_gives_the_other_maps_outcome_and_the_time_it_has(
    kinds: Kinds, answer: Any, outcome: object
) -> None:
    other = a_map(kinds[0](answer), clock=FakeClock(), cache=JITTERLESS)
    assert await ask(map_(refer_to(other))) == outcome


@kinds
async def test_a_map_step_passes_on_the_time_its_answer_has_left(kinds: Kinds) -> None:
    clock = FakeClock()
    step = kinds[0](Found("x", 100))
    other = refer_to(a_map(step, clock=clock, cache=JITTERLESS))
    assert await ask(other, question(clock=clock)) == Found("x", 100)
    clock.now += 60
    assert await ask(other, question(clock=clock)) == Found("x", 40)
    assert len(step.resolver.keys) == 1


@kinds
async def test_an_answer_that_the_other_map_serves_stale_has_no_time_left(kinds: Kinds) -> None:
    clock = FakeClock()
    step = kinds[0](Found("x"))
    inner = a_map(step, clock=clock, cache=CacheOptions(jitter=0.0, stale=3600))
    outer_step = (waiting if kinds[0] is waiting else inline)(refer_to(inner))
    outer = a_map(outer_step, clock=clock, cache=JITTERLESS)

    async def answer() -> Any:
        return await ask(refer_to(outer), question(clock=clock))

    assert await answer() == Found("x", 300)
    clock.now += 301
    step.resolver.answer = DOWN
    assert [await answer(), await answer()] == [Found("x", 0)] * 2
    step.resolver.answer = Found("y")
    clock.now += 3  # more than error_ttl
    assert await answer() == Found("y", 300)


def test_a_map_is_referred_to_as_waiting_when_its_chain_is() -> None:
    assert type(refer_to(a_map(inline(), clock=FakeClock()))) is InlineMap
    assert type(refer_to(a_map(waiting(), clock=FakeClock()))) is WaitingMap


@kinds
@pytest.mark.parametrize(("attributes", "allowed"), [((), [5.0, 5.0]), (None, [2.0, 5.0])])
async def test_a_lookup_in_another_map_that_others_may_share_has_that_maps_own_time(
    kinds: Kinds, attributes: Any, allowed: list[float]
) -> None:
    clock = FakeClock()
    step = kinds[0](Found("x"))
    other = refer_to(a_map(step, clock=clock, deadline=5.0, generation={"attributes": attributes}))
    await ask(other, question(time_left=2.0, clock=clock))
    await ask(other, question(time_left=90.0, clock=clock))
    assert [query.time_left() for query in step.resolver.queries] == allowed


async def test_somebody_in_a_hurry_spoils_nobody_elses_answer() -> None:
    clock = FakeClock()
    slow = SaysLater(Found("x"))
    slow.gate.clear()
    other = a_map(waiting(slow), clock=clock, deadline=5.0, cache=JITTERLESS)
    hurried = a_map(
        waiting(refer_to(other), timeout=0.01, on_error="next"), inline(Found("fallback")), clock=clock
    )
    assert await hurried.lookup(hurried.query("k")) == Found("fallback")
    patient = asyncio.ensure_future(other.lookup(other.query("k")))
    await turns()
    assert not patient.done()
    slow.gate.set()
    assert await patient == Found("x", 300)
    assert await hurried.lookup(hurried.query("k")) == Found("x", 300)
    assert len(slow.keys) == 1


@kinds
async def test_a_map_step_hands_on_protocol_attributes_partial_mark_and_trace(kinds: Kinds) -> None:
    step = kinds[0](Found("x"), partial_keys=True)
    other = refer_to(a_map(step, clock=FakeClock(), name="other"))
    trace: list[Any] = []
    await ask(other, question(protocol="policy", attributes={"sender": "s"}, partial=True, trace=trace))
    asked = step.resolver.queries[0]
    assert (asked.map, asked.protocol, asked.attributes, asked.partial) == (
        "other",
        "policy",
        {"sender": "s"},
        True,
    )
    assert [one.step for one in trace] == [step.name, "waiting" if kinds[0] is waiting else "inline"]


async def test_a_caller_that_goes_away_does_not_end_the_other_maps_lookup() -> None:
    step = waiting(Hangs())
    other = a_map(step, clock=FakeClock(), cache=JITTERLESS)
    caller = asyncio.ensure_future(ask(refer_to(other)))
    while not step.resolver.queries:
        await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    step.resolver.answer = Found("x")
    step.resolver.gate.set()
    await turns()
    assert await ask(refer_to(other)) == Found("x", 300)
    assert len(step.resolver.keys) == 1

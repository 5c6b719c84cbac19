"""The chain: the operator's order, what ends it, what its answer's TTL is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tcpmapkit import Found, LookupTempFail, Miss, NotFound, PermFail, TempFail
from tcpmapkit.chain import InlineChain, WaitingChain, compile_chain
from tcpmapkit.plugins import order_steps
from tcpmapkit.step import Step
from tcpmapkit.step_failures import INTERNAL_ERROR
from tcpmapkit.testing import FakeClock
from tests.chains import Hangs, inline, question, waiting, walk

DOWN, AWAY = TempFail("down"), PermFail("away")

# Each table below runs with steps that answer at once, with steps that wait, and with both in turn.
kinds = pytest.mark.parametrize(
    "kinds",
    [(inline,), (waiting,), (inline, waiting), (waiting, inline)],
    ids=["inline", "waiting", "mixed", "mixed-2"],
)
Kinds = tuple[Callable[..., Step], ...]


def steps(kinds: Kinds, *answers: Any) -> list[Step]:
    """Steps named 0, 1, 2... for answers, or pairs of an answer and the step's options."""
    made = []
    for number, answer in enumerate(answers):
        answer, options = answer if isinstance(answer, tuple) else (answer, {})
        made.append(kinds[number % len(kinds)](answer, name=str(number), **options))
    return made


NEXT, IGNORE, AUTHORITY = {"on_error": "next"}, {"on_error": "ignore"}, {"authoritative": True}


@kinds
@pytest.mark.parametrize(
    ("answers", "outcome", "asked"),
    [
        # The first outcome wins.
        ([Found("a"), Found("b")], Found("a"), 1),
        ([None, Found("b"), Found("c")], Found("b"), 2),
        ([NotFound(), Found("b")], NotFound(), 1),
        ([None, NotFound(), Found("c")], NotFound(), 2),
        ([None, None], Miss(), 2),
        ([], Miss(), 0),
        ([(None, AUTHORITY), Found("b")], NotFound(), 1),
        ([(Found("a"), AUTHORITY), Found("b")], Found("a"), 1),
        # A failure ends the chain...
        ([DOWN, Found("b")], DOWN, 1),
        ([AWAY, Found("b")], AWAY, 1),
        ([LookupTempFail("down"), Found("b")], DOWN, 1),
        ([ValueError(), Found("b")], INTERNAL_ERROR, 1),
        (["rubbish", Found("b")], INTERNAL_ERROR, 1),
        ([None, DOWN, Found("c")], DOWN, 2),
        # ...unless the step says "next": then only Found counts.
        ([(DOWN, NEXT), Found("b")], Found("b"), 2),
        ([(DOWN, NEXT), None], DOWN, 2),
        ([(DOWN, NEXT), NotFound()], DOWN, 2),
        ([(DOWN, NEXT), (None, AUTHORITY)], DOWN, 2),
        ([(DOWN, NEXT), NotFound(), Found("c")], Found("c"), 3),
        ([(DOWN, NEXT), (None, AUTHORITY), Found("c")], Found("c"), 3),
        ([(DOWN, NEXT), (AWAY, NEXT), Found("c")], Found("c"), 3),
        ([(DOWN, NEXT), (AWAY, NEXT), None], DOWN, 3),
        ([(DOWN, NEXT), AWAY, Found("c")], DOWN, 2),
        ([(DOWN, NEXT)], DOWN, 1),
        ([(DOWN, {**NEXT, **AUTHORITY}), None], DOWN, 2),
        ([("rubbish", NEXT), Found("b")], Found("b"), 2),
        # "ignore" makes its failure a miss.
        ([(DOWN, IGNORE), Found("b")], Found("b"), 2),
        ([(DOWN, IGNORE), None], Miss(), 2),
        ([(DOWN, IGNORE), NotFound()], NotFound(), 2),
        ([(DOWN, {**IGNORE, **AUTHORITY}), Found("b")], Found("b"), 2),
        ([(DOWN, NEXT), (AWAY, IGNORE), None], DOWN, 3),
        ([(ValueError(), IGNORE), None], Miss(), 2),
    ],
)
async def test_the_first_outcome_wins_and_an_outage_never_becomes_not_found(
    kinds: Kinds, answers: list[Any], outcome: object, asked: int
) -> None:
    made = steps(kinds, *answers)
    assert await walk(made) == outcome
    assert sum(len(step.resolver.keys) for step in made) == asked


@kinds
@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([Found("a", 9), Found("b", 1)], Found("a", 9)),
        ([Miss(5), Found("b", 9)], Found("b", 5)),
        ([Miss(9), Found("b", 5)], Found("b", 5)),
        ([Miss(5), Found("b")], Found("b", 5)),
        ([None, Found("b", 5)], Found("b", 5)),
        ([Miss(0), Found("b", 5)], Found("b", 0)),
        ([Miss(7), Miss(3), None], Miss(3)),
        ([Miss(3), NotFound(7)], NotFound(3)),
        ([Miss(3), NotFound()], NotFound(3)),
        ([(Miss(3), AUTHORITY)], NotFound(3)),
        ([(DOWN, NEXT), NotFound(4), Found("c", 9)], Found("c", 4)),
        ([(TempFail("down", 1), NEXT), Found("b", 9)], Found("b", 9)),
        ([Miss(3), DOWN], DOWN),
        ([Miss(3), Found.joined(["a", "b"], ";", 9)], Found.joined(["a", "b"], ";", 3)),
    ],
)
async def test_the_ttl_is_the_smallest_that_a_step_asked_gave_misses_included(
    kinds: Kinds, answers: list[Any], outcome: object
) -> None:
    assert await walk(steps(kinds, *answers)) == outcome


@kinds
async def test_a_step_that_is_not_asked_has_no_ttl_and_no_say(kinds: Kinds) -> None:
    made = steps(kinds, (Found("a", 1), {"special_keys": False, "authoritative": True}), Found("b", 9))
    assert await walk(made, question("*")) == Found("b", 9)


@kinds
@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ([None, Found("b")], "1"),
        ([None, NotFound()], "1"),
        ([None, DOWN], "1"),
        ([(DOWN, NEXT), None], "0"),
        ([(DOWN, NEXT), AWAY], "0"),
        ([(DOWN, NEXT), Found("b")], "1"),
        ([(DOWN, IGNORE), None], ""),
        ([None, None], ""),
    ],
)
async def test_the_query_says_which_step_answered(kinds: Kinds, answers: list[Any], name: str) -> None:
    query = question()
    await walk(steps(kinds, *answers), query)
    assert query.answered_by == name


async def test_a_group_that_missed_does_not_leave_the_name_of_an_inner_step() -> None:
    group = compile_chain([inline(DOWN, name="inner", on_error="next"), inline()])
    query = question()
    assert await walk([inline(group, name="group", on_error="ignore"), inline()], query) == Miss()
    assert query.answered_by == ""


@pytest.mark.parametrize("registered", [["a", "b", "c"], ["c", "a", "b"]])
def test_steps_are_asked_in_the_order_of_the_toml_file_though_pluggy_calls_the_last_first(
    registered: list[str],
) -> None:
    ordered = order_steps([inline(name=name) for name in registered], registered)
    assert [step.name for step in ordered] == registered


def test_a_chain_knows_whether_it_can_wait_once_it_is_compiled() -> None:
    assert type(compile_chain([inline(), inline()])) is InlineChain
    assert type(compile_chain([inline(), waiting()])) is WaitingChain
    assert [compile_chain(steps).can_wait for steps in ([], [inline()], [waiting()])] == [False, False, True]


def test_the_steps_in_front_that_cannot_wait_are_asked_without_an_event_loop() -> None:
    chain = compile_chain([inline(), inline(Found("b")), waiting(Found("c"))])
    assert isinstance(chain, WaitingChain)
    assert chain.begin(question()) == Found("b")
    beyond = compile_chain([inline(), waiting(Found("c"))])
    assert isinstance(beyond, WaitingChain)
    assert callable(beyond.begin(question()))


async def test_steps_in_front_are_asked_once_though_the_rest_waits() -> None:
    made = [inline(), waiting(), inline(Found("c"))]
    assert await walk(made) == Found("c")
    assert [len(step.resolver.keys) for step in made] == [1, 1, 1]


async def test_an_async_decliner_does_not_end_the_chain() -> None:
    assert await walk([waiting(None), inline(Found("b"))]) == Found("b")


async def test_a_first_step_that_never_answers_does_not_starve_its_fallback() -> None:
    hung = waiting(Hangs(), on_error="next")
    fallback = waiting(Found("b"))
    assert await walk([hung, fallback], question(time_left=0.04)) == Found("b")
    assert hung.resolver.queries[0].time_left() == pytest.approx(0.02)


async def test_steps_that_cannot_wait_are_asked_after_the_deadline_and_others_are_not() -> None:
    clock = FakeClock()

    def until_the_deadline_has_passed(query: object) -> None:
        clock.now += 9

    late, last = waiting(Found("late"), on_error="next"), inline(Found("from memory"))
    made = [waiting(until_the_deadline_has_passed), late, last]
    assert await walk(made, question(clock=clock)) == Found("from memory")
    assert late.resolver.keys == []


async def test_each_next_step_gets_half_of_what_is_left() -> None:
    made = [waiting(DOWN, on_error="next"), waiting(DOWN, on_error="next"), waiting(Found("c"))]
    clock = FakeClock()

    def spends(query: Any) -> TempFail:
        clock.now += query.time_left()
        return DOWN

    for step in made[:2]:
        step.resolver.answer = spends
    given: list[float] = []
    made[2].resolver.answer = lambda query: given.append(query.time_left()) or Found("c")
    assert await walk(made, question(time_left=8.0, clock=clock)) == Found("c")
    assert given == [2.0]


async def test_cancelling_a_walk_asks_no_further_step() -> None:
    hung, fallback = waiting(Hangs(), on_error="next"), inline(Found("b"))
    task = asyncio.ensure_future(walk([hung, fallback]))
    while not hung.resolver.queries:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fallback.resolver.keys == []

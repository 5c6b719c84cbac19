"""The circuit breaker: when it opens, whom it lets through, when it closes; and the step that has one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from typing import Any

import pytest

from tcpmapkit import Found, LookupPermFail, LookupTempFail, NotFound, PermFail, TempFail
from tcpmapkit.breaker import THRESHOLD, Breaker
from tcpmapkit.chain import compile_chain
from tcpmapkit.step import WaitingStep
from tcpmapkit.step_failures import BUSY, NO_VALUE, NOT_ASKED
from tcpmapkit.template import KEY_VARIABLES, Template
from tcpmapkit.testing import FakeClock, step
from tcpmapkit.testing.building import build_steps
from tcpmapkit.threads import SmallPool
from tests.chains import Says, SaysLater, question, turns, waiting, walk

# What happens, one letter each: f a failure, a an answer, ? a lookup that asks to be let through
# (the next of the expected ones), + a second, . a tenth of one.
OPEN = "f" * THRESHOLD


@pytest.mark.parametrize(
    ("events", "admitted", "state"),
    [
        ("", "", "closed"),
        ("?", "y", "closed"),
        ("f" * (THRESHOLD - 1) + "?", "y", "closed"),
        (OPEN + "?", "n", "open"),
        ("f" * (THRESHOLD - 1) + "a" + "f" * (THRESHOLD - 1) + "?", "y", "closed"),
        ("fa" * 100 + "?", "y", "closed"),
        # One each second, however many ask.
        (OPEN + ".???" + "+???" + "+???", "nnnynnynn", "open"),
        (OPEN + "+++++???", "ynn", "open"),
        # Nobody has to come back: one that hangs, or was cancelled, is followed by another.
        (OPEN + "+?" + ".........?" + ".?", "yny", "open"),
        # A probe that fails leaves it open, and what was under way when it opened changes nothing.
        (OPEN + "+?f" + ".?" + "+?", "yny", "open"),
        (OPEN + "fffff" + ".?" + "+?", "ny", "open"),
        # The first answer closes it, also one to a lookup that began before.
        (OPEN + "+?a??", "yyy", "closed"),
        (OPEN + "a??", "yy", "closed"),
        # Then it takes as many as the first time.
        (OPEN + "a" + "f" * (THRESHOLD - 1) + "?", "y", "closed"),
        (OPEN + "a" + OPEN + "?", "n", "open"),
        # A long night: hours without a lookup are no matter.
        (OPEN + "+" * 40_000 + "??", "yn", "open"),
    ],
)
def test_a_breaker_lets_through_all_or_one_each_second(events: str, admitted: str, state: str) -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    seen = ""
    for event in events:
        if event == "f":
            breaker.failed()
        elif event == "a":
            breaker.answered()
        elif event == "?":
            seen += "y" if breaker.admits() else "n"
        else:
            clock.advance({"+": 1.0, ".": 0.1}[event])
    assert (seen, breaker.state) == (admitted, state)


def test_a_breaker_says_once_that_it_opens_and_since_when() -> None:
    clock = FakeClock(7.0)
    breaker = Breaker(clock)
    assert [breaker.failed() for _ in range(THRESHOLD + 5)] == [False] * (THRESHOLD - 1) + [True] + [
        False
    ] * 5
    assert breaker.opened_at == 7.0
    clock.advance(3.0)
    breaker.failed()
    assert breaker.opened_at == 7.0
    breaker.answered()
    assert breaker.opened_at is None


# The step that has one.


def failing(breaker: Breaker, **options: Any) -> tuple[WaitingStep, SaysLater]:
    """A step whose breaker has just opened, and its resolver, which answers from now on."""
    source = SaysLater(Found("x"))
    for _ in range(THRESHOLD):
        breaker.failed()
    return waiting(source, breaker=breaker, **options), source


@pytest.mark.parametrize(
    "failure", [TempFail("down"), LookupTempFail("down"), TimeoutError(), OSError("a bug"), "rubbish"]
)
async def test_a_source_that_only_fails_is_asked_once_a_second_until_it_answers(failure: Any) -> None:
    clock = FakeClock()
    source = SaysLater(failure)
    step = waiting(source, breaker=Breaker(clock))
    for _ in range(THRESHOLD):
        assert isinstance(await step.resolve(question(clock=clock)), TempFail)
    assert len(source.keys) == THRESHOLD
    for _ in range(3):
        for _ in range(100):
            assert await step.resolve(question(clock=clock)) == NOT_ASKED
        clock.advance(1.0)
        assert await step.resolve(question(clock=clock)) != NOT_ASKED
    assert len(source.keys) == THRESHOLD + 3
    source.answer = Found("x")
    clock.advance(1.0)
    assert [await step.resolve(question(clock=clock)) for _ in range(5)] == [Found("x")] * 5
    assert step.counters.failures["breaker"] == 300


@pytest.mark.parametrize("answer", [Found("x"), None, NotFound(), PermFail("no"), LookupPermFail("no")])
async def test_whatever_else_a_source_says_shows_that_it_is_there(answer: Any) -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    step, source = failing(breaker)
    source.answer = answer
    clock.advance(1.0)
    await step.resolve(question(clock=clock))
    assert (breaker.state, breaker.failures) == ("closed", 0)


@pytest.mark.parametrize(
    ("on_error", "outcome"), [("fail", NOT_ASKED), ("next", Found("fallback")), ("ignore", Found("fallback"))]
)
async def test_what_is_not_asked_fails_as_the_source_would(on_error: Any, outcome: object) -> None:
    clock = FakeClock()
    step, source = failing(Breaker(clock), on_error=on_error)
    assert await walk([step, waiting(Found("fallback"))], question(clock=clock)) == outcome
    assert source.keys == []


async def test_an_outage_that_is_not_asked_about_never_becomes_not_found() -> None:
    clock = FakeClock()
    step, _ = failing(Breaker(clock), on_error="next", authoritative=True)
    assert await walk([step, waiting(NotFound())], question(clock=clock)) == NOT_ASKED


async def test_a_lookup_let_through_that_hangs_or_is_cancelled_keeps_no_other_from_it() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    step, source = failing(breaker)
    source.gate.clear()
    hanging = []
    for _ in range(4):
        clock.advance(1.0)
        hanging.append(asyncio.create_task(step.resolve(question(clock=clock))))
        await turns()
        assert await step.resolve(question(clock=clock)) == NOT_ASKED
        hanging[0].cancel()
    await asyncio.wait(hanging[:1])
    assert hanging[0].cancelled()
    assert (len(source.queries), breaker.state) == (4, "open")
    source.gate.set()
    assert await asyncio.gather(*hanging[1:]) == [Found("x")] * 3
    assert breaker.state == "closed"


async def test_threads_that_are_all_taken_are_no_failure_of_the_source() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    release = threading.Event()
    pool = SmallPool("test", size=1)
    step = waiting(Says(lambda query: release.wait(10) and None), pool=pool, breaker=breaker)
    first = asyncio.create_task(step.resolve(question(clock=clock)))
    await turns(2)
    try:
        for _ in range(2 * THRESHOLD):
            assert await step.resolve(question(clock=clock)) == BUSY
        assert breaker.failures == 0
    finally:
        release.set()
        await first
        pool.close()


async def test_a_key_whose_result_is_no_value_opens_nothing() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    result = Template.compile("{local} {value}", (*KEY_VARIABLES, "value"))
    step = waiting(Found("x"), breaker=breaker, result=result)
    for _ in range(2 * THRESHOLD):
        assert await step.resolve(question("a\nb@example.org", clock=clock)) == NO_VALUE
    assert breaker.failures == 0


def test_a_step_that_waits_has_a_breaker_unless_it_says_no_and_a_group_leaves_it_to_its_members() -> None:
    inner = 'type = "http"\nurl = "http://127.0.0.1/{key}"'
    data = {
        "plain": inner,
        "off": f"{inner}\nbreaker = false",
        "inline": 'type = "static"\nvalue = "x"\nbreaker = true',
        "group": 'type = "chain"\nresolvers = [{ type = "http", name = "member", url = "http://[::1]/" }]',
    }
    built = build_steps([step(f'name = "{name}"\n{text}') for name, text in data.items()])
    breakers = {one.step.name: getattr(one.step, "breaker", None) is not None for one in built.steps}
    assert breakers == {"plain": True, "off": False, "inline": False, "member": True, "group": False}


# What is logged.


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records]


async def test_an_outage_has_one_line_when_it_begins_one_when_it_lasts_and_one_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    source = SaysLater(Found("x"))
    step = waiting(source, name="api", breaker=Breaker(clock))
    await step.resolve(question(clock=clock))
    source.answer = TempFail("HTTP status 500", detail="tired")
    for _ in range(600):
        await step.resolve(question(clock=clock))
        clock.advance(0.1)
    source.answer = Found("x")
    clock.advance(1.0)
    for _ in range(5):
        await step.resolve(question(clock=clock))
    assert lines(caplog) == [
        "api is failing: HTTP status 500: tired",
        "api has failed 20 times in a row: it is asked once a second until it answers;"
        " the last was: HTTP status 500: tired",
        "api has recovered after 61.0 s; failed lookups: 600",
    ]
    assert {line.levelno for line in caplog.records} == {logging.WARNING}


async def test_a_source_that_fails_now_and_then_has_two_lines_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    answers = itertools.cycle([TempFail("odd"), Found("x")])
    step = waiting(SaysLater(lambda query: next(answers)), name="api", breaker=Breaker(clock))
    for _ in range(180):
        await step.resolve(question(clock=clock))
        clock.advance(1.0)
    assert lines(caplog) == [
        "api is failing: odd",
        "api has recovered after 1.0 s; failed lookups: 1",
        "api is failing: odd (and 29 more since the last such line)",
        "api has recovered after 1.0 s; failed lookups: 1",
        "api is failing: odd (and 29 more since the last such line)",
        "api has recovered after 1.0 s; failed lookups: 1",
    ]


async def test_an_outage_soon_after_another_is_told_when_it_has_lasted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    source = SaysLater(TempFail("down"))
    step = waiting(source, name="api")
    await step.resolve(question(clock=clock))
    source.answer = None
    await step.resolve(question(clock=clock))
    source.answer = TempFail("down again")
    for _ in range(100):
        clock.advance(1.0)
        await step.resolve(question(clock=clock))
    assert lines(caplog)[2:] == ["api is failing: down again (and 59 more since the last such line)"]


async def test_the_failures_of_a_group_are_logged_where_they_come_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    member = waiting(TempFail("down"), name="member")
    chain = compile_chain([member])
    step = waiting(SaysLater(), name="group", leaf=False)
    step.resolver.resolve = chain.resolve
    assert await step.resolve(question(clock=clock)) == TempFail("down")
    assert lines(caplog) == ["member is failing: down"]


async def test_a_permanent_failure_is_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    step = waiting(PermFail("HTTP status 403"), name="api", breaker=Breaker(clock))
    for _ in range(90):
        await step.resolve(question(clock=clock))
        clock.advance(1.0)
    assert lines(caplog) == [
        "api: a lookup failed: HTTP status 403",
        "api: a lookup failed: HTTP status 403 (and 59 more since the last such line)",
    ]

"""Steps: what a resolver is asked, for how long, and what its answer means."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tcpmapkit import Found, LookupPermFail, LookupTempFail, Miss, NotFound, PermFail, TempFail
from tcpmapkit.keys import fold
from tcpmapkit.query import Query
from tcpmapkit.step import SLOW_CALL, Step, WaitingStep
from tcpmapkit.step_answer import NotAsked
from tcpmapkit.step_failures import INTERNAL_ERROR, NO_VALUE
from tcpmapkit.template import KEY_VARIABLES, Template
from tcpmapkit.testing import FakeClock
from tcpmapkit.threads import SmallPool
from tests.chains import Hangs, Says, SaysLater, inline, question, waiting

MakeStep = Callable[..., Step]

both_kinds = pytest.mark.parametrize("make", [inline, waiting])


async def ask(step: Step, query: Query | None = None) -> Any:
    query = query or question()
    answer: Any = step.resolve(query)  # type: ignore[attr-defined]
    return await answer if isinstance(step, WaitingStep) else answer


def key_template(text: str) -> Template:
    return Template.compile(text)


def result_template(text: str) -> Template:
    return Template.compile(text, (*KEY_VARIABLES, "value"))


# What is asked.


@both_kinds
@pytest.mark.parametrize(
    ("options", "key", "asked"),
    [
        ({}, "Joe@Example.org", "Joe@Example.org"),
        ({"fold": fold}, "Joe@Example.org", "joe@example.org"),
        ({"fold": fold}, "JÖ@example.org", "jö@example.org"),
        ({"key": key_template("{domain}")}, "Joe@Example.org", "Example.org"),
        ({"fold": fold, "key": key_template("{domain}")}, "Joe@Example.org", "example.org"),
        ({"key": key_template("{user}@{domain}")}, "joe+x@example.org", "joe@example.org"),
        ({"key": key_template("fixed")}, "anything", "fixed"),
        ({"key": key_template("fixed"), "special_keys": False}, "anything", "fixed"),
        ({"domains": frozenset({"example.org"})}, "joe@Example.ORG", "joe@Example.ORG"),
        ({"domains": frozenset({".example.org"})}, "joe@a.example.org", "joe@a.example.org"),
        ({"domains": frozenset({".example.org"})}, "joe@a.b.example.org", "joe@a.b.example.org"),
        ({"domains": frozenset({"example.org"}), "bare_is_domain": True}, "example.org", "example.org"),
        ({"domains": frozenset({"example.org"}), "bare_is_domain": True}, ".example.org", ".example.org"),
        # Judged on the query's key, before the key template.
        ({"domains": frozenset({"example.org"}), "key": key_template("{user}")}, "joe@example.org", "joe"),
        ({"special_keys": True}, "*", "*"),
        ({"special_keys": True}, "", ""),
    ],
)
async def test_a_resolver_is_asked_what_its_step_makes_of_the_key(
    make: MakeStep, options: dict[str, Any], key: str, asked: str
) -> None:
    step = make(Found("x"), **options)
    assert await ask(step, question(key)) == Found("x")
    assert step.resolver.keys == [asked]


@both_kinds
@pytest.mark.parametrize("authoritative", [False, True])
@pytest.mark.parametrize(
    ("options", "key", "partial"),
    [
        ({"special_keys": False}, "*", False),
        ({"special_keys": False}, "<>", False),
        ({"special_keys": False}, '""', False),
        ({"special_keys": False}, "", False),
        ({"special_keys": False, "key": key_template("fixed")}, "*", False),
        ({"partial_keys": False}, "joe@example.org", True),
        ({"domains": frozenset({"example.org"})}, "joe@example.net", False),
        ({"domains": frozenset({"example.org"})}, "joe@a.example.org", False),
        ({"domains": frozenset({"example.org"})}, "joe@notexample.org", False),
        ({"domains": frozenset({".example.org"})}, "joe@example.org", False),
        ({"domains": frozenset({".example.org"})}, "joe@xexample.org", False),
        ({"domains": frozenset({"example.org"})}, "example.org", False),
        ({"domains": frozenset({"example.org"})}, "", False),
        (
            {"domains": frozenset({"example.net"}), "key": key_template("a@example.net")},
            "a@example.org",
            False,
        ),
    ],
)
async def test_a_query_that_is_not_for_a_step_says_nothing_even_of_an_authoritative_one(
    make: MakeStep, options: dict[str, Any], key: str, partial: bool, authoritative: bool
) -> None:
    step = make(Found("x"), authoritative=authoritative, **options)
    assert type(await ask(step, question(key, partial=partial))) is NotAsked
    assert step.resolver.keys == []


@both_kinds
@pytest.mark.parametrize(("authoritative", "answer"), [(False, Miss()), (True, NotFound())])
async def test_a_key_template_without_one_of_its_parts_is_a_miss(
    make: MakeStep, authoritative: bool, answer: object
) -> None:
    step = make(Found("x"), key=key_template("{extension}"), authoritative=authoritative)
    assert await ask(step) == answer
    assert step.resolver.keys == []


@both_kinds
@pytest.mark.parametrize(("folds", "asked"), [(fold, "x-joe@example.org"), (None, "X-Joe@Example.ORG")])
async def test_what_a_key_template_makes_is_folded_for_a_folded_type(
    make: MakeStep, folds: Any, asked: str
) -> None:
    step = make(Found("x"), fold=folds, key=key_template("X-{sender}"))
    await ask(step, question("key", attributes={"sender": "Joe@Example.ORG"}))
    assert step.resolver.keys == [asked]


@both_kinds
async def test_a_partial_mark_is_passed_on(make: MakeStep) -> None:
    step = make(Found("x"), fold=fold, key=key_template("{domain}"))
    await ask(step, question("A@example.org", partial=True))
    assert step.resolver.queries[0].partial


# What the answer means.


@both_kinds
@pytest.mark.parametrize(
    ("answer", "options", "outcome"),
    [
        (Found("a", 7), {}, Found("a", 7)),
        (NotFound(7), {}, NotFound(7)),
        (None, {}, Miss()),
        (Miss(7), {}, Miss(7)),
        (None, {"authoritative": True}, NotFound()),
        (Miss(7), {"authoritative": True}, NotFound(7)),
        (TempFail("down", 9), {}, TempFail("down", 9)),
        (PermFail("bad"), {}, PermFail("bad")),
        (LookupTempFail("down", 9), {}, TempFail("down", 9)),
        (LookupPermFail("bad"), {}, PermFail("bad")),
        (TimeoutError(), {}, TempFail("timed out")),
        (TempFail("down"), {"on_error": "next"}, TempFail("down")),
        (TempFail("down"), {"on_error": "ignore"}, Miss()),
        (LookupPermFail("bad"), {"on_error": "ignore"}, Miss()),
        (ValueError("bug"), {"on_error": "ignore"}, Miss()),
        # An outage is no authority's "not found".
        (TempFail("down"), {"on_error": "ignore", "authoritative": True}, Miss()),
        (TempFail("down"), {"authoritative": True}, TempFail("down")),
        (ValueError("secret text"), {}, INTERNAL_ERROR),
        (RecursionError(), {}, INTERNAL_ERROR),
        (MemoryError(), {}, INTERNAL_ERROR),
        (asyncio.CancelledError(), {}, INTERNAL_ERROR),
        (SystemExit(1), {}, INTERNAL_ERROR),
        (StopIteration(), {}, INTERNAL_ERROR),
    ],
)
async def test_failures_count_the_same_returned_as_raised(
    make: MakeStep, answer: object, options: dict[str, Any], outcome: object
) -> None:
    assert await ask(make(answer, **options)) == outcome


@both_kinds
@pytest.mark.parametrize(
    "rubbish",
    [
        "text",
        b"x",
        True,
        False,
        0,
        (),
        ("x",),
        {},
        object(),
        Found,
        ValueError,
        NotAsked("no resolver says so"),
    ],
)
async def test_anything_else_is_a_bug_of_the_resolver_logged_by_name(
    make: MakeStep, rubbish: object, caplog: pytest.LogCaptureFixture
) -> None:
    step = make(lambda query: rubbish, name="odd")
    assert await ask(step) == INTERNAL_ERROR
    assert "odd answered" in caplog.text
    assert step.counters.failed == 1


async def test_a_coroutine_from_a_resolver_that_said_it_answers_at_once_is_rubbish() -> None:
    async def forgot_to_await() -> None: ...

    coroutine = forgot_to_await()
    assert await ask(inline(lambda query: coroutine)) == INTERNAL_ERROR
    coroutine.close()


@both_kinds
async def test_a_lookup_failure_with_an_odd_reason_and_time_is_still_a_failure(make: MakeStep) -> None:
    answer = await ask(make(LookupTempFail(OSError("gone"), ttl="soon")))  # type: ignore[arg-type]
    assert answer == TempFail("gone")


@both_kinds
@pytest.mark.parametrize(
    ("result", "found", "outcome"),
    [
        ("{value}@example.net", Found("a", 7), Found("a@example.net", 7)),
        ("{local}@{value}", Found("example.net"), Found("Joe@example.net")),
        ("<{value}>", Found.joined(["a", "b"], "; ", 5), Found.joined(["<a>", "<b>"], "; ", 5)),
        ("same", Found.joined(["a", "b"], ",", 5), Found("same", 5)),
        ("{extension}", Found("a", 7), Miss(7)),
    ],
)
async def test_the_result_template_is_applied_to_each_value(
    make: MakeStep, result: str, found: Found, outcome: object
) -> None:
    assert await ask(make(found, result=result_template(result)), question("Joe@Example.org")) == outcome


@both_kinds
async def test_a_result_template_sees_the_folded_key_and_not_what_the_key_template_made_of_it(
    make: MakeStep,
) -> None:
    step = make(
        Found("example.net"),
        fold=fold,
        key=key_template("{domain}"),
        result=result_template("{local}@{value}"),
    )
    assert await ask(step, question("Joe@Example.org")) == Found("joe@example.net")
    assert step.resolver.keys == ["example.org"]


@both_kinds
async def test_a_result_without_one_of_its_parts_is_a_miss_of_the_step(make: MakeStep) -> None:
    step = make(Found("x", 3), result=result_template("{extension}"), authoritative=True)
    assert await ask(step) == NotFound(3)


@both_kinds
async def test_a_result_that_no_reply_can_carry_is_this_lookups_failure_and_nobodys_bug(
    make: MakeStep, caplog: pytest.LogCaptureFixture
) -> None:
    step = make(Found("x"), result=result_template("{local} {value}"))
    for _ in range(30):
        assert await ask(step, question("a\nb@example.org")) == NO_VALUE
    assert await ask(step) == Found("joe x")
    assert [(line.levelname, line.getMessage(), line.exc_info) for line in caplog.records] == [
        ("WARNING", f"{step.name}: a lookup failed: the result is no value for Postfix", None)
    ]


@both_kinds
async def test_what_was_asked_is_traced_with_its_time(make: MakeStep) -> None:
    clock = FakeClock()
    trace: list[Any] = []

    def slow(query: Query) -> Found:
        clock.now += 0.5
        return Found("x")

    query = question("A@example.org", clock=clock, trace=trace)
    await ask(make(slow, name="first", fold=fold), query)
    await ask(make(slow, name="second", special_keys=False), query.with_key("*"))
    outcomes = [one.outcome.why if isinstance(one.outcome, NotAsked) else one.outcome for one in trace]
    assert [
        (one.step, one.key, outcome, one.elapsed) for one, outcome in zip(trace, outcomes, strict=True)
    ] == [
        ("first", "a@example.org", Found("x"), 0.5),
        ("second", "*", "special key", 0.0),
    ]


# What is logged.


@both_kinds
async def test_a_traceback_is_logged_once_a_minute_for_each_step_and_exception_type(
    make: MakeStep, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    errors = iter(
        [ValueError("a"), ValueError("b"), KeyError("c"), ValueError("d"), ValueError("e"), ValueError("f")]
    )

    def fails(query: Query) -> None:
        raise next(errors)

    first = make(fails, name="first")
    for later in (0, 1, 1, 1, 58, 1):
        clock.now += later
        await ask(first, question(clock=clock))
    await ask(make(ValueError("x"), name="second"), question(clock=clock))
    lines = [(record.getMessage(), record.exc_info is not None) for record in caplog.records]
    assert lines == [
        ("first raised ValueError", True),
        ("first raised KeyError", True),
        ("first raised ValueError (and 2 more since the last such line)", True),
        ("second raised ValueError", True),
    ]
    assert first.counters.failed == 6


@both_kinds
@pytest.mark.parametrize(
    "answer", [LookupTempFail("x"), LookupPermFail("x"), TempFail("x"), TimeoutError(), None]
)
async def test_what_a_resolver_means_to_say_is_not_logged_as_a_bug(
    make: MakeStep, answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(make(answer))
    assert not [line for line in caplog.records if line.levelno > logging.WARNING or line.exc_info]


async def test_a_slow_inline_call_is_counted_and_logged_once_a_minute_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()

    def takes(seconds: float) -> Callable[[Query], None]:
        def resolve(query: Query) -> None:
            clock.now += seconds

        return resolve

    step = inline(takes(0.03), name="sluggish")
    for _ in range(3):
        await ask(step, question(clock=clock))
    clock.now += 60
    await ask(step, question(clock=clock))
    quick = inline(takes(SLOW_CALL / 2))
    await ask(quick, question(clock=clock))
    assert (step.counters.slow_calls, quick.counters.slow_calls) == (4, 0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "sluggish" in caplog.text
    assert "2 more" in caplog.messages[1]


# Time.


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The time-outs that are armed, in seconds."""
    armed: list[float | None] = []
    real = asyncio.timeout

    def timeout(delay: float | None) -> asyncio.Timeout:
        armed.append(delay)
        return real(delay)

    monkeypatch.setattr(asyncio, "timeout", timeout)
    return armed


@pytest.mark.parametrize(
    ("options", "left", "armed"),
    [
        ({}, 4.0, 4.0),
        ({"timeout": 1.0}, 4.0, 1.0),
        ({"timeout": 9.0}, 4.0, 4.0),
        ({"on_error": "next"}, 4.0, 2.0),
        ({"on_error": "ignore"}, 4.0, 2.0),
        ({"on_error": "next", "timeout": 3.0}, 4.0, 3.0),
        ({"on_error": "fail"}, 4.0, 4.0),
        ({}, float("inf"), None),
    ],
)
async def test_a_step_that_can_wait_gets_its_share_of_the_time_left(
    options: dict[str, Any], left: float, armed: float | None, timers: list[float | None]
) -> None:
    step = waiting(Found("x"), **options)
    assert await ask(step, question(time_left=left)) == Found("x")
    assert timers == [armed]
    assert step.resolver.queries[0].time_left() == (armed if armed is not None else float("inf"))


async def test_a_step_that_cannot_wait_is_asked_without_a_timer_and_when_its_time_has_passed(
    timers: list[float | None],
) -> None:
    assert await ask(inline(Found("x")), question(time_left=-1.0)) == Found("x")
    assert timers == []


@pytest.mark.parametrize("left", [0.0, -1.0])
async def test_a_step_that_can_wait_is_not_asked_when_its_time_has_passed(
    left: float, timers: list[float | None]
) -> None:
    step = waiting(Found("x"))
    assert await ask(step, question(time_left=left)) == TempFail("timed out")
    assert (step.resolver.keys, timers) == ([], [])


async def test_a_step_that_can_wait_but_is_not_asked_arms_no_timer(timers: list[float | None]) -> None:
    await ask(waiting(special_keys=False), question("*"))
    await ask(waiting(key=key_template("{extension}")))
    assert timers == []


@pytest.mark.parametrize(
    ("on_error", "outcome"),
    [("fail", TempFail("timed out")), ("next", TempFail("timed out")), ("ignore", Miss())],
)
async def test_a_resolver_that_hangs_is_a_failure_when_its_time_is_over(
    on_error: str, outcome: object
) -> None:
    step = waiting(Hangs(), timeout=0.01, on_error=on_error)
    assert await ask(step) == outcome
    assert step.counters.failed == 1


async def test_a_resolver_that_swallows_its_cancellation_has_its_late_answer_taken() -> None:
    class Swallows:
        async def resolve(self, query: Query) -> Found:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return Found("late")
            raise AssertionError

    assert await ask(waiting(Swallows(), timeout=0.01)) == Found("late")


async def test_cancelling_a_lookup_passes_through_a_step() -> None:
    step = waiting(Hangs())
    task = asyncio.ensure_future(ask(step))
    while not step.resolver.queries:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert step.counters.failed == 0


async def test_a_cancelled_future_of_the_resolvers_own_does_not_cancel_the_lookup(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Awaits:
        async def resolve(self, query: Query) -> None:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    assert await ask(waiting(Awaits(), name="odd")) == INTERNAL_ERROR
    assert "odd raised CancelledError" in caplog.text


# Blocking resolvers.


async def test_a_blocking_resolver_answers_from_a_thread() -> None:
    pool = SmallPool("test")
    step = waiting(Says(lambda query: Found(threading.current_thread().name)), pool=pool)
    answer = await ask(step)
    assert answer.value.startswith("test-")
    pool.close()


async def test_a_blocking_step_fails_at_once_when_all_its_threads_are_busy() -> None:
    release = threading.Event()
    pool = SmallPool("test", size=2)
    step = waiting(Says(lambda query: release.wait(10) and None), pool=pool, timeout=0.01)
    try:
        assert [await ask(step) for _ in range(2)] == [TempFail("timed out")] * 2
        assert await ask(step) == TempFail("busy")
        assert len(step.resolver.keys) == 2
    finally:
        release.set()
        pool.close()


async def test_two_steps_of_equal_configuration_are_two_steps() -> None:
    one, other = inline(Says(Found("x"))), inline(Says(Found("x")))
    assert one != other
    assert len({one, other}) == 2
    assert SaysLater() != SaysLater()

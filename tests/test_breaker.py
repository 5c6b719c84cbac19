"""The circuit breaker: when it opens, whom it lets through, when it closes; and the step that has one."""

from __future__ import annotations

import pytest

from tcpmapkit.breaker import THRESHOLD, Breaker
from tcpmapkit.testing import FakeClock

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
    assert breaker.refused == admitted.count("n")


def test_a_breaker_says_once_that_it_opens_and_since_when() -> None:
    clock = FakeClock(7.0)
    breaker = Breaker(clock)
    assert [breaker.failed() for _ in range(THRESHOLD + 5)] == [False] * (THRESHOLD - 1) + [True] + [
        False
    ] * 5
    assert (breaker.opened_at, breaker.openings) == (7.0, 1)
    clock.advance(3.0)
    breaker.failed()
    assert breaker.opened_at == 7.0
    breaker.answered()
    assert breaker.opened_at is None

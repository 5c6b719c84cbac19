"""The cache: what is remembered, for how long, and what it may cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from tcpmapkit import Found, NotFound, PermFail, TempFail
from tcpmapkit.cache import Answer, AnswerCache, CacheOptions
from tcpmapkit.cache_store import Store
from tcpmapkit.testing import FakeClock

DOWN = TempFail("down")


def a_cache(clock: FakeClock | None = None, chance: float = 0.0, **options: Any) -> AnswerCache:
    options.setdefault("jitter", 0.0)
    return AnswerCache(CacheOptions(**options), clock or FakeClock(), lambda: chance)


def keep(cache: AnswerCache, key: Any, outcome: Any, generation: int = 1) -> Answer:
    return cache.keep(key, Answer(outcome, generation=generation))


def known(cache: AnswerCache, key: Any, generation: int = 1) -> Any:
    answer = cache.fresh(key, generation)
    return answer.outcome if answer is not None else None


@pytest.mark.parametrize(
    ("outcome", "options", "lasts"),
    [
        (Found("x"), {"ttl": 300}, 300),
        (Found("x", 60), {"ttl": 300}, 60),
        (Found("x", 9999), {"ttl": 300}, 300),
        (NotFound(), {"negative_ttl": 30}, 30),
        (NotFound(5), {"negative_ttl": 30}, 5),
        (NotFound(9999), {"negative_ttl": 30}, 30),
        (DOWN, {"error_ttl": 2}, 2),
        (PermFail("bad"), {"error_ttl": 2}, 2),
        # Retry-After: as the source said, at most a minute.
        (TempFail("down", 10), {"error_ttl": 2}, 10),
        (TempFail("down", 1), {"error_ttl": 2}, 1),
        (TempFail("down", 3600), {"error_ttl": 2}, 60),
        (DOWN, {"error_ttl": 300}, 300),
    ],
)
def test_an_outcome_holds_until_its_time_is_over_and_not_a_moment_longer(
    outcome: Any, options: dict[str, float], lasts: float
) -> None:
    clock = FakeClock()
    cache = a_cache(clock, **options)
    keep(cache, "k", outcome)
    clock.now += lasts - 0.25
    again = known(cache, "k")
    assert type(again) is type(outcome)
    assert again.ttl == 0.25
    clock.now += 0.25
    assert known(cache, "k") is None


@pytest.mark.parametrize(
    ("outcome", "options"),
    [
        (Found("x", 0), {}),
        (Found("x", -5), {}),
        (Found("x"), {"ttl": 0}),
        (NotFound(0), {}),
        (NotFound(), {"negative_ttl": 0}),
        (DOWN, {"error_ttl": 0}),
        (TempFail("down", 30), {"error_ttl": 0}),
        (PermFail("bad"), {"error_ttl": 0}),
        (TempFail("down", 0), {}),
        (Found("x" * 100_000), {"max_size": 10_000}),
        (TempFail("x" * 100_000), {"negative_max_size": 10_000}),
        (Found("x"), {"max_size": 1}),
        (NotFound(), {"negative_max_size": 1}),
    ],
)
def test_some_outcomes_are_never_remembered(outcome: Any, options: dict[str, Any]) -> None:
    cache = a_cache(**options)
    answer = keep(cache, "k", outcome)
    assert known(cache, "k") is None
    assert (cache.count, cache.size, answer.expires, answer.mark) == ((0, 0), (0, 0), 0.0, 0)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Found("x"), Found("x", 300)),
        (Found("x", 60), Found("x", 60)),
        (Found("x", 9999), Found("x", 300)),
        (Found("x", 0), Found("x", 0)),
        (Found.joined(["a", "b"], "; "), Found.joined(["a", "b"], "; ", 300)),
        (NotFound(), NotFound(30)),
        (DOWN, DOWN),
    ],
)
def test_the_first_to_ask_is_told_the_same_time_as_those_after(outcome: Any, told: Any) -> None:
    cache = a_cache()
    assert keep(cache, "k", outcome).outcome == told


def test_several_values_come_back_as_they_were() -> None:
    cache = a_cache()
    keep(cache, "k", Found.joined(["a", "b"], "; "))
    assert known(cache, "k") == Found("a; b", 300, values=("a", "b"), separator="; ")


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.999])
def test_jitter_only_ever_shortens(chance: float) -> None:
    clock = FakeClock()
    cache = a_cache(clock, chance, jitter=0.1)
    for outcome, whole in ((Found("x"), 300), (NotFound(), 30), (Found("x", 10), 10)):
        lasts = keep(cache, "k", outcome).expires - clock.now
        assert lasts == pytest.approx(whole * (1 - 0.1 * chance))
        assert lasts <= whole


def test_an_answer_replaces_the_one_of_the_other_kind() -> None:
    cache = a_cache()
    keep(cache, "k", Found("x"))
    keep(cache, "k", NotFound())
    assert (known(cache, "k"), cache.count) == (NotFound(30), (0, 1))
    keep(cache, "k", Found("y"))
    assert (known(cache, "k"), cache.count) == (Found("y", 300), (1, 0))


@pytest.mark.parametrize(("outcome", "lasts"), [(Found("x"), 300), (NotFound(), 30)])
def test_a_failure_never_replaces_an_answer(outcome: Any, lasts: float) -> None:
    clock = FakeClock()
    cache = a_cache(clock, error_ttl=1000)
    keep(cache, "k", outcome)
    keep(cache, "k", DOWN)
    clock.now += lasts - 1
    assert type(known(cache, "k")) is type(outcome)


def test_a_failure_is_remembered_once_the_answer_has_expired() -> None:
    clock = FakeClock()
    cache = a_cache(clock)
    keep(cache, "k", NotFound())
    clock.now += 30
    keep(cache, "k", DOWN)
    assert known(cache, "k") == TempFail("down", 2)


# Stale answers.


def test_an_expired_answer_is_served_while_the_chain_fails_and_has_no_time_left() -> None:
    clock = FakeClock()
    cache = a_cache(clock, stale=3600)
    keep(cache, "k", Found.joined(["a", "b"], ","))
    clock.now += 300
    assert known(cache, "k") is None  # the chain is asked first
    keep(cache, "k", DOWN)
    answer = cache.fresh("k", 1)
    assert answer is not None
    assert answer.outcome == Found.joined(["a", "b"], ",", 0)
    assert (answer.stale, answer.expires) == (True, 0.0)
    clock.now += 2
    assert known(cache, "k") is None  # and again when the failure is forgotten
    assert cache.stale("k", 1) is not None


def test_a_stale_answer_is_served_until_its_time_is_over() -> None:
    clock = FakeClock()
    cache = a_cache(clock, stale=3600, error_ttl=7200)
    keep(cache, "k", Found("x"))
    clock.now += 300
    keep(cache, "k", DOWN)
    clock.now += 3599
    assert known(cache, "k") == Found("x", 0)
    clock.now += 1
    assert type(known(cache, "k")) is TempFail
    assert cache.stale("k", 1) is None


def test_an_expired_not_found_is_never_served() -> None:
    clock = FakeClock()
    cache = a_cache(clock, stale=3600)
    keep(cache, "k", NotFound())
    clock.now += 30
    keep(cache, "k", DOWN)
    assert known(cache, "k") == TempFail("down", 2)
    assert cache.stale("k", 1) is None


def test_without_the_option_nothing_is_served_stale() -> None:
    clock = FakeClock()
    cache = a_cache(clock)
    keep(cache, "k", Found("x"))
    clock.now += 300
    keep(cache, "k", DOWN)
    assert cache.stale("k", 1) is None
    assert known(cache, "k") == TempFail("down", 2)


# Refreshing.


def test_an_entry_asks_to_be_renewed_shortly_before_it_expires() -> None:
    clock = FakeClock()
    cache = a_cache(clock, refresh_ahead=True)
    answer = keep(cache, "k", Found("x"))
    assert answer.expires == clock.now + 270  # so that its ready reply does not hide the time
    for later, due in ((0, False), (269, False), (1, True), (29, True)):
        clock.now += later
        again = cache.fresh("k", 1)
        assert again is not None
        assert (again.outcome.ttl, again.refresh) == (300 - (clock.now - 1000), due)


def test_an_entry_whose_renewal_has_just_failed_waits_before_the_next() -> None:
    clock = FakeClock()
    cache = a_cache(clock, refresh_ahead=True)
    keep(cache, "k", Found("x"))
    clock.now += 280
    keep(cache, "k", DOWN)
    answer = cache.fresh("k", 1)
    assert answer is not None
    assert (answer.outcome, answer.refresh) == (Found("x", 20), False)
    clock.now += 2
    answer = cache.fresh("k", 1)
    assert answer is not None
    assert answer.refresh


# Generations.


@pytest.mark.parametrize("outcome", [Found("x"), NotFound(), DOWN])
def test_an_entry_of_another_generation_does_not_exist(outcome: Any) -> None:
    clock = FakeClock()
    cache = a_cache(clock, stale=3600)
    keep(cache, "k", outcome, generation=1)
    assert known(cache, "k", 2) is None
    assert cache.stale("k", 2) is None
    keep(cache, "k", TempFail("new"), generation=2)
    assert known(cache, "k", 2) == TempFail("new", 2)


# What it costs.


def fill(cache: AnswerCache, number: int, outcome: Callable[[int], Any], name: str) -> None:
    for each in range(number):
        keep(cache, f"{name}{each}@example.org", outcome(each))


def test_a_dictionary_attack_evicts_no_found_answer() -> None:
    cache = a_cache(negative_max_size=1 << 18)
    fill(cache, 100, lambda each: Found(f"user{each}"), "user")
    fill(cache, 50_000, lambda each: NotFound() if each % 2 else DOWN, "guess")
    assert cache.count[0] == 100
    assert cache.size[1] <= 1 << 18
    assert all(known(cache, f"user{each}@example.org") for each in range(100))


def test_the_least_used_goes_first() -> None:
    cache = a_cache(max_size=3000)
    fill(cache, 3, lambda each: Found("x"), "k")
    known(cache, "k0@example.org")
    before = cache.count[0]
    fill(cache, 4, lambda each: Found("x"), "more")
    assert before == 3
    assert known(cache, "k0@example.org") is not None
    assert known(cache, "k1@example.org") is None


def test_an_entry_used_through_its_ready_reply_is_spared_once() -> None:
    cache = a_cache(max_size=3000)
    hot = keep(cache, "hot@example.org", Found("x"))
    cache.used[hot.mark] = 1
    fill(cache, 8, lambda each: Found("x"), "k")
    assert known(cache, "hot@example.org") is not None
    fill(cache, 40, lambda each: Found("x"), "k")
    assert known(cache, "hot@example.org") is None


def test_making_room_is_a_bounded_piece_of_work_even_when_everything_was_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = a_cache(max_size=1 << 20)
    fill(cache, 3000, lambda each: Found("x"), "k")
    full = cache.count[0]
    assert full < 3000
    for mark in range(len(cache.used)):
        cache.used[mark] = 1
    moved: list[object] = []
    real = Store.__setitem__

    def count(store: Store, key: Any, value: Any) -> None:
        moved.append(key)
        real(store, key, value)

    monkeypatch.setattr(Store, "__setitem__", count)
    for each in range(100):
        moved.clear()
        keep(cache, f"new{each}@example.org", Found("x"))
        assert len(moved) <= 1 + 8 * 2
    assert abs(cache.count[0] - full) <= 5


def test_marks_are_reused_so_that_they_are_bounded_as_the_entries_are() -> None:
    cache = a_cache(negative_max_size=1 << 16)
    fill(cache, 20_000, lambda each: NotFound(), "k")
    assert len(cache.used) <= cache.count[1] * 1.05 + 2  # keys grow, so there were a few more at first


def test_a_mark_that_a_late_ready_reply_set_does_not_pass_to_the_next_entry() -> None:
    cache = a_cache()
    old = keep(cache, "k", Found("x"))
    keep(cache, "k", NotFound(0))
    cache.used[old.mark] = 1
    new = keep(cache, "other", Found("y"))
    assert (new.mark, cache.used[new.mark]) == (old.mark, 0)


@pytest.mark.parametrize(
    ("outcome", "key"),
    [
        (lambda each: Found(f"value{each}"), lambda each: f"key{each}@example.org"),
        (lambda each: NotFound(), lambda each: f"key{each}@example.org"),
        (lambda each: NotFound(), lambda each: f"ключ{each}@example.org"),
        (lambda each: TempFail(f"reason {each}"), lambda each: f"key{each}@example.org"),
        (
            lambda each: Found.joined([f"a{each}", f"b{each}"], ","),
            lambda each: (f"key{each}", f"sender{each}"),
        ),
    ],
)
def test_the_size_counted_is_the_memory_taken(
    outcome: Callable[[int], Any], key: Callable[[int], Any]
) -> None:
    cache = a_cache()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for each in range(4000):
            keep(cache, key(each), outcome(each))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.75 <= sum(cache.size) / taken <= 2.0


def test_memory_stays_within_the_size_whatever_comes() -> None:
    size = 1 << 19
    cache = a_cache(negative_max_size=size)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fill(cache, 10_000, lambda each: NotFound(), "guess")
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= size * 1.25


def test_what_is_forgotten_is_freed_as_other_answers_come() -> None:
    cache = AnswerCache(CacheOptions(jitter=0.0), FakeClock())
    for number in range(100):
        cache.keep(str(number), Answer(Found("v"), generation=1))
    marks = len(cache.used)
    assert cache.forget() == 100
    assert cache.count == (0, 0)
    assert cache.size == (0, 0)
    assert cache.fresh("1", 1) is None
    assert cache.forget() == 0
    for number in range(100):
        cache.keep(f"new {number}", Answer(Found("v"), generation=1))
        assert cache.fresh(f"new {number}", 1) is not None
    assert cache.count == (100, 0)
    assert not cache._thrown_away
    assert len(cache.used) < marks * 2

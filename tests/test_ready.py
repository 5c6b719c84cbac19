"""Ready replies: found, kept, bounded."""

from __future__ import annotations

import tracemalloc
from typing import Any

import attrs
import pytest

from tcpmapkit import Found, NotFound, TempFail
from tcpmapkit.cache import Answer
from tcpmapkit.ready import ReadyReplies
from tcpmapkit.testing import FakeClock

FOREVER = float("inf")


@attrs.define
class Served:
    """What ready replies know of a map."""

    name: str = "m"
    generation: int = 1
    used: bytearray = attrs.Factory(lambda: bytearray(10))
    ready_sizes: tuple[int, int] = (1 << 16, 1 << 16)


def answer(outcome: Any = None, expires: float = FOREVER, generation: int = 1, mark: int = 0) -> Answer:
    return Answer(outcome or Found("x"), expires, generation, mark)


def test_a_reply_is_found_by_exactly_its_request() -> None:
    ready = ReadyReplies([Served()], FakeClock())
    ready.keep("m", b"get a\n", b"200 x\n", answer())
    assert ready.find(b"get a\n") == b"200 x\n"
    assert [ready.find(other) for other in (b"get A\n", b"get a", b"get a\nget a\n", b"")] == [None] * 4


def test_a_reply_holds_until_its_time_is_over() -> None:
    clock = FakeClock()
    ready = ReadyReplies([Served()], clock)
    ready.keep("m", b"r", b"reply", answer(expires=clock.now + 5))
    clock.now += 4.75
    assert ready.find(b"r") == b"reply"
    clock.now += 0.25
    assert ready.find(b"r") is None


def test_a_reply_of_another_generation_does_not_exist() -> None:
    served = Served()
    ready = ReadyReplies([served], FakeClock())
    ready.keep("m", b"r", b"old", answer())
    served.generation = 2
    assert ready.find(b"r") is None
    ready.keep("m", b"r", b"late", answer(generation=1))
    assert ready.find(b"r") is None
    ready.keep("m", b"r", b"new", answer(generation=2))
    assert ready.find(b"r") == b"new"


@pytest.mark.parametrize("outcome", [Found("x"), NotFound(), TempFail("down")])
def test_an_answer_without_a_time_is_not_kept(outcome: Any) -> None:
    ready = ReadyReplies([Served()], FakeClock())
    ready.keep("m", b"r", b"reply", answer(outcome, expires=0.0))
    assert (ready.find(b"r"), len(ready), ready.size) == (None, 0, 0)


def test_a_hit_marks_the_cache_entry_as_used_and_a_miss_does_not() -> None:
    served = Served()
    clock = FakeClock()
    ready = ReadyReplies([served], clock)
    ready.keep("m", b"r", b"reply", answer(expires=clock.now + 1, mark=3))
    assert served.used == bytearray(10)
    ready.find(b"r")
    assert served.used[3] == 1
    served.used[3] = 0
    clock.now += 1
    ready.find(b"r")
    assert served.used[3] == 0


def test_a_map_that_keeps_nothing_ready_costs_nothing() -> None:
    ready = ReadyReplies([Served(ready_sizes=(0, 0))], FakeClock())
    ready.keep("m", b"r", b"reply", answer())
    ready.keep("m", b"s", b"reply", answer(NotFound()))
    assert (ready.find(b"r"), len(ready), ready.size) == (None, 0, 0)


def test_an_attack_in_mixed_case_evicts_no_found_reply_and_stays_within_its_size() -> None:
    ready = ReadyReplies([Served(ready_sizes=(1 << 16, 1 << 16))], FakeClock())
    for each in range(50):
        ready.keep("m", b"get user%d\n" % each, b"200 x\n", answer())
    for each in range(50_000):
        guess = b"get Guess%d\n" % each if each % 2 else b"get gUESS%d\n" % each
        ready.keep("m", guess, b"500 not%20found\n", answer(NotFound()))
        if each % 1000 == 0:
            assert ready.size <= 1 << 17
    assert all(ready.find(b"get user%d\n" % each) for each in range(50))
    assert ready.size <= 1 << 17
    assert len(ready) < 500


def test_a_reply_that_is_renewed_is_paid_for_once() -> None:
    ready = ReadyReplies([Served()], FakeClock())
    for each in range(10_000):
        ready.keep("m", b"get a\n", b"200 %d\n" % (each % 10), answer())
    assert len(ready) == 1
    once = ready.size
    assert once < 1000
    ready.keep("m", b"get b\n", b"200 x\n", answer())
    assert ready.size == 2 * once


def test_a_request_that_is_found_and_not_found_in_turn_stays_within_the_size() -> None:
    ready = ReadyReplies([Served(ready_sizes=(5000, 5000))], FakeClock())
    for each in range(10_000):
        ready.keep("m", b"get a\n", b"reply" * (each % 7), answer(NotFound() if each % 2 else Found("x")))
        assert ready.size <= 10_000
    assert len(ready) <= 1


def test_the_size_counted_is_the_memory_taken() -> None:
    ready = ReadyReplies([Served(ready_sizes=(1 << 30, 1 << 30))], FakeClock())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for each in range(4000):
            outcome = Found("x") if each % 2 else NotFound()
            ready.keep(
                "m", b"get user%d@example.org\n" % each, b"200 user%d\n" % each, answer(outcome, 1e6 + each)
            )
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.75 <= ready.size / taken <= 1.5


def test_making_room_for_a_reply_is_a_bounded_piece_of_work() -> None:
    ready = ReadyReplies([Served(ready_sizes=(0, 100_000))], FakeClock())
    for each in range(5_000):
        before = len(ready)
        ready.keep("m", b"get key%05d\n" % each, b"500 not%20found\n", answer(NotFound()))
        assert before - len(ready) <= 1


def test_replies_found_ready_are_counted_by_map_and_outcome() -> None:
    clock = FakeClock()
    ready = ReadyReplies([Served("one"), Served("other")], clock)
    ready.keep("one", b"r", b"reply", answer(expires=clock.now + 5))
    ready.keep("other", b"s", b"none", answer(NotFound()))
    for raw in (b"r", b"s", b"s", b"unknown"):
        ready.find(raw)
    clock.now += 5
    ready.find(b"r")
    one, other = ready.outcomes["one"], ready.outcomes["other"]
    assert (one.ready_found, one.ready_not_found) == (1, 0)
    assert (other.ready_found, other.ready_not_found) == (0, 2)

"""The answers of a map, fresh, kept and evicted, and the ready replies in front of them."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import attrs
import pytest

from tcpmapkit.cache import Answer, AnswerCache, CacheOptions
from tcpmapkit.query import Found, NotFound
from tcpmapkit.ready import ReadyReplies

KEYS = [f"first.last{number}@example.org" for number in range(1000)]


@attrs.define
class Served:
    name: str = "aliases"
    generation: int = 1
    used: bytearray = attrs.Factory(lambda: bytearray(1))
    ready_sizes: tuple[int, int] = (64 << 20, 16 << 20)


@pytest.mark.parametrize("outcome", [Found("user@example.net"), NotFound()], ids=["found", "not found"])
def bench_fresh(benchmark: Any, outcome: Any) -> None:
    cache = AnswerCache(CacheOptions(ttl=1e6, negative_ttl=1e6), time.monotonic)
    for key in KEYS:
        cache.keep(key, Answer(outcome, generation=1))
    assert benchmark(cache.fresh, KEYS[500], 1)


def bench_miss(benchmark: Any) -> None:
    cache = AnswerCache(CacheOptions(), time.monotonic)
    assert benchmark(cache.fresh, "key", 1) is None


@pytest.mark.parametrize("size", [64 << 20, 100_000], ids=["room", "full"])
def bench_keep(benchmark: Any, size: int) -> None:
    cache = AnswerCache(CacheOptions(max_size=size), time.monotonic)
    numbers = count()

    def keep() -> Any:
        return cache.keep(f"key{next(numbers)}", Answer(Found("user@example.net"), generation=1))

    assert benchmark(keep)


def bench_ready_reply(benchmark: Any) -> None:
    ready = ReadyReplies([Served()])
    for key in KEYS:
        reply = b"200 user@example.net\n"
        ready.keep("aliases", f"get {key}\n".encode(), reply, Answer(Found("x"), float("inf"), 1))
    assert benchmark(ready.find, f"get {KEYS[500]}\n".encode())

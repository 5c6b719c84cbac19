"""Tables of rules: regex and cidr at several sizes, asked keys that they know, and that they do not."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from tcpmapkit.query import Found, Query
from tcpmapkit.resolvers.cidr import Cidr
from tcpmapkit.resolvers.cidr import Rule as Network
from tcpmapkit.resolvers.regex import InlineRule, Regex


def _ask(benchmark: Any, resolver: Any, keys: list[str], found: bool) -> None:
    keys_in_turn = cycle(keys)
    answer = benchmark(lambda: resolver.resolve(Query(next(keys_in_turn))))
    assert (type(answer) is Found) is found


@pytest.mark.parametrize("rules", [1, 10, 1000, 10_000])
@pytest.mark.parametrize("found", [True, False], ids=["found", "not found"])
def bench_regex(benchmark: Any, rules: int, found: bool) -> None:
    table = tuple(InlineRule(rf"^user[0-9]+@dept{number}\.example\.org$", "x") for number in range(rules))
    top = "org" if found else "net"
    keys = [f"user{number}@dept{number * 7919 % rules}.example.{top}" for number in range(1000)]
    _ask(benchmark, Regex(rules=table), keys, found)


@pytest.mark.parametrize("rules", [1, 10, 100, 1000])
@pytest.mark.parametrize("negate", [False, True], ids=["several at once", "one by one"])
def bench_regex_without_a_text(benchmark: Any, rules: int, negate: bool) -> None:
    pattern = "^[^@]" if negate else "^[0-9]"
    table = tuple(InlineRule(f"{pattern}{{{number % 9 + 1}}}", "x", "", negate) for number in range(rules))
    _ask(benchmark, Regex(rules=table), ["first.last@example.org"], False)


@pytest.mark.parametrize("rules", [10, 1000, 100_000])
@pytest.mark.parametrize("version", [4, 6])
def bench_cidr(benchmark: Any, rules: int, version: int) -> None:
    networks = [
        f"10.{n >> 12 & 255}.{n >> 4 & 255}.{(n & 15) << 4}"
        if version == 4
        else f"2001:db8:{n >> 16:x}:{n & 65535:x}::"
        for n in range(rules)
    ]
    length = 28 if version == 4 else 64
    resolver = Cidr(rules=tuple(Network(f"{network}/{length}", "x") for network in networks))
    _ask(benchmark, resolver, [networks[n * 7919 % rules] for n in range(1000)], True)

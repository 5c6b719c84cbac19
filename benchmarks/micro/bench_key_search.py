"""The keys of each search order, and a whole search in a table that has the last of them."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest

from tcpmapkit.chain import compile_chain
from tcpmapkit.key_search import search_with
from tcpmapkit.keys import fold
from tcpmapkit.query import Found, Query
from tcpmapkit.search import SEARCHES, Search, SearchOrder
from tcpmapkit.step import InlineStep

KEY = "first.last+extension@mail.dept.example.org"


@attrs.define(eq=False)
class Only:
    """A table with a single row."""

    key: str

    def resolve(self, query: Query) -> Found | None:
        return Found("user@example.net") if query.key == self.key else None


@pytest.mark.parametrize("search", SEARCHES)
def bench_keys(benchmark: Any, search: Search) -> None:
    order = SearchOrder(search)
    assert benchmark(lambda: list(order.keys(KEY)))


@pytest.mark.parametrize("search", SEARCHES)
def bench_search(benchmark: Any, search: Search) -> None:
    order = SearchOrder(search)
    *_, last = order.keys(KEY)
    step = InlineStep("only", Only(last.key), logging.getLogger("benchmarks"), fold=fold)
    searched = search_with(compile_chain([step]), order.keys)
    assert type(benchmark(lambda: searched.resolve(Query(KEY)))) is Found

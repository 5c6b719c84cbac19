"""A chain of steps in memory, the last of which has the answer; and one in which none has."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest

from tcpmapkit.chain import compile_chain
from tcpmapkit.keys import fold
from tcpmapkit.query import Found, Query
from tcpmapkit.step import InlineStep


@attrs.define(eq=False)
class Table:
    rows: dict[str, str]

    def resolve(self, query: Query) -> Found | None:
        value = self.rows.get(query.key)
        return Found(value) if value is not None else None


def _chain(steps: int, **last: str) -> Any:
    tables = [Table({})] * (steps - 1) + [Table(last)]
    log = logging.getLogger("benchmarks")
    return compile_chain([InlineStep(f"step{n}", table, log, fold=fold) for n, table in enumerate(tables)])


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("key", ["key", "KEY", "other"], ids=["found", "folded and found", "not found"])
def bench_chain(benchmark: Any, steps: int, key: str) -> None:
    chain = _chain(steps, key="value")

    def lookup() -> Any:
        return chain.resolve(Query(key))

    assert (type(benchmark(lookup)) is Found) is (key != "other")

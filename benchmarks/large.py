"""Big tables: what their load, their start, a row and a lookup cost; each measured in a process of its own.

python -m benchmarks.large CONFIGURATION ROWS        one of them, as JSON
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import attrs

from benchmarks.processes import pss
from tcpmapkit.testing import started_file

__all__ = ["Large", "lines_of", "measure_large"]

_KINDS = {
    "file, in memory": ("file", "memory"),
    "csv, in memory": ("csv", "memory"),
    "file, index": ("file", "disk"),
    "csv, index": ("csv", "disk"),
}
#: A dictionary of more rows than this is nothing that anybody should have.
_MOST_IN_MEMORY = 2_000_000
_LOOKUPS = 20_000
_TOP = Path(__file__).resolve().parent.parent


@attrs.frozen
class Large:
    """A table: seconds of the first start, which makes its index, and of the next; bytes a row of memory
    that is the process's own, and of its index; microseconds of a lookup of random keys, in process, the
    first and thereafter."""

    kind: str
    rows: int
    first_start: float
    start: float
    memory: float
    disk: float
    first_lookup: float
    lookup: float


def lines_of(kind: str, count: int) -> Iterator[str]:
    """The text of a table of that many rows, in pieces."""
    separator = "," if kind == "csv" else " "
    if kind == "csv":
        yield "key,value\n"
    for start in range(0, count, 10_000):
        yield "".join(
            f"first.last{number}@department.example.org{separator}mailbox{number}@example.net\n"
            for number in range(start, min(start + 10_000, count))
        )


def measure_large(directory: Path, rows: Sequence[int], told: Callable[[str], None]) -> list[Large]:
    """Each kind of table at these sizes; raises `RuntimeError` when one cannot be measured."""
    measured = []
    for count in rows:
        for name, (kind, index) in _KINDS.items():
            if index == "memory" and count > _MOST_IN_MEMORY:
                continue
            told(f"large tables: {name}, {count} rows")
            place = directory / f"{kind}-{index}-{count}"
            place.mkdir()
            table = place / "table"
            with table.open("w") as file:
                file.writelines(lines_of(kind, count))
            (place / "tcpmapkit.toml").write_text(
                f"[maps.large]\ncache = false\n[[maps.large.resolvers]]\n"
                f'type = "{kind}"\npath = "table"\nindex = "{index}"\nindex_directory = "."\n'
            )
            first, second = _one(place, count), _one(place, count)
            disk = sum(file.stat().st_size for file in place.glob(".*.index"))
            measured.append(
                Large(
                    name,
                    count,
                    first["start"],
                    second["start"],
                    second["memory"] / count,
                    disk / count,
                    second["first"],
                    second["lookup"],
                )
            )
            for made in place.iterdir():
                made.unlink()
    return measured


def _one(place: Path, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.large", str(place / "tcpmapkit.toml"), str(count)]
    environment = os.environ | {"PYTHONPATH": str(_TOP)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, cwd=_TOP, check=False)
    if done.returncode:
        raise RuntimeError(f"{place.name}: it could not be measured")
    told: dict[str, float] = json.loads(done.stdout)
    return told


async def _measure(configuration: Path, count: int) -> dict[str, Any]:
    random = Random(1)
    numbers = [random.randrange(count) for _ in range(_LOOKUPS)]
    gc.collect()
    idle = pss(os.getpid())
    began = time.perf_counter()
    async with started_file(configuration, run_tests=False) as maps:
        start = time.perf_counter() - began
        memory = pss(os.getpid()) - idle
        map_ = maps["large"]
        resolve: Any = map_.current.chain.resolve
        rounds = []
        for _ in range(3):
            began = time.perf_counter()
            for number in numbers:
                found = resolve(map_.query(f"first.last{number}@department.example.org"))
            rounds.append((time.perf_counter() - began) / _LOOKUPS * 1e6)
            assert found.value == f"mailbox{numbers[-1]}@example.net"
    return {"start": start, "memory": memory, "first": rounds[0], "lookup": statistics.median(rounds[1:])}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(Path(sys.argv[1]), int(sys.argv[2])))))

"""What is wanted of this server, and why some of it is not reached."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import attrs

from benchmarks.contenders import (
    CACHED,
    CACHED_SOCKETMAP,
    CACHED_WATCHED,
    CHAIN,
    CHAIN_WATCHED,
    REFERENCE,
    TWISTED,
)
from benchmarks.postmap import IN_PROCESS, Asked
from benchmarks.replacing import Replaced
from benchmarks.rounds import Cell
from benchmarks.startup import Startup

__all__ = ["Aim", "aims"]

# Of the reference's requests a second, by the number of connections.
_RATIOS = {
    CACHED: {1: 0.70, 64: 0.55, 256: 0.55},
    CACHED_SOCKETMAP: {1: 0.70, 64: 0.55, 256: 0.55},
    CHAIN: {1: 0.50, 64: 0.38, 256: 0.38},
    CACHED_WATCHED: {1: 0.70, 64: 0.55, 256: 0.55},
    CHAIN_WATCHED: {1: 0.50, 64: 0.38, 256: 0.38},
}
_TWISTED = 3.3
_P99 = 2.5
_LONGEST_WAIT = 20.0

_BESIDE_TWISTED = (
    "at {connections} the C reference itself, which only looks a key up, is {most:.1f} times"
    " Twisted here: most of a request is socket calls, which cost everybody the same"
)
_P99_OF_A_CHAIN = (
    "all connections ask at once and are answered one after the other, so that the last waits for the"
    " {connections} before it: what a chain costs in Python more than a look-up in C, as often. Next step:"
    " mypyc. In a trial it saved 0.2 of the codec's microsecond; of steps and chains, which are attrs classes"
    " with slots, it makes no native ones, so that these would have to be written otherwise first"
)
_SMALL_TABLES = "the microsecond that Python takes to ask a table at all; behind a socket it does not show"
_LONG_WAIT = "see how long they wait on this machine when no table is replaced"
_STARTUP = "a busy machine: see the least of the rounds"


@attrs.frozen
class Aim:
    """Something wanted, as text; `why` says why it is not reached, "" where it is."""

    what: str
    wanted: str
    measured: str
    why: str


def aims(
    cells: Sequence[Cell],
    asked: Sequence[Asked],
    replaced: Sequence[Replaced],
    startups: Sequence[Startup],
) -> list[Aim]:
    """All that was wanted and has been measured."""
    return [
        *_throughput(cells),
        *_beside_twisted(cells),
        *_latency(cells),
        *_tables(asked),
        *_replacements(replaced),
        *_starts(startups),
    ]


def _aim(what: str, wanted: float, measured: float, why: str, least: bool, form: str = ".2f") -> Aim:
    reached = measured >= wanted if least else measured <= wanted
    limit = "at least" if least else "at most"
    return Aim(what, f"{limit} {wanted:{form}}", f"{measured:{form}}", "" if reached else why)


def _places(cells: Sequence[Cell], names: Sequence[str]) -> Iterator[tuple[str, Cell]]:
    for cell in cells:
        if cell.contender in names:
            plural = "s" if cell.connections > 1 else ""
            yield f"{cell.contender}, {cell.connections} connection{plural}", cell


def _throughput(cells: Sequence[Cell]) -> Iterator[Aim]:
    for place, cell in _places(cells, list(_RATIOS)):
        wanted = _RATIOS[cell.contender].get(cell.connections)
        if wanted is not None:
            why = (
                "the layers, in Python: see what they cost on this machine, which is what matters beside a"
                " reference that hardly computes; and how far the rounds are from one another"
            )
            yield _aim(f"{place}: throughput / C", wanted, cell.ratio, why, least=True)


def _beside_twisted(cells: Sequence[Cell]) -> Iterator[Aim]:
    twisted = {cell.connections: cell.ratio for cell in cells if cell.contender == TWISTED}
    for place, cell in _places(cells, list(_RATIOS)):
        ratio = twisted.get(cell.connections)
        if ratio:
            why = _BESIDE_TWISTED.format(connections=place.rpartition(", ")[2], most=1 / ratio)
            yield _aim(f"{place}: throughput / Twisted", _TWISTED, cell.ratio / ratio, why, least=True)


def _latency(cells: Sequence[Cell]) -> Iterator[Aim]:
    for place, cell in _places(cells, list(_RATIOS)):
        if cell.connections == 64 and cell.contender != REFERENCE:
            why = _P99_OF_A_CHAIN.format(connections=cell.connections - 1)
            yield _aim(f"{place}: p99 / C", _P99, statistics.median(cell.p99_ratios), why, least=False)


def _tables(asked: Sequence[Asked]) -> Iterator[Aim]:
    cost: Callable[[Asked], float] = lambda one: statistics.median(one.costs)  # noqa: E731
    own = {(one.table, one.rows): cost(one) for one in asked if one.through == "Postfix itself"}
    for one in asked:
        if one.through == IN_PROCESS and one.table != "texthash":
            what = f"{one.table}, {one.rows} rows: microseconds, at most Postfix's own"
            yield _aim(what, own[one.table, one.rows], cost(one), _SMALL_TABLES, least=False, form=".1f")


def _replacements(replaced: Sequence[Replaced]) -> Iterator[Aim]:
    for one in replaced:
        what = f"{one.kind}, {one.rows} rows replaced: milliseconds that others wait"
        yield _aim(what, _LONGEST_WAIT, one.max / 1000, _LONG_WAIT, least=False, form=".1f")


def _starts(startups: Sequence[Startup]) -> Iterator[Aim]:
    for one in startups:
        what = f"{one.what}: seconds more than the libraries"
        yield _aim(what, one.wanted, statistics.median(one.more), _STARTUP, least=False, form=".3f")

"""What was measured, as a page of Markdown, as JSON, and as plots."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.aims import aims
from benchmarks.contenders import REFERENCE
from benchmarks.large import Large
from benchmarks.layers import Layer
from benchmarks.plot import THEMES, Bar, bar_chart
from benchmarks.postmap import Asked
from benchmarks.replacing import Replaced
from benchmarks.rounds import Cell
from benchmarks.startup import Startup
from benchmarks.waiting import Hanging, Waiting

__all__ = ["Report", "read_report", "write_report"]

#: Microseconds; a bar that were longer would leave nothing of the others to be seen.
_TALLEST = 150.0


@attrs.frozen
class Report:
    """A whole run; `how` says under which conditions, line by line, `missing` what is not in it and why."""

    how: dict[str, str]
    cells: list[Cell]
    waiting: list[Waiting]
    hanging: Hanging | None
    asked: list[Asked]
    large: list[Large]
    replaced: list[Replaced]
    startups: list[Startup]
    layers: list[Layer]
    missing: dict[str, str]


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the lowest and highest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(report: Report) -> str:
    """The page."""
    parts = ["# Benchmarks", "Written by `./dev bench`; how it measures is said at the end."]
    parts += [*_throughput(report), *_latency(report)]
    parts += [*_waiting(report), *_asked(report), *_large(report), *_replaced(report)]
    parts += [*_layers(report), *_startup(report)]
    parts += _falls_short(report)
    for name, reason in report.missing.items():
        parts += [f"Not measured: {name}: {reason}."]
    parts += ["## How", "\n".join(f"* {name}: {text}" for name, text in report.how.items())]
    return "\n\n".join(parts) + "\n"


def _throughput(report: Report) -> Iterator[str]:
    if not report.cells:
        return
    heads = ["server", *map(_connections, sorted({cell.connections for cell in report.cells}))]
    yield _picture("ratio", "Throughput of each server as a share of the C reference's")
    yield "## Throughput"
    yield "As a share of the C reference's, median (lowest to highest round)."
    rows = ([name, *(spread(cell.ratios) for cell in cells)] for name, cells in _by_contender(report))
    yield table(heads, rows)
    yield "Requests a second by the clock, median (lowest to highest round)."
    rows = (
        [name, *(spread([run.rate for run in cell.runs], ".0f") for cell in cells)]
        for name, cells in _by_contender(report)
    )
    yield table(heads, rows)


def _latency(report: Report) -> Iterator[str]:
    if not report.cells:
        return
    yield "## Latency"
    yield "Microseconds, medians over the rounds; p99 as a multiple of the reference's too."
    yield table(
        ["server", "connections", "p50", "p99", "p99.9", "p99 / C", "server CPU"],
        (
            [
                name,
                str(cell.connections),
                *(f"{cell.median(field):.0f}" for field in ("p50", "p99", "p999")),
                f"{statistics.median(cell.p99_ratios):.1f}",
                f"{cell.median('server_cpu'):.1f}",
            ]
            for name, cells in _by_contender(report)
            for cell in cells
        ),
    )


def _waiting(report: Report) -> Iterator[str]:
    hanging = report.hanging
    if not report.waiting or hanging is None:
        return
    yield "## Lookups that wait"
    yield "Processor time of the server for each, in microseconds."
    rows = ([one.source, spread(one.server_cpu, ".0f")] for one in report.waiting)
    yield table(["source", "per lookup"], rows)
    yield (
        f"A lookup that waits holds {hanging.memory / 1024:.1f} KiB. p99 of the cached map at 64"
        f" connections: {spread(hanging.without, '.0f')} us alone, {spread(hanging.beside, '.0f')} us"
        f" while {hanging.lookups} lookups of another map hang on the same worker."
    )


def _asked(report: Report) -> Iterator[str]:
    if not report.asked:
        return
    yield "## Behind the real postmap"
    yield _picture("postmap", "Microseconds for each key of postmap -q -")
    yield (
        "Microseconds for each key of `postmap -q -`, its start not counted; and of the same table of ours"
        " asked within one process."
    )
    rows = ([_rows_of(one), one.through, spread(one.costs, ".1f")] for one in report.asked)
    yield table(["table", "asked through", "per key"], rows)


def _large(report: Report) -> Iterator[str]:
    if not report.large:
        return
    yield "## Big tables"
    yield (
        "Keys and values of some 60 bytes together. The first start makes the index where there is one; the"
        " bytes of memory are the process's own, those of an index are shared by all."
    )
    heads = [
        "table",
        "first start, s",
        "next start, s",
        "memory, bytes/row",
        "disk, bytes/row",
        "a lookup, us",
    ]
    yield table(
        heads,
        (
            [
                f"{one.kind}, {one.rows:,} rows",
                *(f"{number:.2f}" for number in (one.first_start, one.start)),
                *(f"{number:.0f}" for number in (one.memory, one.disk)),
                f"{one.lookup:.1f} (at first {one.first_lookup:.1f})",
            ]
            for one in report.large
        ),
    )


def _replaced(report: Report) -> Iterator[str]:
    if not report.replaced:
        return
    yield "## While a table is replaced"
    yield (
        "Milliseconds that a client of another map on the same process waits, asking every 0.2 ms, when a"
        " table is replaced and when none is; and seconds until the new one answers."
    )
    heads = ["table", "99.9 % within", "longest", "none replaced: 99.9 % within", "longest", "taken after, s"]
    yield table(
        heads,
        (
            [
                f"{one.kind}, {one.rows:,} {'rules' if one.kind == 'pcre' else 'rows'}",
                *(f"{wait / 1000:.1f}" for wait in (one.p999, one.max, one.alone_p999, one.alone_max)),
                f"{one.taken:.1f}",
            ]
            for one in report.replaced
        ),
    )


def _layers(report: Report) -> Iterator[str]:
    if not report.layers:
        return
    yield "## What each layer costs"
    yield "Microseconds, within one process; the rest of a request is the event loop and the socket calls."
    rows = ([layer.name, spread(layer.costs)] for layer in report.layers)
    yield table(["layer", "microseconds"], rows)


def _startup(report: Report) -> Iterator[str]:
    if not report.startups:
        return
    yield "## Start"
    yield "Seconds more than an interpreter takes that only imports click, attrs, cattrs, pluggy and tomli."
    rows = ([one.what, spread(one.more, ".3f")] for one in report.startups)
    yield table(["command", "seconds"], rows)


def _falls_short(report: Report) -> Iterator[str]:
    found = aims(report.cells, report.asked, report.replaced, report.startups)
    if not found:
        return
    yield "## What is wanted, and what falls short"
    rows = ([aim.what, aim.wanted, aim.measured, "no" if aim.why else "yes"] for aim in found)
    yield table(["", "wanted", "measured", "reached"], rows)
    reasons: dict[str, list[str]] = {}
    for aim in found:
        if aim.why:
            reasons.setdefault(aim.why, []).append(aim.what)
    if reasons:
        yield "Why not:"
        yield "\n".join(f"* {'; '.join(whats)}: {why}." for why, whats in reasons.items())


def _rows_of(asked: Asked) -> str:
    return f"{asked.table}, {asked.rows} {'rules' if asked.table == 'pcre' else 'rows'}"


def _picture(name: str, text: str) -> str:
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.svg">'
        f'<img alt="{text}" src="{name}-light.svg"></picture>'
    )


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


def _by_contender(report: Report) -> list[tuple[str, list[Cell]]]:
    names = dict.fromkeys(cell.contender for cell in report.cells)
    return [(name, [cell for cell in report.cells if cell.contender == name]) for name in names]


def _plots(report: Report) -> dict[str, tuple[str, list[str], list[Bar], str]]:
    counts = sorted({cell.connections for cell in report.cells})
    plots = {}
    bars = [
        Bar(
            name,
            tuple(cell.ratio for cell in cells),
            tuple((min(cell.ratios), max(cell.ratios)) for cell in cells),
        )
        for name, cells in _by_contender(report)
        if name != REFERENCE
    ]
    if bars:
        series = [_connections(count) for count in counts]
        plots["ratio"] = ("Throughput, C reference = 1 (more is better)", series, bars, "")
    if report.asked:
        ways = list(dict.fromkeys(one.through for one in report.asked))
        bars = []
        for name in dict.fromkeys(map(_rows_of, report.asked)):
            ours = [one for one in report.asked if _rows_of(one) == name]
            if max(statistics.median(one.costs) for one in ours) > _TALLEST:
                continue
            medians = tuple(statistics.median(one.costs) for one in ours)
            spreads = tuple((min(one.costs), max(one.costs)) for one in ours)
            bars.append(Bar(name, medians, spreads))
        if bars:
            plots["postmap"] = ("Microseconds for each key of postmap -q - (less is better)", ways, bars, "")
    return plots


def read_report(directory: Path) -> Report:
    """What `write_report` has written there. Raises `OSError`, `ValueError` when there is none."""
    from cattrs import structure

    return structure(json.loads((directory / "results.json").read_text()), Report)


def write_report(report: Report, directory: Path) -> None:
    """README.md, results.json and the plots, into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "README.md").write_text(markdown(report))
    as_json: dict[str, Any] = attrs.asdict(report)
    (directory / "results.json").write_text(json.dumps(as_json, indent=1, default=list) + "\n")
    for name, (title, series, bars, unit) in _plots(report).items():
        for theme, colours in THEMES.items():
            (directory / f"{name}-{theme}.svg").write_text(bar_chart(title, series, bars, colours, unit))

"""What was measured, as a page of Markdown, as JSON, and as plots."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.contenders import REFERENCE
from benchmarks.plot import THEMES, Bar, bar_chart
from benchmarks.postmap import Asked
from benchmarks.rounds import Cell
from benchmarks.waiting import Hanging, Waiting

__all__ = ["Report", "write_report"]


@attrs.frozen
class Report:
    """A whole run; `how` says under which conditions, line by line, `missing` what is not in it and why."""

    how: dict[str, str]
    cells: Sequence[Cell]
    waiting: Sequence[Waiting]
    hanging: Hanging | None
    asked: Sequence[Asked]
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
    counts = sorted({cell.connections for cell in report.cells})
    parts = ["# Benchmarks", "Written by `./dev bench`; how it measures is said at the end."]
    parts += [_picture("ratio", "Throughput of each server as a share of the C reference's")]
    parts += ["## Throughput", "As a share of the C reference's, median (lowest to highest round)."]
    parts += [
        table(
            ["server", *(_connections(count) for count in counts)],
            ([name, *(spread(cell.ratios) for cell in cells)] for name, cells in _by_contender(report)),
        )
    ]
    parts += ["Requests a second by the clock, median (lowest to highest round)."]
    parts += [
        table(
            ["server", *(_connections(count) for count in counts)],
            (
                [name, *(spread([run.rate for run in cell.runs], ".0f") for cell in cells)]
                for name, cells in _by_contender(report)
            ),
        )
    ]
    parts += [
        "## Latency",
        "Microseconds, medians over the rounds; p99 as a multiple of the reference's too.",
    ]
    parts += [
        table(
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
    ]
    if report.waiting and report.hanging is not None:
        parts += ["## Lookups that wait", "Processor time of the server for each, in microseconds."]
        parts += [
            table(
                ["source", "per lookup"],
                ([one.source, spread(one.server_cpu, ".0f")] for one in report.waiting),
            )
        ]
        hanging = report.hanging
        parts += [
            f"A lookup that waits holds {hanging.memory / 1024:.1f} KiB. p99 of the cached map at 64"
            f" connections: {spread(hanging.without, '.0f')} us alone, {spread(hanging.beside, '.0f')} us"
            f" while {hanging.lookups} lookups of another map hang on the same worker."
        ]
    if report.asked:
        parts += [
            "## Behind the real postmap",
            _picture("postmap", "Microseconds for each key of postmap -q -"),
        ]
        parts += ["Microseconds for each key of `postmap -q -`, its start not counted."]
        parts += [
            table(
                ["table", "asked through", "per key"],
                (
                    [f"{one.table}, {one.rows} rows", one.through, spread(one.costs, ".1f")]
                    for one in report.asked
                ),
            )
        ]
    for name, reason in report.missing.items():
        parts += [f"Not measured: {name}: {reason}."]
    parts += ["## How", "\n".join(f"* {name}: {text}" for name, text in report.how.items())]
    return "\n\n".join(parts) + "\n"


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
        for name in dict.fromkeys(one.table for one in report.asked):
            ours = [one for one in report.asked if one.table == name]
            medians = tuple(statistics.median(one.costs) for one in ours)
            spreads = tuple((min(one.costs), max(one.costs)) for one in ours)
            bars.append(Bar(f"{name}, {ours[0].rows} rows", medians, spreads))
        plots["postmap"] = ("Microseconds for each key of postmap -q - (less is better)", ways, bars, "")
    return plots


def write_report(report: Report, directory: Path) -> None:
    """README.md, results.json and the plots, into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "README.md").write_text(markdown(report))
    as_json: dict[str, Any] = attrs.asdict(report)
    (directory / "results.json").write_text(json.dumps(as_json, indent=1, default=list) + "\n")
    for name, (title, series, bars, unit) in _plots(report).items():
        for theme, colours in THEMES.items():
            (directory / f"{name}-{theme}.svg").write_text(bar_chart(title, series, bars, colours, unit))

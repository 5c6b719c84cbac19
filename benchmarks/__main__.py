"""Measure everything side by side on the machine at hand; see ``--help`` and the page that it writes."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from benchmarks.contenders import all_contenders
from benchmarks.large import Large, measure_large
from benchmarks.layers import Layer, measure_layers
from benchmarks.postmap import Asked, measure_postmap
from benchmarks.processes import the_core
from benchmarks.programs import NoCompiler, compile_programs
from benchmarks.replacing import Replaced, measure_replacing
from benchmarks.report import Report, machine, read_report, write_report
from benchmarks.rounds import Cell, measure
from benchmarks.startup import Startup, measure_startup
from benchmarks.waiting import measure_hanging, measure_waiting

#: What each part measures, by the names of a report.
_MEASURED = {
    "servers": ["cells"],
    "waiting": ["waiting", "hanging"],
    "postmap": ["asked"],
    "large": ["large"],
    "replacing": ["replaced"],
    "layers": ["layers"],
    "startup": ["startups"],
}

_REPLACED = {
    "csv, index": 1_000_000,
    "csv, in memory": 1_000_000,
    "file, in memory": 1_000_000,
    "cidr": 100_000,
    "pcre": 10_000,
}

_DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of everything (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run (%(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 256], metavar="N")
    parser.add_argument("--only", default="", metavar="TEXT", help="contenders with this in their names")
    parser.add_argument("--keys", type=int, default=10_000, help="for postmap (%(default)s)")
    parser.add_argument("--output", type=Path, default=_DOCS, help="a directory (docs/benchmarks)")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1_000_000], metavar="N", help="of the big tables (1 million)"
    )
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=[*_MEASURED], metavar="PART", help=f"of {[*_MEASURED]}"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="have the parts that are skipped stay as they were measured before",
    )
    parser.add_argument("--trial", action="store_true", help="one tiny round of everything")
    options = parser.parse_args(given)
    if options.trial:
        options.rounds, options.seconds, options.connections, options.keys = 1, 0.05, [1, 8], 50
        options.rows = [1000]
    options.replaced = dict.fromkeys(_REPLACED, 500) if options.trial else _REPLACED
    return options


def _with_kept(report: Report, before: Report, parts: Sequence[str]) -> Report:
    """A run with some parts as they were measured before, which it says."""
    kept = {name: getattr(before, name) for part in parts for name in _MEASURED[part]}
    missing = {name: why for name, why in report.missing.items() if name not in parts}
    line = f"{', '.join(parts)}: of a run before, {before.how['command']} on {before.how['system']}"
    return attrs.evolve(report, **kept, missing=missing, how={**report.how, "kept": line})


def _without_place(given: Sequence[str]) -> list[str]:
    """The arguments that make a difference to what is measured."""
    places = [at for at, word in enumerate(given) if word == "--output"]
    return [word for at, word in enumerate(given) if at not in places and at - 1 not in places]


def main(given: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if given is None else given
    options = arguments(given)
    core = the_core()
    amount: dict[str, Any] = {"rounds": options.rounds, "seconds": options.seconds, "core": core}
    began = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
        directory = Path(place)
        try:
            programs = compile_programs(directory)
        except NoCompiler as error:
            say(str(error))
            return 1
        cells: list[Cell] = []
        hanging, waiting = None, []
        missing: dict[str, str] = dict.fromkeys(options.skip, "left out")
        with ExitStack() as servers:
            if not {"servers", "waiting"} <= {*options.skip}:
                contenders = servers.enter_context(all_contenders(programs, directory, core))
                missing |= contenders.missing
            if "servers" not in options.skip:
                reference, *others = contenders.at_once
                chosen = [reference, *(one for one in others if options.only in one.name)]
                cells = measure(programs, chosen, options.connections, told=say, **amount)
            if "waiting" not in options.skip:
                say("lookups that wait")
                hanging = measure_hanging(programs, contenders, **amount)
                waiting = measure_waiting(programs, contenders, **amount)
        asked: list[Asked] | str = []
        if "postmap" not in options.skip:
            say("postmap")
            asked = measure_postmap(directory, rounds=options.rounds, keys=options.keys, core=core)
        large: list[Large] = []
        if "large" not in options.skip:
            large = measure_large(directory, options.rows, say)
        replaced: list[Replaced] = []
        if "replacing" not in options.skip:
            replaced = measure_replacing(directory, options.replaced, core, say)
        layers: list[Layer] = []
        if "layers" not in options.skip:
            say("layers")
            layers = measure_layers(directory, rounds=options.rounds)
        startups: list[Startup] = []
        if "startup" not in options.skip:
            say("start-up")
            startups = measure_startup(3 * options.rounds)[1]
    if isinstance(asked, str):
        missing["Postfix's own tables"] = asked
        asked = []
    how = {
        "command": f"`{' '.join(['./dev bench', *_without_place(given)])}`",
        **machine(),
        "cores": f"{os.cpu_count()}; server and load share one; load average {began[0]:.1f} at the start,"
        f" {os.getloadavg()[0]:.1f} at the end",
        "runs": f"{options.rounds} rounds of {options.seconds:g} s for each server and number of connections,"
        " each between two runs of the reference; the ratio is to the mean of the two",
        "throughput": "requests for each second of processor time of server and load together, which on an"
        " otherwise idle machine is the rate by the clock and on a busy one keeps the others' share out",
        "reference": "`benchmarks/reference.c`: one thread, epoll, a hash table; no TTL, limits or counters",
        "load": "`benchmarks/load.c`: one request in flight on each connection, 1000 keys in turn, every"
        " reply compared with the one expected",
        "tcpmapkit": "as shipped: TTLs, limits and counters on; the chain's map has `cache = false` and three"
        " steps in memory, of which the third knows the key",
        "log and metrics on": 'the same cached map and the same chain, over tcp_table; with `level = "info"`,'
        ' `format = "json"` and `[admin]`, whose `/metrics` is asked for every second',
    }
    report = Report(how, cells, waiting, hanging, asked, large, replaced, startups, layers, missing)
    if options.keep:
        report = _with_kept(report, read_report(options.output), options.skip)
    write_report(report, options.output)
    say(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

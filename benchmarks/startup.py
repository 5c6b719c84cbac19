"""What a start costs: CPU seconds of ``tcpmapkit query`` and seconds until ``tcpmapkit run`` is ready,
beside an interpreter that only imports click, attrs, cattrs, pluggy and tomli.

    python benchmarks/startup.py [--rounds 21] [--imports]

Every round runs each once, so that what else the machine does falls on all of them alike; medians, and
the smallest. `--imports` names the modules that take the time of a query instead.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

__all__ = ["Startup", "measure_startup"]

TOP = Path(__file__).resolve().parent.parent

LIBRARIES = "import click, attrs, cattrs, pluggy, tomli"

#: The command without the launcher that an installation has.
MAIN = "from tcpmapkit.cli import main; main()"

SITE = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "aliases"

[maps.aliases]
[[maps.aliases.resolvers]]
type = "csv"
path = "aliases.csv"
"""

#: Seconds that a server may take to be ready.
PATIENCE = 30.0


def cpu_seconds(*arguments: str) -> float:
    """What an interpreter with these arguments takes of the processor, its end included."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ, file_actions=quiet)
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"python {' '.join(arguments)}: status {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def seconds_until_line(*arguments: str) -> float:
    """Until an interpreter with these arguments prints its first line; it is stopped then."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - began
        process.terminate()
        process.wait(PATIENCE)
    if not line:
        raise SystemExit(f"python {' '.join(arguments)}: it printed nothing")
    return took


def slow_imports(arguments: Sequence[str]) -> str:
    """The modules that a query imports beside the libraries, the slowest first."""

    def times(*program: str) -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *program],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \| *(\S+)$", done.stderr, re.MULTILINE)
        return {module: int(took) for took, module in lines}

    libraries = times("-c", LIBRARIES)
    own = {name: took for name, took in times(*arguments).items() if name not in libraries}
    rows = [f"{took / 1000:7.1f} ms  {name}" for name, took in sorted(own.items(), key=lambda one: -one[1])]
    return "\n".join([*rows[:40], f"{sum(own.values()) / 1000:7.1f} ms  {len(own)} modules"])


@attrs.frozen
class Startup:
    """A command, and the seconds it takes more than an interpreter that imports the libraries: of the
    processor, or until it is ready; round by round. `wanted`: at most so many."""

    what: str
    more: tuple[float, ...]
    wanted: float


def measure_startup(rounds: int) -> tuple[dict[str, list[float]], list[Startup]]:
    """Seconds of everything that was run, and what that says."""
    with tempfile.TemporaryDirectory() as place:
        site, query = _prepare(Path(place))
        run = ("-c", MAIN, "run", "-c", str(site))
        measured: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            for what, took in (
                ("libraries, CPU", cpu_seconds("-c", LIBRARIES)),
                ("query, CPU", cpu_seconds(*query)),
                ("libraries, until a line", seconds_until_line("-uc", f"{LIBRARIES}; print()")),
                ("run, until it is ready", seconds_until_line(*run)),
            ):
                if number:  # the first one compiles
                    measured.setdefault(what, []).append(took)
    return measured, [
        Startup(what, tuple(a - b for a, b in zip(measured[what], measured[than], strict=True)), wanted)
        for what, than, wanted in (
            ("query, CPU", "libraries, CPU", 0.1),
            ("run, until it is ready", "libraries, until a line", 0.4),
        )
    ]


def _prepare(place: Path) -> tuple[Path, tuple[str, ...]]:
    """A configuration, and a query of it."""
    os.environ["PYTHONPATH"] = str(TOP)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Compiled once, as an installed package is, whatever is done to the sources meanwhile.
    os.environ["PYTHONPYCACHEPREFIX"] = str(place / "compiled")
    site = place / "tcpmapkit.toml"
    site.write_text(SITE)
    (place / "aliases.csv").write_text("from,to\na@example.org,b@example.org\n")
    return site, ("-c", MAIN, "query", "-c", str(site), "aliases", "a@example.org")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--imports", action="store_true")
    options = parser.parse_args()
    if options.imports:
        with tempfile.TemporaryDirectory() as place:
            _, query = _prepare(Path(place))
            cpu_seconds(*query)
            print(slow_imports(query))
        return
    measured, startups = measure_startup(options.rounds)
    for what, times in measured.items():
        print(f"{what:<24} median {statistics.median(times):.3f} s   smallest {min(times):.3f} s")
    for one in startups:
        more, least = statistics.median(one.more), min(one.more)
        print(f"{one.what}: {more:.3f} s more than the libraries (least: {least:.3f} s); aim: {one.wanted} s")


if __name__ == "__main__":
    main()

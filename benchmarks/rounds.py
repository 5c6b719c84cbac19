"""Rounds: every contender in turn, each between two runs of the reference, again and again.

Server and load share one core, so a run says what one request costs both together. The machine's speed
drifts, and others may use it: what counts is the ratio to the reference's runs just before and after.
Requests for each second of processor time that the two had, rather than for each second, keep the
others' share of the core out; on an otherwise idle machine the two are the same.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence

import attrs

from benchmarks.contenders import Contender
from benchmarks.processes import cpu_time, pinned
from benchmarks.programs import Programs

__all__ = ["Cell", "Run", "measure", "run_load"]

#: Seconds for one run beyond those asked for: connecting, warming up, the load's own patience.
_GRACE = 60.0


@attrs.frozen
class Run:
    """One run of the load. `rate` is in requests a second, by the clock; `cpu_rate` in requests for each
    second of processor time of server and load together; `server_cpu` the server's part for each
    request, and the latencies, in microseconds."""

    requests: int
    rate: float
    cpu_rate: float
    server_cpu: float
    p50: float
    p99: float
    p999: float
    max: float


@attrs.frozen
class Cell:
    """One contender at one number of connections: its runs, and their ratios to the reference's."""

    contender: str
    connections: int
    runs: tuple[Run, ...]
    ratios: tuple[float, ...]
    wall_ratios: tuple[float, ...]
    p99_ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def best(self) -> Run:
        return max(self.runs, key=lambda run: run.rate)

    def median(self, name: str) -> float:
        """The median of that field of `Run`."""
        return float(statistics.median(getattr(run, name) for run in self.runs))


def run_load(
    programs: Programs,
    contender: Contender,
    connections: int,
    *,
    seconds: float,
    requests: int = 0,
    warm: int = 0,
    core: int | None = None,
) -> Run:
    """One run. Raises `RuntimeError` with what the load says when a reply was wrong or missing."""
    command = [*pinned(core), str(programs.load), str(contender.port), str(connections), str(seconds)]
    command += [str(requests), str(warm), str(contender.questions)]
    before = cpu_time(contender.process.pid)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _GRACE)
    if done.returncode:
        raise RuntimeError(f"{contender.name}, {connections} connections: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    # The server's time is that of the warming too: the load's is only of what it measured.
    server = (cpu_time(contender.process.pid) - before) * told["requests"] / (told["requests"] + warm)
    return Run(
        requests=told["requests"],
        rate=told["requests"] / told["seconds"],
        cpu_rate=told["requests"] / (server + told["cpu"]),
        server_cpu=server / told["requests"] * 1e6,
        **{name: told[name] for name in ("p50", "p99", "p999", "max")},
    )


def measure(
    programs: Programs,
    contenders: Sequence[Contender],
    connections: Sequence[int],
    *,
    rounds: int,
    seconds: float,
    core: int | None,
    told: Callable[[str], None],
) -> list[Cell]:
    """All contenders, the first of which is the reference, at each number of connections."""
    reference, *others = contenders
    cells = []
    for count in connections:
        runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
        neighbours: dict[str, list[tuple[Run, Run]]] = {contender.name: [] for contender in others}

        def run(contender: Contender, count: int = count) -> Run:
            # Each key once at least, so that what can be cached is.
            return run_load(programs, contender, count, seconds=seconds, warm=2000, core=core)

        for number in range(rounds):
            told(f"{count} connections, round {number + 1} of {rounds}")
            before = run(reference)
            runs[reference.name].append(before)
            for contender in others if number % 2 == 0 else others[::-1]:
                runs[contender.name].append(run(contender))
                after = run(reference)
                runs[reference.name].append(after)
                neighbours[contender.name].append((before, after))
                before = after
        for contender in contenders:
            own = runs[contender.name]
            beside = neighbours.get(contender.name) or [(run, run) for run in own]
            cells.append(
                Cell(
                    contender.name,
                    count,
                    tuple(own),
                    _ratios(own, beside, "cpu_rate"),
                    _ratios(own, beside, "rate"),
                    _ratios(own, beside, "p99"),
                )
            )
    return cells


def _ratios(runs: Sequence[Run], beside: Sequence[tuple[Run, Run]], name: str) -> tuple[float, ...]:
    return tuple(
        getattr(run, name) / statistics.mean((getattr(before, name), getattr(after, name)))
        for run, (before, after) in zip(runs, beside, strict=True)
    )

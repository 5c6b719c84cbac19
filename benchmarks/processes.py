"""Processes under measurement: started, pinned to the measured core, weighed, ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

__all__ = ["Process", "cpu_time", "pinned", "pss", "running", "the_core"]

_TOP = Path(__file__).resolve().parent.parent
_PATIENCE = 30.0


@attrs.frozen
class Process:
    """A server that runs: `ports` are what it printed, in its order."""

    pid: int
    ports: tuple[int, ...]


def the_core() -> int:
    """The core that servers and load share: the last one this process may use."""
    return max(os.sched_getaffinity(0))


@contextmanager
def running(command: Sequence[str | Path], ports: int = 1, core: int | None = None) -> Iterator[Process]:
    """Run a server that prints the ports it listens on, each at the end of a line's first word.

    Raises `RuntimeError` when it ends before it has printed them.
    """
    places = [str(_TOP), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=_TOP)
    try:
        assert started.stdout is not None
        found: list[int] = []
        while len(found) < ports:
            line = started.stdout.readline()
            if not line:
                raise RuntimeError(f"{command[0]} ended with status {started.wait(_PATIENCE)}")
            number = line.split()[0].rpartition(b":")[2] if line.strip() else b""
            if number.isdigit():
                found.append(int(number))
        if core is not None:
            for task in Path(f"/proc/{started.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})
        yield Process(started.pid, tuple(found))
    finally:
        started.terminate()
        try:
            started.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        if started.stdout is not None:
            started.stdout.close()


def pinned(core: int | None) -> list[str]:
    """What to put in front of a command to have it run on that core."""
    if core is None:
        return []
    code = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-I", "-S", "-c", code, str(core)]


def cpu_time(pid: int) -> float:
    """Seconds of processor time that the process has had, all threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def pss(pid: int) -> int:
    """Bytes of memory that are the process's own (proportional share)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Pss in smaps_rollup")

"""Lookups that wait: what one costs, and what a map that hangs costs the others."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import attrs

from benchmarks.contenders import CACHED, CHAIN, Contender, Contenders
from benchmarks.data import tcp_questions
from benchmarks.processes import cpu_time, pss
from benchmarks.programs import Programs
from benchmarks.rounds import run_load

__all__ = ["Hanging", "Waiting", "measure_hanging", "measure_waiting"]

_WAITING = 256
_HANGING = 1000
_SETTLED = 0.2


@attrs.frozen
class Waiting:
    """A source and what a lookup that waits for it costs: the server's processor time, in microseconds."""

    source: str
    server_cpu: tuple[float, ...]


@attrs.frozen
class Hanging:
    """The cached map's p99 in microseconds, run by run, without and with another map hanging; and the
    memory, in bytes, of one lookup that waits."""

    lookups: int
    without: tuple[float, ...]
    beside: tuple[float, ...]
    memory: float


@contextmanager
def _asked(contender: Contender, count: int) -> Iterator[Callable[[], None]]:
    """That many connections; the function asks a key of its own on each, which is never answered."""
    requests = [request for request, _ in tcp_questions()]
    with ExitStack() as open_now:
        peers = [
            open_now.enter_context(socket.create_connection(("127.0.0.1", contender.port)))
            for _ in range(count)
        ]
        settle(contender)

        def ask() -> None:
            for number, peer in enumerate(peers):
                peer.sendall(requests[number % len(requests)])
            settle(contender)
            with selectors.DefaultSelector() as answered:
                for peer in peers:
                    answered.register(peer, selectors.EVENT_READ)
                assert not answered.select(0), "a lookup that hangs was answered"

        yield ask
    settle(contender)


def settle(contender: Contender) -> None:
    """Wait until the server has nothing to do."""
    before = -1.0
    while (now := cpu_time(contender.process.pid)) - before > _SETTLED / 100:
        before = now
        time.sleep(_SETTLED)


def measure_waiting(
    programs: Programs, contenders: Contenders, *, rounds: int, seconds: float, core: int | None
) -> list[Waiting]:
    """The cost of a lookup for each source that waits, and beside them of the chain that does not."""
    chain = next(one for one in contenders.at_once if one.name == CHAIN)
    measured: Sequence[Contender] = (chain, *contenders.waiting[:-1])
    costs: dict[str, list[float]] = {one.name: [] for one in measured}
    for _ in range(rounds):
        for one in measured:
            run = run_load(programs, one, _WAITING, seconds=seconds, warm=_WAITING, core=core)
            costs[one.name].append(run.server_cpu)
    return [Waiting(name, tuple(cost)) for name, cost in costs.items()]


def measure_hanging(
    programs: Programs, contenders: Contenders, *, rounds: int, seconds: float, core: int | None
) -> Hanging:
    """The cached map alone and beside lookups that hang on the same worker, in turn."""
    cached = next(one for one in contenders.at_once if one.name == CACHED)
    hangs = contenders.waiting[-1]
    # First of all: memory that was once needed is not given back, and would be needed again unseen.
    with _asked(hangs, _HANGING) as ask:
        idle = pss(hangs.process.pid)
        ask()
        memory = (pss(hangs.process.pid) - idle) / _HANGING
    without, beside = [], []
    for _ in range(rounds):
        without.append(run_load(programs, cached, 64, seconds=seconds, warm=2000, core=core).p99)
        with _asked(hangs, _HANGING) as ask:
            ask()
            beside.append(run_load(programs, cached, 64, seconds=seconds, warm=2000, core=core).p99)
    return Hanging(_HANGING, tuple(without), tuple(beside), memory)

"""The passes of ``tcpmapkit bench``, one after another, and their figures printed.

The first pass asks every key once: nothing is cached yet (over the wire: unless the server has it). The
second asks the same keys again and again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from tcpmapkit.bench.figures import Figures
from tcpmapkit.bench.in_process import ask_in_process, service_of
from tcpmapkit.bench.passes import Keys, Pass
from tcpmapkit.bench.progress import shown_progress
from tcpmapkit.bench.report import pass_rows, step_rows
from tcpmapkit.bench.steps import ask_steps
from tcpmapkit.bench.wire import CLIENTS, ask_over_the_wire
from tcpmapkit.output import print_rows, tell
from tcpmapkit.progress import show_progress
from tcpmapkit.query import Outcome
from tcpmapkit.serve import told_to_stop

if TYPE_CHECKING:
    from tcpmapkit.bench.asked import Server
    from tcpmapkit.maps import Map
    from tcpmapkit.site import Site

__all__ = ["Plan", "bench_map", "bench_server"]

#: Asks what a pass has to ask.
Ask = Callable[[Pass], Coroutine[Any, Any, None]]


@attrs.frozen
class Plan:
    """How much is asked: seconds and lookups of a pass at most (None: no such limit of the second pass),
    how many keys at once, in what order, how many of the slowest keys are told, how many keys are asked
    for the times of steps."""

    seconds: float = 10.0
    count: int | None = None
    at_once: int = 1
    in_random_order: bool = False
    slowest: int = 10
    sampled: int = 1000


async def bench_map(
    site: Site, map: Map, protocol: str, keys: Sequence[str], expected: Mapping[str, str | None], plan: Plan
) -> int:
    """Ask a map in this process, as a listener of this protocol does; the exit status."""
    client = CLIENTS[protocol]
    clock = site.maps.clock
    try:
        show_progress(site.maps, logged=False)
        began = clock()
        await site.start([map.name])
        rows = [("map", map.name, f"in process, as over {protocol}")]
        rows += [("start", "tables loaded", f"in {clock() - began:.3f} s")]
        service = service_of(map, protocol)
        asked = Keys(keys, [client.request(map.name, key) for key in keys], expected)
        passes = _Passes(asked, plan, client.decode, lambda run: ask_in_process(service, run, plan.at_once))
        status = await passes.run(rows, alone=True)
        if not passes.stopping.is_set() and plan.sampled:
            every = max(len(keys) // plan.sampled, 1)
            until = clock() + plan.seconds
            go_on = lambda: clock() < until and not passes.stopping.is_set()  # noqa: E731
            print_rows(step_rows(await ask_steps(map, keys[::every][: plan.sampled], go_on)))
        return status
    finally:
        await site.maps.stop()


async def bench_server(
    server: Server, keys: Sequence[str], expected: Mapping[str, str | None], plan: Plan
) -> int:
    """Ask a running server; the exit status."""
    client = CLIENTS[server.protocol]
    asked = Keys(keys, [client.request(server.map, key) for key in keys], expected)
    passes = _Passes(
        asked, plan, client.decode, lambda run: ask_over_the_wire(server.endpoint, client, run, plan.at_once)
    )
    try:
        return await passes.run([("server", str(server.endpoint), server.protocol)], alone=False)
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        tell(f"{server.endpoint} cannot be connected to: {reason}")
        return os.EX_TEMPFAIL


class _Passes:
    """The two passes."""

    def __init__(self, keys: Keys, plan: Plan, decode: Callable[[bytes], Outcome], ask: Ask) -> None:
        self._keys = keys
        self._plan = plan
        self._decode = decode
        self._ask = ask
        #: Set by SIGINT and SIGTERM.
        self.stopping = told_to_stop()
        self._given_up = False

    async def run(self, rows: Iterable[tuple[str, ...]], *, alone: bool) -> int:
        """Both, and what they gave printed behind `rows`; the exit status. Raises what asking raises."""
        plan, every = self._plan, len(self._keys.keys)
        order = list(range(every))
        if plan.in_random_order:
            random.Random(0).shuffle(order)  # noqa: S311 - the same order each time
        print_rows([*rows, ("keys", str(every)), ("at once", str(plan.at_once))])
        first = await self._pass("first pass", order, min(every, plan.count or every), alone)
        figures = [first]
        known = order[: first.latencies.count]
        if self._given_up:
            tell("the server closes connections without an answer: given up")
        elif known and not self.stopping.is_set():
            figures.append(await self._pass("again", known, plan.count or _NO_LIMIT, alone))
        if self.stopping.is_set():
            tell("interrupted: these are the figures so far")
        if any(one.failed for one in figures):
            return os.EX_TEMPFAIL
        return 1 if any(one.wrong for one in figures) else 0

    async def _pass(self, name: str, order: Sequence[int], limit: int, alone: bool) -> Figures:
        plan = self._plan
        with shown_progress(name) as watch:
            run = Pass(
                self._keys,
                order,
                limit=limit,
                seconds=plan.seconds,
                decode=self._decode,
                slowest=plan.slowest,
                watch=watch,
            )
            asking = asyncio.ensure_future(self._ask(run))
            told = asyncio.ensure_future(self.stopping.wait())
            try:
                await asyncio.wait((asking, told), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._given_up = not run.over and not self.stopping.is_set()
                run.stop()
                told.cancel()
                asking.cancel()
            await asyncio.wait((asking,))
        figures = run.end(alone=alone)
        print_rows(pass_rows(name, figures))
        if not asking.cancelled():
            asking.result()
        return figures


_NO_LIMIT: Final = 1 << 62

"""A few threads for one step whose source blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

__all__ = ["SmallPool", "TooBusy"]

#: Threads of a blocking step. Each holds one lookup, so this is how many hung ones it takes
#: before the step fails at once.
_SIZE: Final = 8


class TooBusy(Exception):
    """Every thread of the pool is at work: the call was not made."""


class SmallPool:
    """Daemon threads, started when first needed, so that a source that hangs holds up neither the
    event loop nor the end of the process (concurrent.futures joins its threads at exit)."""

    def __init__(self, name: str, size: int = _SIZE) -> None:
        self._name = name
        self._size = size
        self._threads = 0
        self._busy = 0
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def run(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Call `function(argument)` in a thread. Raises `TooBusy` at once when all are at work.

        A caller that is cancelled leaves the thread busy until the function returns.
        """
        if self._busy >= self._size:
            raise TooBusy(self._name)
        if self._threads == self._busy:
            # Before anything is counted: the system may have no thread left to give.
            name = f"{self._name}-{self._threads + 1}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
            self._threads += 1
        self._busy += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            self._busy -= 1
            if future.done():
                return
            if error is None:
                future.set_result(result)
            elif isinstance(error, Exception) and not isinstance(error, StopIteration):
                future.set_exception(error)
            else:  # what a future cannot carry, or what would end the server
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

        def call() -> None:
            result, error = None, None
            try:
                result = function(argument)
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._busy -= 1

        self._calls.put(call)
        return await future

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def close(self) -> None:
        """Let the threads end when they are done; none is waited for."""
        for _ in range(self._threads):
            self._calls.put(None)

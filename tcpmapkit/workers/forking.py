"""A process that begins as a copy of this one."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["FAILED", "fork"]

FAILED: Final = 70
"""The status of a process that ended by an exception (EX_SOFTWARE)."""

_log = logging.getLogger(__name__)


def fork(prepare: Callable[[], None], work: Callable[[], int]) -> int:
    """Start a process that does `prepare`, then `work`, and ends with the status that this gives; its number.

    This process must have neither threads nor a running event loop. The new one has no signal handlers
    and random numbers of its own. SIGINT and SIGHUP, which a terminal sends to all processes, it ignores.
    Raises `OSError` when the system has no process left.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both write what waits
    # No handler of ours may run in the child: it would write to what it shares with this process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        number = os.fork()
        if number:
            return number
        _begin(prepare, work, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise AssertionError("a child has returned")


def _begin(prepare: Callable[[], None], work: Callable[[], int], mask: Iterable[int]) -> None:
    status = FAILED
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        random.seed()
        prepare()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = work()
    except BaseException:
        _log.critical("a worker ends by a bug", exc_info=True)
    finally:
        logging.shutdown()
        os._exit(status)  # what this process would do at its end is its parent's to do

"""What a service tells systemd: sd_notify(3) and the watchdog.

A message is one datagram of ``NAME=VALUE`` lines. Nothing here raises or waits: whether the manager
listens must not decide whether mail is looked up. Without systemd all of it does nothing.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Final

__all__ = ["Notifier", "keep_alive", "serving"]

#: Seconds for the manager to read what it was told.
_SETTLING: Final = 1.0

_log = logging.getLogger(__name__)


class Notifier:
    """Tells the manager how the service is. `address` is that of its socket, None when there is none.

    `watchdog_interval` are the seconds between two calls of `alive`, half of what the manager waits for;
    None when it waits for none.
    """

    def __init__(self, address: str | None = None, watchdog_interval: float | None = None) -> None:
        self.watchdog_interval = watchdog_interval if address is not None else None
        self._address = address
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """The one that ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` describe, which are taken
        out of the environment: a child of ours is not the service."""
        address = environment.pop("NOTIFY_SOCKET", "")
        limit, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        ours = pid in ("", str(os.getpid()))
        interval = int(limit) / 1e6 / 2 if ours and limit.isdecimal() and int(limit) else None
        return cls("\0" + address[1:] if address.startswith("@") else address, interval)

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager to tell."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """The start, or a reload, has come to its end: lookups are answered."""
        self._send(("READY", "1"), ("STATUS", status))

    def reloading(self) -> None:
        """A reload begins, that `ready` ends, also when nothing came of it."""
        # The time lets the manager match it with the signal that it sent (Type=notify-reload).
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(("RELOADING", "1"), ("MONOTONIC_USEC", str(now)), ("STATUS", "reloading"))

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(("STATUS", text))

    def stopping(self) -> None:
        """The service has begun to stop."""
        self._send(("STOPPING", "1"), ("STATUS", "stopping"))

    def alive(self) -> None:
        """The watchdog is told that all is well."""
        self._send(("WATCHDOG", "1"))

    def store(self, name: str, descriptors: Sequence[int]) -> bool:
        """Leave descriptors with the manager for the next start, at most 253 at a time; whether it knows."""
        return self._send(("FDSTORE", "1"), ("FDNAME", name), descriptors=descriptors)

    def forget(self, name: str) -> None:
        """Have the manager close what was stored by this name."""
        self._send(("FDSTOREREMOVE", "1"), ("FDNAME", name))

    async def settled(self) -> bool:
        """Wait until the manager has read what it was told, for a second at most; whether it has."""
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            _log.warning("systemd cannot be asked what it has read: %s", error.strerror)
            return False
        loop = asyncio.get_running_loop()
        read = asyncio.Event()
        try:
            loop.add_reader(reading, read.set)
            told = self._send(("BARRIER", "1"), descriptors=(writing,))
            os.close(writing)  # the manager closes the other one, and then there is an end to read
            if not told:
                return False
            await asyncio.wait_for(read.wait(), _SETTLING)
        except TimeoutError:
            return False
        else:
            return True
        finally:
            loop.remove_reader(reading)
            os.close(reading)

    def close(self) -> None:
        """Tell nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *fields: tuple[str, str], descriptors: Sequence[int] = ()) -> bool:
        if self._socket is None or self._address is None:
            return False
        text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in fields)
        try:
            message = text.encode("utf-8", "replace")
            if descriptors:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
                self._socket.sendmsg([message], [rights], 0, self._address)
            else:
                self._socket.sendto(message, self._address)
        except OSError as error:
            _log.warning("systemd is not told %s: %s", fields[0][0], error.strerror or error)
            return False
        return True


@contextlib.contextmanager
def keep_alive(notifier: Notifier, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Ping the watchdog from the loop itself, so that one that is stuck is noticed."""
    interval = notifier.watchdog_interval
    timer: asyncio.TimerHandle | None = None

    def ping(interval: float) -> None:
        nonlocal timer
        notifier.alive()
        timer = loop.call_later(interval, ping, interval)

    if interval is not None:
        ping(interval)
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def serving(maps: int, listeners: int, *, workers: int = 1, held: int = 0) -> str:
    """The status of a server that serves so many maps, and holds so many tables as they were before."""
    text = f"serving {_counted(maps, 'map')} on {_counted(listeners, 'listener')}"
    text += f" with {_counted(workers, 'worker')}" if workers > 1 else ""
    return f"{text}; as they were before, see the log: {_counted(held, 'table')}" if held else text


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

"""Handlers that write log lines without ever waiting for long: a log that nobody reads must stop no mail.

A pipe or socket whose reader hangs (journald, a container's runtime, syslogd) is full after some lines, and
an ordinary write then blocks for ever, the event loop with it. Here a line that cannot be written within
`PATIENCE` is lost; from then on lines are tried without any patience until one gets through, and that one
says how many were lost. No thread, so nothing is left behind in a queue when the process dies, and a
process that logs can be forked.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
import time
from collections.abc import Iterable
from typing import Final

__all__ = ["PATIENCE", "StreamHandler", "SyslogHandler", "UnblockedHandler"]

#: Seconds that a reader who has kept up gets to make room: less than what is logged as slow.
PATIENCE: Final = 0.015

#: The facility, and the severities by the least level of logging that has it (RFC 3164, 4.1.1).
_MAIL: Final = 2
_SEVERITIES: Final = ((50, 2), (40, 3), (30, 4), (20, 6), (0, 7))

#: The longest message for syslog, in bytes: what rsyslogd takes by default.
_LONGEST_MESSAGE: Final = 8000


class UnblockedHandler(logging.Handler):
    """A handler that loses lines rather than wait. `lost` counts them, `total_lost` since it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0
        self.total_lost = 0
        self._patient = True

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or count it as lost; never raises."""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self.lost and self._write(logging.WARNING, self.format(self._about_lost())):
            self.lost = 0
        if self.lost or not self._write(record.levelno, text):
            self.lost += 1
            self.total_lost += 1

    def _about_lost(self) -> logging.LogRecord:
        text = "%d log lines before this one are lost: they could not be written"
        return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (self.lost,), None)

    def _write(self, level: int, text: str) -> bool:
        try:
            for message in self._messages(level, text):
                self._send(message, time.monotonic() + PATIENCE if self._patient else 0.0)
        except OSError:
            self._patient = False
            return False
        self._patient = True
        return True

    def _messages(self, level: int, text: str) -> Iterable[bytes]:
        raise NotImplementedError

    def _send(self, message: bytes, until: float) -> None:
        """Send it whole, by the time `until`. Raises `OSError`, `BlockingIOError` when nobody makes room."""
        raise NotImplementedError


def _wait(fd: int, until: float) -> None:
    """Wait until `fd` can be written. Raises `BlockingIOError` when the time is over."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    left = until - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise BlockingIOError


class StreamHandler(UnblockedHandler):
    """Lines to a file descriptor: a terminal, a file, a pipe, a socket.

    The descriptor itself stays as it is: whether it blocks is a property that all processes share which
    have it. A pipe or a terminal is opened once more; where that is not permitted, as for another user's
    pipe, it is asked for room before each write, which is right for as long as nobody else fills it.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._own = False
        #: What is missing of a line that has been written in part.
        self._rest = b""
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._once = self._once_to_socket
        elif stat.S_ISREG(mode):
            self._once = self._once_anyhow
        else:
            self._once = self._once_anyhow if self._open_again() else self._once_if_room

    def _open_again(self) -> bool:
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self._fd = os.open(f"/proc/self/fd/{self._fd}", flags)
        except OSError:
            return False
        self._own = True
        return True

    def _once_to_socket(self, data: memoryview) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def _once_anyhow(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def _once_if_room(self, data: memoryview) -> int:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._fd, data[: select.PIPE_BUF])

    def _messages(self, level: int, text: str) -> Iterable[bytes]:
        yield f"{text}\n".encode("utf-8", "backslashreplace")

    def _send(self, message: bytes, until: float) -> None:
        owed = len(self._rest)
        whole = self._rest + message
        sent = 0
        while sent < len(whole):
            try:
                sent += self._once(memoryview(whole)[sent:])
            except BlockingIOError:
                try:
                    _wait(self._fd, until)
                except BlockingIOError:
                    if sent <= owed:
                        self._rest = whole[sent:owed]
                        raise
                    self._rest = whole[sent:]  # its line is finished by the next
                    return
        self._rest = b""

    def close(self) -> None:
        """Close what was opened here."""
        super().close()
        if self._own:
            self._own = False
            os.close(self._fd)
        elif hasattr(self, "_socket"):
            self._socket.close()


class SyslogHandler(UnblockedHandler):
    """Lines to the syslog daemon at a unix socket, facility mail, each line of a traceback by itself.

    A daemon that was restarted is connected to anew.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._socket: socket.socket | None = None
        self._stream = False

    def _messages(self, level: int, text: str) -> Iterable[bytes]:
        severity = next(severity for least, severity in _SEVERITIES if level >= least)
        head = f"<{_MAIL << 3 | severity}>tcpmapkit[{os.getpid()}]: ".encode()
        for line in text.split("\n"):
            message = head + line.encode("utf-8", "backslashreplace")
            if len(message) > _LONGEST_MESSAGE:
                cut = message[: _LONGEST_MESSAGE - 3].decode("utf-8", "ignore")
                message = f"{cut}...".encode()
            yield message

    def _send(self, message: bytes, until: float) -> None:
        if self._socket is None:
            self._connect()
        try:
            self._send_once(message, until)
        except BlockingIOError:
            raise
        except OSError:
            self._connect()
            self._send_once(message, until)

    def _send_once(self, message: bytes, until: float) -> None:
        assert self._socket is not None
        data = message + b"\n" if self._stream else message
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            _wait(self._socket.fileno(), until)
            sent = self._socket.send(data)
        if sent < len(data):  # of a stream: the next message must not go on in this one's middle
            self.close_socket()
            raise BlockingIOError

    def _connect(self) -> None:
        """Raises `OSError`."""
        self.close_socket()
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            connection = socket.socket(socket.AF_UNIX, kind)
            connection.setblocking(False)
            try:
                connection.connect(self._path)
            except OSError as error:
                connection.close()
                if error.errno != errno.EPROTOTYPE or kind == socket.SOCK_STREAM:
                    raise
                continue
            self._socket, self._stream = connection, kind == socket.SOCK_STREAM
            return

    def close_socket(self) -> None:
        """Be without a connection until the next line."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self.close_socket()

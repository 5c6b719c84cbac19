"""Standard input and output as one connection: what spawn(8), inetd or a shell has put there.

spawn(8) connects the same socket to standard input, output *and* error: whatever else this process
writes to one of them would be a reply to Postfix.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import Final

import attrs

from tcpmapkit.process import StartError

__all__ = ["StandardStreams"]

_CHUNK: Final = 1 << 16

#: How it is told that whoever read the replies has gone.
_HUNG_UP: Final = (errno.EPIPE, errno.ECONNRESET)

_log = logging.getLogger(__name__)


@attrs.frozen
class StandardStreams:
    """The descriptors of the peer, which nothing else in this process knows: `reading` and `writing`.

    `one_socket`: they are the same stream socket. `has_error`: standard error is left for messages; it
    was not the peer's too.
    """

    reading: int
    writing: int
    one_socket: bool
    has_error: bool

    @classmethod
    def take(cls) -> StandardStreams:
        """Take over standard input and output; before anything is written, or code of others runs.

        From then on standard input is empty and standard output is standard error, or nothing where
        that would be the peer's: a ``print()`` in a plugin is no reply. Standard error on a terminal
        stays: there somebody tries things out by hand.

        Raises `StartError` when they are not open.
        """
        try:
            peer = [os.fstat(0), os.fstat(1)]
            reading, writing = (fcntl(number, F_DUPFD_CLOEXEC, 3) for number in (0, 1))
        except OSError as error:
            raise StartError(f"standard input and output are no connection: {error.strerror}") from None
        try:
            error_goes = os.fstat(2)
            has_error = os.isatty(2) or not any(os.path.samestat(error_goes, one) for one in peer)
        except OSError:  # it is not open
            has_error = False
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        if not has_error:
            os.dup2(nothing, 2)
        os.dup2(2, 1)
        if nothing > 2:
            os.close(nothing)
        one_socket = os.path.samestat(*peer) and _is_stream_socket(reading)
        return cls(reading, writing, one_socket, has_error)

    def as_socket(self, written: Callable[[OSError | None], None]) -> socket.socket:
        """A socket that is connected to the peer, for an event loop.

        Where standard input and output are one socket it is that. Everything else, as pipes, files and
        terminals, which no event loop takes all of, is copied from and to it by two threads, in
        blocking calls. `written` is called, in a thread, when the peer has been sent the last that was
        written to the socket, with the error if that could not be done; for a socket of the peer's own
        never.
        """
        if self.one_socket:
            os.close(self.writing)
            own = socket.socket(fileno=self.reading)
            own.setblocking(False)
            return own
        ours, theirs = socket.socketpair()
        # Daemons: one that waits for input must not hold up the end.
        threading.Thread(target=_carry_in, args=(self.reading, theirs), daemon=True).start()
        threading.Thread(target=_carry_out, args=(theirs, self.writing, written), daemon=True).start()
        ours.setblocking(False)
        return ours


def _is_stream_socket(descriptor: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    with socket.socket(fileno=os.dup(descriptor)) as own:
        return own.type == socket.SOCK_STREAM


def _carry_in(reading: int, to: socket.socket) -> None:
    try:
        while data := _read(reading):
            try:
                to.sendall(data)
            except OSError:
                return  # the connection has ended, which its other end knows
    except OSError as error:
        _log.error("standard input cannot be read: %s", error.strerror)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)


def _carry_out(replies: socket.socket, writing: int, written: Callable[[OSError | None], None]) -> None:
    failure = None
    with replies:
        try:
            while data := replies.recv(_CHUNK):
                _write(writing, data)
        except OSError as error:
            failure = None if error.errno in _HUNG_UP else error
            with suppress(OSError):
                replies.shutdown(socket.SHUT_RDWR)  # for who copies the input
    os.close(writing)
    written(failure)


def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _CHUNK)
        except BlockingIOError:  # whoever started this process left it so
            _wait_for(descriptor, select.POLLIN)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            _wait_for(descriptor, select.POLLOUT)


def _wait_for(descriptor: int, event: int) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll()

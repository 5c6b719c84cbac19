"""What the parent and a worker tell each other: messages over a unix socket pair, some with a connection.

A message is a JSON object after its length in four bytes. A descriptor travels with the first byte of
its message; the kernel keeps their order, and never gives it later than that byte.
"""

from __future__ import annotations

import array
import errno
import json
import socket
import struct
from collections import deque
from typing import Any, Final

__all__ = ["LONGEST", "Channel", "ChannelError", "Message"]

Message = dict[str, Any]

LONGEST: Final = 64 << 20
"""Bytes of a message: none of ours comes near it, the text of a configuration included."""

_LENGTH: Final = struct.Struct("!I")

#: The mark of a message that a connection travels with.
_PASSED: Final = "passed"

_CHUNK: Final = 1 << 16

#: Reads in a row before others have their turn.
_READS: Final = 64

#: What a full socket says, and a system that has too many descriptors under way.
_LATER: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)

_ANCILLARY: Final = socket.CMSG_SPACE(array.array("i").itemsize * 4)


class ChannelError(Exception):
    """What came is no message: the other end is not what it should be."""


class Channel:
    """One end. Nothing here blocks: what the other end does not take waits in `send`'s queue."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._out: deque[tuple[memoryview, int | None]] = deque()
        self._in = bytearray()
        self._passed: deque[socket.socket | None] = deque()  # None: was lost for want of a descriptor
        #: Whether the other end is gone; what is sent then is thrown away.
        self.closed = False

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Both ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return Channel(one), Channel(other)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give up this end, and the connections that have come and were not taken."""
        self.closed = True
        self._out.clear()
        self._socket.close()
        for passed in self._passed:
            if passed is not None:
                passed.close()
        self._passed.clear()

    # Sending.

    @property
    def clogged(self) -> bool:
        """Whether something waits for the other end to take what was sent before."""
        return bool(self._out)

    def send(self, message: Message, connection: socket.socket | None = None) -> None:
        """Send a message, and with it a connection, which must stay open until it was taken."""
        if self.closed:
            return
        if connection is not None:
            message = {**message, _PASSED: True}
        text = json.dumps(message, separators=(",", ":")).encode()
        if len(text) > LONGEST:
            raise ValueError(f"a message of {len(text)} bytes")
        descriptor = connection.fileno() if connection is not None else None
        self._out.append((memoryview(_LENGTH.pack(len(text)) + text), descriptor))
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the other end takes it."""
        out = self._out
        while out:
            data, descriptor = out[0]
            try:
                if descriptor is None:
                    sent = self._socket.send(data)
                else:
                    sent = socket.send_fds(self._socket, [data], [descriptor])
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno not in _LATER:
                    self.closed = True
                    out.clear()
                return
            if sent == len(data):
                out.popleft()
            else:
                out[0] = data[sent:], None

    # Receiving.

    def receive(self) -> list[tuple[Message, socket.socket | None]]:
        """The messages that have come, each with its connection: None where it has none or where this
        process had no descriptor left for it.

        Raises `EOFError` when the other end is gone and all it sent has been received, `ChannelError`
        when it sends what is no message.
        """
        for _ in range(_READS):
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    _CHUNK, _ANCILLARY, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
                )
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # as an end: ECONNRESET, when the other end had not read all
                data, ancillary, flags = b"", [], 0
            if not data:
                messages = self._messages()
                if not messages:
                    raise EOFError
                return messages
            came = _sockets(ancillary)
            self._passed += came
            if flags & socket.MSG_CTRUNC and not came:
                self._passed.append(None)
            self._in += data
        return self._messages()

    def _messages(self) -> list[tuple[Message, socket.socket | None]]:
        messages = []
        start = 0
        received = self._in
        while len(received) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(received, start)
            if length > LONGEST:
                raise ChannelError(f"a message of {length} bytes")
            end = start + _LENGTH.size + length
            if len(received) < end:
                break
            try:
                message = json.loads(received[start + _LENGTH.size : end])
            except ValueError:
                raise ChannelError("a message that is not JSON") from None
            if not isinstance(message, dict):
                raise ChannelError("a message that is not an object")
            connection = None
            if message.pop(_PASSED, False):
                if not self._passed:
                    raise ChannelError("a connection did not come with its message")
                connection = self._passed.popleft()
            messages.append((message, connection))
            start = end
        del received[:start]
        return messages


def _sockets(ancillary: list[tuple[int, int, bytes]]) -> list[socket.socket]:
    found = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors = array.array("i")
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                connection.setblocking(False)
                found.append(connection)
    return found

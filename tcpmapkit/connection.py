"""One connection: bytes to its codec, requests to the map, replies in the order of the requests.

A ready reply, or an answer that the map gives at once, is written from within `data_received`. A
lookup that waits holds back the requests behind it: they stay in the codec, and when more than
`MAX_HELD` bytes have gathered there, reading pauses. A peer that does not read its replies is
neither answered nor read until it does. No task and no timer belongs to a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tcpmapkit.cache import Answer
from tcpmapkit.protocols.framing import SILENCE, Lookup, ProtocolError, Refused
from tcpmapkit.service import Service

__all__ = ["MAX_HELD", "MAX_PER_TURN", "Connection"]

MAX_PER_TURN: Final = 256
"""Requests of one connection answered in a row before the others have their turn."""

MAX_HELD: Final = 1 << 16
"""Bytes held back of a connection, requests or replies, before reading pauses or what is there is written."""

_log = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """One peer's connection to a listener."""

    __slots__ = (
        "_codec",
        "_ended",
        "_find",
        "_reading_paused",
        "_scheduled",
        "_transport",
        "_waiting",
        "_write",
        "_writing_paused",
        "clear",
        "last_active",
        "service",
    )

    def __init__(self, service: Service) -> None:
        self.service = service
        #: When the last reply was written, by the service's clock; a byte of a request is no activity.
        self.last_active = service.clock()
        self._find = service.find
        self._codec = service.new_codec()
        self._transport: Any = None
        self._write: Callable[[bytes], None]
        self._waiting: Lookup | None = None  # the lookup under way
        self._scheduled = False  # the rest is answered in the loop's next turn
        self._writing_paused = False
        self._reading_paused = False
        self._ended = False  # nothing more is read: answer what is here, then close
        self.clear = False  # nothing of the above, and between two requests

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._write = self._transport.write
        self.clear = True
        self.service.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        _log.debug("%s: connection closed: %s", self.service.name, exc or "end of input")
        self._transport = None
        self._waiting = None  # its answer, if one comes, is for nobody
        self.clear = False
        self.service.closed(self)

    def data_received(self, data: bytes) -> None:
        if self.clear:
            reply = self._find(data)
            if reply is not None:
                # A chunk equal to a request that was answered is one whole request: no need to parse.
                self._write(reply)
                self.last_active = self.service.clock()
                return
            request = self._codec.whole_request(data)
            if request is not None:
                reply = self._answer(request, sought=len(data))
                if reply is None:
                    self._settle()
                else:
                    self._tell(reply)
                return
            self._codec.receive_data(data)
            self._pump(sought=len(data))
        else:
            self._codec.receive_data(data)
            if self._held_back:
                self._settle()
            else:
                self._pump()

    def eof_received(self) -> bool:
        self._end()
        # False lets the transport close; until then what was asked before the end is answered.
        return self._held_back

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._settle()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._transport is None:
            return
        if self._held_back:
            self._settle()
        else:
            self._pump()

    # Called by the server.

    @property
    def transport(self) -> Any:
        """What carries it, an `asyncio.Transport`; None before it is made and after it is lost."""
        return self._transport

    @property
    def in_flight(self) -> bool:
        """Whether a request is being answered, a reply waits for the peer to read, or all is yet to begin."""
        return self._held_back or self._transport is None

    def finish(self) -> None:
        """Read nothing more, answer what has been received, then close."""
        if self._transport is None:
            return
        if not self._ended:
            self._pause_reading()
            self._end()
        if not self._held_back:
            self._transport.close()

    def close_idle(self) -> None:
        """Close a connection without a lookup in flight; drop one whose peer does not take its replies."""
        if self._transport is None or self._waiting is not None or self._scheduled:
            return
        if self._writing_paused or self._transport.is_closing():
            self._transport.abort()
        else:
            self.finish()

    def abort(self) -> None:
        """Drop the connection, whatever is in flight."""
        if self._transport is not None:
            self._transport.abort()

    # Answering.

    @property
    def _held_back(self) -> bool:
        return self._waiting is not None or self._scheduled or self._writing_paused

    def _pump(self, sought: int = 0) -> None:
        """Answer the requests received, in order, until something must be waited for.

        `sought`: a request of that many bytes, if it comes first, is known not to be ready.
        """
        codec = self._codec
        replies: list[bytes] = []
        size = 0
        drained = False
        try:
            for _ in range(MAX_PER_TURN):
                request = codec.next_request()
                if request is None:
                    drained = True
                    break
                reply = self._answer(request, sought)
                if reply is None:
                    break
                if reply is SILENCE:
                    self._end()
                    drained = True
                    break
                replies.append(reply)
                if codec.between_requests:
                    drained = True
                    break
                sought = 0
                size += len(reply)
                if size >= MAX_HELD:
                    self._send(replies)
                    replies = []
                    size = 0
                    if self._writing_paused or self._transport.is_closing():
                        break
            else:
                self._schedule()
        except ProtocolError as error:
            peer = self._transport.get_extra_info("peername")
            host = peer[0] if isinstance(peer, tuple) else "local"
            _log.info("%s: %s from %s, closing", self.service.name, error, host)
            self._end()
            drained = True
        if replies:
            self._send(replies)
        if drained and self._ended:
            self._transport.close()
        else:
            self._settle()

    def _answer(self, request: Lookup | Refused, sought: int) -> bytes | None:
        """The reply, or None when it is `_answered` that will give it."""
        service = self.service
        if type(request) is Refused:
            return service.reply_to_refused(request)
        try:
            if len(request.raw) != sought:
                reply = self._find(request.raw)
                if reply is not None:
                    return reply
            answer = service.ask(request, partial(self._answered, request))
            if answer is not None:
                return service.reply_to(answer, request, self._codec)
        except Exception as error:
            return service.reply_to_bug(error, request, self._codec)
        self._waiting = request
        return None

    def _answered(self, request: Lookup, answer: Answer) -> None:
        """The answer to the lookup under way; one to any other is dropped, its peer has hung up."""
        if request is not self._waiting:
            return
        self._waiting = None
        try:
            reply = self.service.reply_to(answer, request, self._codec)
        except Exception as error:
            reply = self.service.reply_to_bug(error, request, self._codec)
        if not self._tell(reply):
            return
        if self._ended or self._codec.buffered_bytes:
            # Not here: this may be in the midst of the map's answering others.
            self._schedule()
        self._settle()

    def _end(self) -> None:
        """No request that comes is answered any more."""
        self._ended = True
        self.clear = False

    def _tell(self, reply: bytes) -> bool:
        """Write the one reply there is, which was made just now; or, when it is `SILENCE`, close, and
        False."""
        if reply is SILENCE:
            self._end()
            self._transport.close()
            return False
        self._write(reply)
        self.last_active = self.service.replied_at
        return True

    def _send(self, replies: list[bytes]) -> None:
        self._write(replies[0] if len(replies) == 1 else b"".join(replies))
        self.last_active = self.service.clock()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._scheduled = False
        if self._transport is not None and not self._held_back:
            self._pump()

    def _settle(self) -> None:
        """Read on or not, and take the short way or not, as things now stand."""
        codec = self._codec
        if self._held_back:
            self.clear = False
            if self._writing_paused or codec.buffered_bytes > MAX_HELD:
                self._pause_reading()
        else:
            self.clear = not self._ended and codec.between_requests
        if self._reading_paused and not self._writing_paused and codec.buffered_bytes <= MAX_HELD:
            self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._ended and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        # After the end there is nothing to read: asyncio would tell of the end again.
        if not self._ended and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

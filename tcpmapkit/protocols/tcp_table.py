"""tcp_table(5), the server's side and, for tests and `query --explain`, the client's.

A request is ``get SPACE key NEWLINE``, the key %XX-quoted; a reply is three digits, a space, quoted
text, a newline, of which Postfix (dict_tcp.c) reads 4096 bytes. Only the first digit counts: 2 found,
5 NOT found, 4 could not find out. Error text is quoted too: one stray ``%`` makes it a malformed reply.

More is understood than Postfix sends, for people with telnet: words may be set apart by any white space,
and CR LF ends a line as LF does (Postfix quotes a CR of the key, so a bare one is never part of it).
``get `` with nothing behind it asks for the empty key; ``get`` without the space is malformed.
"""

from __future__ import annotations

import re
from typing import Final

from tcpmapkit.protocols.framing import (
    MAX_KEY,
    TOO_LONG,
    LineBuffer,
    Lookup,
    ProtocolError,
    Refused,
    reason_sent,
)
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, TempFail

__all__ = [
    "MAX_REPLY",
    "MAX_REQUEST",
    "REPLY_TOO_LONG",
    "TcpTableCodec",
    "decode",
    "encode",
    "encode_request",
    "parse",
    "quote",
    "unquote",
]

MAX_REQUEST: Final = 30_005
"""Bytes of a request line: ``get ``, a key of 10000 bytes of which each is quoted, the newline."""

MAX_REPLY: Final = 4096
"""Bytes of a reply with its newline (DICT_TCP_MAXLEN)."""

_UNQUOTED = re.compile(r"[!-$&-~]*").fullmatch
_QUOTED = tuple(
    bytes((byte,)) if 0x21 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in range(256)
)
_HEX = "0123456789abcdefABCDEF"
_BYTES = {f"{high}{low}".encode(): bytes.fromhex(high + low) for high in _HEX for low in _HEX}


def quote(text: str) -> bytes:
    """`text` in UTF-8 with ``%``, white space, control and non-ASCII bytes as %XX, and nothing else.

    The same bytes as Postfix's hex_quote(): ``@``, ``=`` and ``/`` stay, they count against the 4096.
    """
    if _UNQUOTED(text):
        return text.encode()
    return b"".join([_QUOTED[byte] for byte in text.encode(errors="backslashreplace")])


def unquote(quoted: bytes) -> bytes:
    """The bytes behind the %XX; as strict as Postfix's hex_unquote(). Raises `ValueError`."""
    if 37 not in quoted:
        return quoted
    first, *rest = quoted.split(b"%")
    try:
        return first + b"".join([_BYTES[part[:2]] + part[2:] for part in rest])
    except KeyError:
        raise ValueError("% without two hexadecimal digits") from None


def _reply(code: bytes, text: str) -> bytes:
    return code + b" " + quote(text) + b"\n"


_NOT_FOUND: Final = _reply(b"500", "not found")
_EMPTY_KEY: Final = (b"get \n", b"get \r\n")

REPLY_TOO_LONG: Final = _reply(b"400", "value too long for a tcp_table reply")
"""What `encode` answers, this very object, for a value that does not fit into `MAX_REPLY` bytes."""


def _malformed(reason: str) -> Refused:
    return Refused(_reply(b"400", f"malformed request: {reason}"), reason)


_KEY_TOO_LONG = Refused(_reply(b"500", "key too long"), "key too long")
_KEY_NOT_UTF8 = Refused(_NOT_FOUND, "key is not valid UTF-8")
_PUT = Refused(_reply(b"500", "put is not supported"), "put is not supported")


def parse(line: bytes) -> Lookup | Refused:
    """One request line, newline included.

    A malformed one is answered 400 and never 500, which would say that the key does not exist; a key
    that Postfix itself would call invalid (too long, not UTF-8) does not exist. ``put`` with a key and
    a value is answered 500: for updates tcp_table(5) gives it the meaning "rejected".
    """
    words = line.split()
    if len(words) == 2 and words[0] == b"get":
        try:
            key = unquote(words[1])
        except ValueError as error:
            return _malformed(str(error))
        if len(key) > MAX_KEY:
            return _KEY_TOO_LONG
        try:
            return Lookup(key.decode(), line)
        except UnicodeDecodeError:
            return _KEY_NOT_UTF8
    match words:
        case [b"get"]:
            return Lookup("", line) if line in _EMPTY_KEY else _malformed("get takes a key")
        case [b"get", *_]:
            return _malformed("get takes one key, quoted")
        case [b"put", _, _, *_]:
            return _PUT
        case [b"put", *_]:
            return _malformed("put takes a key and a value")
        case []:
            return _malformed("empty line")
        case _:
            return _malformed("unknown command")


def encode(outcome: Outcome) -> bytes:
    """The reply line for `outcome`; `REPLY_TOO_LONG` itself, never a truncation, for a value over it."""
    if type(outcome) is Found:
        value = outcome.value
        reply = f"200 {value}\n".encode() if _UNQUOTED(value) else _reply(b"200", value)
        return reply if len(reply) <= MAX_REPLY else REPLY_TOO_LONG
    match outcome:
        case NotFound():
            return _NOT_FOUND
        case TempFail(reason) | PermFail(reason):
            # Both are 400: for Postfix a 5xx is "no such key", which an error must never become.
            return _reply(b"400", reason_sent(reason))
    raise TypeError(f"not an outcome: {type(outcome).__name__}")


class TcpTableCodec:
    """The server's end of one tcp_table connection; see `tcpmapkit.protocols.framing.Codec`."""

    __slots__ = ("_lines",)

    encode = staticmethod(encode)
    reply_too_long = REPLY_TOO_LONG

    def __init__(self) -> None:
        self._lines = LineBuffer(MAX_REQUEST)

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet given out."""
        return len(self._lines)

    @property
    def between_requests(self) -> bool:
        """Whether nothing is held and the next byte begins a request."""
        return self._lines.between_lines

    def receive_data(self, data: bytes) -> None:
        """Store what the peer sent."""
        self._lines.receive(data)

    def whole_request(self, data: bytes) -> Lookup | Refused | None:
        """The request that `data` is, when it is a whole one and no more."""
        if data.find(b"\n") != len(data) - 1 or len(data) > MAX_REQUEST or not data:
            return None
        return parse(data)

    def next_request(self) -> Lookup | Refused | None:
        """The next request, or None when more bytes are needed. Raises `ProtocolError`."""
        line = self._lines.next_line()
        if line is None:
            return None
        return parse(line) if line is not TOO_LONG else _KEY_TOO_LONG


def encode_request(key: str) -> bytes:
    """The line with which Postfix asks for `key`."""
    return b"get " + quote(key) + b"\n"


def decode(reply: bytes) -> Found | NotFound | TempFail:
    """What Postfix makes of a reply line (dict_tcp.c).

    Raises `ProtocolError` for what Postfix calls a malformed reply, and where it waits for the newline.
    """
    if len(reply) > MAX_REPLY or reply.find(b"\n") != len(reply) - 1:
        raise ProtocolError(f"a reply is one line of at most {MAX_REPLY} bytes")
    if len(reply) < 5 or not reply[:3].isdigit() or not reply[3:4].isspace():
        raise ProtocolError("a reply is three digits, white space, text")
    try:
        text = unquote(reply[4:-1]).decode()
        match reply[:1]:
            case b"2":
                return Found(text)
            case b"4":
                return TempFail(text)
            case b"5":
                return NotFound()
    except ValueError as error:
        raise ProtocolError(f"malformed reply: {error}") from None
    raise ProtocolError("a reply begins with 2, 4 or 5")

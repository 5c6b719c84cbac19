"""SMTPD access policy delegation (SMTPD_POLICY_README), the server's side and, for tests, the client's.

A request is lines of ``name=value`` ended by an empty line, a reply is ``action=VALUE`` and an empty
line. The protocol has no word for a failure: then nothing is said and the connection is closed, and so
it is after a request that cannot be understood. Nothing is ever said unasked.

For people with telnet, an empty line that ends in CR LF says that the others do too; then a CR before
the LF is no part of a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from tcpmapkit.protocols.actions import NO_ACTION, is_none
from tcpmapkit.protocols.framing import SILENCE, Lookup, ProtocolError
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, TempFail

__all__ = [
    "ATTRIBUTES",
    "MAX_REPLY",
    "MAX_REQUEST",
    "PolicyCodec",
    "Stage",
    "decode",
    "encode",
    "encode_request",
    "parse",
]

ATTRIBUTES: Final = (
    "request",
    "protocol_state",
    "protocol_name",
    "helo_name",
    "queue_id",
    "sender",
    "recipient",
    "recipient_count",
    "client_address",
    "client_name",
    "reverse_client_name",
    "instance",
    "sasl_method",
    "sasl_username",
    "sasl_sender",
    "size",
    "ccert_subject",
    "ccert_issuer",
    "ccert_fingerprint",
    "encryption_protocol",
    "encryption_cipher",
    "encryption_keysize",
    "etrn_domain",
    "stress",
    "ccert_pubkey_fingerprint",
    "client_port",
    "policy_context",
    "server_address",
    "server_port",
    "compatibility_level",
    "mail_version",
    "tls_sni",
)
"""The attributes that Postfix sends (3.12 sends them all), in the order of its manual."""

Stage = Literal["CONNECT", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE", "VRFY", "ETRN"]
"""The values of ``protocol_state``."""

MAX_REQUEST: Final = 1 << 16
"""Bytes of a request, its empty line included."""

MAX_REPLY: Final = 1 << 16
"""Bytes of a reply, its empty line included: ours, Postfix (attr_scan_plain.c) reads any number."""

_NOT_FOUND: Final = b"action=%b\n\n" % NO_ACTION.encode()
_REQUEST: Final = "smtpd_access_policy"
_XTEXT: Final = "ccert_"

_END = re.compile(rb"\n\r?\n")
_EMPTY_LINE = re.compile(rb"\r?\n")
_HEX = re.compile(rb"\+([0-9A-Fa-f]{2})?")
_TO_QUOTE = re.compile(rb"[^!-*,-~]")


def _xtext_decoded(value: str) -> str:
    """What is behind xtext (RFC 3461 section 4, as lenient as Postfix's xtext_unquote()).

    What is no xtext, or none of a text in UTF-8, stays as it is.
    """
    if "+" not in value:
        return value
    try:
        return _HEX.sub(lambda match: bytes.fromhex(match[1].decode()), value.encode()).decode()
    except (AttributeError, UnicodeDecodeError):
        return value


def _xtext(value: str) -> str:
    return _TO_QUOTE.sub(lambda match: b"+%02X" % ord(match[0]), value.encode()).decode()


def parse(request: bytes) -> Lookup:
    """One request, its empty line included.

    The attributes are all that were sent, known or not; of repeated ones the last counts. What is not
    UTF-8 becomes U+FFFD: such a value equals no address or name that a table holds, while the other
    attributes still tell what they tell (Postfix has refused such an SMTP command long before, unless
    smtputf8_enable is off). The ``ccert_`` attributes are decoded from xtext.

    Raises `ProtocolError` for a line without a name and ``=``, and where no access policy is asked for.
    """
    lines = request.replace(b"\r\n", b"\n") if request.endswith(b"\n\r\n") else request
    try:
        attributes = dict(
            [line.split("=", 1) for line in lines.decode(errors="replace").removesuffix("\n\n").split("\n")]
        )
    except ValueError:
        raise ProtocolError("an attribute is name=value") from None
    if "" in attributes:
        raise ProtocolError("an attribute has a name")
    if attributes.get("request") != _REQUEST:
        raise ProtocolError(f"no request={_REQUEST}")
    for name in attributes:
        if name.startswith(_XTEXT):
            attributes[name] = _xtext_decoded(attributes[name])
    return Lookup("", request, attributes=attributes)


def encode(outcome: Outcome) -> bytes:
    """The reply for `outcome`; `SILENCE` itself for a failure, and for an action over `MAX_REPLY`."""
    match outcome:
        case Found(value):
            reply = b"action=%b\n\n" % value.encode()
            return reply if len(reply) <= MAX_REPLY else SILENCE
        case NotFound():
            return _NOT_FOUND
        case TempFail() | PermFail():
            return SILENCE
    raise TypeError(f"not an outcome: {type(outcome).__name__}")


class PolicyCodec:
    """The server's end of one policy connection; see `tcpmapkit.protocols.framing.Codec`.

    A request over `MAX_REQUEST` is a `ProtocolError` as soon as so much has come.
    """

    __slots__ = ("_buffer", "_searched")

    encode = staticmethod(encode)
    reply_too_long = SILENCE

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # no end of a request begins before this offset

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet given out."""
        return len(self._buffer)

    @property
    def between_requests(self) -> bool:
        """Whether nothing is held and the next byte begins a request."""
        return not self._buffer

    def receive_data(self, data: bytes) -> None:
        """Store what the peer sent."""
        self._buffer += data

    def whole_request(self, data: bytes) -> None:
        """None: where a request ends depends on what is in it."""

    def next_request(self) -> Lookup | None:
        """The next request, or None when more bytes are needed. Raises `ProtocolError`."""
        buffer = self._buffer
        if _EMPTY_LINE.match(buffer):
            raise self._error("a request without attributes")
        end = _END.search(buffer, self._searched)
        length = len(buffer) + 1 if end is None else end.end()
        if length > MAX_REQUEST:
            raise self._error(f"no end of request within {MAX_REQUEST} bytes")
        if end is None:
            self._searched = max(0, len(buffer) - 2)  # the last two bytes may begin the end
            return None
        request = bytes(buffer[:length])
        del buffer[:length]  # cheap: a bytearray gives up its front without moving the rest
        self._searched = 0
        return parse(request)

    def _error(self, text: str) -> ProtocolError:
        self._buffer.clear()
        return ProtocolError(text)


def encode_request(attributes: Mapping[str, str]) -> bytes:
    """The request with these attributes, as Postfix sends it.

    Raises `ValueError` for an attribute that no request can hold.
    """
    lines = []
    for name, value in ({"request": _REQUEST} | dict(attributes)).items():
        if not name or "=" in name or set(name + value) & set("\0\n"):
            raise ValueError(f"no request can hold the attribute {name!r}")
        lines.append(f"{name}={_xtext(value) if name.startswith(_XTEXT) else value}\n")
    return "".join([*lines, "\n"]).encode()


def decode(reply: bytes) -> Found | NotFound:
    """What Postfix makes of a reply (attr_scan_plain.c): the first action, other attributes aside.

    `NO_ACTION` is `NotFound`: it is access(5)'s word for that. Raises `ProtocolError` for what makes
    Postfix take its own default action: no reply, none with its end, no action, one that is empty.
    """
    lines, end, behind = reply.partition(b"\n\n")
    if not end or behind:
        raise ProtocolError("a reply is lines and an empty one")
    for line in lines.split(b"\n"):
        name, equals, value = line.partition(b"=")
        if not line or (name == b"action" and not equals):
            break
        if name == b"action":
            try:
                return NotFound() if is_none(value.decode(errors="replace")) else Found(value.decode())
            except ValueError as error:
                raise ProtocolError(f"malformed reply: {error}") from None
    raise ProtocolError("a reply without an action")

"""What an HTTP response says: its body within a limit, and the values in it."""

from __future__ import annotations

import json
import zlib
from typing import Any

__all__ = ["Unusable", "pass_over_body", "read_body", "values_in"]


class Unusable(Exception):
    """A response that is no answer. `reason` is for Postfix's log, `detail` for ours; neither holds
    a URL, a key or a body."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


async def read_body(response: Any, limit: int) -> bytes:
    """The whole body, decompressed, of an `aiohttp.ClientResponse` that has not been decompressed.

    Raises `Unusable` when it is longer than `limit` bytes, before or after, or cannot be
    decompressed. Leaving the response's context then closes its connection.
    """
    body = bytearray()
    if (response.content_length or 0) <= limit:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                break
        else:
            return _decompress(bytes(body), response.headers.getall("Content-Encoding", []), limit)
    raise _too_long(limit)


async def pass_over_body(response: Any, limit: int) -> None:
    """Read the body of a response whose status says all, so that its connection can be used again.

    One that is longer than `limit` bytes costs its connection, whatever it holds never the answer.
    """
    size = 0
    if (response.content_length or 0) <= limit:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                break


def _too_long(limit: int) -> Unusable:
    return Unusable("the HTTP response is too long", f"more than {limit} bytes; max_body sets the limit")


def _decompress(body: bytes, encodings: list[str], limit: int) -> bytes:
    encoding = ",".join(encodings).strip().lower()
    if encoding in ("", "identity") or not body:
        return body
    if encoding in ("gzip", "x-gzip"):
        window = 16 + zlib.MAX_WBITS
    elif encoding == "deflate":
        # RFC 9110 means zlib's format; some servers send the bare stream.
        window = zlib.MAX_WBITS if body[0] & 0x0F == 8 else -zlib.MAX_WBITS
    else:
        raise Unusable("the HTTP response has an unknown encoding", f"Content-Encoding: {encoding[:40]!r}")
    stream = zlib.decompressobj(window)
    try:
        text = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Unusable("the HTTP response is damaged", str(error)) from None
    if len(text) > limit:
        raise _too_long(limit)
    if not stream.eof or stream.unused_data:
        raise Unusable("the HTTP response is damaged", "its compressed body does not end where it should")
    return text


def values_in(body: bytes, response: Any, expression: Any) -> list[str]:
    """The values in a body of status 200, none of them empty; no value at all is a miss.

    JSON (``application/json``, ``+json``) is a string, a list of strings or null, after the
    compiled JMESPath `expression`, if any; ``text/plain`` one line. Raises `Unusable`.
    """
    kind = response.content_type.lower() if "Content-Type" in response.headers else "nothing"
    is_json = kind == "application/json" or kind.endswith("+json")
    if not is_json and (kind != "text/plain" or expression is not None):
        wanted = "JSON" if expression is not None else "JSON or plain text"
        raise Unusable("the HTTP response has the wrong type", f"{kind[:60]!r} instead of {wanted}")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unusable("the HTTP response is not valid UTF-8") from None
    if is_json:
        return _values_in_json(text, expression)
    if (response.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Unusable("the HTTP response is not in UTF-8", f"charset={response.charset[:40]!r}")
    return _value_in_text(text, ended=response.content_length is not None or _chunked(response))


def _chunked(response: Any) -> bool:
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def _values_in_json(text: str, expression: Any) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable("the HTTP response is not valid JSON", type(error).__name__) from None
    if expression is not None:
        from jmespath.exceptions import JMESPathError

        try:
            found = expression.search(found)
        except (JMESPathError, TypeError, ValueError, RecursionError) as error:
            raise Unusable(
                "the HTTP response has the wrong shape", f"value: {type(error).__name__}"
            ) from None
    if found is None:
        return []
    values = [found] if isinstance(found, str) else found
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Unusable("the HTTP response has the wrong shape", "not a string or a list of strings")
    return [value for value in values if value]


def _value_in_text(text: str, ended: bool) -> list[str]:
    """`ended`: the message had a length. Without, a broken connection looks like the end, and only
    the end of the line tells a whole value from half of one."""
    line = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if "\n" in line or "\r" in line:
        raise Unusable("the HTTP response has the wrong shape", "more than one line of text")
    if line == text and line and not ended:
        raise Unusable("the HTTP response may be cut off", "text without a length or an end of line")
    return [line] if line else []

"""For how long an HTTP response holds, and when to ask again: RFC 9111, section 4.2; RFC 9110, 10.2.3.

We are a shared cache: ``s-maxage`` counts before ``max-age``, and ``private`` forbids storing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

__all__ = ["MAX_RETRY_AFTER", "lifetime", "retry_after"]

#: Seconds for which an API can have itself left alone.
MAX_RETRY_AFTER: Final = 60.0

_DIRECTIVE = re.compile(r'([a-z-]+)(?:=(?:"([^"]*)"|([^\s,"]*)))?')
_SECONDS = re.compile(r"[0-9]{1,10}")


def lifetime(headers: Any, now: float) -> float | None:
    """Seconds for which the response may be used; None when it does not say.

    `headers` is aiohttp's multi-dict, `now` the time of day in seconds since 1970. What cannot be
    understood counts as stale, as the RFC advises.
    """
    directives: dict[str, list[str]] = {}
    for name, quoted, plain in _DIRECTIVE.findall(",".join(headers.getall("Cache-Control", ())).lower()):
        directives.setdefault(name, []).append(quoted or plain)
    if not directives.keys().isdisjoint(("no-store", "no-cache", "private")):
        return 0.0
    for name in ("s-maxage", "max-age"):
        if name in directives:
            fresh = min(_seconds(text) or 0.0 for text in directives[name])
            break
    else:
        if "Expires" not in headers:
            return None
        expires, date = _time(headers["Expires"]), _time(headers.get("Date", ""))
        fresh = 0.0 if expires is None else expires - (now if date is None else date)
    return max(0.0, fresh - (_seconds(headers.get("Age", "")) or 0.0))


def retry_after(headers: Any, now: float) -> float | None:
    """Seconds until the API wants to be asked again, at most `MAX_RETRY_AFTER`; None when it does not say."""
    text = headers.get("Retry-After", "")
    seconds = _seconds(text)
    if seconds is None:
        then, date = _time(text), _time(headers.get("Date", ""))
        if then is None:
            return None
        seconds = then - (now if date is None else date)
    return min(max(0.0, seconds), MAX_RETRY_AFTER)


def _seconds(text: str) -> float | None:
    text = text.strip()
    return float(text) if _SECONDS.fullmatch(text) else None


def _time(text: str) -> float | None:
    try:
        moment: datetime = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

"""The ways a step fails, and what Postfix is told of each."""

from __future__ import annotations

from typing import Final

from tcpmapkit.counters import FailureKind
from tcpmapkit.query import Failure, LookupPermFail, LookupTempFail, PermFail, TempFail
from tcpmapkit.threads import TooBusy

__all__ = ["BUSY", "INTERNAL_ERROR", "NOT_ASKED", "NO_VALUE", "TIMED_OUT", "in_full", "meaning"]

TIMED_OUT: Final = TempFail("timed out")

#: All threads of the step are taken.
BUSY: Final = TempFail("busy")

#: What Postfix is told of a bug; the log has the rest.
INTERNAL_ERROR: Final = TempFail("internal error")

#: What a step answers while its breaker is open.
NOT_ASKED: Final = TempFail("source is failing, not asked")

#: A result that no reply can carry: the localpart of a hostile address may have a line break in it. No miss,
#: which could let it through.
NO_VALUE: Final = TempFail("the result is no value for Postfix")


def in_full(failure: Failure) -> str:
    """Its reason and what else is known, for our own log and for whoever asks at a terminal."""
    return f"{failure.reason}: {failure.detail}" if failure.detail else failure.reason


def meaning(error: BaseException) -> tuple[Failure, FailureKind] | None:
    """The failure that a resolver means by an exception, and its kind; None for a bug."""
    if isinstance(error, LookupTempFail):
        ttl = error.ttl if isinstance(error.ttl, (int, float)) else None
        return TempFail(error.reason, ttl, detail=error.detail), "temporary"
    if isinstance(error, LookupPermFail):
        return PermFail(error.reason, detail=error.detail), "permanent"
    if isinstance(error, TimeoutError):
        return TIMED_OUT, "timed_out"
    if isinstance(error, TooBusy):
        return BUSY, "busy"
    return None

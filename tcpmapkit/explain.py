"""``query --explain``: every step, the outcome, the bytes on the wire, and what Postfix does with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tcpmapkit.key_search import KeyTrace
from tcpmapkit.protocols import PROTOCOLS
from tcpmapkit.query import Found, Miss, NotFound, Outcome, Query, TempFail
from tcpmapkit.step import StepTrace

if TYPE_CHECKING:
    from tcpmapkit.maps import Map

__all__ = ["explanation"]


def explanation(map: Map, query: Query, outcome: Outcome, elapsed: float) -> Iterator[tuple[str, ...]]:
    """Records, the first field of each saying what it is; `elapsed` is the lookup's time in seconds."""
    yield "map", map.name
    yield "key", repr(query.key)
    yield "cache", _cache(map)
    yield from _asked(query.trace or ())
    yield "outcome", _outcome(outcome), _milliseconds(elapsed)
    for name, protocol in PROTOCOLS.items():
        yield "reply", name, ascii(protocol.encode(outcome))[1:]
    yield "Postfix", _consequence(outcome)


def _asked(trace: Iterable[Any]) -> Iterator[tuple[str, ...]]:
    """Every key that was asked, in order, and below it the steps that saw it."""
    keys = steps = 0
    matched = ""
    for entry in trace:
        if isinstance(entry, KeyTrace):
            keys, steps = keys + 1, 0
            matched = repr(entry.key.key)
            yield f"key {keys}", matched, "partial" if entry.key.partial else "full"
        else:
            steps += 1
            yield f"step {steps}", *_step(entry)
    if keys and isinstance(getattr(entry, "outcome", None), Found):
        yield "matched", matched


def _step(step: StepTrace) -> tuple[str, ...]:
    if step.outcome is None:
        return step.step, "not asked"
    return step.step, f"asked {step.key!r}", _outcome(step.outcome), _milliseconds(step.elapsed)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _outcome(outcome: Outcome | Miss) -> str:
    ttl = f" for {outcome.ttl:g} s" if outcome.ttl is not None else ""
    if isinstance(outcome, Found):
        return f"found {outcome.value!r}{ttl}"
    if isinstance(outcome, NotFound):
        return f"not found{ttl}"
    if isinstance(outcome, Miss):
        return f"miss{ttl}"
    kind = "temporary" if isinstance(outcome, TempFail) else "permanent"
    return f"{kind} failure: {outcome.reason}"


def _cache(map: Map) -> str:
    if map.options is None:
        return "off"
    if map.current.in_memory:
        return "none needed: every step answers from memory; replies are kept ready"
    if map.current.attributes is None:
        return "off: a step may read any attribute"
    by = "the folded key" if map.current.folded else "the key as it came"
    return f"by {by}, found {map.options.ttl:g} s, not found {map.options.negative_ttl:g} s"


def _consequence(outcome: Outcome) -> str:
    if isinstance(outcome, Found):
        return "uses the value"
    if isinstance(outcome, NotFound):
        return "takes the key as absent here and asks the next table, if there is one"
    return "defers the mail (4xx) and asks again later; it never takes the key as absent"

"""``query --explain``: every key and step, the outcome, the bytes on the wire, what Postfix does with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tcpmapkit.key_search import KeyTrace
from tcpmapkit.protocols import PROTOCOLS
from tcpmapkit.protocols.actions import smtpd_does
from tcpmapkit.protocols.framing import SILENCE
from tcpmapkit.query import Found, Miss, NotFound, Outcome, Query, TempFail
from tcpmapkit.step_answer import NotAsked, StepTrace
from tcpmapkit.step_failures import in_full

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.maps import Map
    from tcpmapkit.policy_question import PolicyAnswer

__all__ = ["OWN_DEFAULT", "explanation", "policy_explanation"]

Row = tuple[str, ...]

#: What Postfix goes by when a policy service says nothing.
OWN_DEFAULT: Final = "smtpd_policy_service_default_action (by default 451 4.3.5, which defers the mail)"


def explanation(map: Map, query: Query, outcome: Outcome, elapsed: float) -> Iterator[Row]:
    """Records, the first field of each saying what it is; `elapsed` is the lookup's time in seconds."""
    yield "map", map.name
    yield "key", repr(query.key)
    yield from _looked_up(map, query, outcome, elapsed)
    for name, protocol in PROTOCOLS.items():
        yield "reply", name, _bytes(protocol.encode(outcome))
    yield "Postfix", _consequence(outcome)


def policy_explanation(
    listener: ListenerConfig, attributes: Mapping[str, str], map: Map, answer: PolicyAnswer
) -> Iterator[Row]:
    """As `explanation`, of a policy request with these attributes."""
    yield "listener", str(listener.endpoint)
    for name, value in attributes.items():
        yield "attribute", name, repr(value)
    yield "map", map.name
    yield "key", repr(answer.query.key), f"made by {listener.key}"
    yield from _looked_up(map, answer.query, answer.outcome, answer.elapsed, ready=False)
    if answer.told is not answer.outcome:
        yield "default_action", repr(listener.default_action)
    yield "reply", listener.protocol, _bytes(answer.reply)
    if answer.action is not None:
        yield "Postfix", smtpd_does(answer.action)
    else:
        yield "Postfix", f"asks once more, then takes {OWN_DEFAULT}"


def _looked_up(
    map: Map, query: Query, outcome: Outcome, elapsed: float, *, ready: bool = True
) -> Iterator[Row]:
    yield "cache", _cache(map, ready)
    trace = query.trace or ()
    if not trace and map.options is not None and not map.current.in_memory:
        yield "steps", "none asked: the cache has the answer"
    yield from _asked(map.name, trace)
    own = [entry for entry in trace if entry.map == map.name]
    last = own[-1].outcome if own and isinstance(own[-1], StepTrace) else None
    if isinstance(last, Found):
        keys = [entry.key.key for entry in own if isinstance(entry, KeyTrace)]
        if keys:
            yield "matched", repr(keys[-1])
        if isinstance(outcome, Found) and last.value != outcome.value:
            yield "rewritten", f"from {last.value!r}", f"to {outcome.value!r}"
    yield "outcome", _outcome(outcome), _milliseconds(elapsed)


def _asked(own: str, trace: Iterable[Any]) -> Iterator[Row]:
    """Every key that was asked, in order, and below it the steps that saw it.

    What happened in another map stands above the step that asked it, under that map's name.
    """
    keys = steps = 0
    for entry in trace:
        if isinstance(entry, KeyTrace):
            row = (repr(entry.key.key), "partial" if entry.key.partial else "full")
            if entry.map == own:
                keys, steps = keys + 1, 0
                yield f"key {keys}", *row
            else:
                yield f"map {entry.map}", "key", *row
        elif entry.map == own:
            steps += 1
            yield f"step {steps}", *_step(entry)
        else:
            yield f"map {entry.map}", "step", *_step(entry)


def _step(step: StepTrace) -> Sequence[str]:
    if isinstance(step.outcome, NotAsked):
        return step.step, "not asked", step.outcome.why
    return step.step, f"asked {step.key!r}", _outcome(step.outcome), _milliseconds(step.elapsed)


def _bytes(reply: bytes) -> str:
    return "nothing: the connection is closed" if reply == SILENCE else ascii(reply)[1:]


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
    return f"{kind} failure: {in_full(outcome)}"


def _cache(map: Map, ready: bool) -> str:
    if map.options is None:
        return "off"
    if map.current.in_memory:
        return f"none needed: every step answers from memory{'; replies are kept ready' if ready else ''}"
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

"""One answer made of those of several workers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["merged"]

_Answer = dict[str, Any]


def merged(command: _Answer, answers: list[_Answer]) -> _Answer:
    """What all of them say together to a command (see `tcpmapkit.control`); an error of any is the answer."""
    if not answers:
        return {"error": "no worker answers", "kind": "unavailable"}
    for answer in answers:
        if "error" in answer:
            return answer
    merge = _MERGES.get(command["command"])
    return answers[0] if merge is None or len(answers) == 1 else merge(answers)


def _ready(answers: list[_Answer]) -> _Answer:
    return {"ready": all(one["ready"] for one in answers)}


def _status(answers: list[_Answer]) -> _Answer:
    """What is of the parent is the same in each."""
    first = answers[0]
    return {
        **first,
        "ready": all(one["ready"] for one in answers),
        "loaded_at": max(one["loaded_at"] for one in answers),
        "listeners": _by(("endpoint",), answers, "listeners", _added),
        "maps": _by(("name",), answers, "maps", _added_map),
        "held": _by(("map", "step"), answers, "held", lambda one, other: one),
        "workers": sorted(
            (worker for one in answers for worker in one["workers"]), key=lambda worker: worker["worker"]
        ),
    }


def _tables(answers: list[_Answer]) -> _Answer:
    return {"tables": _by(("map", "step"), answers, "tables", _least_current)}


def _least_current(one: _Answer, other: _Answer) -> _Answer:
    """Each worker loads its tables by itself, and one may be behind."""
    if (other["held"] is not None, not other["current"]) > (one["held"] is not None, not one["current"]):
        return other
    return one


def _metrics(answers: list[_Answer]) -> _Answer:
    from tcpmapkit.metrics.samples import merge

    return {"snapshot": merge([one["snapshot"] for one in answers])}


def _reload(answers: list[_Answer]) -> _Answer:
    return {
        **answers[0],
        "ok": all(one["ok"] for one in answers),
        **{
            name: list(dict.fromkeys(text for one in answers for text in one[name]))
            for name in ("errors", "warnings", "changed")
        },
    }


def _purge(answers: list[_Answer]) -> _Answer:
    return {**answers[0], "forgotten": sum(one["forgotten"] for one in answers)}


_MERGES: dict[str, Callable[[list[_Answer]], _Answer]] = {
    "metrics": _metrics,
    "purge": _purge,
    "ready": _ready,
    "reload": _reload,
    "status": _status,
    "tables": _tables,
}


def _by(
    names: tuple[str, ...],
    answers: Iterable[_Answer],
    of: str,
    both: Callable[[_Answer, _Answer], _Answer],
) -> list[_Answer]:
    """The records that all answers have under `of`, those with the same `names` made one."""
    records: dict[tuple[Any, ...], _Answer] = {}
    for answer in answers:
        for record in answer[of]:
            key = tuple(record[name] for name in names)
            records[key] = both(records[key], record) if key in records else record
    return list(records.values())


def _added(one: Any, other: Any) -> Any:
    """Two records as one: numbers are added, what is below is treated alike, the rest is the first's."""
    if isinstance(one, dict):
        return {name: _added(value, other.get(name, value)) for name, value in one.items()}
    if isinstance(one, int) and not isinstance(one, bool):
        return one + other
    return one


def _added_map(one: _Answer, other: _Answer) -> _Answer:
    return {**_added(one, other), "generation": max(one["generation"], other["generation"])}

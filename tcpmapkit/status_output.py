"""What ``tcpmapkit status`` shows: records, or a table for somebody who watches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["StatusTable", "span", "status_rows"]

Row = tuple[str, ...]
_Record = dict[str, Any]


def status_rows(status: _Record) -> Iterator[Row]:
    """Records, the first field of each saying what it is."""
    now = time.time()
    state = "ready" if status["ready"] else "not ready"
    up = f"up {span(now - status['started_at'])}"
    yield "server", f"tcpmapkit {status['version']}", f"pid {status['pid']}", state, up
    good, bad = status["reloads"].get("good", 0), status["reloads"].get("bad", 0)
    yield (
        "configuration",
        status["file"],
        f"loaded {_moment(status['loaded_at'])}",
        f"reloads {good}",
        f"refused {bad}",
    )
    for one in status["listeners"]:
        yield (
            "listener",
            one["endpoint"],
            one["protocol"],
            f"maps {','.join(one['maps'])}",
            f"connections {one['connections']}",
            *_requests(one["requests"]),
        )
    for one in status["maps"]:
        yield "map", one["name"], *_cache(one)
    for one in status["tables"]:
        rows = () if one["rows"] is None else (f"rows {one['rows']}",)
        loaded = () if one["loaded_at"] is None else (f"loaded {_moment(one['loaded_at'])}",)
        yield "table", one["map"], one["step"], *one["files"], *rows, *loaded, _table_state(one)
    for one in status["held"]:
        yield "held", one["map"], one["step"], " ".join(one["reason"].split("\n", 1)[0].split())
    if len(status["workers"]) > 1:
        for one in status["workers"]:
            yield (
                f"worker {one['worker']}",
                f"pid {one['pid']}",
                f"up {span(now - one['started_at'])}",
                f"connections {one['connections']}",
                f"requests {one['requests']}",
                *((f"restarts {one['restarts']}",) if one.get("restarts") else ()),
            )


def _requests(requests: dict[str, int]) -> Iterator[str]:
    yield f"requests {sum(requests.values())}"
    for name, number in requests.items():
        if number or name in ("found", "not_found"):
            yield f"{name.replace('_', ' ')} {number}"


def _cache(one: _Record) -> Iterator[str]:
    if not one["cached"]:
        yield "cache off"
        return
    if one["in_memory"]:
        yield "answers from memory"
        return
    yield f"cached {sum(one['entries'].values())}"
    yield f"bytes {sum(one['bytes'].values())}"
    yield f"stale answers {one['stale_answers']}"


def _table_state(one: _Record) -> str:
    return "held" if one["held"] else "changed since" if one["current"] is False else "current"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def span(seconds: float) -> str:
    """A length of time as people say it: ``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = max(int(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{whole} s"


class StatusTable:
    """The same to look at, with the requests of each listener a second since it was last asked."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._at = 0.0

    def renewed(self, status: _Record, now: float) -> RenderableType:
        """What to show; `now` is in seconds, of a clock that goes on evenly."""
        from rich.box import SIMPLE
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        elapsed, self._at = now - self._at, now
        listeners = Table("listener", "protocol", "maps", box=SIMPLE, pad_edge=False)
        for title in ("connections", "a second", "requests", "found", "not found", "failed"):
            listeners.add_column(title, justify="right")
        for one in status["listeners"]:
            requests, endpoint = one["requests"], one["endpoint"]
            total, before = sum(requests.values()), self._before.get(endpoint)
            rate = "" if before is None or elapsed <= 0 else f"{max(total - before, 0) / elapsed:.0f}"
            self._before[endpoint] = total
            figures = (one["connections"], rate, total, requests["found"], requests["not_found"])
            failed = requests["temporary"] + requests["permanent"]
            words = (endpoint, one["protocol"], ", ".join(one["maps"]), *map(str, figures), str(failed))
            listeners.add_row(*map(Text, words))
        rest = Table(box=None, show_header=False, pad_edge=False)
        for row in status_rows(status):
            if row[0] != "listener":
                rest.add_row(Text(row[0]), Text("   ".join(row[1:])))
        return Group(listeners, rest)

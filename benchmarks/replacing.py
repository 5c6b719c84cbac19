"""How long clients of another map wait while a table is replaced: one server, one table of each kind."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import attrs

from benchmarks.contenders import tcpmapkit_command
from benchmarks.large import lines_of
from benchmarks.processes import running

__all__ = ["Replaced", "measure_replacing"]

_SITE = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "replaced"
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "other"
[maps.replaced]
[[maps.replaced.resolvers]]
type = "{type}"
path = "table"
{options}
[[maps.replaced.resolvers]]
type = "file"
path = "version"
[maps.other]
cache = false
[[maps.other.resolvers]]
type = "static"
value = "x"
"""

#: Seconds without a replacement; from the time when the table has been taken; and for it to be taken at most.
_ALONE, _AFTER, _PATIENCE = 5.0, 2.0, 900.0
#: Seconds between two requests: as often as somebody may notice, with time left for what is measured.
_PAUSE = 0.0002


@attrs.frozen
class Replaced:
    """A table of so many rows: microseconds of the longest wait of another map's client, and within which
    99.9 % of its requests were answered, when no table was replaced (`alone`) and while it was; seconds until
    it was taken."""

    kind: str
    rows: int
    alone_p999: float
    alone_max: float
    p999: float
    max: float
    taken: float


def _table(kind: str, rows: int) -> Iterator[str]:
    if kind in ("file", "csv"):
        yield from lines_of(kind, rows)
    elif kind == "cidr":
        yield from (f"{n * 7919 % 223 + 1}.{n >> 8 & 255}.{n & 255}.0/24 network{n}\n" for n in range(rows))
    else:
        yield from (f"/^user[0-9]+@dept{n}\\.example\\.org$/ box{n}\n" for n in range(rows))


#: What is measured: the name, the type, its options, the row that is added to know when the new one is there.
_KINDS = {
    "csv, index": ("csv", 'index = "disk"', "added,it is here\n", "added"),
    "csv, in memory": ("csv", 'index = "memory"', "added,it is here\n", "added"),
    "file, in memory": ("file", 'index = "memory"', "added it is here\n", "added"),
    "cidr": ("cidr", "", "203.0.113.7 it is here\n", "203.0.113.7"),
    "pcre": ("regex", "", "/^added$/ it is here\n", "added"),
}


def measure_replacing(
    directory: Path, sizes: dict[str, int], core: int | None, told: Callable[[str], None]
) -> list[Replaced]:
    """Each kind in turn, with so many rows."""
    found = []
    for number, (name, rows) in enumerate(sizes.items()):
        told(f"replacing a table: {name}, {rows} rows")
        place = directory / f"replacing-{number}"
        place.mkdir()
        found.append(_measure(place, name, rows, core))
        for file in place.iterdir():
            file.unlink()
    return found


def _measure(place: Path, name: str, rows: int, core: int | None) -> Replaced:
    kind, options, added, key = _KINDS[name]
    (place / "tcpmapkit.toml").write_text(_SITE.format(type=kind, options=options))
    (place / "version").write_text("version 1\n")
    with (place / "table").open("w") as file:
        file.writelines(_table(kind, rows))
    with (place / "next").open("w") as file:
        file.writelines(_table(kind, rows))
        file.write(added)
    with ExitStack() as end:
        server = end.enter_context(running(tcpmapkit_command(place / "tcpmapkit.toml"), 2, core))
        replaced, other = (
            end.enter_context(socket.create_connection(("127.0.0.1", port))) for port in server.ports
        )
        alone = _waits(other, time.perf_counter() + _ALONE)
        (place / "next").rename(place / "table")
        began = time.perf_counter()
        waits: list[float] = []
        while not _has(replaced, key):
            waits += _waits(other, time.perf_counter() + 0.1)
            if time.perf_counter() - began > _PATIENCE:
                raise RuntimeError(f"{name}: the table is never taken")
        taken = time.perf_counter() - began
        waits += _waits(other, time.perf_counter() + _AFTER)
    return Replaced(name, rows, *_worst(alone), *_worst(waits), taken)


def _has(connection: socket.socket, key: str) -> bool:
    connection.sendall(b"get %b\n" % key.encode())
    return connection.recv(4096).startswith(b"200")


def _waits(connection: socket.socket, until: float) -> list[float]:
    """Seconds that each request took; none is asked twice."""
    waits: list[float] = []
    for number in count():
        asked = time.perf_counter()
        if asked > until:
            return waits
        connection.sendall(b"get %d\n" % number)
        connection.recv(4096)
        waits.append(time.perf_counter() - asked)
        time.sleep(_PAUSE)
    raise AssertionError


def _worst(waits: Sequence[float]) -> tuple[float, float]:
    in_order = sorted(waits)
    return in_order[-1 - len(in_order) // 1000] * 1e6, in_order[-1] * 1e6

"""Postfix's own tables beside ours, both asked by the real ``postmap -q -``: the same file in each."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import attrs

from benchmarks.contenders import tcpmapkit_command
from benchmarks.data import rows
from benchmarks.processes import running
from tcpmapkit.query import Query
from tcpmapkit.testing import started_file
from tests.real_postfix import Postfix, find_program

__all__ = ["IN_PROCESS", "Asked", "measure_postmap"]

IN_PROCESS = "tcpmapkit in process"

_OPTIONS = {
    "texthash": 'type = "file"',
    "pcre": 'type = "regex", syntax = "pcre"',
    "cidr": 'type = "cidr"',
}
_MAP = """
[maps.{name}]
cache = false
resolvers = [{{ {options}, path = "{path}" }}]
"""
_LISTENER = """
[[listeners]]
protocol = "{protocol}"
endpoint = "inet:127.0.0.1:0"
{map}
"""


@attrs.frozen
class _Table:
    """A table as Postfix and we read it; `keys` are found, in random order. One in `part` of all keys is
    asked; Postfix itself is asked all `times` over, since what starts and ends takes longer than some."""

    name: str
    kind: str
    title: str
    rows: int
    text: str
    keys: list[str]
    part: int = 1
    times: int = 1


@attrs.frozen
class Asked:
    """A table asked in one way: microseconds for each key, round by round; the start of postmap and the
    reading of the table, which it does itself for its own, are not in them."""

    table: str
    rows: int
    through: str
    costs: tuple[float, ...]


def _tables() -> Iterator[_Table]:
    found = rows(10_000)
    order = [(n * 7919) % 10_000 for n in range(10_000)]
    text = "".join(f"{key} {value}\n" for key, value in found)
    yield _Table("texthash", "texthash", "texthash", 10_000, text, [found[n][0] for n in order], times=10)
    for count, part in ((10, 5), (1000, 1), (10_000, 10)):
        text = "".join(f"/^user[0-9]+@dept{n}\\.example\\.org$/ relay{n}.example.net\n" for n in range(count))
        keys = [f"user{n}@dept{n % count}.example.org" for n in order]
        yield _Table(f"pcre-{count}", "pcre", "pcre", count, text, keys, part, 50 if count == 10 else 1)
    for version, count, part in ((4, 10_000, 1), (4, 100_000, 10), (6, 100_000, 10)):
        base, bits = (10 << 24, 8) if version == 4 else (0x20010DB8 << 96, 64)
        kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        networks = [kind(base + (n << bits)) for n in range(count)]
        text = "".join(f"{network}/{24 if version == 4 else 64} REJECT {network}\n" for network in networks)
        keys = [str(networks[(n * 7919) % count] + 1) for n in range(10_000)]
        yield _Table(f"cidr-{count}-v{version}", "cidr", f"cidr, IPv{version}", count, text, keys, part)


def measure_postmap(directory: Path, *, rounds: int, keys: int, core: int | None) -> list[Asked] | str:
    """Every table through Postfix, tcp: and socketmap:, in turn, and ours within this process; or why not."""
    program = find_program("postmap")
    if program is None:
        return "Postfix is not installed: no postmap"
    place = directory / "postfix"
    place.mkdir()
    postfix = Postfix.prepare(program, place)
    tables = {
        table.name: table
        for table in _tables()
        if table.kind == "texthash" or not postfix.map_types or table.kind in postfix.map_types
    }
    text = '[log]\nlevel = "error"\n'
    for name, table in tables.items():
        (directory / name).write_text(table.text)
        text += _MAP.format(name=name, options=_OPTIONS[table.kind], path=directory / name)
    for name in tables:
        text += _LISTENER.format(protocol="tcp_table", map=f'map = "{name}"')
    text += _LISTENER.format(protocol="socketmap", map="")
    configuration = directory / "postmap.toml"
    configuration.write_text(text)
    asked = {
        name: (table.keys * (keys // 10_000 + 1))[: max(keys // table.part, 2)]
        for name, table in tables.items()
    }
    costs: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as servers:
        ours = servers.enter_context(running(tcpmapkit_command(configuration), len(tables) + 1, core))
        ways = {
            (name, through): named
            for name, port in zip(tables, ours.ports, strict=False)
            for through, named in (
                ("Postfix itself", f"{tables[name].kind}:{directory}/{name}"),
                ("tcp:", f"tcp:127.0.0.1:{port}"),
                ("socketmap:", f"socketmap:inet:127.0.0.1:{ours.ports[-1]}:{name}"),
            )
        }
        for _ in range(rounds):
            for (name, through), named in ways.items():
                keys_asked = asked[name] * (tables[name].times if through == "Postfix itself" else 1)
                one, all_of_them = _ask(postfix, named, keys_asked[:1]), _ask(postfix, named, keys_asked)
                took = (all_of_them - one) / (len(keys_asked) - 1) * 1e6
                costs.setdefault((name, through), []).append(took)
    for name, cost in asyncio.run(_in_process(configuration, asked, rounds)).items():
        costs[name, IN_PROCESS] = cost
    order = ("Postfix itself", IN_PROCESS, "tcp:", "socketmap:")
    return [
        Asked(tables[name].title, tables[name].rows, through, tuple(costs[name, through]))
        for name in tables
        for through in order
    ]


async def _in_process(
    configuration: Path, asked: Mapping[str, list[str]], rounds: int
) -> dict[str, list[float]]:
    """The chain of each map asked without a server."""
    costs: dict[str, list[float]] = {name: [] for name in asked}
    async with started_file(configuration, run_tests=False) as maps:
        for _ in range(rounds):
            for name, keys in asked.items():
                map_ = maps[name]
                resolve: Callable[[Query], object] = map_.current.chain.resolve
                began = time.perf_counter()
                for key in keys:
                    resolve(map_.query(key))
                costs[name].append((time.perf_counter() - began) / len(keys) * 1e6)
    return costs


def _ask(postfix: Postfix, place: str, keys: list[str]) -> float:
    """Seconds for these keys. Raises `RuntimeError` when one was not found."""
    asked = "".join(f"{key}\n" for key in keys).encode()
    began = time.perf_counter()
    done = postfix.run("postmap", "-q", "-", place, input=asked, timeout=600)
    took = time.perf_counter() - began
    if done.stdout.count(b"\n") != len(keys):
        raise RuntimeError(f"postmap -q - {place}: not every key was found: {done.stderr.decode()[-300:]}")
    return took

"""Postfix's own tables beside ours, both asked by the real ``postmap -q -``: the same file in each."""

from __future__ import annotations

import ipaddress
import time
from contextlib import ExitStack
from pathlib import Path

import attrs

from benchmarks.contenders import tcpmapkit_command
from benchmarks.data import rows
from benchmarks.processes import running
from tests.real_postfix import Postfix, find_program

__all__ = ["Asked", "measure_postmap"]

_ROWS = 10_000
_RULES = 1000

_CONFIGURATION = """\
[log]
level = "error"

[maps.texthash]
resolvers = [{{ type = "file", path = "{directory}/texthash" }}]

[maps.pcre]
resolvers = [{{ type = "regex", path = "{directory}/pcre", syntax = "pcre" }}]

[maps.cidr]
resolvers = [{{ type = "cidr", path = "{directory}/cidr" }}]
"""
_LISTENER = """
[[listeners]]
protocol = "{protocol}"
endpoint = "inet:127.0.0.1:0"
{map}
"""


@attrs.frozen
class Asked:
    """A table asked in one way: microseconds for each key, round by round; the start of postmap and the
    reading of the table, which it does itself for its own, are not in them."""

    table: str
    rows: int
    through: str
    costs: tuple[float, ...]


def _tables(directory: Path) -> dict[str, tuple[int, list[str]]]:
    """Write the three tables; how many rows each has, and keys to ask it, found in random order."""
    found = rows(_ROWS)
    (directory / "texthash").write_text("".join(f"{key} {value}\n" for key, value in found))
    (directory / "pcre").write_text(
        "".join(f"/^user[0-9]+@dept{n}\\.example\\.org$/ relay{n}.example.net\n" for n in range(_RULES))
    )
    networks = [ipaddress.ip_address(f"10.{n // 256}.{n % 256}.0") for n in range(_ROWS)]
    (directory / "cidr").write_text("".join(f"{network}/24 REJECT {network}\n" for network in networks))
    order = [(n * 7919) % _ROWS for n in range(_ROWS)]
    return {
        "texthash": (_ROWS, [found[n][0] for n in order]),
        "pcre": (_RULES, [f"user{n}@dept{n % _RULES}.example.org" for n in order]),
        "cidr": (_ROWS, [f"{networks[n] + 1}" for n in order]),
    }


def measure_postmap(directory: Path, *, rounds: int, keys: int, core: int | None) -> list[Asked] | str:
    """Every table through Postfix, tcp: and socketmap:, in turn; or why not."""
    program = find_program("postmap")
    if program is None:
        return "Postfix is not installed: no postmap"
    place = directory / "postfix"
    place.mkdir()
    postfix = Postfix.prepare(program, place)
    tables = {
        name: (count, (asked * (keys // len(asked) + 1))[:keys])
        for name, (count, asked) in _tables(directory).items()
        if name == "texthash" or not postfix.map_types or name in postfix.map_types
    }
    text = _CONFIGURATION.format(directory=directory)
    for name in tables:
        text += _LISTENER.format(protocol="tcp_table", map=f'map = "{name}"')
    text += _LISTENER.format(protocol="socketmap", map="")
    configuration = directory / "postmap.toml"
    configuration.write_text(text)
    with ExitStack() as servers:
        ours = servers.enter_context(running(tcpmapkit_command(configuration), len(tables) + 1, core))
        ways = {
            (name, through): named
            for name, port in zip(tables, ours.ports, strict=False)
            for through, named in (
                ("Postfix itself", f"{name}:{directory}/{name}"),
                ("tcp:", f"tcp:127.0.0.1:{port}"),
                ("socketmap:", f"socketmap:inet:127.0.0.1:{ours.ports[-1]}:{name}"),
            )
        }
        costs: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for (name, through), named in ways.items():
                asked = tables[name][1]
                one, all_of_them = _ask(postfix, named, asked[:1]), _ask(postfix, named, asked)
                costs[name, through].append((all_of_them - one) / (len(asked) - 1) * 1e6)
    return [Asked(name, tables[name][0], through, tuple(cost)) for (name, through), cost in costs.items()]


def _ask(postfix: Postfix, place: str, keys: list[str]) -> float:
    """Seconds for these keys. Raises `RuntimeError` when one was not found."""
    asked = "".join(f"{key}\n" for key in keys).encode()
    began = time.perf_counter()
    done = postfix.run("postmap", "-q", "-", place, input=asked, timeout=600)
    took = time.perf_counter() - began
    if done.stdout.count(b"\n") != len(keys):
        raise RuntimeError(f"postmap -q - {place}: not every key was found: {done.stderr.decode()[-300:]}")
    return took

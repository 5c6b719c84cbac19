"""The real `postmap -q socketmap:...` against the server: Postfix is the judge of every byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tcpmapkit.config import ListenerConfig
from tcpmapkit.protocols.socketmap import MAX_REPLY
from tcpmapkit.query import Found, Outcome, PermFail, TempFail
from tcpmapkit.server import Server
from tests.endpoints import KINDS, endpoint, named, postfix_name, serving
from tests.real_postfix import Postfix

FITS = "x" * (MAX_REPLY - len("OK "))

TABLE = {
    "alice@example.org": "alice@mailbox.example.net",
    "two words@example.org": "a key with a space",
    " leading and trailing ": "spaces at the ends",
    "100%@example.org": "a key with percent",
    "%41": "nothing is decoded",
    "jürgen@exämple.org": "a key in UTF-8",
    '"quoted local"@example.org': "a key with quotes",
    "3:a b,": "a key like a netstring",
    "k" * 10_000: "a key of 10000 bytes",
    "ä" * 5000: "a key of 5000 characters",
    "k" * 10_001: "never asked",
    "user@[192.0.2.1]": "an address literal",
    "*": "the asterisk",
    "<>": "the null sender",
    '""': "two quotes",
    "": "the empty key",
    "tab\there": "a key with a TAB",
    "value-percent": "100% %41 %zz",
    "value-spaces": "  OK  two  spaces  ",
    "value-utf8": "jürgen@exämple.org \U0001f4ec",
    "value-netstring": "9:NOTFOUND ,",
    "value-controls": "\x01\x1b[0m\x7f",
    "value-fits": FITS,
    "value-utf8-fits": "é" * 49_998,
}

FAILURES: dict[str, Outcome] = {
    "temp": TempFail("the source is down"),
    "perm": PermFail("no such column"),
    "percent": TempFail("100% down, line\nbreak, Zeitüberschreitung"),
    "long": TempFail("x" * 5000),
    "value-too-long": Found(FITS + "x"),
    "value-much-too-long": Found("é" * 200_000),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def socketmap(kind: str, directory: Path) -> AsyncIterator[tuple[str, Server]]:
    """The table's name in main.cf, less the map's, while it is served."""
    aliases = named("aliases", {key: Found(value) for key, value in TABLE.items()} | FAILURES)
    routes = named("routes", {"alice@example.org": Found("smtp:[192.0.2.25]")})
    config = ListenerConfig("socketmap", endpoint(kind, directory))
    async with serving(config, aliases, routes) as server:
        yield f"socketmap:{postfix_name(server)}:", server


def warnings(done: CompletedProcess[bytes]) -> list[str]:
    return [line for line in done.stderr.decode(errors="replace").splitlines() if line]


async def test_what_is_found_is_printed(postfix: Postfix, tmp_path: Path, kind: str) -> None:
    async with socketmap(kind, tmp_path) as (table, server):
        asked = [key for key in TABLE if "\t" not in key]
        answers = await postfix.aask(table + "aliases", asked)
    assert answers == {key: TABLE[key] for key in asked} | {"k" * 10_001: None}
    assert server.counters[0].connections == 1


@pytest.mark.parametrize(
    "key", ["alice@example.org", "two words@example.org", "", "tab\there", "jürgen@exämple.org"]
)
async def test_a_single_key_is_printed(postfix: Postfix, tmp_path: Path, kind: str, key: str) -> None:
    async with socketmap(kind, tmp_path) as (table, _):
        done = await postfix.apostmap("-q", key, table + "aliases")
    assert (done.returncode, done.stdout.decode(), warnings(done)) == (0, TABLE[key] + "\n", [])


async def test_what_is_not_found_is_not_printed(postfix: Postfix, tmp_path: Path, kind: str) -> None:
    async with socketmap(kind, tmp_path) as (table, _):
        for key in ("missing@example.org", "k" * 10_001, "k" * 100_000):
            done = await postfix.apostmap("-q", key, table + "aliases")
            assert (done.returncode, done.stdout, warnings(done)) == (1, b"", [])


async def test_each_map_is_asked_by_its_name(postfix: Postfix, tmp_path: Path, kind: str) -> None:
    async with socketmap(kind, tmp_path) as (table, _):
        done = await postfix.apostmap("-q", "alice@example.org", table + "routes")
    assert (done.returncode, done.stdout) == (0, b"smtp:[192.0.2.25]\n")


async def test_the_longest_value_arrives_whole(postfix: Postfix, tmp_path: Path, kind: str) -> None:
    assert len(FITS) == 99_997
    async with socketmap(kind, tmp_path) as (table, _):
        done = await postfix.apostmap("-q", "value-fits", table + "aliases")
    assert (done.returncode, done.stdout.decode()) == (0, FITS + "\n")


async def test_a_failure_is_told_with_its_reason_and_is_no_miss(
    postfix: Postfix, tmp_path: Path, kind: str
) -> None:
    too_long = "temporary error: value too long for a socketmap reply"
    told = {
        ("aliases", "temp"): "temporary error: the source is down",
        ("aliases", "perm"): "permanent error: no such column",
        ("aliases", "percent"): r"temporary error: 100% down, line\?break, Zeit\S*berschreitung",
        ("aliases", "long"): "temporary error: x{100,200}",
        ("aliases", "value-too-long"): too_long,
        ("aliases", "value-much-too-long"): too_long,
        ("aliases", "bug"): "temporary error: internal error",
        ("unknown", "alice@example.org"): "permanent error: unknown map",
        ("Aliases", "alice@example.org"): "permanent error: unknown map",
    }
    async with socketmap(kind, tmp_path) as (table, _):
        # All at once: postmap sleeps for a second before it dies of a failure.
        runs = await asyncio.gather(*(postfix.apostmap("-q", key, table + name) for name, key in told))
    for done, reason in zip(runs, told.values(), strict=True):
        assert (done.returncode, done.stdout) == (1, b"")
        warning, fatal = warnings(done)
        assert re.search(f"socketmap server {reason}$", warning)
        assert re.search(r"fatal: table socketmap:\S+: query error", fatal)

"""The real `postmap -q` against the server: Postfix is the judge of every byte."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import CompletedProcess

import pytest

from tcpmapkit.protocols.tcp_table import MAX_REPLY
from tcpmapkit.query import Found, PermFail, TempFail
from tcpmapkit.testing import FakeClock
from tests.real_postfix import Postfix
from tests.serving import HeldMap, make_server, running

FITS = "x" * (MAX_REPLY - len("200 \n"))

TABLE = {
    "alice@example.org": "alice@mailbox.example.net",
    "two words@example.org": "a key with a space",
    "100%@example.org": "a key with percent",
    "%41": "no double decoding",
    "jürgen@exämple.org": "a key in UTF-8",
    '"quoted local"@example.org': "a key with quotes",
    "it's@example.org": "a key with an apostrophe",
    "a" * 900: "a key of 900 characters",
    "user@[192.0.2.1]": "an address literal",
    "*": "the asterisk",
    "<>": "the null sender",
    '""': "two quotes",
    "tab\there": "a key with a TAB",
    "value-percent": "100% %41 %zz",
    "value-spaces": "OK  two  spaces",
    "value-utf8": "jürgen@exämple.org \U0001f4ec",
    "value-list": "a@example.org, b@example.org,c@example.org",
    "value-controls": "\x01\x1b[0m\x7f",
    "value-fits": FITS,
}


@asynccontextmanager
async def tcp_map(**more: object) -> AsyncIterator[str]:
    """The table's name in main.cf while it is served."""
    table = {key: Found(value) for key, value in TABLE.items()}
    server = make_server(HeldMap(**table, **more), clock=FakeClock())  # type: ignore[arg-type]
    async with running(server):
        host, port = server.addresses[0][0]
        yield f"tcp:{host}:{port}"


def warnings(done: CompletedProcess[bytes]) -> list[str]:
    return [line for line in done.stderr.decode(errors="replace").splitlines() if line]


async def test_every_key_that_is_there_is_found_with_the_value_as_it_is(postfix: Postfix) -> None:
    async with tcp_map() as table:
        for key, value in TABLE.items():
            done = await postfix.apostmap("-q", key.encode(), table)
            assert (done.returncode, done.stdout.decode(), warnings(done)) == (0, value + "\n", []), key


async def test_many_keys_are_asked_over_one_connection(postfix: Postfix) -> None:
    keys = [key for key in TABLE if "\t" not in key]
    wanted = [
        key
        for pair in zip(keys, [f"missing{number}" for number in range(len(keys))], strict=True)
        for key in pair
    ]
    async with tcp_map() as table:
        answers = await postfix.aask(table, wanted)
    assert answers == {key: TABLE.get(key) for key in wanted}


@pytest.mark.parametrize(
    "key", ["missing@example.org", "ALICE@example.org", "%zz", "ümlaut", "k" * 9000, "k" * 12_000]
)
async def test_a_key_that_is_not_there_is_a_quiet_miss(postfix: Postfix, key: str) -> None:
    async with tcp_map() as table:
        done = await postfix.apostmap("-q", key.encode(), table)
    assert (done.returncode, done.stdout, warnings(done)) == (1, b"", [])


async def test_a_key_that_is_not_utf8_does_not_exist(postfix: Postfix) -> None:
    async with tcp_map() as table:
        done = await postfix.apostmap("-q", b"caf\xe9", table)
    assert (done.returncode, done.stdout) == (1, b"")
    assert not any("query error" in line for line in warnings(done))


@pytest.mark.parametrize(
    "outcome",
    [
        TempFail("source is 100% down: jürgen"),
        PermFail("no such column"),
        Found("é" * 700),
        Found(FITS + "x"),
    ],
)
async def test_a_failure_is_told_from_a_miss_on_standard_error(postfix: Postfix, outcome: object) -> None:
    async with tcp_map(failing=outcome) as table:
        done = await postfix.apostmap("-q", "failing", table)
        miss = await postfix.apostmap("-q", "missing", table)
    assert (done.returncode, done.stdout) == (1, b"")
    assert (miss.returncode, miss.stdout, warnings(miss)) == (1, b"", [])
    assert any(re.search(r"fatal: table tcp:\S+: query error", line) for line in warnings(done))
    assert not any("malformed" in line or "longer than" in line for line in warnings(done))


async def test_a_bug_of_ours_is_a_temporary_failure_too(postfix: Postfix) -> None:
    async with tcp_map() as table:
        done = await postfix.apostmap("-q", "bug", table)
    assert (done.returncode, done.stdout) == (1, b"")
    assert "query error" in done.stderr.decode()


async def test_the_empty_key_is_asked_and_answered_like_any_other(postfix: Postfix) -> None:
    async with tcp_map() as table:
        miss = await postfix.apostmap("-q", "", table)
    assert (miss.returncode, miss.stdout, warnings(miss)) == (1, b"", [])
    async with tcp_map(**{"": Found("the empty key")}) as table:
        found = await postfix.apostmap("-q", "", table)
        several = await postfix.apostmap("-q", "-", table, input=b"\n*\n\n")
    assert (found.returncode, found.stdout) == (0, b"the empty key\n")
    assert several.stdout == b"\tthe empty key\n*\tthe asterisk\n\tthe empty key\n"

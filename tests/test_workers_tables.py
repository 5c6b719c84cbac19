"""A worker that is started later takes no table that the others hold back: no mail bounces for its sake."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tcpmapkit.serving import Serving
from tcpmapkit.site import Site, open_site
from tcpmapkit.workers.known_tables import KnownTables, TablesServed
from tests.running_tcpmapkit import COMMAND
from tests.running_workers import Workers, answer, asking, running_workers

only_asyncio = pytest.mark.asyncio(loop_factories=["asyncio"])  # of the clients: the server has its own

TEXT = """
[server]
workers = 2
[admin]
endpoint = "unix:admin"
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "aliases"
[maps.aliases]
resolvers = [{{ type = "csv", path = "{table}", key_column = "key", value_column = "value" }}]
"""

TESTED = '\n[[maps.aliases.tests]]\nkey = "user"\nexpect = "value"\n'

GET = b"get user\n"
VALUE = b"200 value\n"


def rows(*keys: str, value: str = "value") -> str:
    return "key,value\n" + "".join(f"{key},{value}\n" for key in keys)


MANY = rows("user", *(f"other{number}" for number in range(99)))


@contextmanager
def serving(tmp_path: Path, contents: str, more: str = "") -> Iterator[tuple[Workers, Path]]:
    table = tmp_path / "al.csv"
    table.write_text(contents)
    with running_workers(tmp_path, TEXT.format(table=table) + more) as workers:
        yield workers, table


def reload(workers: Workers, *options: str) -> None:
    command = [*COMMAND[:-2], "reload", "-c", str(workers.server.configuration), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done


@only_asyncio
@pytest.mark.parametrize(
    ("bad", "more", "reason"),
    [
        ("", "", "the table has 0 rows now and had 100"),
        (MANY.replace("user,value", "user,another"), TESTED, "'user' gives 'another', not 'value'"),
    ],
)
async def test_a_table_that_the_others_hold_back_is_refused_by_a_worker_that_is_started_later(
    tmp_path: Path, bad: str, more: str, reason: str
) -> None:
    with serving(tmp_path, MANY, more) as (workers, table):
        async with asking(workers.port, GET, VALUE, count=4) as clients:
            table.write_text(bad or rows())
            await workers.becomes(lambda: workers.server.log().count("keeps the contents") == 2)
            first = workers.pids()[0]
            workers.kill(first)
            await workers.becomes(lambda: workers.server.log().count("cannot start") >= 2)
            assert reason in workers.server.log().partition("cannot start")[2]
            await clients.more(100)
            table.write_text(MANY)
            await workers.becomes(lambda: workers.server.log().count("is held no more") == 1)
            await workers.replaced(first)
            await clients.more(100)
        assert (clients.refused, clients.wrong) == (0, {})


@only_asyncio
async def test_with_all_workers_gone_a_client_waits_and_is_not_told_that_there_is_nothing(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, MANY) as (workers, table):
        table.write_text(rows())
        await workers.becomes(lambda: workers.server.log().count("keeps the contents") == 2)
        for pid in workers.pids():
            workers.kill(pid)
        waiting = asyncio.ensure_future(answer(workers.port, GET))
        await workers.becomes(lambda: workers.server.log().count("cannot start") >= 4)
        assert not waiting.done()
        table.write_text(MANY)
        assert await waiting == VALUE


@only_asyncio
async def test_what_was_taken_by_force_is_taken_by_a_worker_that_is_started_later(tmp_path: Path) -> None:
    with serving(tmp_path, MANY) as (workers, table):
        table.write_text(rows("user"))
        await workers.becomes(lambda: workers.server.log().count("keeps the contents") == 2)
        await asyncio.to_thread(reload, workers, "--force")
        first = workers.pids()[0]
        workers.kill(first)
        await workers.replaced(first)
        assert {await answer(workers.port, GET) for _ in range(4)} == {VALUE}
        assert "cannot start" not in workers.server.log()


@only_asyncio
async def test_a_test_that_was_wrong_from_the_start_keeps_no_worker_from_starting(tmp_path: Path) -> None:
    with serving(tmp_path, rows("user"), TESTED.replace('"user"', '"other"')) as (workers, _):
        for pid in workers.pids():
            workers.kill(pid)
            await workers.replaced(pid)
        assert {await answer(workers.port, GET) for _ in range(4)} == {VALUE}
        assert "cannot start" not in workers.server.log()


# What workers tell.


async def started(tmp_path: Path, contents: str) -> tuple[Site, Serving]:
    (tmp_path / "al.csv").write_text(contents)
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(TEXT.format(table=tmp_path / "al.csv"))
    site = open_site(file)
    await site.start()
    return site, Serving(site, accepts=False)


async def test_tables_are_told_again_when_they_are_others(tmp_path: Path) -> None:
    site, serving = await started(tmp_path, MANY)
    tables = TablesServed(serving)
    try:
        known = KnownTables.from_data(tables.message()["tables"])
        assert [rows for rows, _ in known.tables.values()] == [100]
        assert tables.news() == {}
        (tmp_path / "al.csv").write_text(rows("user") + rows(*map(str, range(100)))[10:])
        await serving.reload_tables()
        known = KnownTables.from_data(tables.news()["tables"])
        assert [rows for rows, _ in known.tables.values()] == [101]
        assert tables.news() == {}
    finally:
        await serving.site.maps.stop()
        if serving.site is not site:
            await site.maps.stop(but=serving.site.maps)


@pytest.mark.parametrize("known", [None, KnownTables()])
async def test_where_nothing_is_known_of_a_table_any_is_taken(
    tmp_path: Path, known: KnownTables | None
) -> None:
    site, serving = await started(tmp_path, rows())
    try:
        await TablesServed(serving).check(site, known)
    finally:
        await site.maps.stop()


async def test_a_table_of_another_file_may_have_fewer_rows(tmp_path: Path) -> None:
    site, serving = await started(tmp_path, rows())
    known = KnownTables({one.place: (100, ("/elsewhere",)) for one in site.maps.steps})
    try:
        await TablesServed(serving).check(site, known)
    finally:
        await site.maps.stop()

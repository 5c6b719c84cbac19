"""The `sqlite` resolver."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit import ConfigError, Found, LookupPermFail, LookupTempFail, PermFail, Query
from tcpmapkit.keys import splitter
from tcpmapkit.resolvers.sqlite import Sqlite
from tests.loading import load, value

BY_KEY = "SELECT v FROM t WHERE k = :key"


def write(path: Path, *rows: tuple[str, Any], script: str = "") -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (k TEXT, v)")
        database.executemany("INSERT INTO t VALUES (?, ?)", rows)
        database.executescript(script)
    return path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write(
        tmp_path / "accounts#1 %41?.db",
        ("a@example.org", "box"),
        ("list", "1"),
        ("list", "2"),
        ("list", None),
        ("list", ""),
        ("list", "1"),
        ("number", 5),
        ("nothing", None),
        ("empty", ""),
        ("blob", b"x"),
        ("float", 1.5),
        ("line", "a\nb"),
        ("nul", "a\0b"),
    )


class Opening:
    """Makes started resolvers and stops them at the end of the test."""

    def __init__(self) -> None:
        self.made: list[Sqlite] = []

    def __call__(self, path: Path, query: str = BY_KEY, **options: Any) -> Sqlite:
        resolver = Sqlite(path, query, **options)
        load(resolver)
        self.made.append(resolver)
        return resolver


@pytest.fixture
def opened() -> Iterator[Opening]:
    opening = Opening()
    yield opening
    for resolver in opening.made:
        asyncio.run(resolver.stop())


def test_the_values_of_all_rows_are_joined_without_null_and_empty_ones(
    database: Path, opened: Opening
) -> None:
    resolver = opened(database)
    keys = ["a@example.org", "list", "number", "nothing", "empty", "missing"]
    assert [value(resolver, key) for key in keys] == ["box", "1,2", "5", None, None, None]
    assert resolver.resolve(Query("list")).values == ("1", "2")
    assert value(opened(database, separator=" "), "list") == "1 2"


@pytest.mark.parametrize(("key", "type_name"), [("blob", "bytes"), ("float", "float")])
def test_a_column_that_is_no_text_is_a_permanent_failure(
    database: Path, opened: Opening, key: str, type_name: str
) -> None:
    with pytest.raises(LookupPermFail, match=f"a {type_name}, not a text"):
        opened(database).resolve(Query(key))


@pytest.mark.parametrize("key", ["line", "nul"])
def test_a_value_that_no_reply_can_carry_is_a_permanent_failure(
    database: Path, opened: Opening, key: str
) -> None:
    assert isinstance(opened(database).resolve(Query(key)), PermFail)


def test_a_value_that_is_not_utf8_is_a_temporary_failure(tmp_path: Path, opened: Opening) -> None:
    path = write(tmp_path / "db", script="INSERT INTO t VALUES ('a', CAST(x'ff' AS TEXT))")
    with pytest.raises(LookupTempFail, match="UTF-8"):
        opened(path).resolve(Query("a"))


HOSTILE = [
    "' OR 1=1",
    "' OR 1=1 --",
    "{key}",
    "${HOME}",
    "a\r\nb",
    "..",
    "%",
    "_",
    ":key",
    "1); DROP TABLE t; --",
]


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_is_data(tmp_path: Path, opened: Opening, key: str) -> None:
    path = write(tmp_path / "db", ("secret", "s"))
    resolver = opened(path)
    assert value(resolver, key, str) is None
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO t VALUES (?, 'found')", (key,))
    assert value(resolver, key, str) == "found"
    assert value(resolver, "secret") == "s"


@pytest.mark.parametrize("key", ["a@example.org\0", "\0", "\udcff"])
def test_a_key_that_sqlite_cannot_hold_is_a_miss(database: Path, opened: Opening, key: str) -> None:
    assert opened(database, "SELECT 'asked with ' || length(:key)").resolve(Query(key)) is None


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (":key", ["u+x@example.org", "u@example.org", "u", ""]),
        (":local", ["u+x", "u", "u", None]),
        (":user", ["u", "u", "u", None]),
        (":extension", ["x", None, None, None]),
        (":domain", ["example.org", "example.org", None, None]),
    ],
)
def test_each_parameter_is_a_part_of_the_key_and_one_it_lacks_makes_a_miss(
    database: Path, opened: Opening, parameter: str, values: list[str | None]
) -> None:
    resolver = opened(database, f"SELECT 'got:' || {parameter}")
    for key, expected in zip(["u+x@example.org", "u@example.org", "u", ""], values, strict=True):
        outcome = resolver.resolve(Query(key, split=splitter("+")))
        assert outcome == (None if expected is None else Found(f"got:{expected}"))


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("SELECT v FROM t WHERE k = :kye", "did you mean :key?"),
        ("SELECT v FROM t WHERE k = ?", "there are :key, :local, :user, :extension, :domain"),
        ("SELECT v FROM t WHERE k = ?1", "there are :key, :local, :user, :extension, :domain"),
        ("SELECT v FROM t WHERE k = @key", "did you mean :key?"),
        ("SELECT v FROM t WHERE k = $key", "did you mean :key?"),
        ("SELECT v FROM t WHERE k = ':key'", "write :key, without quotes, where the key belongs"),
        ("SELECT v FROM t WHERE k = '{key}' -- :key", "write :key, without quotes, where the key belongs"),
        ("SELECT v FROM t /* :key */", "write :key, without quotes, where the key belongs"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused_at_once(query: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Sqlite(Path("db"), query)
    assert caught.value.hint == hint


def test_what_looks_like_a_parameter_within_a_literal_is_none(database: Path, opened: Opening) -> None:
    query = """-- a comment
        /* and another */ select 'it''s :no ?' || v AS "a:b?" FROM t /* :x */ WHERE k = :key -- ?"""
    assert value(opened(database, query), "a@example.org") == "it's :no ?box"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("DELETE FROM t WHERE k = :key", "only a SELECT"),
        ("WITH x AS (SELECT 1) DELETE FROM t WHERE k = :key", "only a SELECT"),
        ("/* SELECT */ UPDATE t SET v = :key", "only a SELECT"),
        ("ATTACH :key AS other", "only a SELECT"),
        ("PRAGMA user_version = :key", "only a SELECT"),
        ("EXPLAIN SELECT :key", "only a SELECT"),
        ("", "only a SELECT"),
        ("SELECTED :key", "only a SELECT"),
        ("SELECT :key; SELECT 2", "one statement"),
        ("SELECT v FROM missing WHERE k = :key", "no such table: missing"),
        ("SELECT w FROM t WHERE k = :key", "no such column: w"),
        ("SELECT FROM :key", "syntax error"),
    ],
)
def test_a_query_that_is_no_select_of_this_file_is_refused_at_the_start(
    database: Path, query: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Sqlite(database, query))


def test_nothing_is_ever_written(database: Path, opened: Opening) -> None:
    before = database.read_bytes()
    resolver = opened(database)
    for key in ("a@example.org", "missing", *HOSTILE):
        resolver.resolve(Query(key))
    assert database.read_bytes() == before
    assert list(database.parent.iterdir()) == [database]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"not a database, but long enough " * 40, "not a database")],
)
def test_a_file_that_cannot_be_read_at_the_start_is_the_operators_mistake(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(Sqlite(path, BY_KEY))
    assert caught.value.path == ("path",)
    assert path.exists() is (content is not None)


def test_a_file_that_goes_away_later_is_a_temporary_failure_until_it_is_back(
    database: Path, opened: Opening
) -> None:
    resolver = opened(database)
    database.rename(database.with_suffix(".old"))
    with pytest.raises(LookupTempFail, match="No such file"):
        resolver.resolve(Query("a@example.org"))
    database.with_suffix(".old").rename(database)
    assert value(resolver, "a@example.org") == "box"


def test_a_locked_file_is_a_temporary_failure_at_once(database: Path, opened: Opening) -> None:
    resolver = opened(database)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LookupTempFail, match="locked"):
            resolver.resolve(Query("a@example.org"))
        writer.execute("ROLLBACK")
    assert value(resolver, "a@example.org") == "box"


def test_only_the_start_waits_for_a_lock(
    database: Path, opened: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    real_connect = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        waited.append(kwargs["timeout"])
        return real_connect(*args, **{**kwargs, "timeout": 0})

    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", connect)
        with pytest.raises(ConfigError, match="locked"):
            load(Sqlite(database, BY_KEY))
        writer.execute("ROLLBACK")
    monkeypatch.setattr(sqlite3, "connect", real_connect)
    assert waited == [5]
    connection = opened(database)._idle[0].connection
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (0,)


def test_a_lookup_leaves_no_lock_behind(database: Path, opened: Opening) -> None:
    resolver = opened(database)
    for key in ("list", "blob"):
        try:
            resolver.resolve(Query(key))
        except LookupPermFail:
            assert key == "blob"
        with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            writer.execute("ROLLBACK")


def test_a_query_is_ended_at_its_deadline(database: Path, opened: Opening) -> None:
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    resolver = opened(database, f"{forever} WHERE :key <> ''")
    looks = itertools.count()
    with pytest.raises(LookupTempFail, match="had not ended at its timeout"):
        resolver.resolve(Query("a", deadline=5, clock=lambda: float(next(looks))))
    assert 5 <= next(looks) < 9


def test_rows_without_end_do_not_fill_the_memory(database: Path, opened: Opening) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i || :key FROM n"
    with pytest.raises(LookupPermFail, match="pass 100000 characters"):
        opened(database, endless).resolve(Query("a"))


def replace_by_renaming(new: Path, old: Path) -> None:
    new.rename(old)


def replace_by_copying(new: Path, old: Path) -> None:
    status = old.stat()
    shutil.copyfile(new, old)
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


@pytest.mark.parametrize("replace", [replace_by_renaming, replace_by_copying])
def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path, opened: Opening, replace: Any) -> None:
    path = write(tmp_path / "db", ("a", "old"))
    resolver = opened(path)
    assert value(resolver, "a") == "old"
    # Made by the same statements: SQLite's own change counter is the same.
    replace(write(tmp_path / "new", ("a", "new")), path)
    assert value(resolver, "a") == "new"
    assert len(resolver._idle) == 1


def test_a_replacement_that_is_damaged_is_a_temporary_failure(tmp_path: Path, opened: Opening) -> None:
    path = write(tmp_path / "db", ("a", "old"))
    resolver = opened(path)
    whole = path.read_bytes()
    for content in (b"", b"no database " * 200, *(whole[:length] for length in range(100, len(whole), 700))):
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").rename(path)
        with pytest.raises(LookupTempFail):
            resolver.resolve(Query("a"))
    replace_by_copying(write(tmp_path / "new", ("a", "new")), path)
    assert value(resolver, "a") == "new"


def test_several_threads_ask_at_once_each_on_a_connection_of_its_own(tmp_path: Path, opened: Opening) -> None:
    path = write(tmp_path / "db", *((f"k{n}", f"v{n}") for n in range(50)))
    resolver = opened(path)
    barrier, wrong = threading.Barrier(4, timeout=30), []

    def ask() -> None:
        barrier.wait()
        for n in range(50):
            if value(resolver, f"k{n}") != f"v{n}":
                wrong.append(n)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert 1 <= len(resolver._idle) <= 4


def test_stopping_closes_the_connections_also_of_a_lookup_that_ends_later(
    database: Path, opened: Opening
) -> None:
    resolver = opened(database)
    idle = [made.connection for made in resolver._idle]
    asyncio.run(resolver.stop())
    assert value(resolver, "a@example.org") == "box"
    late = [made.connection for made in resolver._idle]
    for connection in idle + late:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def test_a_full_text_table_can_be_asked(tmp_path: Path, opened: Opening) -> None:
    script = "CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('hello world')"
    try:
        path = write(tmp_path / "db", script=script)
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no fts5")
    assert value(opened(path, "SELECT body FROM words WHERE words MATCH :key"), "world") == "hello world"


def test_a_file_in_wal_mode_is_read_while_it_is_written(tmp_path: Path, opened: Opening) -> None:
    path = write(tmp_path / "db", ("a", "1"), script="")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        resolver = opened(path)
        assert value(resolver, "a") == "1"
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE t SET v = '2'")
        assert value(resolver, "a") == "1"
        writer.execute("COMMIT")
        assert value(resolver, "a") == "2"

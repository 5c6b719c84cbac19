"""Tables as an index on disk: the same answers and warnings as from memory, and what can go wrong with it."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import io
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmapkit import ConfigError, LookupTempFail, Query
from tcpmapkit.keys import fold
from tcpmapkit.resolvers import source_file
from tcpmapkit.resolvers import table as tables
from tcpmapkit.resolvers.csv import Csv, Rows
from tcpmapkit.resolvers.file import File, Lines
from tcpmapkit.resolvers.source_file import identity_of
from tcpmapkit.resolvers.table import building, place, reading, sorting, writing
from tcpmapkit.resolvers.table import index as indexes
from tcpmapkit.resolvers.table.entries import read_entries
from tcpmapkit.resolvers.table.index import Index, open_index
from tcpmapkit.resolvers.table.reading import Warnings
from tests.loading import Collected, context, load
from tests.test_file import TABLES, keys_for


@pytest.fixture(autouse=True)
def no_index_is_left_open() -> Iterator[None]:
    yield
    assert not indexes._opened


@pytest.fixture(autouse=True)
def no_cache_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setattr(place, "_SYSTEM_CACHE", "/nonexistent")


@contextmanager
def started(resolver: File | Csv, warnings: list[str] | None = None) -> Iterator[Any]:
    """A resolver that is stopped at the end."""
    said = load(resolver)
    if warnings is not None:
        warnings += said
    try:
        yield resolver
    finally:
        asyncio.run(resolver.stop())


def answer(resolver: Any, key: str) -> object:
    return resolver.resolve(Query(key))


def index_of(table: Path) -> Path:
    (found,) = table.parent.glob(f".{table.name}.*.index")
    return found


def mtime_later(path: Path, seconds: int = 10) -> None:
    at = path.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(at, at))


def write(directory: Path, how: Any) -> tuple[Index, list[tuple[int, str]]]:
    """Make an index in this process, and open it."""
    warnings = Warnings()
    identity = writing.write_index(how, directory, "made", warnings, lambda what, value: None)
    made = open_index(directory / "made", how, identity)
    assert made is not None
    assert made.warnings.kept() == warnings.kept()
    return made, warnings.kept()


def keys_of(how: Any) -> set[str]:
    """All keys that the file has."""
    with how.path.open("rb") as file, closing(how.rows(file, lambda line, text: None)) as rows:
        return {key for _, key, _ in rows}


def in_all(path: Path, how: Any, keys: list[str]) -> None:
    """One dictionary, many and an index give the same answers, warnings and mistakes."""
    warnings, again = Warnings(), Warnings()
    mistake = None
    try:
        entries, _ = read_entries(how, warnings, large=False)
    except ConfigError as error:
        mistake = str(error)
    if mistake is not None:
        for attempt in (lambda: read_entries(how, again, large=True), lambda: write(path.parent, how)):
            with pytest.raises(ConfigError) as caught:
                attempt()
            assert str(caught.value) == mistake
        return
    spread, _ = read_entries(how, again, large=True)
    made, warned = write(path.parent, how)
    try:
        assert warned == warnings.kept() == again.kept()
        assert made.rows == len(entries) == len(spread)
        for key in {*keys_of(how), *keys}:
            assert made.get(key) == entries.get(key) == spread.get(key), key
    finally:
        made.close()


# Long keys, on both sides of what the index holds as they are; and beginnings of one another.
LONG = st.integers(505, 515).map(lambda length: "k" * length)
WORDS = st.one_of(st.sampled_from(["a", "A", "b", "ab", "\u00e9", "\u00c9", "\u0130", "*", "<>", '""']), LONG)
CSV_FIELD = st.one_of(
    WORDS, st.text(max_size=3), st.sampled_from(["", " a", "x\ny", "x\ry", "\r", "\0", '"'])
)


@pytest.mark.parametrize("run", [1, 1 << 20], ids=["spilled", "in memory"])
def test_every_postfix_table_answers_from_an_index_as_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int
) -> None:
    monkeypatch.setattr(sorting, "_RUN", run)
    monkeypatch.setattr(writing, "_AT_REST", 0)
    path = tmp_path / "table"

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(content=TABLES, long=st.lists(st.tuples(WORDS, WORDS), max_size=3))
    def check(content: bytes, long: list[tuple[str, str]]) -> None:
        rows = "".join(f"\n{key} {value}" for key, value in long)
        path.write_bytes(content + rows.encode())
        keys = [fold(key) for key in keys_for(path.read_bytes())]
        in_all(path, Lines(path, fold), [*keys, "k" * 510, "k" * 511, "k" * 512, "k" * 10_000])

    check()


@pytest.mark.parametrize("run", [1, 1 << 20], ids=["spilled", "in memory"])
def test_every_csv_file_answers_from_an_index_as_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int
) -> None:
    monkeypatch.setattr(sorting, "_RUN", run)
    monkeypatch.setattr(writing, "_AT_REST", 0)
    path = tmp_path / "table"

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(
        rows=st.lists(st.tuples(CSV_FIELD, CSV_FIELD, st.booleans()), max_size=8),
        end=st.sampled_from(["\n", "\r\n"]),
    )
    def check(rows: list[tuple[str, str, bool]], end: str) -> None:
        def field(text: str, quoted: bool) -> str:
            return '"' + text.replace('"', '""') + '"' if quoted else text

        lines = (f"{field(key, quoted)},{field(value, quoted)}" for key, value, quoted in rows)
        path.write_bytes(end.join(["k,v", *lines]).encode(errors="surrogatepass"))
        how = Rows(path, 1, 2, ",", True, fold)
        in_all(path, how, ["", "\0", "\ud800", *(fold(key) for key, _, _ in rows)])

    check()


def test_of_more_warnings_than_anybody_reads_the_first_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MOST_WARNINGS", 3)
    path = tmp_path / "table"
    path.write_text("z 1\nz 2\nalone\na 1\na 2\nz 3\nalone\n")
    made, warned = write(tmp_path, Lines(path, fold))
    made.close()
    assert [line for line, _ in warned] == [2, 3, 5]
    collected = Collected()
    logger = logging.Logger("tests.large")
    logger.addHandler(collected)
    made.warnings.log(path, logger)
    assert collected.messages[-1] == f"{path}: 2 more lines with such mistakes"


# What `start` does.


@pytest.fixture
def csv_table(tmp_path: Path) -> Path:
    path = tmp_path / "users.csv"
    path.write_text("k,v\nA@example.org,1\nb@example.org,2\na@example.org,3\nnothing,\n")
    return path


def test_a_large_table_is_answered_from_an_index_and_a_small_one_from_memory(
    csv_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(Csv(csv_table)) as resolver:
        assert resolver._table._index is None
    monkeypatch.setattr(tables, "_MOST_ROWS", 4)
    warnings: list[str] = []
    with started(Csv(csv_table), warnings) as resolver:
        assert resolver._table._index is not None
        assert resolver._table.rows == 2
        assert answer(resolver, "a@example.org").value == "1, 3"  # type: ignore[attr-defined]
        assert answer(resolver, "c@example.org") is None
    assert warnings == [f"{csv_table}, line 5: no value -- ignoring this row"]


@pytest.mark.parametrize("resolver", [File, Csv])
def test_a_large_table_in_memory_is_spread_and_freed_part_by_part(
    resolver: type[File | Csv], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MOST_ROWS", 1)
    path = tmp_path / "table"
    path.write_text("key value,value key\n" + "".join(f"k{at} v,k{at} v\n" for at in range(10_000)))
    with started(resolver(path, index="memory")) as table:
        entries = table._table._entries
        assert table.rows == len(entries) >= 10_000
        assert max(map(len, entries._parts)) < 200
        freed = entries.drain()
        before = len(entries._parts)
        next(freed)
        assert len(entries._parts) == before - 1
    assert not entries._parts, "stopped, it holds nothing any more"
    with pytest.raises(LookupTempFail, match="not loaded"):  # and does not say that there is no such key
        answer(table, "k1")


def test_a_file_is_read_a_mebibyte_at_a_time_as_text_too(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("key,value\n" * 300_000)
    reads = 0

    class Counted(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            nonlocal reads
            reads += 1
            return super().readinto(buffer)

    with source_file._Reader(Counted(path), source_file._BUFFER) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        assert sum(1 for _ in text) == 300_000
        text.detach()
    assert reads <= 5


def test_the_bytes_of_a_table_with_few_rows_count_too(
    csv_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MOST_BYTES", 10)
    with started(Csv(csv_table)) as resolver:
        assert resolver._table._index is not None


def no_child(*arguments: object, **more: object) -> object:
    raise AssertionError("a process was started")


@pytest.fixture
def unneeded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on no index may be built."""
    return lambda: monkeypatch.setattr(building, "_spawn", no_child)


def test_an_index_that_is_current_is_opened_and_its_warnings_are_told_again(
    csv_table: Path, unneeded: Callable[[], None]
) -> None:
    first: list[str] = []
    with started(Csv(csv_table, index="disk"), first):
        pass
    unneeded()
    second: list[str] = []
    with started(Csv(csv_table, index="disk", separator="; "), second) as resolver:
        assert answer(resolver, "a@example.org").value == "1; 3"  # type: ignore[attr-defined]
    assert first == second == [f"{csv_table}, line 5: no value -- ignoring this row"]


def with_the_old_date(path: Path) -> None:
    before = path.stat()
    text = path.read_text()
    path.write_text(text.replace("@example.org,1", "@example.org,9"))
    assert path.read_text() != text
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    other.replace(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("k,v\nA@example.org,4\nb@example.org,2\na@example.org,3\nnothing,\n"),
        lambda path: path.write_text("k,v\nc@example.org,4\n"),
        mtime_later,
        with_the_old_date,
        replaced,
    ],
    ids=["content", "size", "mtime", "content of the same size and date", "inode"],
)
def test_an_index_is_made_anew_when_the_table_has_changed(
    csv_table: Path, change: Callable[[Path], object]
) -> None:
    with started(Csv(csv_table, index="disk")) as resolver:
        before = index_of(csv_table).stat().st_ino
        assert resolver.is_current()
        change(csv_table)
        assert not resolver.is_current()
        with started(Csv(csv_table, index="disk")) as later:
            assert index_of(csv_table).stat().st_ino != before
            assert later.is_current()
            expected, _ = read_entries(Rows(csv_table, 1, 2, ",", True, fold), Warnings(), large=False)
            for key in ("a@example.org", "b@example.org", "c@example.org"):
                assert later._table.get(key) == expected.get(key)
        assert resolver._table.get("a@example.org") == ("1", "3"), "the old one lives as long as it is used"


@pytest.mark.parametrize(
    "options",
    [{"key_column": 2}, {"value_column": 1}, {"delimiter": "@", "header": False}, {"header": False}],
)
def test_other_options_make_an_index_of_their_own(csv_table: Path, options: dict[str, Any]) -> None:
    with (
        started(Csv(csv_table, index="disk")) as one,
        started(Csv(csv_table, index="disk", **options)) as two,
    ):
        how = functools.partial(Rows, csv_table)
        named = {"key_column": 1, "value_column": 2, "delimiter": ",", "header": True, **options}
        expected, _ = read_entries(how(**named, fold=fold), Warnings(), large=False)
        for key in keys_of(how(**named, fold=fold)):
            assert two._table.get(key) == expected.get(key) is not None
        assert one._table.get("a@example.org") == ("1", "3")
    assert len(list(csv_table.parent.glob(".*.index"))) == 2


def test_a_map_that_does_not_fold_has_an_index_of_its_own(csv_table: Path) -> None:
    with started(Csv(csv_table, index="disk")):
        unfolded = Csv(csv_table, index="disk")
        load(unfolded, fold=str)
        assert unfolded._table.get("A@example.org") == "1"
        asyncio.run(unfolded.stop())


def test_two_maps_of_one_table_use_one_index(csv_table: Path, unneeded: Callable[[], None]) -> None:
    with started(Csv(csv_table, index="disk")) as one:
        unneeded()
        with started(Csv(csv_table, index="disk")) as two:
            assert answer(two, "b@example.org") == answer(one, "b@example.org")
        assert answer(one, "b@example.org") is not None


async def test_those_who_build_at_once_do_not_hurt_each_other(csv_table: Path) -> None:
    resolvers = [Csv(csv_table, index="disk") for _ in range(3)]
    made, warnings = context()
    await asyncio.gather(*(one.start(made) for one in resolvers))
    for one in resolvers:
        assert one._table.get("a@example.org") == ("1", "3")
        await one.stop()
    assert len(warnings) == 3
    assert [path.name for path in csv_table.parent.iterdir() if path.name.endswith(".new")] == []


def test_who_waited_for_another_finds_the_index_done(csv_table: Path) -> None:
    how = Rows(csv_table, 1, 2, ",", True, fold)
    directory, warnings, told = csv_table.parent, Warnings(), []
    made, _ = write(directory, how)
    made.close()
    before = (directory / "made").stat().st_ino
    writing.write_index(how, directory, "made", warnings, lambda what, value: told.append(what))
    assert (directory / "made").stat().st_ino == before
    assert told == []
    assert not (directory / f"made.{os.geteuid()}.new").exists()


def test_what_another_user_left_half_built_is_in_nobodys_way(csv_table: Path) -> None:
    how = Rows(csv_table, 1, 2, ",", True, fold)
    left = csv_table.parent / f"made.{os.geteuid() + 1}.new"
    left.write_text("half")
    left.chmod(0)
    writing.write_index(how, csv_table.parent, "made", Warnings(), lambda what, value: None)
    assert left.exists()


def test_a_file_that_has_the_name_of_a_half_built_index_too_is_not_written_to(csv_table: Path) -> None:
    how = Rows(csv_table, 1, 2, ",", True, fold)
    other = csv_table.parent / "other"
    other.write_text("precious")
    (csv_table.parent / f"made.{os.geteuid()}.new").hardlink_to(other)
    writing.write_index(how, csv_table.parent, "made", Warnings(), lambda what, value: None)
    assert other.read_text() == "precious"


def test_indexes_of_former_options_go_when_the_table_has_changed(csv_table: Path) -> None:
    def indexes() -> set[str]:
        return {path.name for path in csv_table.parent.glob(".users.csv.*")}

    elsewhere = csv_table.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / csv_table.name).write_bytes(csv_table.read_bytes())
    with started(Csv(elsewhere / csv_table.name, index="disk", index_directory=csv_table.parent)):
        of_another = indexes()
    with started(Csv(csv_table, index="disk", header=False)):
        of_former_options = indexes() - of_another
    half = csv_table.with_name(f".users.csv.0123.index.{os.geteuid()}.new")
    half.write_text("half")
    with started(Csv(csv_table, index="disk")):
        ours = indexes() - of_another - of_former_options
        assert len(ours) == len(of_former_options) == len(of_another) == 1  # each is current
        assert not half.exists()
    mtime_later(csv_table)
    with started(Csv(csv_table, index="disk")):
        assert indexes() == of_another | ours


def test_a_builder_waits_for_the_lock_of_another(csv_table: Path) -> None:
    how = Rows(csv_table, 1, 2, ",", True, fold)
    unfinished = csv_table.parent / f"made.{os.geteuid()}.new"
    other = unfinished.open("wb")
    fcntl.flock(other, fcntl.LOCK_EX)
    told: list[str] = []

    def tell(what: str, value: object) -> None:
        told.append(what)
        if what == "waiting":
            other.close()

    writing.write_index(how, csv_table.parent, "made", Warnings(), tell)
    assert told[0] == "waiting"
    assert not unfinished.exists()


@pytest.mark.parametrize("index", ["memory", "disk"])
def test_a_table_knows_whether_its_file_is_still_what_was_read(csv_table: Path, index: Any) -> None:
    resolver = Csv(csv_table, index=index)
    assert not resolver.is_current()
    with started(resolver):
        assert resolver.is_current()
        mtime_later(csv_table)
        assert not resolver.is_current()
        csv_table.unlink()
        assert not resolver.is_current()
        assert resolver._table.get("b@example.org") == "2"
    assert not resolver.is_current()


# Trouble.


def test_what_was_half_built_is_never_opened_and_the_old_one_stays(
    csv_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Rows(csv_table, 1, 2, ",", True, fold)
    made, _ = write(csv_table.parent, how)
    old = made.identity
    mtime_later(csv_table)
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tcpmapkit.keys import fold\n"
        "from tcpmapkit.resolvers.csv import Rows\n"
        "from tcpmapkit.resolvers.table import writing\n"
        "from tcpmapkit.resolvers.table.reading import Warnings\n"
        "writing._BATCH = 1\n"
        "put, puts = writing._put, []\n"
        "def killed(environment, pairs):\n"
        "    put(environment, pairs)\n"
        "    puts.append(pairs)\n"
        "    if len(puts) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "writing._put = killed\n"
        "how = Rows(Path(sys.argv[1]), 1, 2, ',', True, fold)\n"
        "writing.write_index(how, how.path.parent, 'made', Warnings(), lambda what, value: None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, csv_table], timeout=60, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == -9
    unfinished = csv_table.parent / f"made.{os.geteuid()}.new"
    assert unfinished.stat().st_size
    assert open_index(unfinished, how, old, identity_of(csv_table)) is None
    assert made.get("a@example.org") == ("1", "3")
    made.close()
    again = open_index(csv_table.parent / "made", how, old)
    assert again is not None
    again.close()
    new, _ = write(csv_table.parent, how)  # what is left over does not hinder
    assert new.identity == identity_of(csv_table)
    new.close()


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192, 12288, -1])
def test_an_index_that_is_cut_off_is_made_anew(csv_table: Path, keep: int) -> None:
    with started(Csv(csv_table, index="disk")):
        pass
    index = index_of(csv_table)
    content = index.read_bytes()
    other = index.with_name("other")
    other.write_bytes(content[: keep if keep >= 0 else len(content) - 1])
    other.chmod(0o600)
    other.replace(index)
    with started(Csv(csv_table, index="disk")) as resolver:
        assert resolver._table.get("b@example.org") == "2"
    assert index.stat().st_size == len(content)


@pytest.mark.parametrize("content", [b"", b"x" * 20_000])
def test_what_is_no_index_is_replaced(csv_table: Path, content: bytes) -> None:
    with started(Csv(csv_table, index="disk")):
        pass
    index = index_of(csv_table)
    index.unlink()
    index.write_bytes(content)
    index.chmod(0o600)
    with started(Csv(csv_table, index="disk")) as resolver:
        assert resolver._table.get("b@example.org") == "2"


def test_a_deleted_index_goes_on_answering(csv_table: Path) -> None:
    with started(Csv(csv_table, index="disk")) as resolver:
        index_of(csv_table).unlink()
        assert resolver._table.get("b@example.org") == "2"


def test_an_index_that_others_can_write_to_is_not_trusted(csv_table: Path) -> None:
    with started(Csv(csv_table, index="disk")):
        pass
    index = index_of(csv_table)
    index.chmod(0o666)
    before = index.stat().st_ino
    with started(Csv(csv_table, index="disk")) as resolver:
        assert index.stat().st_ino != before
        assert resolver._table.get("b@example.org") == "2"


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o600, 0o600), (0o640, 0o640), (0o666, 0o644), (0o400, 0o600)]
)
def test_those_can_read_the_index_who_can_read_the_table(csv_table: Path, mode: int, expected: int) -> None:
    with started(Csv(csv_table, index="disk")):
        pass  # one that was made before the mode was changed counts no more
    csv_table.chmod(mode)
    with started(Csv(csv_table, index="disk")):
        status = index_of(csv_table).stat()
    assert status.st_mode & 0o777 == expected
    assert (status.st_uid, status.st_gid) == (os.geteuid(), csv_table.stat().st_gid)


def test_a_damaged_index_is_a_temporary_failure(csv_table: Path) -> None:
    made, _ = write(csv_table.parent, Rows(csv_table, 1, 2, ",", True, fold))

    def broken(key: bytes) -> bytes:
        raise made._error("MDB_CORRUPTED")

    made._get = broken
    with pytest.raises(LookupTempFail, match="made: MDB_CORRUPTED"):
        made.get("b")
    made.close()


def test_a_mistake_in_a_large_table_is_told_with_its_line(csv_table: Path) -> None:
    csv_table.write_text('k,v\na,\nb,"2\n')
    warnings: list[str] = []
    with pytest.raises(ConfigError) as caught, started(Csv(csv_table, index="disk"), warnings):
        pass
    assert str(caught.value) == f"{csv_table}:3: unexpected end of data; the row begins here"
    with pytest.raises(ConfigError) as caught, started(Csv(csv_table, index="disk", key_column="kk")):
        pass
    assert (caught.value.path, caught.value.hint) == (("key_column",), "did you mean 'k'?")
    assert list(csv_table.parent.iterdir()) == [csv_table]


def test_a_missing_table_is_told_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught, started(File(tmp_path / "missing", index="disk")):
        pass
    assert str(caught.value) == f"path: cannot read {tmp_path}/missing: No such file or directory"


def test_without_a_place_for_the_index_a_table_is_read_into_memory_with_a_warning(
    csv_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MOST_ROWS", 1)
    nowhere = csv_table.parent / "missing"
    warnings: list[str] = []
    with started(Csv(csv_table, index_directory=nowhere), warnings) as resolver:
        assert resolver._table._index is None
        assert answer(resolver, "b@example.org") is not None
    assert warnings[0].startswith(
        f"no index of {csv_table}: there is no directory {nowhere}; it is read into"
    )
    with pytest.raises(ConfigError, match="there is no directory") as caught:
        load(Csv(csv_table, index="disk", index_directory=nowhere))
    assert caught.value.path == ("index",)
    monkeypatch.setattr(tables, "_MOST_WITHOUT_INDEX", 10)
    with pytest.raises(ConfigError, match="there is no directory"):
        load(Csv(csv_table, index_directory=nowhere))


def test_without_lmdb_a_table_is_read_into_memory_with_a_warning(
    csv_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    monkeypatch.setattr(tables, "_MOST_ROWS", 1)
    warnings: list[str] = []
    with started(Csv(csv_table), warnings) as resolver:
        assert answer(resolver, "b@example.org") is not None
    assert warnings[0].startswith(
        f"no index of {csv_table}: the package lmdb is not installed; it is read into"
    )
    with pytest.raises(ConfigError, match="lmdb is not installed"):
        load(Csv(csv_table, index="disk"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_index_that_finds_no_room_leaves_the_old_one_and_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("a 1\n")
    with started(File(path, index="disk")) as old:
        path.write_text("".join(f"key{number} {'v' * 100}\n" for number in range(3000)))
        with files_of_at_most(200_000), pytest.raises(ConfigError, match="Input/output error"):
            load(File(path, index="disk"))
        assert answer(old, "a") is not None
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(["table", index_of(path).name])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_told_and_memory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", small], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        path = tmp_path / "table"
        path.write_text("".join(f"key{number} {'v' * 100}\n" for number in range(3000)))
        monkeypatch.setattr(tables, "_MOST_ROWS", 1)
        warnings: list[str] = []
        with started(File(path, index_directory=small), warnings) as resolver:
            assert resolver._table._index is None
            assert answer(resolver, "key7") is not None
        assert f"{small}: No space left on device; it is read into memory" in warnings[0]
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


async def test_who_is_told_to_stop_ends_the_builder_too(csv_table: Path) -> None:
    unfinished = csv_table.parent / place.index_name(Rows(csv_table, 1, 2, ",", True, fold))
    unfinished = unfinished.with_name(f"{unfinished.name}.{os.geteuid()}.new")
    with unfinished.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # so that the builder waits
        made, _ = context()
        waiting = asyncio.Event()
        made.logger.setLevel(logging.INFO)
        made.logger.addFilter(lambda record: "waiting" not in record.getMessage() or bool(waiting.set()))
        task = asyncio.create_task(Csv(csv_table, index="disk").start(made))
        async with asyncio.timeout(30):
            await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not list(csv_table.parent.glob("*.index"))


def test_a_builder_that_is_killed_is_told_with_its_signal(
    csv_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_program", lambda: "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ConfigError, match="the process that builds it ended with signal SIGKILL"):
        load(Csv(csv_table, index="disk"))


# The place.


def test_the_cache_directory_of_the_service_comes_first(
    csv_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = tmp_path / "cache", tmp_path / "other"
    cache.mkdir()
    other.mkdir()
    monkeypatch.setenv("CACHE_DIRECTORY", f"{cache}:{other}")
    with started(Csv(csv_table, index="disk")):
        pass
    assert [one.parent for one in tmp_path.rglob(".*.index")] == [cache]
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.setattr(place, "_SYSTEM_CACHE", str(cache))
    monkeypatch.setattr(building, "_spawn", no_child)
    with started(Csv(csv_table, index="disk")) as resolver:
        assert resolver._table._index is not None


def test_the_order_of_many_records_is_that_of_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "_RUN", 50)
    sorter = sorting.Sorter(tmp_path)
    records = [b"%d\n" % (number * 7919 % 100) for number in range(100)]
    for record in records:
        sorter.add(record)
    assert list(sorter.sorted()) == sorted(records)
    assert (sorter.count, sorter.size) == (100, sum(map(len, records)))
    assert list(tmp_path.iterdir()) == []
    sorter.close()

"""Table files that go wrong behind a server: what they held is answered until they are mended."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from tcpmapkit.config import read_document
from tcpmapkit.resolvers.http import Http
from tcpmapkit.resolvers.source_file import beside_lookups
from tcpmapkit.resolvers.table import place
from tcpmapkit.serving import Serving
from tcpmapkit.site import open_site
from tcpmapkit.template import Template
from tcpmapkit.watching import TableWatch
from tests.loading import context
from tests.private_postfix import wait_until
from tests.running_tcpmapkit import running_tcpmapkit

#: Seconds that a test waits for what shall come; it fails when they are over.
PATIENCE = 20

ROWS = 40


@attrs.frozen
class Kind:
    """A type of table: its options beside the path, and a row of its file; `header` is the first line."""

    type: str
    row: str
    options: str = ""
    header: str = ""
    key: str = "user{}@example.org"

    def text(self, value: str, rows: int = ROWS) -> str:
        """A file in which every key has this value."""
        lines = [self.row.format(key=self.key.format(number), value=value) for number in range(rows)]
        return self.header + "".join(lines)

    @property
    def asked(self) -> str:
        return self.key.format(ROWS - 1)


KINDS = {
    "file": Kind("file", "{key} {value}\n"),
    "csv": Kind("csv", '{key},"{value}"\n', header="address,target\n"),
    "regex": Kind("regex", "/^{key}$/ {value}\n"),
    "cidr": Kind("cidr", "{key} {value}\n", key="192.0.2.{}"),
    "disk": Kind("csv", '{key},"{value}"\n', 'index = "disk"\n', "address,target\n"),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@pytest.fixture(autouse=True)
def no_cache_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setattr(place, "_SYSTEM_CACHE", "/nonexistent")


class Served:
    """A table behind a real server; its watch looks all the time, and a second of its is over at once."""

    def __init__(self, directory: Path, kind: Kind, options: str = "", tests: str = "") -> None:
        self.path = directory / "table"
        self.kind = kind
        self.put("old")
        toml = directory / "tcpmapkit.toml"
        toml.write_text(
            '[[listeners]]\nprotocol = "tcp_table"\nendpoint = "inet:127.0.0.1:0"\nmap = "asked"\n'
            f'[[maps.asked.resolvers]]\ntype = "{kind.type}"\npath = "table"\n{kind.options}{options}{tests}'
        )
        self.serving = Serving(open_site(toml))
        self.now = 0.0
        self.looks = 0
        self.serving._watch = TableWatch(
            self.serving._tables_changed,
            clock=lambda: self.now,
            sleep=self._sleep,
            wait=self._wait,
            open_events=self._open,
        )

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    async def _wait(self, event: asyncio.Event, seconds: float | None) -> None:
        self.looks += 1
        self.now += seconds or 0
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), 0.002 if seconds else 0)

    async def _open(self, *arguments: Any) -> Any:
        raise ImportError

    def put(self, value: str, rows: int = ROWS) -> None:
        """Put a good file in the place of what is there."""
        new = self.path.with_name("new")
        new.write_text(self.kind.text(value, rows))
        if self.path.is_dir():
            self.path.rmdir()
        new.rename(self.path)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.serving.server.bind()
        try:
            await self.serving.site.start()
            await self.serving.start()
            yield
        finally:
            async with asyncio.timeout(PATIENCE):
                await self.serving.stop()

    async def answer(self, key: str = "") -> str:
        """The reply for a key."""
        (((host, port), *_), *_) = self.serving.server.addresses
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"get {key or self.kind.asked}\n".encode())
                return (await reader.readline()).decode().rstrip("\n")
            finally:
                writer.close()
                await writer.wait_closed()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)

    async def looked(self) -> None:
        """Two more looks at the file, of which one began after now."""
        looks = self.looks
        await self.until(lambda: self.looks >= looks + 2)

    async def answers(self, reply: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.answer() != reply:
                await asyncio.sleep(0.005)

    @property
    def reasons(self) -> list[str]:
        return [
            error.errors[0].message if hasattr(error, "errors") else error.message
            for error in self.serving.held.values()
        ]


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def directory_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: cut(path, 0.3), "rows now and had 40|row begins here|unexpected end"),
    "empty": (lambda path: path.write_bytes(b""), "0 rows now and had 40|the file is empty"),
    "half-written": (
        lambda path: path.write_bytes(path.read_bytes()[:101]),
        "had 40|row begins here|unexpected",
    ),
    "another file's bytes": (lambda path: path.write_bytes(b"\xff\xfe\x80" * 500), "had 40|not UTF-8"),
    "a directory": (directory_instead, "not a regular file|Is a directory"),
    "gone": (Path.unlink, "No such file"),
    "a link to nowhere": (link_to_nowhere, "No such file"),
    "a FIFO": (pipe_instead, "not a regular file"),
    "shrunk": (lambda path: None, "had 40"),
}


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged of tables that are held, up to the reason."""
    return [
        (one.levelname, one.getMessage().partition(": keeps")[0])
        for one in caplog.records
        if one.name == "tcpmapkit.held"
    ]


@EVERY_KIND
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_table_whose_file_goes_wrong_answers_as_before_until_it_is_mended(
    kind: Kind, fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(tmp_path, kind)
    name = f"map asked: step {kind.type}"
    async with served.running():
        assert await served.answer() == "200 old"
        break_it, reason = FAULTS[fault]
        if fault == "shrunk":
            served.put("new", rows=19)
        break_it(served.path)
        await served.until(lambda: bool(served.serving.held))
        (said,) = served.reasons
        assert any(one in said for one in reason.split("|")), said
        assert await served.answer() == "200 old"
        await served.looked()
        assert await served.answer() == "200 old"
        assert records(caplog) == [("ERROR", name)]
        served.put("new")
        await served.answers("200 new")
        await served.until(lambda: not served.serving.held)
        assert records(caplog) == [("ERROR", name), ("WARNING", f"{name}: is held no more")]


@EVERY_KIND
async def test_a_table_that_grows_or_loses_less_than_its_share_is_taken(kind: Kind, tmp_path: Path) -> None:
    served = Served(tmp_path, kind)
    async with served.running():
        served.put("new", rows=200)
        await served.answers("200 new")
        served.put("newer", rows=100)
        await served.answers("200 newer")
        assert not served.serving.held


async def test_what_a_table_may_lose_is_an_option(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = Served(tmp_path, KINDS["file"], "max_shrink = false\n")
    async with served.running():
        served.path.write_text("")
        await served.answers("500 not%20found")
        assert not served.serving.held
    assert not records(caplog)


async def test_force_takes_a_table_that_has_shrunk(tmp_path: Path) -> None:
    served = Served(tmp_path, KINDS["file"])
    async with served.running():
        served.put("new", rows=1)
        await served.until(lambda: bool(served.serving.held))
        assert await served.answer() == "200 old"
        await served.serving.reload_tables(force=True)
        assert await served.answer() == "500 not%20found"
        assert await served.answer("user0@example.org") == "200 new"
        assert not served.serving.held


async def test_a_table_that_fails_a_test_of_its_map_is_held(tmp_path: Path) -> None:
    tests = '[[maps.asked.tests]]\nkey = "user1@example.org"\nexpect = "old"\n'
    served = Served(tmp_path, KINDS["file"], tests=tests)
    async with served.running():
        served.put("new")
        await served.until(lambda: bool(served.serving.held))
        assert await served.answer() == "200 old"
        served.put("old", rows=ROWS + 1)
        await served.until(lambda: not served.serving.held)
        assert await served.answer(KINDS["file"].key.format(ROWS)) == "200 old"


CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


@contextmanager
def without_the_rights_of_root() -> Iterator[None]:
    """Files are read as by anybody else: this thread, and those that it begins, lose what lets root read all
    of them (capabilities(7)). Whoever is not root has it not."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        pytest.skip("the system does not tell what a thread of root's may do")
    before = data[0]
    data[0] = before & ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    if libc.capset(header, data):
        pytest.skip("the system does not let a thread of root's give up what it may do")
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0


@pytest.mark.parametrize(
    "kind", [kind for name, kind in KINDS.items() if name != "disk"], ids=lambda kind: kind.type
)
async def test_a_table_that_may_not_be_read_any_more_answers_as_before(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(tmp_path, kind)
    with without_the_rights_of_root():
        async with served.running():
            served.path.chmod(0)
            await served.until(lambda: bool(served.serving.held))
            assert "Permission denied" in served.reasons[0]
            assert await served.answer() == "200 old"
            served.path.chmod(0o600)
            await served.until(lambda: not served.serving.held)
            assert await served.answer() == "200 old"
    assert [level for level, _ in records(caplog)] == ["ERROR", "WARNING"]


async def test_while_an_index_is_built_the_old_table_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    served = Served(tmp_path, KINDS["disk"])
    async with served.running():
        caplog.clear()
        rows = 300_000
        served.put("new", rows)
        replies, during = [], []
        while (reply := await served.answer()) != "200 new":
            replies.append(reply)
            building = "building the index" in caplog.text and "has 300000 keys" not in caplog.text
            during.append(building)
        assert set(replies) == {"200 old"}
        assert any(during)
        assert await served.answer(f"user{rows - 1}@example.org") == "200 new"


async def test_a_configuration_that_waits_to_be_taken_keeps_the_tables_as_they_are(tmp_path: Path) -> None:
    served = Served(tmp_path, KINDS["file"])
    async with served.running():
        document = read_document(served.serving.site.document.path)
        for number, decide in enumerate((served.serving.discard, served.serving.take)):
            prepared = await served.serving.prepare(document)
            before = await served.answer()
            slept = served.now
            served.put(f"new {number}")
            await served.until(lambda slept=slept: served.now > slept)
            assert await served.answer() == before
            await decide(prepared)
            await served.answers(f"200 new%20{number}")


async def test_a_token_that_is_renewed_is_sent_from_then_on(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    resolver = Http(url=Template.compile("http://127.0.0.1:1/x", ()), token_file=token)
    assert resolver.files == (token,)
    await resolver.start(context()[0])
    assert resolver.is_current()
    (tmp_path / "new").write_text("second\n")
    (tmp_path / "new").rename(token)
    assert not resolver.is_current()
    again = Http(url=Template.compile("http://127.0.0.1:1/x", ()), token_file=token)
    await again.start(context()[0])
    assert again.is_current()
    assert again._own_headers["Authorization"] == "Bearer second"
    token.unlink()
    assert not again.is_current()


def test_while_tables_are_made_no_garbage_is_looked_for_and_their_threads_give_way_sooner() -> None:
    usual = sys.getswitchinterval()
    assert gc.isenabled()
    with beside_lookups():
        with beside_lookups():
            assert not gc.isenabled()
            assert sys.getswitchinterval() < usual
        assert not gc.isenabled()
        assert sys.getswitchinterval() < usual
    assert gc.isenabled()
    assert sys.getswitchinterval() == usual


def test_what_a_large_table_is_made_of_is_not_looked_through_again() -> None:
    try:
        before = gc.get_freeze_count()
        with beside_lookups():
            few: list[list[int]] = [[] for _ in range(1000)]
        assert gc.get_freeze_count() == before
        with beside_lookups():
            many: list[list[int]] = [[] for _ in range(30_000)]
        assert gc.get_freeze_count() >= before + len(many)
        assert len(few) == 1000
    finally:
        gc.unfreeze()


def asked(endpoint: str, key: str) -> str:
    """The reply of whoever serves there, over a connection of its own."""
    _, host, port = endpoint.split(":")
    with (
        socket.create_connection((host, int(port)), PATIENCE) as connection,
        connection.makefile("rwb") as file,
    ):
        file.write(f"get {key}\n".encode())
        file.flush()
        return file.readline().decode().rstrip("\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_process_of_a_server_takes_a_changed_table_by_itself(workers: int, tmp_path: Path) -> None:
    kind = KINDS["file"]
    table = tmp_path / "table"
    table.write_text(kind.text("old"))
    text = (
        f"[server]\nworkers = {workers}\n"
        '[[listeners]]\nprotocol = "tcp_table"\nendpoint = "inet:127.0.0.1:0"\nmap = "asked"\n'
        f'[[maps.asked.resolvers]]\ntype = "file"\npath = "{table}"\n'
    )
    with running_tcpmapkit(tmp_path, text) as server:
        (endpoint,) = server.endpoints

        def become(reply: str) -> None:
            def is_everywhere() -> bool:
                return {asked(endpoint, kind.asked) for _ in range(8)} == {reply}

            wait_until(is_everywhere, PATIENCE, server.log)

        become("200 old")
        (tmp_path / "new").write_text(kind.text("new"))
        (tmp_path / "new").rename(table)
        become("200 new")
        table.write_text("")
        wait_until(lambda: server.log().count("keeps the contents") == workers, PATIENCE, server.log)
        become("200 new")

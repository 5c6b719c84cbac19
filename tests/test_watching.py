"""Table files that change: when that is noticed, what is waited for, what is tried again."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest

from tcpmapkit.at_rest import AtRest
from tcpmapkit.file_events import FileEvents
from tcpmapkit.watched_files import directories_of, is_told_of, network_devices, state_of
from tcpmapkit.watching import TableWatch

#: Seconds that a test waits for what shall come; it fails when they are over.
PATIENCE = 20


@attrs.define(eq=False)
class Table:
    """A resolver with one file: its content, read at once; a file that says ``bad`` cannot be loaded."""

    path: Path
    text: str = attrs.field(init=False)
    read: object = attrs.field(init=False)
    asked: int = 0

    def __attrs_post_init__(self) -> None:
        self.read = state_of(self.path)
        self.text = self.path.read_text()
        if self.text == "bad":
            raise ValueError("a bad table")

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def is_current(self) -> bool:
        self.asked += 1
        return state_of(self.path) == self.read


class NoEvents:
    """Tells of nothing by itself."""

    def __init__(self) -> None:
        self.alive = True
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


class World:
    """Tables that are watched, with a clock that only sleeping moves; `meanwhile` is what others do, one
    thing during each sleep."""

    def __init__(self, *paths: Path) -> None:
        self.tables = [Table(path) for path in paths]
        self.now = 1000.0
        self.meanwhile: list[Callable[[], object]] = []
        self.while_loading: list[Callable[[], object]] = []
        self.loads: list[tuple[float, bool]] = []
        self.taken: list[str] = []
        self.opened: list[Mapping[str, frozenset[str]]] = []
        self.events: list[NoEvents] = []
        self.cannot_open: Exception | None = None
        self.pauses: list[float | None] = []
        self._idle = asyncio.Event()
        self._go_on = asyncio.Event()
        self.watch = TableWatch(
            self.reload, clock=lambda: self.now, sleep=self.sleep, wait=self.wait, open_events=self.open
        )
        self.watch.update(self.tables)

    @property
    def texts(self) -> list[str]:
        return [table.text for table in self.tables]

    async def reload(self, final: bool, at_rest: AtRest) -> bool:
        self.loads.append((round(self.now - 1000, 3), final))
        well = True
        for at, table in enumerate(self.tables):
            if not table.is_current() and table in at_rest:
                try:
                    new = Table(table.path)
                except (OSError, ValueError):
                    well = False
                    continue
                if self.while_loading:
                    self.while_loading.pop(0)()
                if at_rest.still(table):
                    self.tables[at] = new
                    self.taken.append(new.text)
        self.watch.update(self.tables)
        return well

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        if seconds == 0 or event.is_set():
            return
        self.pauses.append(seconds)
        self._go_on.clear()
        self._idle.set()
        woken = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._go_on.wait())]
        try:
            await asyncio.wait(woken, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in woken:
                one.cancel()
        self._idle.clear()

    async def open(
        self, directories: Mapping[str, frozenset[str]], changed: Callable[[], object]
    ) -> NoEvents:
        self.opened.append(directories)
        if self.cannot_open is not None:
            raise self.cannot_open
        self.events.append(NoEvents())
        return self.events[-1]

    async def idle(self) -> float | None:
        """Until the watch has nothing to do; for how long it would pause."""
        async with asyncio.timeout(PATIENCE):
            await self._idle.wait()
        return self.pauses[-1]

    async def later(self, seconds: float | None = None) -> float | None:
        """After the pause, or so many seconds, and what is then done."""
        await self.idle()
        self.now += (self.pauses[-1] or 0) if seconds is None else seconds
        self._idle.clear()
        self._go_on.set()
        return await self.idle()


@asynccontextmanager
async def watching(*paths: Path) -> AsyncIterator[World]:
    world = World(*paths)
    world.watch.start()
    try:
        await world.idle()
        yield world
    finally:
        async with asyncio.timeout(PATIENCE):
            await world.watch.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "table").write_text("old")
    return tmp_path / "table"


def put(path: Path, text: str, dated: bool = True) -> None:
    """Put another file in its place, as an editor does: one that was written a while ago, or `dated` false
    just now, in the same tick of the clock."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    if dated:
        os.utime(new, (1, 1))
        new.rename(path)
        return
    new.rename(path)
    while path.stat().st_mtime_ns != path.stat().st_ctime_ns:
        path.unlink()
        path.write_text(text)


async def test_a_file_that_has_not_changed_is_asked_for_every_half_a_minute_and_never_loaded(
    path: Path,
) -> None:
    async with watching(path) as world:
        assert [await world.later() for _ in range(3)] == [30, 30, 30]
        assert not world.loads
        assert world.tables[0].asked == 5  # twice at first: before and after the system began to tell


@pytest.mark.parametrize("text", ["new", "old"])
async def test_a_file_in_the_place_of_another_is_loaded_once_when_it_was_left_alone(
    path: Path, text: str
) -> None:
    async with watching(path) as world:
        put(path, text)
        assert await world.later(0) == 30
        assert world.texts == [text]
        assert world.loads == [(0.2, False)]
        await world.later()
        assert len(world.loads) == 1


async def test_a_file_written_in_place_is_waited_for(path: Path) -> None:
    async with watching(path) as world:
        path.write_text("")
        text = "new" * 1000
        world.meanwhile = [lambda end=end: path.write_text(text[:end]) for end in (1000, 2000, 3000)]
        await world.later(0)
        assert world.loads == [(3.6, False)]
        assert world.texts == [text]


async def test_a_file_that_is_still_being_written_is_not_loaded_and_that_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(path) as world:
        world.meanwhile = [lambda end=end: path.write_text("x" * end) for end in range(1, 201)]
        world.meanwhile[0]()
        await world.later(0)
        assert world.texts == ["x" * 200]
        (at,) = [at for at, _ in world.loads]
        assert at > 100
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: still being written after 15 s; the table of before serves on"
    ]


@pytest.mark.parametrize(
    ("change", "rest"),
    [
        (lambda path: put(path, "new"), 0.2),
        (lambda path: put(path, "new", dated=False), 1.0),
        (lambda path: path.write_text("new"), 3.0),
        (Path.unlink, 1.0),
    ],
    ids=["renamed", "under another name, perhaps being written", "in place", "removed"],
)
async def test_how_long_a_file_must_be_left_alone_goes_by_how_it_was_changed(
    path: Path, change: Callable[[Path], object], rest: float
) -> None:
    async with watching(path) as world:
        change(path)
        await world.later(0)
        assert world.loads[0] == (rest, False)


@pytest.mark.parametrize("first", [lambda path: path.write_text("x"), lambda path: put(path, "x", False)])
async def test_a_writer_may_pause_for_almost_three_seconds(
    path: Path, first: Callable[[Path], object]
) -> None:
    async with watching(path) as world:
        first(path)
        pauses = [lambda: path.write_text("xx"), *[int] * 13, lambda: path.write_text("xxx")]
        world.meanwhile = list(pauses)
        await world.later(0)
        assert world.loads == [(6.0, False)]
        assert world.texts == ["xxx"]


async def test_a_file_on_the_network_that_is_written_in_place_is_left_alone_for_longer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = path.stat().st_dev
    monkeypatch.setattr("tcpmapkit.watching.network_devices", lambda: frozenset({device}))
    async with watching(path) as world:
        path.write_text("new")
        await world.later(0)
        assert world.loads == [(10.0, False)]


async def test_a_file_that_is_being_written_does_not_hold_up_another(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("old")
    other.write_text("old")
    async with watching(one, other) as world:
        put(other, "new")
        world.meanwhile = [lambda end=end: one.write_text("x" * end) for end in range(1, 41)]
        world.meanwhile[0]()
        await world.later(0)
        assert world.loads == [(0.2, False), (11.0, False)]
        assert world.taken == ["new", "x" * 40]


async def test_a_file_that_changes_while_it_is_loaded_is_looked_at_again(path: Path) -> None:
    async with watching(path) as world:
        world.while_loading = [lambda: path.write_text("half of it")]
        put(path, "new")
        await world.later(0)
        assert world.loads == [(0.2, False), (3.2, False)]
        assert world.taken == ["half of it"]


async def test_between_the_removing_and_the_renaming_of_an_editor_nothing_is_loaded(path: Path) -> None:
    async with watching(path) as world:
        path.unlink()
        world.meanwhile = [int, int, lambda: put(path, "new")]
        await world.later(0)
        ((at, final),) = world.loads
        assert at >= 0.8
        assert not final
        assert world.texts == ["new"]


async def test_a_file_that_cannot_be_loaded_is_tried_again_before_that_is_final(path: Path) -> None:
    async with watching(path) as world:
        put(path, "bad")
        assert await world.later(0) == 1
        assert await world.later() == 2
        assert world.loads == [(0.2, False), (1.2, True)]
        put(path, "good")
        await world.later()
        assert world.texts == ["good"]


async def test_what_stays_wrong_is_looked_at_often_and_tried_seldom_until_it_changes(path: Path) -> None:
    async with watching(path) as world:
        path.write_text("bad")
        assert await world.later(0) == 1
        for _ in range(14):
            assert await world.later() == 2
        assert len(world.loads) == 2
        for _ in range(600):
            await world.later()
        assert world.texts == ["old"]
        finals = [at for at, final in world.loads if final]
        waits = [round(later - earlier) for earlier, later in pairwise(finals)]
        assert [round(wait, -1) for wait in waits] == [30, 60, 120, 240, 480]
        path.write_text("good")
        await world.later()
        assert world.texts == ["good"]
        assert await world.later() == 30


async def test_a_file_that_goes_and_comes_back_keeps_its_table_meanwhile(path: Path) -> None:
    async with watching(path) as world:
        path.unlink()
        assert await world.later(0) == 1
        assert await world.later() == 2
        assert world.texts == ["old"]
        assert world.loads == [(1.0, False), (2.0, True)]
        path.write_text("new")
        assert await world.later() == 30
        assert world.texts == ["new"]


async def test_a_table_that_is_wrong_does_not_hold_up_another(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("old")
    other.write_text("old")
    async with watching(one, other) as world:
        one.write_text("bad")
        await world.later(0)
        other.write_text("new")
        await world.later()
        assert world.texts == ["old", "new"]


async def test_a_reload_that_raises_is_logged_and_does_not_end_the_watching(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(path) as world:
        whole, world.watch._reload = world.watch._reload, failing
        put(path, "new")
        await world.later(0)
        assert [record.getMessage() for record in caplog.records] == ["table files could not be loaded"]
        world.watch._reload = whole
        put(path, "newer")
        await world.later()
        assert world.texts == ["newer"]


async def failing(*_: object) -> bool:
    raise RuntimeError("a mistake of ours")


async def test_a_mistake_in_the_watching_itself_is_logged_and_it_goes_on(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(path) as world:
        with monkeypatch.context() as patched:
            patched.setattr(world.watch, "_look", failing)
            await world.later()
            patched.setattr(world.watch, "_look", failing)
            assert await world.later() == 30
        assert {record.getMessage() for record in caplog.records} == {
            "looking after table files failed; it goes on"
        }
        put(path, "new")
        await world.later()
        assert world.texts == ["new"]


async def test_a_resolver_that_does_not_answer_properly_does_not_hide_the_others(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        files = (Path("elsewhere"),)

        def is_current(self) -> bool:
            raise RuntimeError("a mistake of the plugin's")

    async with watching(path) as world:
        world.watch.update([Broken(), object(), *world.tables])
        put(path, "new")
        await world.later(0)
        assert world.texts == ["new"]
    assert "Broken does not say whether its files are current" in caplog.text


async def test_without_files_nothing_is_watched_until_there_are_some(path: Path) -> None:
    async with watching() as world:
        assert world.pauses == [None]
        assert not world.opened
        world.tables = [Table(path)]
        world._idle.clear()
        world.watch.update(world.tables)
        assert await world.idle() == 30
        assert world.opened == [{str(path.parent): frozenset({"table"})}]
        world._idle.clear()
        world.watch.update([])
        assert await world.idle() is None
        assert [one.stopped for one in world.events] == [True]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (ImportError("watchfiles"), "watchfiles is not installed: table files are looked at every 2 s"),
        (
            OSError(errno.ENOSPC, "no more watches"),
            "table files are looked at every 2 s: no changes are told: [Errno 28] no more watches",
        ),
    ],
)
async def test_where_nothing_is_told_files_are_looked_at_every_two_seconds_and_that_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture, failure: Exception, said: str
) -> None:
    world = World(path)
    world.cannot_open = failure
    world.watch.start()
    try:
        assert await world.idle() == 2
        put(path, "new")
        assert await world.later() == 2
        assert world.texts == ["new"]
        for _ in range(400):
            await world.later()
        assert [record.getMessage() for record in caplog.records] == [said]
        assert len(world.opened) == 2  # it is tried again, seldom
    finally:
        await world.watch.stop()


async def test_what_tells_no_more_is_replaced(path: Path) -> None:
    async with watching(path) as world:
        world.events[0].alive = False
        await world.later(1000)
        assert [one.stopped for one in world.events] == [True, False]


async def test_a_directory_on_the_network_is_not_relied_upon(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = path.parent.stat().st_dev
    monkeypatch.setattr("tcpmapkit.watching.network_devices", lambda: frozenset({device}))
    async with watching(path) as world:
        assert await world.later() == 2
        assert not world.opened


async def test_a_system_that_does_not_answer_is_told_of_and_asked_again(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(path) as world:
        put(path, "new")
        with monkeypatch.context() as patched:
            patched.setattr("tcpmapkit.watching._PATIENCE", 0)
            assert await world.later() == 2
            await world.later()
        assert [record.getMessage() for record in caplog.records] == [
            "the system does not say what the table files are: their changes go unnoticed"
        ]
        async with asyncio.timeout(PATIENCE):
            while world.texts != ["new"]:
                await world.later()


# With what the system tells.


def kubernetes(directory: Path, version: str, text: str) -> None:
    """A new version of a mounted ConfigMap, as the kubelet makes it: ..data is swapped."""
    (directory / f"..{version}").mkdir()
    (directory / f"..{version}" / "table").write_text(text)
    (directory / "..tmp").symlink_to(f"..{version}")
    (directory / "..tmp").rename(directory / "..data")
    if not (directory / "table").is_symlink():
        (directory / "table").symlink_to("..data/table")


class Loaded:
    """A table behind a real watch whose only pauses are those until something is told."""

    def __init__(self, path: Path) -> None:
        self.table = Table(path)
        self.told = asyncio.Event()
        self.watch = TableWatch(self.reload, wait=self.wait)
        self.watch.update([self.table])
        self.looking = asyncio.Event()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        if seconds:
            self.looking.set()
        with suppress(TimeoutError):
            # What is missing is looked for often; for what is told there is all the time of the test.
            await asyncio.wait_for(event.wait(), 0.05 if seconds == 2 else seconds and PATIENCE)

    async def reload(self, final: bool, at_rest: AtRest) -> bool:
        try:
            self.table = Table(self.table.path)
        except OSError:
            return False
        self.watch.update([self.table])
        self.told.set()
        return True

    async def become(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.table.text != text:
                self.told.clear()
                await self.told.wait()


@asynccontextmanager
async def loaded(path: Path) -> AsyncIterator[Loaded]:
    pytest.importorskip("watchfiles", reason="watchfiles has no wheel here")
    one = Loaded(path)
    one.watch.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await one.looking.wait()
        yield one
    finally:
        await one.watch.stop()


async def test_the_system_tells_of_one_new_file_after_another_and_of_writing_in_place(path: Path) -> None:
    async with loaded(path) as one:
        for text in ("second", "third"):
            put(path, text)
            await one.become(text)
        path.write_text("written in place")
        await one.become("written in place")


async def test_the_system_tells_of_every_swap_of_kubernetes(tmp_path: Path) -> None:
    kubernetes(tmp_path, "1", "first")
    async with loaded(tmp_path / "table") as one:
        for version in ("2", "3"):
            kubernetes(tmp_path, version, version)
            await one.become(version)


async def test_the_system_tells_of_a_file_that_was_away_and_of_a_directory_put_in_anothers_place(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "tables"
    directory.mkdir()
    (directory / "table").write_text("old")
    async with loaded(directory / "table") as one:
        (directory / "table").unlink()
        (directory / "table").write_text("back")
        await one.become("back")
        other = tmp_path / "other"
        other.mkdir()
        (other / "table").write_text("another")
        directory.rename(tmp_path / "former")
        other.rename(directory)
        await one.become("another")
        put(directory / "table", "and its own")
        await one.become("and its own")


async def test_names_that_do_not_matter_are_not_told_of(path: Path) -> None:
    pytest.importorskip("watchfiles", reason="watchfiles has no wheel here")
    told: asyncio.Queue[str] = asyncio.Queue()
    both = {str(path.parent): frozenset({"table"})}
    events = await FileEvents.open(both, lambda: told.put_nowait("told"))
    others = await FileEvents.open({str(path.parent): frozenset({"other"})}, lambda: told.put_nowait("other"))
    try:
        put(path, "new")
        (path.parent / "third").write_text("")
        async with asyncio.timeout(PATIENCE):
            assert await told.get() == "told"
        (path.parent / "other").write_text("")
        async with asyncio.timeout(PATIENCE):
            assert await told.get() == "other"
    finally:
        events.stop()
        others.stop()


async def test_a_directory_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles", reason="watchfiles has no wheel here")
    with pytest.raises(OSError, match=r"nowhere|No such file"):
        await FileEvents.open({str(tmp_path / "nowhere"): frozenset()}, int)


# Where a file can change.


def test_the_directories_of_a_file_are_those_of_every_link_on_the_way(tmp_path: Path) -> None:
    kubernetes(tmp_path, "1", "first")
    assert directories_of([tmp_path / "table"]) == {
        str(tmp_path): frozenset({"table", "..data"}),
        str(tmp_path / "..1"): frozenset({"table"}),
    }


def test_links_to_directories_and_to_elsewhere_are_followed(tmp_path: Path) -> None:
    for name in ("etc", "mnt", "mnt/deep"):
        (tmp_path / name).mkdir()
    (tmp_path / "etc" / "tables").symlink_to(tmp_path / "mnt" / "deep")
    (tmp_path / "mnt" / "deep" / "table").symlink_to("../real")
    (tmp_path / "mnt" / "real").write_text("")
    found = directories_of([tmp_path / "etc" / "tables" / "table", tmp_path / "mnt" / "real"])
    assert found == {
        str(tmp_path / "etc"): frozenset({"tables"}),
        str(tmp_path / "mnt" / "deep"): frozenset({"table"}),
        str(tmp_path / "mnt"): frozenset({"real"}),
    }


def test_what_is_missing_ends_the_way(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere/table")
    assert directories_of([tmp_path / "dangling", tmp_path / "a" / "b" / "c"]) == {
        str(tmp_path): frozenset({"dangling", "nowhere", "a"})
    }


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    assert directories_of([tmp_path / "one"]) == {str(tmp_path): frozenset({"one", "other"})}


def test_file_systems_of_others_are_known_by_their_types(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "40 22 0:45 / /srv/tables rw,relatime shared:20 master:3 - nfs4 server:/tables rw\n"
        "41 22 0:46 / /home/me/remote rw - fuse.sshfs me@host: rw\n"
    )
    assert network_devices(mounts) == {os.makedev(0, 45), os.makedev(0, 46)}
    assert network_devices(tmp_path / "none") == frozenset()


def test_a_directory_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    assert is_told_of(str(tmp_path), frozenset())
    assert not is_told_of(str(tmp_path), frozenset({tmp_path.stat().st_dev}))
    assert not is_told_of(str(tmp_path / "none"), frozenset())


def test_the_state_of_a_file_tells_it_from_every_other(path: Path) -> None:
    states: list[Any] = [state_of(path)]
    put(path, "old")
    states.append(state_of(path))
    path.chmod(0o600)
    states.append(state_of(path))
    path.unlink()
    states.append(state_of(path))
    assert len(set(states)) == 4
    assert states[-1] == (errno.ENOENT,)


async def test_a_resolver_that_cannot_name_its_files_is_told_of_once_and_the_others_are_watched(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(Table):
        @property
        def files(self) -> tuple[Path, ...]:
            raise RuntimeError("no idea")

    async with watching(path) as world:
        world.watch.update([Forgetful(path), *world.tables])
        await world.later()
        await world.later()
        put(path, "new")
        assert await world.later(0) == 30
        assert world.texts == ["new"]
    assert [record.getMessage() for record in caplog.records] == [
        "Forgetful does not say which its files are"
    ]

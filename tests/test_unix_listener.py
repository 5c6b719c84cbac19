"""Listeners on unix-domain sockets: who may connect, what may be at the path, what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tcpmapkit import unix_socket
from tcpmapkit.cli import main
from tcpmapkit.config import Endpoint, ListenerConfig, ServerConfig
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.listener import BACKLOG, as_bound
from tcpmapkit.process import StartError
from tcpmapkit.query import Found
from tcpmapkit.server import Server
from tcpmapkit.testing import FakeClock
from tcpmapkit.unix_socket import UnixSocket
from tests.real_postfix import Postfix
from tests.serving import HeldMap, running

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
NOBODY = pwd.getpwnam("nobody")

ASKED = b"6:held k,"
ANSWER = b"4:OK v,"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name that everybody can reach, and nobody but us can write to."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        made.chmod(0o755)
        yield made


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "socketmap"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def without_root() -> Iterator[None]:
    """Be nobody, in nobody's group alone, if we are root."""
    if os.geteuid() != 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(NOBODY.pw_gid)
    os.seteuid(NOBODY.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def give_to_nobody(directory: Path) -> None:
    if os.geteuid() == 0:
        os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)


def config_of(path: Path, **options: Any) -> ListenerConfig:
    endpoint = Endpoint("unix", path=str(path))
    return ListenerConfig("socketmap", endpoint, maps=("held",), path=("listeners", 0), **options)


def server_of(*configs: ListenerConfig, clock: FakeClock | None = None) -> Server:
    served = HeldMap(k=Found("v"))
    return Server(ServerConfig(), [(config, [served]) for config in configs], clock=clock or FakeClock())  # type: ignore[list-item]


@asynccontextmanager
async def serving(*configs: ListenerConfig) -> AsyncIterator[Server]:
    server = server_of(*configs)
    async with running(server):
        yield server


async def ask(server: Server, listener: int = 0) -> bytes:
    reader, writer = await asyncio.open_unix_connection(*server.addresses[listener][0])
    writer.write(ASKED)
    async with asyncio.timeout(10):
        reply = await reader.readexactly(len(ANSWER))
    writer.close()
    return reply


@contextmanager
def bound(path: Path, **options: Any) -> Iterator[UnixSocket]:
    """A socket that listens, without a server."""
    one = UnixSocket.bind(config_of(path, **options), BACKLOG)
    try:
        yield one
    finally:
        one.close()


def refusal(path: Path, **options: Any) -> str:
    """Why there can be no socket, without the endpoint in front."""
    with pytest.raises(StartError) as caught:
        UnixSocket.bind(config_of(path, **options), BACKLOG)
    text = str(caught.value)
    assert "\n" not in text
    prefix = f"cannot listen on unix:{path}: "
    assert text.startswith(prefix)
    return text.removeprefix(prefix)


def leave_stale(path: Path, kind: int = socket.SOCK_STREAM) -> None:
    """What a server that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(str(path))


def refuses(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        return client.connect_ex(str(path))


# Serving.


def change(server: Server, *configs: ListenerConfig) -> None:
    """Have it take another configuration of its listeners."""
    served = HeldMap(k=Found("v"))
    server.take(server.prepare(ServerConfig(), [(config, [served]) for config in configs]))  # type: ignore[misc]


async def test_another_mode_owner_and_group_are_taken(path: Path) -> None:
    async with serving(config_of(path, mode=0o600)) as server:
        path.chmod(0o640)  # by hand: stays while nothing else is said
        change(server, config_of(path, mode=0o600))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        change(server, config_of(path, mode=0o666))
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        if os.geteuid() == 0:
            change(server, config_of(path, mode=0o660, owner="nobody", group=str(NOBODY.pw_gid)))
            assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
            change(server, config_of(path, mode=0o660, group=str(NOBODY.pw_gid)))
            assert (path.stat().st_uid, path.stat().st_gid) == (0, NOBODY.pw_gid)
        assert server.listeners[0].unapplied is None
        assert await ask(server) == ANSWER


@pytest.mark.parametrize("options", [{"group": "daemon"}, {"owner": "daemon"}, {"group": "no-such-group"}])
async def test_what_cannot_be_taken_of_mode_owner_and_group_is_told(
    directory: Path, path: Path, options: dict[str, str]
) -> None:
    give_to_nobody(directory)
    with without_root():
        async with serving(config_of(path, mode=0o600)) as server:
            for _ in range(2):
                change(server, config_of(path, mode=0o666, **options))
                told = server.listeners[0].unapplied
                assert told is not None
                assert told.startswith("mode, owner and group stay as they were: ")
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
            change(server, config_of(path, mode=0o600))
            assert server.listeners[0].unapplied is None


@pytest.mark.parametrize("other", [False, True])
async def test_a_socket_whose_file_is_gone_is_bound_again(path: Path, other: bool) -> None:
    async with serving(config_of(path)) as server:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(ASKED)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        path.unlink()
        if other:
            leave_stale(path)
        change(server, config_of(path))
        assert await ask(server) == ANSWER
        writer.write(ASKED)  # who was connected stays
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        assert server.counters[0].connections == 2
        writer.close()
    assert not path.exists()


async def test_a_socket_that_cannot_be_bound_again_is_told_and_nothing_else_is_refused(path: Path) -> None:
    async with serving(config_of(path)) as server:
        path.unlink()
        path.write_text("mine")
        change(server, config_of(path))
        told = server.listeners[0].unapplied
        assert told is not None
        assert "what is there is not a socket" in told
        path.unlink()
        change(server, config_of(path))
        assert server.listeners[0].unapplied is None
        assert await ask(server) == ANSWER


async def test_a_unix_listener_serves_and_its_file_goes_with_it(path: Path) -> None:
    async with serving(config_of(path)) as server:
        assert server.addresses == [[(str(path),)]]
        for _ in range(3):
            assert await ask(server) == ANSWER
        assert server.counters[0].connections == 3
    assert server.addresses == [[]]
    assert not path.exists()


async def test_unix_and_inet_listeners_stand_beside_one_another(path: Path) -> None:
    inet = ListenerConfig("socketmap", Endpoint("inet", "127.0.0.1", 0), maps=("held",))
    async with serving(config_of(path), inet) as server:
        assert await ask(server) == ANSWER
        reader, writer = await asyncio.open_connection(*server.addresses[1][0])
        writer.write(ASKED)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        writer.close()
        assert [
            as_bound(config, at).endpoint
            for config, at in zip((config_of(path), inet), server.addresses, strict=True)
        ] == [
            Endpoint("unix", path=str(path)),
            Endpoint("inet", "127.0.0.1", server.addresses[1][0][1]),
        ]


async def test_connections_wait_between_bind_and_start(path: Path) -> None:
    server = server_of(config_of(path))
    server.bind()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(ASKED)
    await server.start()
    async with asyncio.timeout(10):
        assert await reader.readexactly(len(ANSWER)) == ANSWER
    await server.stop()
    assert await reader.read() == b""
    writer.close()


async def test_a_peer_without_an_address_is_local_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(config_of(path)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"x")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
    [line] = [record.getMessage() for record in caplog.records if "closing" in record.getMessage()]
    assert line.startswith(f"unix:{path}: ")
    assert " from local, closing" in line


async def test_a_server_that_never_started_removes_its_file(path: Path) -> None:
    server = server_of(config_of(path))
    server.bind()
    assert path.is_socket()
    await server.stop()
    await server.stop()
    assert not path.exists()


async def test_nothing_stays_bound_when_a_later_listener_cannot(path: Path, directory: Path) -> None:
    server = server_of(config_of(path), config_of(directory / "missing" / "socket"))
    with pytest.raises(StartError, match="there is no directory"):
        server.bind()
    assert not path.exists()


async def test_one_path_for_two_listeners_is_in_use(path: Path) -> None:
    with pytest.raises(StartError, match=rf"^cannot listen on unix:{path}: Address already in use$"):
        server_of(config_of(path), config_of(path)).bind()
    assert not path.exists()


# Mode and owner.


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666, 0o000])
def test_the_mode_is_the_one_written_whatever_the_umask(path: Path, mask: int, mode: int) -> None:
    with umask(mask), bound(path, mode=mode):
        assert stat.S_IMODE(path.lstat().st_mode) == mode
        assert os.umask(mask) == mask


def test_nobody_is_let_in_before_mode_and_owner_are_set(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chmod, tried = Path.chmod, []

    def try_first(self: Path, mode: int, *, follow_symlinks: bool = True) -> None:
        tried.append((stat.S_IMODE(self.lstat().st_mode), refuses(self)))
        chmod(self, mode, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "chmod", try_first)
    with umask(0), bound(path):
        assert tried == [(0o777, errno.ECONNREFUSED)]
        assert refuses(path) == 0


@AS_ROOT
@pytest.mark.parametrize(
    ("options", "uid", "gid"),
    [
        ({}, 0, os.getegid()),
        ({"owner": "nobody"}, NOBODY.pw_uid, os.getegid()),
        ({"group": "daemon"}, 0, grp.getgrnam("daemon").gr_gid),
        ({"owner": "nobody", "group": "daemon"}, NOBODY.pw_uid, grp.getgrnam("daemon").gr_gid),
        ({"owner": "54321", "group": "54322"}, 54321, 54322),
    ],
)
def test_root_gives_the_socket_to_the_owner_and_the_group(
    path: Path, options: dict[str, str], uid: int, gid: int
) -> None:
    with bound(path, **options):
        status = path.lstat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, gid, 0o660)
    assert not path.exists()


@AS_ROOT
@pytest.mark.parametrize(
    ("options", "told"),
    [({}, True), ({"mode": 0o666}, False), ({"group": "daemon"}, False), ({"owner": "daemon"}, False)],
)
def test_a_socket_that_only_root_can_open_is_warned_about(
    path: Path, options: dict[str, Any], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with bound(path, **options):
        assert ("so Postfix cannot connect" in caplog.text) is told


@AS_ROOT
def test_whom_the_mode_keeps_out_cannot_connect(path: Path) -> None:
    with bound(path, group="daemon"), without_root():
        assert refuses(path) == errno.EACCES
    with bound(path, group=str(NOBODY.pw_gid)), without_root():
        assert refuses(path) == 0


def test_without_root_the_own_name_and_group_are_taken(directory: Path, path: Path) -> None:
    give_to_nobody(directory)
    with without_root(), bound(path, owner=str(os.geteuid()), group=str(os.getegid())):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())


def test_without_root_a_directory_with_the_setgid_bit_gives_its_group(directory: Path, path: Path) -> None:
    group = os.getegid()
    give_to_nobody(directory)
    os.chown(directory, -1, group)
    directory.chmod(0o2755)
    with without_root(), bound(path):
        assert path.lstat().st_gid == group
    with without_root(), bound(path, group=str(group)):  # which changes nothing, and so is allowed
        assert path.lstat().st_gid == group


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"owner": "root"}, "owner root"),
        ({"group": "0"}, "group 0"),
        ({"owner": "root", "group": "0"}, "owner root and group 0"),
    ],
)
def test_without_root_a_socket_is_not_given_to_others(
    directory: Path, path: Path, options: dict[str, str], told: str
) -> None:
    give_to_nobody(directory)
    with without_root():
        assert refusal(path, **options) == (
            f"cannot be given to {told} (without root there is only a group that the user is a member of)"
        )
        assert not path.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"owner": "no-such-user"}, {"listeners[0].owner: there is no user 'no-such-user'"}),
        ({"group": "no-such-group"}, {"listeners[0].group: there is no group 'no-such-group'"}),
        ({"owner": str(2**32 - 1)}, {"listeners[0].owner: there is no user '4294967295'"}),
        (
            {"owner": "no-such-user", "group": str(2**40)},
            {
                "listeners[0].owner: there is no user 'no-such-user'",
                "listeners[0].group: there is no group '1099511627776'",
            },
        ),
    ],
)
def test_owners_that_do_not_exist_are_mistakes_in_the_configuration(
    path: Path, options: dict[str, str], told: set[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        server_of(config_of(path, **options)).bind()
    assert set(str(ConfigErrors([caught.value])).splitlines()) == told
    assert not path.exists()


def test_a_link_in_the_place_of_the_fresh_socket_is_not_followed(
    directory: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = directory / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)
    chmod = Path.chmod

    def swap_first(self: Path, mode: int, *, follow_symlinks: bool = True) -> None:
        self.unlink()
        self.symlink_to(victim)
        chmod(self, mode, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "chmod", swap_first)
    assert refusal(path, mode=0o666) == "the mode cannot be set without following a link"
    assert stat.S_IMODE(victim.lstat().st_mode) == 0o600


# What is at the path before.


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_stale_socket_is_removed(path: Path, kind: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    leave_stale(path, kind)
    async with serving(config_of(path)) as server:
        assert await ask(server) == ANSWER
    assert f"unix:{path}: a stale socket was removed" in [record.getMessage() for record in caplog.records]


async def test_a_socket_where_somebody_answers_is_left_alone(path: Path) -> None:
    async with serving(config_of(path)) as server:
        second = server_of(config_of(path))
        with pytest.raises(StartError, match=rf"^cannot listen on unix:{path}: Address already in use$"):
            second.bind()
        await second.stop()
        assert await ask(server) == ANSWER


def test_a_socket_whose_backlog_is_full_is_left_alone(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(100):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if (number := client.connect_ex(str(path))) != 0:
                break
        assert number == errno.EAGAIN
        assert refusal(path) == "Address already in use"
        assert path.is_socket()


def test_a_datagram_socket_that_is_alive_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as alive:
        alive.bind(str(path))
        assert refusal(path) == "Address already in use"
        assert path.is_socket()


def test_a_socket_that_we_may_not_connect_to_is_left_alone(directory: Path, path: Path) -> None:
    leave_stale(path)
    path.chmod(0)
    give_to_nobody(directory)
    with without_root():
        assert refusal(path) == (
            "Address already in use, or left behind by a server of another user"
            " (remove the file if nobody listens there)"
        )
    assert path.is_socket()


@AS_ROOT
def test_a_stale_socket_that_cannot_be_removed_is_told(directory: Path, path: Path) -> None:
    leave_stale(path)
    path.chmod(0o666)
    directory.chmod(0o1777)
    with without_root():
        assert refusal(path) == "the stale socket there cannot be removed: Operation not permitted"
    assert path.is_socket()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("precious"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("nowhere"),
        lambda path: (leave_stale(path.with_name("stale")), path.symlink_to("stale")),
    ],
    ids=["file", "directory", "fifo", "dangling link", "link to a stale socket"],
)
def test_what_is_not_a_socket_is_never_removed(path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    before = path.lstat()
    assert refusal(path) == "what is there is not a socket, and is left alone"
    assert path.lstat() == before


def test_a_missing_directory_is_told_with_what_to_do(directory: Path) -> None:
    assert refusal(directory / "missing" / "socket") == (
        f"there is no directory {directory}/missing (create it, writable for the user who starts the server)"
    )


def test_a_directory_that_is_none_is_told(directory: Path) -> None:
    (directory / "file").write_text("")
    assert refusal(directory / "file" / "socket") == "Not a directory"


@pytest.mark.parametrize("mode", [0o555, 0o333, 0o666])
def test_a_directory_that_is_not_ours_to_use_is_told_with_what_to_do(
    directory: Path, path: Path, mode: int
) -> None:
    directory.chmod(mode)
    try:
        with without_root():
            refused = refusal(path)
    finally:
        directory.chmod(0o755)
    assert refused == (
        f"directory {directory}: Permission denied"
        " (the user who starts the server must be able to read, write and search it)"
    )


# Two at once.


def test_a_fresh_socket_that_does_not_listen_yet_is_not_taken_for_a_stale_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_socket, "_PATIENCE", 0.0)
    chmod, refused = Path.chmod, []

    def second_first(self: Path, mode: int, *, follow_symlinks: bool = True) -> None:
        assert refuses(self) == errno.ECONNREFUSED
        refused.append(refusal(path))
        chmod(self, mode, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "chmod", second_first)
    with bound(path):
        assert refused == [f"another process keeps the directory {path.parent} locked"]
        assert refuses(path) == 0


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_start_at_once_one_listens_and_keeps_its_file(path: Path, stale: bool) -> None:
    many = 6
    for _ in range(15):
        if stale:
            leave_stale(path)
        barrier = threading.Barrier(many)
        got: list[UnixSocket | str] = []

        def start(barrier: threading.Barrier = barrier, got: list[Any] = got) -> None:
            barrier.wait(30)
            try:
                got.append(UnixSocket.bind(config_of(path), BACKLOG))
            except StartError as error:
                got.append(str(error))

        threads = [threading.Thread(target=start) for _ in range(many)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        [winner] = [one for one in got if isinstance(one, UnixSocket)]
        losers = [one for one in got if one is not winner]
        assert losers == [f"cannot listen on unix:{path}: Address already in use"] * (many - 1)
        status = path.lstat()
        assert (status.st_dev, status.st_ino) == (winner.device, winner.inode)
        winner.close()
        assert not path.exists()


def test_a_lock_that_is_held_for_a_moment_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr(unix_socket.time, "sleep", lambda seconds: fcntl.flock(held, fcntl.LOCK_UN))
    with bound(path):
        assert refuses(path) == 0
    os.close(held)


# The end.


@pytest.mark.parametrize("replace", ["socket", "file"])
async def test_a_file_that_took_the_place_of_ours_is_left_alone(path: Path, replace: str) -> None:
    async with serving(config_of(path)):
        path.unlink()
        if replace == "socket":
            leave_stale(path)
        else:
            path.write_text("precious")
        there = path.lstat()
    assert path.lstat() == there


async def test_a_file_that_is_gone_already_is_no_failure(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(config_of(path)):
        caplog.clear()
        path.unlink()
    assert caplog.records == []


async def test_a_file_that_a_dropped_user_cannot_remove_is_left_for_the_next_start(
    directory: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="tcpmapkit")
    one = UnixSocket.bind(config_of(path), BACKLOG)
    caplog.clear()
    directory.chmod(0o555)
    try:
        with without_root():
            one.close()
    finally:
        directory.chmod(0o755)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", f"unix:{path}: the socket is not removed: Permission denied")
    ]
    assert refuses(path) == errno.ECONNREFUSED
    async with serving(config_of(path)) as server:
        assert await ask(server) == ANSWER


# The commands.


def site_at(directory: Path, path: Path, *options: str, server: str = "") -> Path:
    file = directory / "tcpmapkit.toml"
    listener = ('protocol = "socketmap"', f'endpoint = "unix:{path.name}"', *options)
    resolver = ('type = "static"', 'entries = { k = "v" }')
    file.write_text(
        "\n".join(("[server]", server, "[[listeners]]", *listener, "[[maps.held.resolvers]]", *resolver, ""))
    )
    return file


def run_argv(file: Path) -> list[str]:
    return [sys.executable, "-c", "from tcpmapkit.cli import main; main()", "run", "-c", str(file)]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ('owner = "no-such-user"', ":6:9: listeners[0].owner: there is no user 'no-such-user'"),
        ('group = "no-such-group"', ":6:9: listeners[0].group: there is no group 'no-such-group'"),
    ],
)
def test_run_refuses_an_unknown_owner_and_check_warns_of_it(
    directory: Path, path: Path, option: str, said: str
) -> None:
    file = site_at(directory, path, option)
    checked = CliRunner().invoke(main, ["check", "-c", str(file)])
    assert checked.exit_code == 0
    assert f"warning: {file}{said}" in checked.stderr
    done = subprocess.run(run_argv(file), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert f"{file}{said}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not path.exists()


def test_postmap_asks_a_server_that_names_its_socket_and_a_second_one_does_not_start(
    directory: Path, path: Path, postfix: Postfix
) -> None:
    file = site_at(directory, path, 'mode = "0666"', server='user = "nobody"' if os.geteuid() == 0 else "")
    with subprocess.Popen(
        run_argv(file), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline().startswith(f"unix:{path} serves held; ")
            done = postfix.postmap("-q", "k", f"socketmap:unix:{path}:held")
            assert (done.stdout, done.returncode) == (b"v\n", 0)
            second = subprocess.run(run_argv(file), capture_output=True, text=True, timeout=60, check=False)
            assert second.returncode == 1
            assert f"cannot listen on unix:{path}: Address already in use" in second.stderr
            again = postfix.postmap("-q", "k", f"socketmap:unix:{path}:held")
            assert again.stdout == b"v\n"
        finally:
            run.terminate()
    assert run.returncode == 0

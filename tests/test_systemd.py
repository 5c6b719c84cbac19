"""What systemd is told, and that telling it never harms."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest

from tcpmapkit.systemd import Notifier, keep_alive, serving


@attrs.define(eq=False)
class ManagersSocket:
    """Where systemd would listen: `environment` is what it would give a service."""

    listening: socket.socket
    environment: dict[str, str]

    def heard(self) -> dict[str, str]:
        """The fields of the next message."""
        return dict(line.split("=", 1) for line in self.listening.recv(4096).decode().split("\n"))


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ManagersSocket]:
    path = str(tmp_path / "notify")
    address = path if request.param == "path" else f"@tcpmapkit-test-{os.getpid()}-{id(path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        listening.settimeout(5)
        yield ManagersSocket(listening, {"NOTIFY_SOCKET": address})


@pytest.fixture
def notifier(manager: ManagersSocket) -> Iterator[Notifier]:
    notifier = Notifier.from_environment(manager.environment)
    yield notifier
    notifier.close()


@pytest.mark.parametrize(
    ("tell", "said"),
    [
        (lambda one: one.ready("serving 2 maps"), {"READY": "1", "STATUS": "serving 2 maps"}),
        (lambda one: one.status("loading tables"), {"STATUS": "loading tables"}),
        (lambda one: one.stopping(), {"STOPPING": "1", "STATUS": "stopping"}),
        (lambda one: one.alive(), {"WATCHDOG": "1"}),
    ],
)
def test_each_state_is_one_message(
    manager: ManagersSocket, notifier: Notifier, tell: Callable[[Notifier], None], said: dict[str, str]
) -> None:
    assert notifier.is_heard
    tell(notifier)
    assert manager.heard() == said


def test_a_reload_begins_with_the_time_that_the_manager_compares(
    manager: ManagersSocket, notifier: Notifier
) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    said = manager.heard()
    assert said["RELOADING"] == "1"
    assert before <= int(said["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_status_cannot_bring_a_field_of_its_own(manager: ManagersSocket, notifier: Notifier) -> None:
    notifier.status("two\nMAINPID=1\nlines \udcff")
    assert manager.heard() == {"STATUS": "two MAINPID=1 lines ?"}


def test_a_child_does_not_learn_of_the_managers_socket(manager: ManagersSocket) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "10", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier.from_environment(environment).close()
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("address", [None, "", "relative", "unix:/run/notify", "/nowhere/notify"])
def test_without_anybody_who_listens_nothing_is_told_and_nothing_fails(address: str | None) -> None:
    notifier = Notifier.from_environment({} if address is None else {"NOTIFY_SOCKET": address})
    notifier.ready("")
    notifier.reloading()
    notifier.stopping()
    notifier.close()
    notifier.alive()
    assert not notifier.is_heard


def test_a_manager_that_reads_nothing_is_not_waited_for(manager: ManagersSocket, notifier: Notifier) -> None:
    for _ in range(10_000):
        notifier.alive()  # more than any queue of datagrams holds
    assert manager.heard() == {"WATCHDOG": "1"}


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_told_twice_as_often_as_it_asks(
    manager: ManagersSocket, environment: dict[str, str], interval: float | None
) -> None:
    notifier = Notifier.from_environment({**manager.environment, **environment})
    assert notifier.watchdog_interval == interval
    notifier.close()


class Timers:
    """A loop that only keeps what shall be called, and when."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, call: Callable[..., None], *args: object) -> Timers:
        self.waiting.append((delay, partial(call, *args)))
        return self

    def cancel(self) -> None:
        self.waiting.clear()


def test_the_watchdog_is_told_from_the_loop_again_and_again_until_the_end() -> None:
    told: list[str] = []
    notifier = Notifier(watchdog_interval=None)
    notifier.watchdog_interval = 15.0
    notifier.alive = lambda: told.append("alive")  # type: ignore[method-assign]
    loop = Timers()
    with keep_alive(notifier, loop):  # type: ignore[arg-type]
        for _ in range(3):
            delay, call = loop.waiting.pop()
            assert delay == 15.0
            call()
        assert len(told) == 4
    assert not loop.waiting


def test_without_a_watchdog_no_timer_runs() -> None:
    loop = Timers()
    with keep_alive(Notifier(), loop):  # type: ignore[arg-type]
        assert not loop.waiting


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (serving(1, 1), "serving 1 map on 1 listener"),
        (serving(3, 2, workers=4), "serving 3 maps on 2 listeners with 4 workers"),
        (serving(2, 1, held=1), "serving 2 maps on 1 listener; as they were before, see the log: 1 table"),
    ],
)
def test_the_status_says_what_is_served(text: str, words: str) -> None:
    assert text == words


def test_the_socket_is_no_childs(manager: ManagersSocket, notifier: Notifier) -> None:
    listed = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
    )
    assert f"socket:[{os.fstat(notifier._socket.fileno()).st_ino}]" not in listed.stdout  # type: ignore[union-attr]


@pytest.mark.parametrize("reads", [True, False])
async def test_what_was_told_is_known_to_be_read_when_the_barrier_is_closed(
    manager: ManagersSocket, notifier: Notifier, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmapkit.systemd._SETTLING", 30.0 if reads else 0.0)

    def read() -> None:
        message, descriptors, _, _ = socket.recv_fds(manager.listening, 4096, 4)
        assert message == b"BARRIER=1"
        for descriptor in descriptors:
            os.close(descriptor)

    if reads:
        asyncio.get_running_loop().call_soon(read)
    assert await notifier.settled() is reads


def test_descriptors_are_stored_by_a_name_and_forgotten_by_it(
    manager: ManagersSocket, notifier: Notifier
) -> None:
    with socket.socket() as one, socket.socket() as two:
        notifier.store("kept", [one.fileno(), two.fileno()])
        message, descriptors, _, _ = socket.recv_fds(manager.listening, 4096, 4)
        assert message == b"FDSTORE=1\nFDNAME=kept"
        inodes = [os.fstat(descriptor).st_ino for descriptor in descriptors]
        assert inodes == [os.fstat(own.fileno()).st_ino for own in (one, two)]
        for descriptor in descriptors:
            os.close(descriptor)
    notifier.forget("kept")
    assert manager.heard() == {"FDSTOREREMOVE": "1", "FDNAME": "kept"}

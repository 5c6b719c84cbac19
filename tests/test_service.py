"""`tcpmapkit run` as systemd runs it: told when it is ready, given its sockets, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.private_postfix import wait_until
from tests.real_postfix import environment_for, find_program, missing_server
from tests.running_tcpmapkit import COMMAND, lasting_port

TOP = Path(__file__).resolve().parent.parent
PATIENCE = 15.0

CONFIGURATION = """
{extra}
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:{port}"
map = "aliases"
{name}
[maps.aliases]
[[maps.aliases.resolvers]]
type = "csv"
path = "aliases.csv"
"""


@attrs.define(eq=False)
class Service:
    """A running service, and what it tells the manager."""

    process: subprocess.Popen[bytes]
    notify: socket.socket
    log: Path

    def told(self, name: str) -> dict[str, str]:
        """The next message that has a field of this name; those before are passed over."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                message = self.notify.recv(4096).decode()
            except TimeoutError:
                break
            fields = dict(line.split("=", 1) for line in message.split("\n"))
            if name in fields:
                return fields
        raise AssertionError(f"{name} is not told:\n{self.log.read_text()}")

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextmanager
def service(
    place: Path,
    configuration: str,
    *sockets: socket.socket,
    names: str = "",
    more: dict[str, str] | None = None,
    output: int | None = None,
) -> Iterator[Service]:
    """Run it with these sockets passed, in the way of systemd: from descriptor 3 on, named. It prints to
    `output`, else to its log."""
    (place / "tcpmapkit.toml").write_text(configuration)
    (place / "aliases.csv").write_text("from,to\npostmaster@example.org,root@example.org\n")
    log = place / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("wb") as logged:
        (place / "notify").unlink(missing_ok=True)
        notify.bind(str(place / "notify"))
        notify.settimeout(PATIENCE)
        descriptors = [one.fileno() for one in sockets]
        program = (
            "import fcntl, os, sys;"
            "given = [int(n) for n in sys.argv[1].split()];"
            "passed = [fcntl.fcntl(n, fcntl.F_DUPFD_CLOEXEC, 100) for n in given];"
            "[os.close(n) for n in given];"
            "[os.dup2(n, 3 + at) for at, n in enumerate(passed)];"
            "passed and os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)));"
            "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        words = [sys.executable, "-c", program, " ".join(map(str, descriptors)), *COMMAND[1:]]
        environment = {**os.environ, "NOTIFY_SOCKET": str(place / "notify"), "LISTEN_FDNAMES": names}
        process = subprocess.Popen(
            [*words, str(place / "tcpmapkit.toml")],
            stdin=subprocess.DEVNULL,
            stdout=logged if output is None else output,
            stderr=logged,
            cwd=TOP,
            env=environment | (more or {}),
            pass_fds=descriptors,
        )
        try:
            yield Service(process, notify, log)
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


@contextmanager
def closing_pipe() -> Iterator[int]:
    """Where somebody could write to, if only anybody read it."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def ask(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=PATIENCE) as client:
        client.sendall(b"get postmaster@example.org\n")
        return client.recv(100)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def holds(pid: int, one: socket.socket) -> bool:
    """Whether a process has the socket open."""
    inode = os.fstat(one.fileno()).st_ino
    held = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            held.add(str(file.readlink()))
    return f"socket:[{inode}]" in held


ANSWER = b"200 root@example.org\n"

each_number_of_workers = pytest.mark.parametrize(
    "extra", ["", "[server]\nworkers = 2\n"], ids=["alone", "workers"]
)


@each_number_of_workers
def test_it_is_ready_when_it_answers_and_tells_of_a_reload_and_of_its_end(tmp_path: Path, extra: str) -> None:
    port = lasting_port()
    configuration = CONFIGURATION.format(port=port, extra=extra, name="")
    with service(tmp_path, configuration) as one:
        ready = one.told("READY")
        assert ready["STATUS"] == "serving 1 map on 1 listener" + (" with 2 workers" if extra else "")
        assert ask(("127.0.0.1", port)) == ANSWER
        for text in (configuration, "nonsense", configuration):  # good and bad
            (tmp_path / "tcpmapkit.toml").write_text(text)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            one.tell(signal.SIGHUP)
            assert int(one.told("RELOADING")["MONOTONIC_USEC"]) >= before
            assert one.told("READY")["STATUS"] == ready["STATUS"]
            assert ask(("127.0.0.1", port)) == ANSWER
        one.tell(signal.SIGTERM)
        one.told("STOPPING")
        assert one.process.wait(PATIENCE) == 0


@each_number_of_workers
def test_it_serves_though_nobody_reads_what_it_prints(tmp_path: Path, extra: str) -> None:
    port = lasting_port()
    configuration = CONFIGURATION.format(port=port, extra=extra, name="")
    with closing_pipe() as nobody, service(tmp_path, configuration, output=nobody) as one:
        one.told("READY")
        assert ask(("127.0.0.1", port)) == ANSWER
        one.tell(signal.SIGTERM)
        assert one.process.wait(PATIENCE) == 0


def test_the_watchdog_is_told_from_the_start_on(tmp_path: Path) -> None:
    configuration = CONFIGURATION.format(port=lasting_port(), extra="", name="")
    with service(tmp_path, configuration, more={"WATCHDOG_USEC": "200000"}) as one:
        one.told("READY")
        for _ in range(3):
            assert one.told("WATCHDOG") == {"WATCHDOG": "1"}


def test_a_table_that_is_held_is_seen_in_the_status(tmp_path: Path) -> None:
    configuration = CONFIGURATION.format(port=lasting_port(), extra="", name="")
    with service(tmp_path, configuration) as one:
        one.told("READY")
        (tmp_path / "aliases.csv").write_text('from,to\n"broken')
        assert one.told("STATUS")["STATUS"].endswith("as they were before, see the log: 1 table")
        (tmp_path / "aliases.csv").write_text("from,to\npostmaster@example.org,root@example.org\n")
        assert one.told("STATUS")["STATUS"] == "serving 1 map on 1 listener"


@each_number_of_workers
@pytest.mark.parametrize("named", [False, True], ids=["by address", "by name"])
def test_nobody_is_refused_while_it_is_started_again(tmp_path: Path, named: bool, extra: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as spare:
        address = listening.getsockname()
        port, name = (1, 'name = "aliases"') if named else (address[1], "")
        configuration = CONFIGURATION.format(port=port, extra=extra, name=name)
        for _ in range(2):
            with service(tmp_path, configuration, listening, spare, names="aliases:spare") as one:
                one.told("READY")
                assert ask(address) == ANSWER
                for worker in children(one.process.pid):
                    assert not holds(worker, listening)
                one.tell(signal.SIGTERM)
                assert one.process.wait(PATIENCE) == 0
                assert "(FileDescriptorName spare) is no listener's" in one.log.read_text()
            with socket.create_connection(address):
                pass  # it would wait for the next start


def test_who_connected_before_the_start_is_answered(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        with socket.create_connection(address, timeout=PATIENCE) as early:
            early.sendall(b"get postmaster@example.org\n")
            configuration = CONFIGURATION.format(port=address[1], extra="", name="")
            with service(tmp_path, configuration, listening) as one:
                assert early.recv(100) == ANSWER
                one.told("READY")


def test_an_inherited_unix_socket_is_left_for_the_next_start(tmp_path: Path) -> None:
    path = str(tmp_path / "socketmap")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        configuration = f"""
[[listeners]]
protocol = "socketmap"
endpoint = "unix:{path}"
[maps.aliases]
[[maps.aliases.resolvers]]
type = "csv"
path = "aliases.csv"
"""
        with service(tmp_path, configuration, listening) as one:
            one.told("READY")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(path)
                client.sendall(b"30:aliases postmaster@example.org,")
                assert client.recv(100) == b"19:OK root@example.org,"
            one.tell(signal.SIGTERM)
            assert one.process.wait(PATIENCE) == 0
        assert Path(path).is_socket()


def test_systemds_own_program_passes_a_socket_by_name(tmp_path: Path) -> None:
    activate = find_program("systemd-socket-activate")
    if activate is None:
        missing_server("systemd is not installed: no systemd-socket-activate")
    port = lasting_port()
    (tmp_path / "tcpmapkit.toml").write_text(CONFIGURATION.format(port=1, extra="", name='name = "aliases"'))
    (tmp_path / "aliases.csv").write_text("from,to\npostmaster@example.org,root@example.org\n")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(activate, f"--listen=127.0.0.1:{port}", "--fdname=aliases"),
                *(f"--setenv=PYTHONPATH={TOP}", *COMMAND, tmp_path / "tcpmapkit.toml"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=TOP,
            env=os.environ | environment_for(activate),
        )
        try:
            wait_until(
                lambda: "Listening on" in (tmp_path / "log").read_text(),
                PATIENCE,
                lambda: (tmp_path / "log").read_text(),
            )
            assert ask(("127.0.0.1", port)) == ANSWER
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()

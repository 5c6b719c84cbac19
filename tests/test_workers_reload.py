"""Another configuration for several workers, as real processes: all take it or none, and nobody notices.

For many, as before a release: ``TCPMAPKIT_TESTS_RELOADS=200 ./dev test tests/test_workers_reload.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.running_tcpmapkit import COMMAND
from tests.running_workers import PATIENCE, Workers, answer, asking, running_workers

only_asyncio = pytest.mark.asyncio(loop_factories=["asyncio"])  # of the clients: the server has its own

RELOADS = int(os.environ.get("TCPMAPKIT_TESTS_RELOADS", "12"))
"""How many reloads there are under load, good and bad in turn."""

HEAD = """
[server]
workers = 2
[admin]
endpoint = "unix:admin"
"""

TCP_TABLE = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "aliases"
"""

SOCKETMAP = """
[[listeners]]
protocol = "socketmap"
endpoint = "unix:{name}"
maps = ["aliases"]
"""

MAP = """
[maps.aliases]
resolvers = [{{ type = "{type}", {options} }}]
"""

GET = b"get user\n"

#: A plugin whose tables load when a file lets them, and not where another is.
PICKY = """
import asyncio, os
from pathlib import Path
import attrs
from tcpmapkit import ConfigError, Found, hookimpl

@attrs.define(eq=False)
class Picky:
    value: str = "one"
    async def start(self, context):
        (context.directory / f"starting-{os.getpid()}").touch()
        while (context.directory / "wait").exists():
            await asyncio.sleep(0.01)
        if (context.directory / f"fail-{os.getpid()}").exists():
            raise ConfigError("not here", path=("value",))
    def resolve(self, query):
        return Found(self.value)

@hookimpl
def register_resolvers(register):
    register("picky", Picky)
"""


def static(value: str) -> str:
    return MAP.format(type="static", options=f'entries = {{ user = "{value}" }}')


def picky(value: str) -> str:
    return MAP.format(type="picky", options=f'value = "{value}"')


def write(workers: Workers, text: str) -> None:
    workers.server.configuration.write_text(f'[plugins]\ndirectory = "plugins"\n{text}')


def ends(workers: Workers) -> tuple[int, int]:
    """How many reloads were taken and refused so far."""
    log = workers.server.log()
    return log.count("reload: taken"), log.count("reload: refused")


async def reload(workers: Workers, text: str) -> bool:
    """Whether it was taken."""
    write(workers, text)
    before = ends(workers)
    assert workers.server.process is not None
    workers.server.process.send_signal(signal.SIGHUP)
    await workers.becomes(lambda: ends(workers) != before)
    return ends(workers)[0] > before[0]


async def from_all(workers: Workers) -> set[bytes]:
    """What new clients are told, of which each worker gets two."""
    return {await answer(workers.port, GET) for _ in range(4)}


@only_asyncio
async def test_reloads_under_load_cost_no_lookup_and_no_connection(tmp_path: Path) -> None:
    text = HEAD + TCP_TABLE + TCP_TABLE.replace("tcp_table", "socketmap").replace('map = "aliases"', "")
    with running_workers(tmp_path, text + static("v0")) as workers:
        port = int(workers.server.endpoints[1].rpartition(":")[2])
        async with (
            asking(workers.port, GET, b"200 v0\n") as tables,
            asking(port, b"12:aliases user,", b"5:OK v0,") as maps,
        ):
            for number in range(1, RELOADS + 1):
                good = number % 2 == 1
                old, new = number - number % 2 - 1, number
                if good:
                    tables.right.add(b"200 v%d\n" % new)
                    maps.right.add(b"%d:OK v%d," % (len(f"OK v{new}"), new))
                broken = static(f"v{number}") + 'colour = "blue"\n'
                assert await reload(workers, text + (static(f"v{new}") if good else broken)) == good
                now = new if good else old
                tables.right = {b"200 v%d\n" % now}
                maps.right = {b"%d:OK v%d," % (len(f"OK v{now}"), now)}
                assert await from_all(workers) == tables.right
                await tables.more(20)
                await maps.more(20)
        for clients in (tables, maps):
            assert (clients.refused, clients.wrong, clients.reconnects) == (0, {}, {})
        assert "ended" not in workers.server.log()


@only_asyncio
async def test_when_one_worker_cannot_load_it_none_takes_it(tmp_path: Path) -> None:
    with running_workers(tmp_path, HEAD + TCP_TABLE + picky("one"), picky=PICKY) as workers:
        place = workers.server.configuration.parent
        unlucky = place / f"fail-{workers.pids()[1]}"
        unlucky.touch()
        assert not await reload(workers, HEAD + TCP_TABLE + picky("two"))
        assert "value: not here" in workers.server.log()
        assert await from_all(workers) == {b"200 one\n"}
        unlucky.unlink()
        assert await reload(workers, HEAD + TCP_TABLE + picky("two"))
        assert await from_all(workers) == {b"200 two\n"}


@only_asyncio
async def test_when_a_worker_dies_while_it_loads_none_takes_it_and_the_next_one_serves_what_was(
    tmp_path: Path,
) -> None:
    with running_workers(tmp_path, HEAD + TCP_TABLE + picky("one"), picky=PICKY) as workers:
        place = workers.server.configuration.parent
        for old in place.glob("starting-*"):
            old.unlink()
        (place / "wait").touch()
        reloading = asyncio.ensure_future(reload(workers, HEAD + TCP_TABLE + picky("two")))
        await workers.becomes(lambda: len(list(place.glob("starting-*"))) == 2)
        first = workers.pids()[0]
        workers.kill(first)
        assert not await reloading
        (place / "wait").unlink()
        assert "has ended while it loaded the new configuration" in workers.server.log()
        await workers.replaced(first)
        assert await from_all(workers) == {b"200 one\n"}
        assert await reload(workers, HEAD + TCP_TABLE + picky("two"))
        assert await from_all(workers) == {b"200 two\n"}


@only_asyncio
async def test_a_worker_that_takes_anothers_place_serves_what_is_in_force_whatever_the_file_says(
    tmp_path: Path,
) -> None:
    with running_workers(tmp_path, HEAD + TCP_TABLE + static("one")) as workers:
        assert await reload(workers, HEAD + TCP_TABLE + static("two"))
        write(workers, "half a lin")
        victims = workers.pids()
        for pid in victims:
            workers.kill(pid)
        await workers.becomes(lambda: len(workers.pids()) == 2 and not set(victims) & set(workers.pids()))
        assert await from_all(workers) == {b"200 two\n"}


@only_asyncio
async def test_listeners_come_and_go_without_a_word_to_the_clients_of_the_others(tmp_path: Path) -> None:
    one, other = SOCKETMAP.format(name="one"), SOCKETMAP.format(name="other")

    def ask(client: socket.socket) -> bytes:
        client.settimeout(PATIENCE)
        client.send(b"12:aliases user,")
        return client.recv(100)

    def connect(path: Path) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        return client

    def workers_listen() -> bool:
        return any(workers.listening(pid) for pid in workers.pids())

    with running_workers(tmp_path, HEAD + one + TCP_TABLE + static("one")) as workers:
        assert workers.listening(workers.parent)
        place = workers.server.configuration.parent
        port = int(workers.server.endpoints[1].rpartition(":")[2])
        async with asking(port, GET, b"200 one\n") as clients:
            clients.right.add(b"200 two\n")
            with connect(place / "one") as first:
                assert ask(first) == b"6:OK one,"
                # The other one stands before what was there: the listeners have other numbers now.
                assert await reload(workers, HEAD + other + TCP_TABLE + static("two"))
                for _ in range(4):
                    with connect(place / "other") as client:
                        assert ask(client) == b"6:OK two,"
                assert not (place / "one").exists()
                victim = workers.pids()[0]
                workers.kill(victim)
                await workers.replaced(victim)
                await workers.becomes(lambda: not workers_listen())
                first.settimeout(PATIENCE)
                assert first.recv(1) == b""
                clients.reconnects.clear()
            assert not await reload(
                workers, HEAD + SOCKETMAP.format(name="no/such") + TCP_TABLE + static("x")
            )
            with connect(place / "other") as client:
                assert ask(client) == b"6:OK two,"
        assert (clients.refused, clients.wrong, clients.reconnects) == (0, {}, {})


@only_asyncio
async def test_another_mode_is_taken_and_a_socket_whose_file_is_gone_is_bound_again(tmp_path: Path) -> None:
    open_to_all = SOCKETMAP.format(name="one") + 'mode = "0666"\n'
    with running_workers(
        tmp_path, HEAD + TCP_TABLE + SOCKETMAP.format(name="one") + static("one")
    ) as workers:
        path = workers.server.configuration.parent / "one"
        assert await reload(workers, HEAD + TCP_TABLE + open_to_all + static("one"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        path.unlink()
        path.touch()
        assert await reload(workers, HEAD + TCP_TABLE + open_to_all + static("two"))
        assert "the socket's file is gone: cannot listen on" in workers.server.log()
        path.unlink()
        assert await reload(workers, HEAD + TCP_TABLE + open_to_all + static("three"))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.send(b"12:aliases user,")
            assert client.recv(100) == b"8:OK three,"


@only_asyncio
async def test_a_configuration_that_is_mended_while_no_worker_can_start_is_taken(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_text("user one\n")
    text = HEAD + TCP_TABLE + MAP.format(type="file", options=f'path = "{table}"')
    with running_workers(tmp_path, text) as workers:
        table.unlink()
        for pid in workers.pids():
            workers.kill(pid)
        await workers.becomes(lambda: "cannot start" in workers.server.log())
        waiting = asyncio.ensure_future(answer(workers.port, GET))
        assert await reload(workers, HEAD + TCP_TABLE + static("two"))
        assert await waiting == b"200 two\n"


# Through the endpoint of [admin].


def command(workers: Workers, word: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND[:-2], word, "-c", str(workers.server.configuration)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_reload_is_done_by_all_and_told_to_whoever_asked(tmp_path: Path) -> None:
    with running_workers(tmp_path, HEAD + TCP_TABLE + static("one")) as workers:
        write(workers, HEAD + TCP_TABLE + static("two"))
        taken = command(workers, "reload")
        assert taken.returncode == 0, taken
        assert asyncio.run(from_all(workers)) == {b"200 two\n"}
        write(workers, HEAD + TCP_TABLE + static("three") + "colour = 1\n")
        refused = command(workers, "reload")
        assert refused.returncode != 0
        assert f"{workers.server.configuration}:" in refused.stderr
        assert "colour" in refused.stderr
        assert asyncio.run(from_all(workers)) == {b"200 two\n"}


def get(workers: Workers, path: str) -> tuple[int, str]:
    """The status and the body of what the endpoint of ``[admin]`` says."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(workers.server.configuration.with_name("admin")))
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        data = b""
        while chunk := client.recv(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def test_the_status_is_that_of_all_workers_and_says_how_often_each_was_replaced(tmp_path: Path) -> None:
    with running_workers(tmp_path, HEAD + TCP_TABLE + static("one")) as workers:
        workers.kill(workers.pids()[0])
        workers.wait_for(lambda: len(json.loads(get(workers, "/v1/status")[1]).get("workers", ())) == 2)
        for _ in range(6):
            asyncio.run(answer(workers.port, GET))
        status, body = get(workers, "/v1/status")
        told = json.loads(body)
        assert status == 200
        assert told["pid"] == workers.parent
        assert sorted(one["pid"] for one in told["workers"]) == sorted(workers.pids())
        assert sorted(one["restarts"] for one in told["workers"]) == [0, 1]
        assert sum(one["requests"] for one in told["workers"]) == 6
        assert {one["worker"] for one in told["workers"]} == {0, 1}
        assert command(workers, "status").stdout.count("\trestarts 1\n") == 1


def test_who_may_not_connect_is_closed_by_the_parent_and_counted(tmp_path: Path) -> None:
    text = HEAD + TCP_TABLE + 'allow = ["192.0.2.0/24"]\n' + static("one")
    with running_workers(tmp_path, text) as workers:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", workers.port)) as client:
                client.settimeout(PATIENCE)
                assert client.recv(1) == b""

        def refused() -> list[int]:
            told = json.loads(get(workers, "/v1/status")[1])
            return [one["connections_refused"] for one in told["listeners"]]

        workers.wait_for(lambda: refused() == [3])
        assert "connection from 127.0.0.1 closed: not in allow" in workers.server.log()


@pytest.mark.parametrize("path", ["/v1/status", "/metrics"])
def test_a_worker_that_does_not_answer_is_left_out(tmp_path: Path, path: str) -> None:
    soon = "from tcpmapkit.workers import asking\nasking.ANSWERED_WITHIN = 0.3\n"
    with running_workers(tmp_path, HEAD + TCP_TABLE + static("one"), soon=soon) as workers:
        stuck = max(workers.pids())
        os.kill(stuck, signal.SIGSTOP)
        try:
            status, body = get(workers, path)
        finally:
            os.kill(stuck, signal.SIGCONT)
        assert status == 200
        if path == "/v1/status":
            told = json.loads(body)
            assert [one["pid"] for one in told["missing"]] == [stuck]
            assert stuck not in [one["pid"] for one in told["workers"]]


def test_a_stop_ends_a_reload_and_systemd_is_told_of_the_stop_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with running_workers(tmp_path, HEAD + TCP_TABLE + picky("one"), picky=PICKY) as workers:
            directory = workers.server.configuration.parent
            for one in directory.glob("starting-*"):
                one.unlink()
            (directory / "wait").touch()
            write(workers, HEAD + TCP_TABLE + picky("two"))
            assert workers.server.process is not None
            workers.server.process.send_signal(signal.SIGHUP)
            workers.wait_for(lambda: len(list(directory.glob("starting-*"))) == 2)
            workers.server.terminate()
            workers.server.wait()
        manager.settimeout(0)
        told: list[str] = []
        with suppress(BlockingIOError):
            while True:
                told.append(manager.recv(4096).decode().partition("\n")[0])
        stop = told.index("STOPPING=1")
        assert "RELOADING=1" in told[:stop]
        assert "READY=1" not in told[stop:]

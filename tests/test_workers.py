"""Several workers, as real processes: killed, stuck, told to stop, full, and unable to start.

For a minute, as before a release: ``TCPMAPKIT_TESTS_KILLS=60 ./dev test tests/test_workers.py``.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import random
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.private_postfix import wait_until
from tests.running_tcpmapkit import COMMAND
from tests.running_workers import PATIENCE, answer, asking, running_workers

only_asyncio = pytest.mark.asyncio(loop_factories=["asyncio"])  # of the clients: the server has its own

KILLS = int(os.environ.get("TCPMAPKIT_TESTS_KILLS", "6"))
"""How often a worker is killed; 60 are a second apart."""

SERVED = """
[server]
workers = 2
{options}
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "aliases"
[maps.aliases]
resolvers = [{resolver}]
"""

STATIC = '{ type = "static", entries = { user = "value" } }'

GET = b"get user\n"
VALUE = b"200 value\n"

#: A plugin that answers when a file is there.
SLOW = """
import asyncio
from pathlib import Path
from tcpmapkit import Found, hookimpl

class Slow:
    async def resolve(self, query):
        directory = Path(__file__).parent.parent
        (directory / f"asked-{query.key}").touch()
        while not (directory / "go").exists():
            await asyncio.sleep(0.01)
        return Found("at last")

@hookimpl
def register_resolvers(register):
    register("slow", Slow)
"""


def served(options: str = "", resolver: str = STATIC) -> str:
    return SERVED.format(options=options, resolver=resolver)


@only_asyncio
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_killing_workers_refuses_nobody_and_costs_a_client_one_reconnect_at_most(
    tmp_path: Path, loop: str
) -> None:
    chance = random.Random(1)
    with running_workers(tmp_path, served(f'loop = "{loop}"')) as workers:
        async with asking(workers.port, GET, VALUE) as clients:
            for _ in range(KILLS):
                before = clients.reconnects.copy()
                victim = chance.choice(workers.pids())
                workers.kill(victim)
                await clients.more(100)
                if KILLS >= 60:
                    await asyncio.sleep(0.8)
                await workers.replaced(victim)
                assert max((clients.reconnects - before).values(), default=0) <= 1
        assert (clients.refused, clients.wrong) == (0, {})
        assert workers.server.log().count("killed by SIGKILL") == KILLS


@only_asyncio
async def test_after_a_burst_workers_are_at_most_one_connection_apart(tmp_path: Path) -> None:
    with running_workers(tmp_path, served().replace("workers = 2", "workers = 3")) as workers:
        before = {pid: workers.sockets(pid) for pid in workers.pids()}
        burst = [await asyncio.open_connection("127.0.0.1", workers.port) for _ in range(64)]
        for _, writer in burst:
            writer.write(GET)
        assert {await reader.readline() for reader, _ in burst} == {VALUE}
        have = [workers.sockets(pid) - before[pid] for pid in workers.pids()]
        assert sorted(have) == [21, 21, 22]
        # Those of one worker go, and the next ones go to that one.
        for _, writer in burst[::3]:
            writer.close()
        await workers.becomes(lambda: sum(workers.sockets(pid) - before[pid] for pid in before) == 42)
        burst = [one for number, one in enumerate(burst) if number % 3]
        for _ in range(100):  # some go to the others as long as the parent is not told of it
            reader, writer = await asyncio.open_connection("127.0.0.1", workers.port)
            writer.write(GET)
            assert await reader.readline() == VALUE
            burst.append((reader, writer))
            have = [workers.sockets(pid) - before[pid] for pid in workers.pids()]
            if max(have) - min(have) <= 1:
                break
        else:
            pytest.fail(f"connections of each worker: {have}")
        for _, writer in burst:
            writer.close()


@only_asyncio
async def test_a_connection_that_a_dead_worker_never_took_is_served_by_another(tmp_path: Path) -> None:
    with running_workers(tmp_path, served()) as workers:
        first = workers.pids()[0]
        at_first = workers.sockets(first)
        os.kill(first, signal.SIGSTOP)
        clients = [await asyncio.open_connection("127.0.0.1", workers.port) for _ in range(8)]
        for _, writer in clients:
            writer.write(GET)
        # Half of them are with the one that does not move.
        reading = [asyncio.ensure_future(reader.readline()) for reader, _ in clients]
        await workers.becomes(lambda: sum(one.done() for one in reading) >= 4)
        workers.kill(first)
        assert await asyncio.wait_for(asyncio.gather(*reading), PATIENCE) == [VALUE] * 8
        await workers.replaced(first)
        await workers.becomes(lambda: [workers.sockets(pid) - at_first for pid in workers.pids()] == [8, 0])
        for _, writer in clients:
            writer.close()


@only_asyncio
async def test_a_worker_that_does_not_answer_is_replaced_while_others_serve(tmp_path: Path) -> None:
    impatient = "from tcpmapkit.workers import crew\ncrew.STUCK_AFTER = 5\ncrew.PING_INTERVAL = 0.1\n"
    with running_workers(tmp_path, served(), impatient=impatient) as workers:
        stuck, other = workers.pids()
        async with asking(workers.port, GET, VALUE, count=1) as clients:
            os.kill(stuck, signal.SIGSTOP)
            await workers.becomes(lambda: stuck not in workers.pids())
            assert "has not answered for 0.5 s, and is killed" in workers.server.log()
            await workers.becomes(lambda: len(workers.pids()) == 2)
            assert other in workers.pids()
            assert sum(clients.reconnects.values()) <= 1
        assert await answer(workers.port, GET) == VALUE


@only_asyncio
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_told_to_stop_workers_finish_what_is_in_flight(tmp_path: Path, loop: str) -> None:
    text = served(f'loop = "{loop}"\ndeadline = "60s"', '{ type = "slow" }')
    with running_workers(tmp_path, text, slow=SLOW) as workers:
        place = workers.server.configuration.parent
        asked = [asyncio.ensure_future(answer(workers.port, b"get %d\n" % number)) for number in range(4)]
        await workers.becomes(lambda: len(list(place.glob("asked-*"))) == 4)
        workers.server.terminate()
        await workers.becomes(lambda: "SIGTERM: stopping" in workers.server.log())
        with pytest.raises(ConnectionRefusedError):
            await answer(workers.port, GET)
        (place / "go").touch()
        assert await asyncio.gather(*asked) == [b"200 at%20last\n"] * 4
        workers.server.wait()


@only_asyncio
async def test_a_worker_that_is_told_to_stop_finishes_while_another_takes_its_place(tmp_path: Path) -> None:
    text = served('deadline = "60s"', '{ type = "slow" }')
    with running_workers(tmp_path, text, slow=SLOW) as workers:
        place = workers.server.configuration.parent
        asked = [asyncio.ensure_future(answer(workers.port, b"get %d\n" % number)) for number in range(4)]
        await workers.becomes(lambda: len(list(place.glob("asked-*"))) == 4)
        leaving = workers.pids()[0]
        os.kill(leaving, signal.SIGTERM)
        await workers.becomes(lambda: len(workers.pids()) == 3)
        (place / "go").touch()
        assert await asyncio.gather(*asked) == [b"200 at%20last\n"] * 4
        await workers.becomes(lambda: leaving not in workers.pids())
        assert "ended" not in workers.server.log()


def test_when_the_parent_is_killed_the_workers_end(tmp_path: Path) -> None:
    with running_workers(tmp_path, served()) as workers:
        workers.server.kill()
        workers.wait_for(lambda: workers.server.log().count("the parent is gone: stopping") == 2)


def test_two_signals_end_all_at_once(tmp_path: Path) -> None:
    text = served('grace = "60s"\ndeadline = "60s"', '{ type = "slow" }')
    with running_workers(tmp_path, text, slow=SLOW) as workers:
        with socket.create_connection(("127.0.0.1", workers.port)) as client:
            client.send(GET)
            workers.wait_for((workers.server.configuration.parent / "asked-user").exists)
            process = workers.server.process
            assert process is not None
            process.terminate()
            workers.wait_for(lambda: "SIGTERM: stopping" in workers.server.log())
            process.terminate()
            assert process.wait(PATIENCE) == -signal.SIGTERM
        workers.server.process = None


def test_a_worker_that_does_not_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    with running_workers(tmp_path, served('grace = "0.1s"')) as workers:
        os.kill(workers.pids()[0], signal.SIGSTOP)
        workers.server.stop()
        assert "has not ended within the grace, and is killed" in workers.server.log()


def test_told_to_stop_while_tables_are_loaded_it_ends_as_it_should(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "endless.py").write_text(
        "import asyncio, os\nfrom pathlib import Path\nfrom tcpmapkit import hookimpl\n"
        "class Endless:\n"
        "    async def start(self, context):\n"
        "        (context.directory / f'starting-{os.getpid()}').touch()\n"
        "        await asyncio.sleep(3600)\n"
        "    def resolve(self, query): ...\n"
        "@hookimpl\ndef register_resolvers(register): register('endless', Endless)\n"
    )
    file = tmp_path / "tcpmapkit.toml"
    file.write_text('[plugins]\ndirectory = "plugins"\n' + served(resolver='{ type = "endless" }'))
    with subprocess.Popen([*COMMAND, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: len(list(tmp_path.glob("starting-*"))) == 2, PATIENCE, lambda: "no start")
            process.terminate()
            output, log = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, b""), log
    assert b"Traceback" not in log, log


def run(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, str(file)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_a_table_that_does_not_load_fails_the_whole_start_and_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(served(resolver='{ type = "file", path = "missing" }'))
    done = run(file)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("missing") == 1 + done.stderr.count('path = "missing"'), done.stderr
    assert f"{file}:10" in done.stderr


def test_a_port_in_use_fails_the_start_before_there_are_workers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = tmp_path / "tcpmapkit.toml"
        port = taken.getsockname()[1]
        file.write_text(served().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        done = run(file)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on inet:127.0.0.1:{port}: Address already in use" in done.stderr


def test_a_worker_that_dies_while_it_starts_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "fatal.py").write_text(
        "import os\nfrom tcpmapkit import hookimpl\n"
        "class Fatal:\n    async def start(self, context): os._exit(3)\n    def resolve(self, query): ...\n"
        "@hookimpl\ndef register_resolvers(register): register('fatal', Fatal)\n"
    )
    file = tmp_path / "tcpmapkit.toml"
    file.write_text('[plugins]\ndirectory = "plugins"\n' + served(resolver='{ type = "fatal" }'))
    done = run(file)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a worker has ended before it could serve: status 3" in done.stderr


@only_asyncio
async def test_a_worker_that_cannot_start_is_tried_again_while_the_others_serve(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_text("user value\n")
    text = served(resolver=f'{{ type = "file", path = "{table}" }}')
    with running_workers(tmp_path, text) as workers:
        async with asking(workers.port, GET, VALUE, count=4) as clients:
            table.rename(tmp_path / "elsewhere")
            first = workers.pids()[0]
            workers.kill(first)
            await workers.becomes(lambda: workers.server.log().count("worker 0 (pid") >= 5)
            assert "cannot start" in workers.server.log()
            await clients.more(100)
            (tmp_path / "elsewhere").rename(table)
            await workers.becomes(lambda: len(workers.pids()) == 2)
            await clients.more(100)
        assert (clients.refused, clients.wrong) == (0, {})


@only_asyncio
async def test_at_the_limit_the_longest_idle_of_all_workers_makes_room(tmp_path: Path) -> None:
    hasty = "from tcpmapkit import connections\nconnections.IDLE_ENOUGH = 0.2\n"
    with running_workers(tmp_path, served("max_connections = 4"), hasty=hasty) as workers:
        clients = [await asyncio.open_connection("127.0.0.1", workers.port) for _ in range(4)]
        for at in (0, 1, 3, 2, 0):  # the second has then been idle longest
            reader, writer = clients[at]
            writer.write(GET)
            assert await reader.readline() == VALUE
        assert await answer(workers.port, GET) == VALUE
        ended = [asyncio.ensure_future(reader.read()) for reader, _ in clients]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        assert [one.done() for one in ended] == [False, True, False, False]
        for one in ended:
            one.cancel()
        for _, writer in clients:
            writer.close()


@only_asyncio
async def test_at_the_limit_with_nobody_idle_accepting_pauses_until_a_connection_closes(
    tmp_path: Path,
) -> None:
    with running_workers(tmp_path, served("max_connections = 4")) as workers:
        clients = [await asyncio.open_connection("127.0.0.1", workers.port) for _ in range(4)]
        for reader, writer in clients:
            writer.write(GET)
            assert await reader.readline() == VALUE
        late = asyncio.ensure_future(answer(workers.port, GET))
        await workers.becomes(lambda: "4 connections and none of them idle" in workers.server.log())
        assert not late.done()
        clients[2][1].close()
        assert await late == VALUE
        for _, writer in clients:
            writer.close()


def test_workers_share_the_index_of_a_big_table_which_is_built_once(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_text("".join(f"user{number} value\n" for number in range(2000)) + "user value\n")
    resolver = f'{{ type = "file", path = "{table}", index = "disk" }}'
    with running_workers(tmp_path, served(resolver=resolver)) as workers:
        assert asyncio.run(answer(workers.port, GET)) == VALUE
        maps = [Path(f"/proc/{pid}/maps").read_text().splitlines() for pid in workers.pids()]
    # The fifth field of a line is the inode, the sixth the file.
    mapped = [{line.split()[4] for line in lines if str(tmp_path) in line} for lines in maps]
    assert len(mapped[0]) == 1
    assert mapped[0] == mapped[1]  # had both built it, the first would have another file than the second


def test_a_unix_socket_is_there_for_all_workers_and_gone_after_the_stop(tmp_path: Path) -> None:
    text = """
[server]
workers = 2
[[listeners]]
protocol = "socketmap"
endpoint = "unix:socket"
mode = "0666"
[maps.aliases]
resolvers = [{ type = "static", entries = { user = "value" } }]
"""
    with running_workers(tmp_path, text) as workers:
        path = workers.server.configuration.with_name("socket")
        for _ in range(4):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.send(b"12:aliases user,")
                assert client.recv(100) == b"8:OK value,"
        for pid in workers.pids():
            workers.kill(pid)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.send(b"12:aliases user,")
            assert client.recv(100) == b"8:OK value,"
        assert path.exists()
    assert not path.exists()


# As a service.


@only_asyncio
async def test_systemd_is_told_when_all_workers_are_ready_when_they_reload_and_when_they_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")

        def heard(name: str) -> dict[str, str]:
            """The next message that has this."""
            while True:
                fields = dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))
                if name in fields:
                    return fields

        with running_workers(tmp_path, served()) as workers:
            assert heard("STATUS")["STATUS"] == "loading tables"
            assert heard("READY")["STATUS"] == "serving 1 map on 1 listener with 2 workers"
            assert heard("WATCHDOG") == {"WATCHDOG": "1"}
            process = workers.server.process
            assert process is not None
            process.send_signal(signal.SIGHUP)
            assert heard("RELOADING")["RELOADING"] == "1"
            assert heard("READY")["READY"] == "1"
            for pid in workers.pids():
                os.kill(pid, signal.SIGSTOP)
            await workers.becomes(lambda: not _comes(manager, within=0.5))
            for pid in workers.pids():
                os.kill(pid, signal.SIGCONT)
            assert heard("WATCHDOG")
        assert heard("STOPPING")["STOPPING"] == "1"


def _comes(manager: socket.socket, within: float) -> bool:
    manager.settimeout(within)
    try:
        return bool(manager.recv(4096))
    except TimeoutError:
        return False
    finally:
        manager.settimeout(PATIENCE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_workers_become_the_user_when_they_have_read_what_only_root_can_also_later_ones(
    tmp_path: Path,
) -> None:
    table = tmp_path / "table"
    table.write_text("user value\n")
    table.chmod(0o600)
    text = served('user = "nobody"', f'{{ type = "file", path = "{table}" }}')
    with running_workers(tmp_path, text) as workers:
        nobody = pwd.getpwnam("nobody").pw_uid

        def users() -> set[int]:
            return {Path(f"/proc/{pid}").stat().st_uid for pid in workers.pids()}

        assert users() == {nobody}
        first = workers.pids()[0]
        workers.kill(first)
        workers.wait_for(lambda: first not in workers.pids() and len(workers.pids()) == 2)
        workers.wait_for(lambda: users() == {nobody})
        for _ in range(4):
            assert asyncio.run(answer(workers.port, GET)) == VALUE

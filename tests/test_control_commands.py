"""``reload``, ``status``, ``purge``, ``query --server``, as typed beside a running server."""

from __future__ import annotations

import http.client
import io
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tcpmapkit.admin.client import find_admin
from tcpmapkit.cli import main
from tcpmapkit.errors import ConfigError
from tcpmapkit.status_output import StatusTable, span, status_rows
from tests.private_postfix import wait_until
from tests.running_tcpmapkit import RunningTcpmapkit, lasting_port, running_tcpmapkit

ADMIN = '[admin]\nendpoint = "unix:admin.sock"\n'

SITE = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:{port}"
map = "aliases"

[[listeners]]
protocol = "policy"
endpoint = "unix:policy"
map = "clients"
key = "{{client_address}}"

[maps.aliases]
[[maps.aliases.resolvers]]
type = "static"
entries = {{ "info@example.org" = "alice@example.org" }}

[maps.api]
[[maps.api.resolvers]]
type = "python"
callable = "string:capwords"

[maps.clients]
[[maps.clients.resolvers]]
type = "static"
entries = {{ "192.0.2.1" = "REJECT spam" }}
"""

FAILING = """
[maps.failing]
[[maps.failing.resolvers]]
type = "down"
"""

DOWN = """
import attrs
from tcpmapkit import TempFail, hookimpl

@attrs.define(eq=False)
class Down:
    def resolve(self, query):
        return TempFail("the source is down")

@hookimpl
def register_resolvers(register):
    register("down", Down)
"""


def tcpmapkit(*args: str | Path, given: bytes = b"") -> Result:
    return CliRunner().invoke(main, [str(one) for one in args], input=given, catch_exceptions=False)


def site(port: int) -> str:
    """What runs without a plugin."""
    return ADMIN + SITE.format(port=port)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTcpmapkit]:
    with running_tcpmapkit(
        tmp_path_factory.mktemp("control"), site(lasting_port()) + FAILING, down=DOWN
    ) as server:
        yield server


@pytest.fixture
def server(running: RunningTcpmapkit) -> Iterator[RunningTcpmapkit]:
    """The one server of these tests, its configuration as it was before and after each."""
    text = running.configuration.read_text()
    yield running
    if running.configuration.read_text() != text:
        running.configuration.write_text(text)
        assert tcpmapkit("reload", "-c", running.configuration).exit_code == 0


def rows(result: Result) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for line in result.stdout.splitlines():
        first, *rest = line.split("\t")
        found.setdefault(first, []).append(rest)
    return found


@contextmanager
def running_there(place: Path, text: str) -> Iterator[RunningTcpmapkit]:
    """As `running_tcpmapkit`, in a directory that is there."""
    configuration = place / "tcpmapkit.toml"
    configuration.write_text(text)
    server = RunningTcpmapkit(configuration)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        if server.process is not None:
            server.kill()
    assert "Traceback" not in server.log(), server.log()


# status


def test_status_is_one_record_a_line(server: RunningTcpmapkit) -> None:
    result = tcpmapkit("status", "-c", server.configuration)
    assert (result.exit_code, result.stderr) == (0, "")
    records = rows(result)
    assert server.process is not None
    assert records["server"][0][1:3] == [f"pid {server.process.pid}", "ready"]
    assert records["configuration"][0][0] == str(server.configuration)
    assert [record[:3] for record in records["listener"]] == [
        [server.endpoints[0], "tcp_table", "maps aliases"],
        [f"unix:{server.configuration.parent}/policy", "policy", "maps clients"],
    ]
    assert [record[0] for record in records["map"]] == ["aliases", "api", "clients", "failing"]


def test_status_as_json_is_one_object(server: RunningTcpmapkit) -> None:
    result = tcpmapkit("status", "--json", "-c", server.configuration)
    status = json.loads(result.stdout)
    assert (result.exit_code, status["ready"], status["tables"]) == (0, True, [])


def test_a_health_check_prints_nothing(server: RunningTcpmapkit) -> None:
    result = tcpmapkit("status", "--ready", "-c", server.configuration)
    assert (result.exit_code, result.output) == (0, "")
    assert tcpmapkit("status", "--ready", "--json", "-c", server.configuration).exit_code == 2


def test_watching_needs_a_terminal(server: RunningTcpmapkit) -> None:
    result = tcpmapkit("status", "--watch", "-c", server.configuration)
    assert result.exit_code == 2
    assert "needs a terminal" in result.stderr


def test_on_a_terminal_the_status_is_a_table_that_lives_until_an_interrupt(server: RunningTcpmapkit) -> None:
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"there is no terminal to be had: {error}")
    command = [sys.executable, "-c", "from tcpmapkit.cli import main; main()", "status", "--watch"]
    watching = subprocess.Popen(
        [*command, "-c", str(server.configuration)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"},
        cwd=Path(__file__).resolve().parent.parent,
    )
    os.close(theirs)
    shown = ""

    def read() -> bool:
        nonlocal shown
        while select.select([ours], [], [], 0)[0]:
            try:
                shown += os.read(ours, 65536).decode(errors="replace")
            except OSError:  # what a terminal says when nobody has it open any more
                break
        return shown.count("a second") >= 2

    try:
        wait_until(read, 20.0, lambda: shown)
        assert server.endpoints[0] in shown
        watching.send_signal(signal.SIGINT)
        wait_until(lambda: read() and watching.poll() is not None, 10.0, lambda: shown)
        assert watching.returncode == 0, shown
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    assert "Traceback" not in shown


def test_what_is_not_as_it_should_be_is_a_status_of_its_own(tmp_path: Path) -> None:
    table = '[maps.table]\n[[maps.table.resolvers]]\ntype = "csv"\npath = "table.csv"\n'
    place = tmp_path / "tcpmapkit"
    place.mkdir()
    (place / "table.csv").write_text("key,value\na,b\n")
    with running_there(place, site(lasting_port()) + table) as server:
        assert rows(tcpmapkit("status", "-c", server.configuration))["table"][0][:2] == ["table", "csv"]
        (place / "table.csv").write_bytes(b"\xff\xfe")

        def is_held() -> bool:
            return "held" in rows(tcpmapkit("status", "-c", server.configuration))

        wait_until(is_held, 20.0, lambda: server.log())
        result = tcpmapkit("status", "-c", server.configuration)
        assert result.exit_code == 1
        assert rows(result)["table"][0][-1] == "held"
        assert "table.csv" in rows(result)["held"][0][2]
        refused = tcpmapkit("reload", "-c", server.configuration)
        assert refused.exit_code == 78
        assert "table.csv" in refused.stderr
        (place / "table.csv").write_text("key,value\na,c\n")
        assert tcpmapkit("reload", "-c", server.configuration).exit_code == 0
        assert tcpmapkit("query", "--server", "-c", server.configuration, "table", "a").stdout == "c\n"


# query --server


@pytest.mark.parametrize(
    ("map", "key", "status", "stdout"),
    [
        ("aliases", "Info@Example.org", 0, "alice@example.org\n"),
        ("aliases", "nobody@example.org", 1, ""),
        ("api", "ümlaut and words", 0, "Ümlaut And Words\n"),
        ("failing", "key", 75, ""),
    ],
)
def test_the_running_server_is_asked_with_the_statuses_of_query(
    server: RunningTcpmapkit, map: str, key: str, status: int, stdout: str
) -> None:
    result = tcpmapkit("query", "--server", "-c", server.configuration, map, key)
    assert (result.exit_code, result.stdout) == (status, stdout)
    assert (result.stderr != "") is (status == 75)


def test_keys_of_standard_input_are_asked_one_after_another(server: RunningTcpmapkit) -> None:
    keys = b"info@example.org\nnobody@example.org\n\xff\nINFO@example.org\r\n"
    result = tcpmapkit("query", "--server", "-c", server.configuration, "aliases", "-", given=keys)
    assert result.stdout == "info@example.org\talice@example.org\nINFO@example.org\talice@example.org\n"
    assert result.exit_code == 0


def test_a_key_that_no_request_can_hold_is_not_found_and_those_after_it_are_asked(
    server: RunningTcpmapkit,
) -> None:
    long = "a" * 10_001
    for option in (["--server"], []):
        words = ["query", *option, "-c", server.configuration]
        keys = f"info@example.org\n{long}\nINFO@example.org\n".encode()
        result = tcpmapkit(*words, "aliases", "-", given=keys)
        assert result.stdout == "info@example.org\talice@example.org\nINFO@example.org\talice@example.org\n"
        assert (result.exit_code, result.stderr) == (0, "")
        for key in (long, "\udcff"):
            result = tcpmapkit(*words, "api", key)  # which answers every key
            assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")


def test_the_running_server_explains(server: RunningTcpmapkit) -> None:
    arguments = ("query", "--explain", "-c", server.configuration, "aliases", "info@example.org")
    asked, alone = rows(tcpmapkit(*arguments, "--server")), rows(tcpmapkit(*arguments))
    assert asked.keys() == alone.keys()
    assert asked["reply"] == alone["reply"]


@pytest.mark.parametrize(
    ("words", "status", "stdout"),
    [
        (("client_address=192.0.2.1",), 0, "REJECT spam\n"),
        (("client_address=192.0.2.2", "sender=joe@example.org"), 1, "DUNNO\n"),
    ],
)
def test_a_policy_listener_of_the_running_server_is_asked(
    server: RunningTcpmapkit, words: tuple[str, ...], status: int, stdout: str
) -> None:
    result = tcpmapkit("query", "--server", "-c", server.configuration, "--policy", "clients", *words)
    assert (result.exit_code, result.stdout, result.stderr) == (status, stdout, "")


@pytest.mark.parametrize(
    "words",
    [
        ("query", "--server", "alases", "a"),
        ("query", "--server", "--policy", "aliases", "client_address=192.0.2.1"),
        ("query", "--server", "--policy", "clients", "-"),
        ("query", "--server", "aliases"),
        ("purge", "alases"),
        ("purge", "alases", "key"),
    ],
)
def test_what_there_is_not_is_wrong_usage(server: RunningTcpmapkit, words: tuple[str, ...]) -> None:
    result = tcpmapkit(words[0], "-c", server.configuration, *words[1:])
    assert result.exit_code == 2
    assert "Usage" in result.stderr


# purge


def test_a_purge_says_how_much_is_forgotten(server: RunningTcpmapkit) -> None:
    tcpmapkit("purge", "-c", server.configuration, "api")
    for key in ("one", "two", "three"):
        tcpmapkit("query", "--server", "-c", server.configuration, "api", key)
    one = tcpmapkit("purge", "-c", server.configuration, "api", "TWO")
    rest = tcpmapkit("purge", "-c", server.configuration, "api")
    assert (one.exit_code, one.stderr) == (0, "map api: 1 cached answer forgotten\n")
    assert (rest.exit_code, rest.stderr) == (0, "map api: 2 cached answers forgotten\n")
    assert "two" not in server.log().lower()


# reload


def test_a_reload_takes_the_file(server: RunningTcpmapkit) -> None:
    text = server.configuration.read_text()
    server.configuration.write_text(text.replace("alice@example.org", "carol@example.org"))
    result = tcpmapkit("reload", "-c", server.configuration)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "the configuration is taken; new maps: aliases\n"
    asked = tcpmapkit("query", "--server", "-c", server.configuration, "aliases", "info@example.org")
    assert asked.stdout == "carol@example.org\n"
    elsewhere = server.configuration.with_name("elsewhere.toml")
    elsewhere.write_text(ADMIN)
    again = tcpmapkit("reload", "-c", elsewhere)
    assert f"hint: the server was started with {server.configuration}" in again.stderr
    assert "no map is new" in again.stderr


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('type = "static"', 'type = "sttic"', "did you mean 'static'"),
        ("[maps.api]", "[maps.api", "tcpmapkit.toml:"),
        ('map = "aliases"', 'map = "alases"', "listeners[0].map"),
    ],
)
def test_a_reload_that_is_refused_tells_why_and_changes_nothing(
    server: RunningTcpmapkit, old: str, new: str, told: str
) -> None:
    text = server.configuration.read_text()
    server.configuration.write_text(text.replace(old, new))
    result = tcpmapkit("reload", "-c", server.configuration)
    assert result.exit_code == 78
    assert told in result.stderr
    assert "nothing is changed" in result.stderr
    assert "Traceback" not in result.stderr
    # The file is wrong, and the server can be asked by it all the same.
    asked = tcpmapkit("query", "--server", "-c", server.configuration, "aliases", "info@example.org")
    assert asked.stdout == "alice@example.org\n"
    assert "refused 0" not in tcpmapkit("status", "-c", server.configuration).stdout


# Where the server is.


def test_without_an_admin_endpoint_it_is_said_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(SITE.format(port=1))
    result = tcpmapkit("status", "-c", file)
    assert result.exit_code == 78
    assert "there is no [admin]" in result.stderr


@pytest.mark.parametrize(
    "words", [("status",), ("reload",), ("purge", "aliases"), ("query", "--server", "aliases", "key")]
)
def test_a_server_that_does_not_run_cannot_be_asked(words: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(site(1))
    result = tcpmapkit(words[0], "-c", file, *words[1:])
    assert (result.exit_code, result.stdout) == (75, "")
    assert "(does it run?)" in result.stderr


def test_whoever_listens_there_may_be_somebody_else(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(site(1))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "admin.sock"))
        listening.listen()

        def answer() -> None:
            for said in (b"220 smtp.example.org\r\n", b"HTTP/1.0 200 OK\r\n\r\nhello"):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        results = [tcpmapkit("status", "-c", file) for _ in range(2)]
        thread.join()
    assert [result.exit_code for result in results] == [75, 75]
    assert "no tcpmapkit" in results[1].stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[admin]\n", "admin.endpoint: it is missing"),
        ('[admin]\nendpoint = "inet:127.0.0.1:1"\n', "admin.token_file: it is missing"),
        ('[admin]\nendpoint = "inet:192.0.2.1:1"\ntoken_file = "t"\n', "not on loopback"),
        ('[admin]\nendpoint = "unix:${NOT_SET_ANYWHERE}"\n', "NOT_SET_ANYWHERE"),
        ('[admin]\nendpont = "unix:a"\n', "did you mean 'endpoint'"),
    ],
)
def test_a_mistake_in_admin_is_told_with_its_place(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(text)
    result = tcpmapkit("status", "-c", file)
    assert result.exit_code == 78
    assert told in result.stderr
    assert "tcpmapkit.toml:" in result.stderr


@pytest.mark.parametrize("rest", ["[maps.x", "a = = 1", "[[listeners]]\nx = '", "\x00", ""])
@pytest.mark.parametrize("first", [True, False])
def test_the_endpoint_is_found_in_a_file_that_is_wrong_elsewhere(
    rest: str, first: bool, tmp_path: Path
) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(f"{ADMIN}\n{rest}\n" if first or not rest.startswith("[") else f"{rest}\n{ADMIN}")
    assert find_admin(file).endpoint.path == str(tmp_path / "admin.sock")


@pytest.mark.parametrize("text", ["", "[admin", "x = [admin]\n", "[admin]\nendpoint = \n", "[admins]\n[x"])
def test_where_nothing_can_be_made_of_it_the_mistake_is_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        find_admin(file)


def test_a_server_on_loopback_is_asked_with_the_token(tmp_path: Path) -> None:
    port = lasting_port()
    place = tmp_path / "tcpmapkit"
    place.mkdir()
    token = place / "token"
    token.write_text("a-token-of-our-own\n")
    token.chmod(0o600)
    text = SITE.format(port=lasting_port())
    text = f'[admin]\nendpoint = "inet:127.0.0.1:{port}"\ntoken_file = "token"\n{text}'
    with running_there(place, text) as server:
        assert tcpmapkit("status", "-c", server.configuration).exit_code == 0
        other = place / "other.toml"
        (place / "wrong").write_text("another-token")
        (place / "wrong").chmod(0o600)
        other.write_text(text.replace('"token"', '"wrong"'))
        refused = tcpmapkit("status", "-c", other)
        assert (refused.exit_code, "a token is needed" in refused.stderr) == (75, True)
        token.write_text("a-new-token\n")
        assert tcpmapkit("status", "-c", server.configuration).exit_code == 0
        token.chmod(0o644)
        readable = tcpmapkit("status", "-c", server.configuration)
        assert (readable.exit_code, "can read the token" in readable.stderr) == (78, True)


def test_a_server_does_not_start_with_a_token_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("")
    (tmp_path / "token").chmod(0o600)
    file = tmp_path / "tcpmapkit.toml"
    admin = f'[admin]\nendpoint = "inet:127.0.0.1:{lasting_port()}"\ntoken_file = "token"\n'
    file.write_text(admin + SITE.format(port=lasting_port()))
    command = [sys.executable, "-c", "from tcpmapkit.cli import main; main()", "run", "-c", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 78
    assert "not one token" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_reads_the_token_unless_it_is_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(f'[admin]\nendpoint = "inet:127.0.0.1:1"\ntoken_file = "token"\n{SITE.format(port=1)}')
    missing = tcpmapkit("check", "-c", file)
    assert missing.exit_code == 78
    assert "admin.token_file: cannot read it" in missing.stderr
    assert tcpmapkit("check", "--offline", "-c", file).exit_code == 0
    (tmp_path / "token").write_text("a-token")
    (tmp_path / "token").chmod(0o600)
    assert tcpmapkit("check", "-c", file).exit_code == 0


def test_check_warns_of_an_owner_of_the_socket_that_is_nobody(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(ADMIN + 'group = "nobody-has-this"\n' + SITE.format(port=1))
    result = tcpmapkit("check", "-c", file)
    assert result.exit_code == 0
    assert "admin.group: there is no group 'nobody-has-this'" in result.stderr


def test_with_several_workers_all_of_them_are_asked(tmp_path: Path) -> None:
    place = tmp_path / "tcpmapkit"
    place.mkdir()
    with running_there(place, f"[server]\nworkers = 2\n{site(lasting_port())}") as server:
        records = rows(tcpmapkit("status", "-c", server.configuration))
        assert {"worker 0", "worker 1"} <= records.keys()
        pids = {records[f"worker {number}"][0][0] for number in (0, 1)}
        assert len(pids | {records["server"][0][1]}) == 3  # the parent's and theirs
        assert tcpmapkit("query", "--server", "-c", server.configuration, "api", "joe").stdout == "Joe\n"
        assert tcpmapkit("purge", "-c", server.configuration, "api").stderr.startswith("map api: 1 cached")
        text = server.configuration.read_text()
        server.configuration.write_text(text.replace("alice@", "carol@"))
        taken = tcpmapkit("reload", "-c", server.configuration)
        assert (taken.exit_code, "new maps: aliases" in taken.stderr) == (0, True), taken.stderr
        server.configuration.write_text(text.replace('map = "aliases"', 'map = "alases"'))
        refused = tcpmapkit("reload", "-c", server.configuration)
        assert (refused.exit_code, "listeners[0].map" in refused.stderr) == (78, True), refused.stderr
        asked = tcpmapkit("query", "--server", "-c", server.configuration, "aliases", "info@example.org")
        assert asked.stdout == "carol@example.org\n"
        assert rows(tcpmapkit("status", "-c", server.configuration))["configuration"][0][2:] == [
            "reloads 1",
            "refused 1",
        ]
        assert tcpmapkit("purge", "-c", server.configuration, "nothing").exit_code == 2


# While it starts, and what it needs.

WATCHER = """
import asyncio, sys
from pathlib import Path
import attrs
from tcpmapkit import Found, hookimpl

@attrs.define(eq=False)
class Slow:
    async def start(self, context):
        while not (context.directory / "go").exists():
            await asyncio.sleep(0.01)
    def resolve(self, query):
        return Found("loaded" if query.key in sys.modules else "not loaded")

@hookimpl
def register_resolvers(register):
    register("slow", Slow)
"""

SLOW = """
[plugins]
directory = "plugins"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:{port}"
map = "slow"

[maps.slow]
[[maps.slow.resolvers]]
type = "slow"
"""


def test_it_can_be_asked_while_its_tables_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir(mode=0o755)
    (tmp_path / "plugins" / "watcher.py").write_text(WATCHER)
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(ADMIN + SLOW.format(port=lasting_port()))
    command = [sys.executable, "-c", "from tcpmapkit.cli import main; main()", "run", "-c", str(file)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parent.parent)

    def said() -> str:
        return (tmp_path / "log").read_text()

    try:
        wait_until(lambda: tcpmapkit("status", "-c", file).exit_code == 1, 20.0, said)
        assert "not ready" in tcpmapkit("status", "-c", file).stdout
        for words in (("query", "--server", "-c", file, "slow", "a"), ("reload", "-c", file)):
            assert tcpmapkit(*words).exit_code == 75
        (tmp_path / "go").touch()
        wait_until(lambda: tcpmapkit("status", "-c", file).exit_code == 0, 20.0, said)
        assert tcpmapkit("query", "--server", "-c", file, "slow", "a").stdout == "not loaded\n"
        process.terminate()
        assert process.wait(15) == 0, said()
        assert not (tmp_path / "admin.sock").exists()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in said()


def test_a_server_without_an_admin_endpoint_loads_nothing_for_one(tmp_path: Path) -> None:
    (tmp_path / "tcpmapkit").mkdir()
    (tmp_path / "tcpmapkit" / "plugins").mkdir(mode=0o755)
    (tmp_path / "tcpmapkit" / "plugins" / "watcher.py").write_text(WATCHER)
    (tmp_path / "tcpmapkit" / "go").touch()
    port = lasting_port()
    with (
        running_there(tmp_path / "tcpmapkit", SLOW.format(port=port)),
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        connection.makefile("rb") as said,
    ):
        for module in ("aiohttp", "prometheus_client", "tcpmapkit.admin.endpoint", "http.server"):
            connection.sendall(f"get {module}\n".encode())
            assert said.readline() == b"200 not%20loaded\n", module
        connection.sendall(b"get tcpmapkit.serve\n")
        assert said.readline() == b"200 loaded\n"


def test_a_command_needs_no_library_of_the_servers(server: RunningTcpmapkit) -> None:
    program = (
        "import sys; from tcpmapkit.cli import main; before = set(sys.modules)\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    for words in (["status"], ["query", "--server", "aliases", "info@example.org"], ["reload"]):
        done = subprocess.run(
            [sys.executable, "-c", program, words[0], "-c", str(server.configuration), *words[1:]],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            cwd=Path(__file__).resolve().parent.parent,
        )
        loaded = {name.split(".")[0] for name in done.stderr.splitlines()[-1].split()}
        assert not loaded & {"aiohttp", "uvloop", "rich", "prometheus_client", "watchfiles", "dns"}, words


# Secrets.

SECRETS = {
    "API_KEY": "sesame-4711-header",
    "API_PATH": "sesame-4712-path",
    "API_QUERY": "sesame-4713-query",
    "TABLES": "sesame-4714-directory",
}

SECRET_SITE = """
[log]
level = "debug"

[[listeners]]
protocol = "socketmap"
endpoint = "inet:127.0.0.1:{port}"

[maps.header]
[[maps.header.resolvers]]
type = "http"
url = "http://127.0.0.1:{nobody}/${{API_PATH}}/{{key}}"
headers = {{ X-Api-Key = "${{API_KEY}}" }}
params = {{ q = "${{API_QUERY}}" }}
token_file = "api-token"

[maps.url]
[[maps.url.resolvers]]
type = "http"
url = "http://user:sesame-4715-password@127.0.0.1:{nobody}/{{key}}"

[maps.table]
[[maps.table.resolvers]]
type = "csv"
path = "${{TABLES}}/table.csv"
"""


def test_no_output_has_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    port, nobody, admin = lasting_port(), lasting_port(), lasting_port()
    place = tmp_path / "tcpmapkit"
    tables = place / SECRETS["TABLES"]
    tables.mkdir(parents=True)
    (tables / "table.csv").write_text("key,value\na,b\n")
    (place / "api-token").write_text("sesame-4716-token\n")
    (place / "token").write_text("sesame-4717-admin\n")
    (place / "token").chmod(0o600)
    text = f'[admin]\nendpoint = "inet:127.0.0.1:{admin}"\ntoken_file = "token"\n'
    text += SECRET_SITE.format(port=port, nobody=nobody)
    told: list[str] = []

    def note(*words: str, status: int) -> None:
        result = tcpmapkit(words[0], "-c", server.configuration, *words[1:])
        assert result.exit_code == status, result.output
        told.append(result.output)

    def get(target: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=10)
        connection.request("GET", target, headers={"Authorization": "Bearer sesame-4717-admin"})
        response = connection.getresponse()
        told.append(f"{response.getheaders()} {response.read().decode()}")
        assert response.status == 200, told[-1]
        connection.close()

    with running_there(place, text) as server:
        for map in ("header", "url"):
            note("query", "--server", map, "key", status=75)
            note("query", "--server", "--explain", map, "other", status=75)
        note("query", "--server", "--explain", "table", "a", status=0)
        note("status", status=0)
        note("status", "--json", status=0)
        note("purge", "header", "key", status=0)
        note("reload", status=0)
        for target in ("/v1/status", "/v1/tables", "/v1/lookup?map=url&key=x&explain=1", "/metrics"):
            get(target)
        (tables / "table.csv").write_bytes(b"\xff")
        note("reload", status=78)
        wait_until(lambda: "held" in tcpmapkit("status", "-c", server.configuration).stdout, 20.0, server.log)
        note("status", status=1)
        note("status", "--json", status=1)
        note("status", "--ready", status=0)  # what is held is answered
        get("/v1/tables")
        get("/metrics")
        server.configuration.write_text(text.replace("params = { q", 'params = { "" = 1, q'))
        note("reload", status=78)
        server.configuration.write_text(text.replace('token_file = "api-token"', "tokn_file = '${API_KEY}'"))
        note("reload", status=78)
        told.append(server.log())
    for output in told:
        assert "sesame" not in output, output


# What is shown.


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3660, "1 h 1 min"),
        (86400 * 2 + 3600 * 3, "2 d 3 h"),
    ],
)
def test_a_length_of_time_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert span(seconds) == words


def a_status(requests: int) -> dict[str, object]:
    return {
        "version": "1.0",
        "pid": 1,
        "ready": True,
        "started_at": time.time(),
        "loaded_at": time.time(),
        "file": "f",
        "reloads": {"good": 1, "bad": 2},
        "listeners": [
            {
                "endpoint": "inet:127.0.0.1:4242",
                "protocol": "tcp_table",
                "maps": ["[red]a[/red]"],
                "connections": 1,
                "requests": {"found": requests, "not_found": 0, "temporary": 0, "permanent": 0, "refused": 0},
            }
        ],
        "maps": [
            {"name": "a", "cached": False, "in_memory": False},
            {"name": "b", "cached": True, "in_memory": True},
        ],
        "tables": [],
        "held": [{"map": "a", "step": "b", "reason": "first line\n    1 | source"}],
        "workers": [
            {"worker": 0, "pid": 2, "started_at": time.time(), "connections": 1, "requests": 5},
            {"worker": 1, "pid": 3, "started_at": time.time(), "connections": 0, "requests": 0},
        ],
    }


def test_each_worker_and_each_table_that_is_held_has_a_record() -> None:
    records = [row for row in status_rows(a_status(7)) if row[0].startswith(("worker", "held"))]
    assert [row[0] for row in records] == ["held", "worker 0", "worker 1"]
    assert records[0][1:] == ("a", "b", "first line")


def test_a_map_without_a_cache_says_why() -> None:
    records = [row for row in status_rows(a_status(7)) if row[0] == "map"]
    assert records == [("map", "a", "cache off"), ("map", "b", "answers from memory")]


def test_whoever_watches_sees_the_requests_a_second() -> None:
    from rich.console import Console

    table = StatusTable()
    console = Console(width=200, record=True, file=io.StringIO())
    table.renewed(a_status(100), 10.0)
    console.print(table.renewed(a_status(300), 12.0))
    shown = console.export_text()
    line = next(line for line in shown.splitlines() if "tcp_table" in line)
    assert line.split() == [
        "inet:127.0.0.1:4242",
        "tcp_table",
        "[red]a[/red]",
        "1",
        "100",
        "300",
        "300",
        "0",
        "0",
    ]

"""Two hundred reloads, good and bad in turn, under clients that never stop asking: nobody is hung up on, no
lookup fails, and none sees two states of a table."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.private_postfix import wait_until
from tests.running_tcpmapkit import COMMAND, RunningTcpmapkit, running_tcpmapkit

RELOADS = 200
PATIENCE = 60.0

# Waits between two keys of a search, and between two maps.
LATER = """
import asyncio
import attrs
from tcpmapkit import hookimpl

@attrs.define(eq=False)
class Later:
    async def resolve(self, query):
        await asyncio.sleep(0.002)

@hookimpl
def register_resolvers(register):
    register("later", Later)
"""

CONFIGURATION = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "searched"
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "both"
[[listeners]]
protocol = "socketmap"
endpoint = "inet:127.0.0.1:0"
maps = ["searched", "both", "plain", "steady"]

[maps.searched]
search = "virtual"
propagate_extension = false
resolvers = [{ type = "later" }, { type = "file", path = "../table" }]

[maps.plain]
resolvers = [{ type = "file", path = "../table" }]

[maps.once]
resolvers = [{ type = "later" }, { type = "map", map = "plain" }]

[maps.both]
cache = false
[[maps.both.resolvers]]
type = "union"
resolvers = [{ type = "map", map = "plain" }, { type = "map", map = "once" }]

[maps.steady]
resolvers = [{ type = "static", value = "steady" }]

[[maps.plain.tests]]
key = "fixed"
expect = "value"
"""

#: What cannot be taken: not TOML, an unknown option, no such file, a test with another answer.
BAD = (
    CONFIGURATION + "[",
    CONFIGURATION + "x = 1\n",
    CONFIGURATION.replace("../table", "none"),
    CONFIGURATION.replace('expect = "value"', 'expect = "other"'),
)


def table(version: int) -> str:
    """Version after version another of the three keys of joe+x has an entry, and never two."""
    entry = ("joe+x@example.org", "joe@example.org", "@example.org")[version % 3]
    return f"fixed value\nversion v{version}\n{entry} {version % 3}@example.net\n"


@attrs.define(eq=False)
class Client(threading.Thread):
    """Asks over one connection until told to stop; `answers` has the texts it got."""

    port: int
    keys: tuple[str, ...]
    request: Callable[[str], bytes]
    whole: Callable[[bytes], bool]
    stopping: threading.Event
    answers: Counter[tuple[str, bytes]] = attrs.Factory(Counter)
    error: Exception | None = None

    def __attrs_pre_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                while not self.stopping.is_set():
                    for key in self.keys:
                        connection.sendall(self.request(key))
                        reply = b""
                        while not self.whole(reply):
                            piece = connection.recv(4096)
                            assert piece, "the server hung up"
                            reply += piece
                        self.answers[key, reply] += 1
        except Exception as error:
            self.error = error


def get(key: str) -> bytes:
    return f"get {key}\n".encode()


def is_line(reply: bytes) -> bool:
    return reply.endswith(b"\n")


def netstring(text: str) -> bytes:
    return f"{len(text)}:{text},".encode()


def is_netstring(reply: bytes) -> bool:
    length, colon, rest = reply.partition(b":")
    return bool(colon) and len(rest) == int(length) + 1


def reload(server: RunningTcpmapkit, times: int) -> None:
    """SIGHUP, and wait until it is said for the `times`-th time what became of it."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGHUP)
    wait_until(
        lambda: server.log().count("reload: taken") + server.log().count("reload: refused") == times,
        PATIENCE,
        server.log,
    )


def test_two_hundred_reloads_under_load_fail_no_lookup_and_close_no_connection(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(table(0))
    with running_tcpmapkit(tmp_path, CONFIGURATION, later=LATER) as server:
        plugins = server.configuration.read_text().removesuffix(CONFIGURATION)
        searched, both, socketmap = (int(endpoint.rpartition(":")[2]) for endpoint in server.endpoints)
        stopping = threading.Event()
        maps = ("searched joe+x@example.org", "both version", "plain version", "steady k")
        clients = [
            *(Client(searched, ("joe+x@example.org",), get, is_line, stopping) for _ in range(2)),
            *(Client(both, ("version",), get, is_line, stopping) for _ in range(2)),
            *(Client(socketmap, maps, netstring, is_netstring, stopping) for _ in range(2)),
        ]
        for client in clients:
            client.start()
        for number in range(RELOADS):
            if number % 2:
                server.configuration.write_text(plugins + BAD[number // 2 % len(BAD)])
            else:
                (tmp_path / "new").write_text(table(number // 2 + 1))
                (tmp_path / "new").replace(tmp_path / "table")
                server.configuration.write_text(plugins + CONFIGURATION)
            reload(server, number + 1)
        stopping.set()
        for client in clients:
            client.join(PATIENCE)
            assert not client.is_alive()
        log = server.log()

    assert (log.count("reload: taken"), log.count("reload: refused")) == (RELOADS // 2, RELOADS // 2)
    assert [client.error for client in clients] == [None] * len(clients)
    versions = {f"v{number}".encode() for number in range(RELOADS // 2 + 1)}
    told = sum((client.answers for client in clients), Counter[tuple[str, bytes]]())
    assert sum(told.values()) > 10 * RELOADS
    found: dict[str, set[bytes]] = {}
    for key, reply in told:
        text = reply.partition(b":")[2][:-1].removeprefix(b"OK ") if reply.endswith(b",") else reply[4:-1]
        found.setdefault(key, set()).add(text)
    for key in ("joe+x@example.org", "searched joe+x@example.org"):
        assert found[key] == {b"0@example.net", b"1@example.net", b"2@example.net"}
    for key in ("version", "both version", "plain version"):
        assert len(found[key]) > RELOADS // 10
        assert found[key] <= versions, "of two versions at once"
    assert found["steady k"] == {b"steady"}


# Is started when the file that its option names is there.
SLOW = """
import asyncio
from pathlib import Path
import attrs
from tcpmapkit import Found, hookimpl

@attrs.define(eq=False)
class Slow:
    path: Path
    async def start(self, context):
        self.path.with_suffix(".begun").touch()
        while not self.path.exists():
            await asyncio.sleep(0.01)
    def resolve(self, query):
        return Found("here")

@hookimpl
def register_resolvers(register):
    register("slow", Slow)
"""


def test_a_signal_to_reload_does_not_end_a_server_that_is_still_starting(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir(mode=0o755)
    (tmp_path / "plugins" / "slow.py").write_text(SLOW)
    (tmp_path / "tcpmapkit.toml").write_text(
        '[plugins]\ndirectory = "plugins"\n'
        '[[listeners]]\nprotocol = "tcp_table"\nendpoint = "inet:127.0.0.1:0"\nmap = "m"\n'
        '[maps.m]\nresolvers = [{ type = "slow", path = "go" }]\n'
    )
    command = [*COMMAND, str(tmp_path / "tcpmapkit.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        try:
            wait_until((tmp_path / "go.begun").exists, PATIENCE, lambda: "it does not start")
            server.send_signal(signal.SIGHUP)
            (tmp_path / "go").touch()
            port = int(server.stdout.readline().split()[0].rpartition(b":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(b"get k\n")
                assert client.recv(100) == b"200 here\n"
            server.terminate()
            assert server.wait(PATIENCE) == 0
        finally:
            server.kill()

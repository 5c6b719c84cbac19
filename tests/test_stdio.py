"""``run --stdio``: one connection on standard input and output, whatever they are, and nothing else there."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit.protocols import policy, socketmap, tcp_table
from tcpmapkit.query import Found, NotFound, TempFail
from tcpmapkit.site import open_site
from tcpmapkit.standard_streams import StandardStreams
from tcpmapkit.stdio import SingleConnection
from tests.documents import TOP
from tests.private_postfix import PrivatePostfix, free_port, running_postfix

PATIENCE = 20.0

SITE = """
[server]
loop = "LOOP"

[plugins]
directory = "plugins"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:PORT"
map = "users"

[[listeners]]
protocol = "socketmap"
endpoint = "unix:socketmap"
maps = ["users", "clients"]

[[listeners]]
protocol = "policy"
endpoint = "unix:policy"
map = "clients"
key = "{client_address}"

[maps.users]
[[maps.users.resolvers]]
type = "static"
entries = { "joe@example.org" = "joe" }
[[maps.users.resolvers]]
type = "talkative"

[maps.clients]
[[maps.clients.resolvers]]
type = "static"
entries = { "192.0.2.1" = "REJECT spam" }
[[maps.clients.resolvers]]
type = "talkative"

[maps.elsewhere]
[[maps.elsewhere.resolvers]]
type = "file"
path = "not there"
"""

#: Writes wherever it can, fails for "down", and holds "held" until the socket is closed from the other side.
TALKATIVE = """
import asyncio, os, sys, warnings
from tcpmapkit import LookupTempFail, hookimpl

def talk(about):
    print(about, flush=True)
    print(about, file=sys.stderr, flush=True)
    os.write(1, b"1")
    os.write(2, b"2")
    warnings.warn(about)

talk("imported")

class Talkative:
    async def start(self, context):
        context.logger.error("started")
        talk("started")

    async def resolve(self, query):
        talk(query.key)
        if query.key == "down":
            raise LookupTempFail("source is down")
        if query.key == "held":
            reader, writer = await asyncio.open_unix_connection(os.environ["HOLDING"])
            await reader.read()
            writer.close()
            return None

@hookimpl
def register_resolvers(register):
    register("talkative", Talkative)
"""

GET_JOE = tcp_table.encode_request("joe@example.org")
GET_NOBODY = tcp_table.encode_request("nobody@example.org")
JOE = tcp_table.encode(Found("joe"))
NOBODY = tcp_table.encode(NotFound())

#: For each protocol: its listener, some requests on one connection, and the replies.
PROTOCOLS = {
    "tcp_table": ("inet:127.0.0.1:PORT", GET_JOE + GET_NOBODY * 2, JOE + NOBODY * 2),
    "socketmap": (
        "unix:socketmap",
        b"".join(
            socketmap.encode_request(name, key)
            for name, key in (("users", "joe@example.org"), ("clients", "192.0.2.2"), ("users", "down"))
        ),
        socketmap.encode(Found("joe"))
        + socketmap.encode(NotFound())
        + socketmap.encode(TempFail("source is down")),
    ),
    "policy": (
        "unix:policy",
        policy.encode_request({"client_address": "192.0.2.1"})
        + policy.encode_request({"client_address": "192.0.2.2"}),
        policy.encode(Found("REJECT spam")) + policy.encode(NotFound()),
    ),
}
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


class Trial:
    """A configuration, and how to run it on streams. Somebody else has the listener's port."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.file = directory / "tcpmapkit.toml"
        self.syslog = directory / "syslog"
        self.write("auto")
        plugins = directory / "plugins"
        plugins.mkdir(mode=0o700)
        (plugins / "talkative.py").write_text(TALKATIVE)
        (plugins / "talkative.py").chmod(0o600)

    def write(self, loop: str = "auto", site: str = SITE) -> None:
        self.file.write_text(site.replace("LOOP", loop).replace("PORT", str(self.port)))

    def command(self, name: str) -> list[str]:
        program = f"import tcpmapkit.log; tcpmapkit.log._SYSLOG = {str(self.syslog)!r}\n"
        program += "from tcpmapkit.cli import main; main()"
        name = name.replace("PORT", str(self.port))
        return [sys.executable, "-c", program, "run", "-c", str(self.file), "--stdio", name]

    @contextmanager
    def run(self, name: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
        environment = {**os.environ, "HOLDING": str(self.directory / "holding")}
        with subprocess.Popen(self.command(name), env=environment, cwd="/", **streams) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def on_one_socket(
        self, name: str, stderr: Any = None, family: int = socket.AF_UNIX
    ) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
        """As spawn(8) does it, when `stderr` is None."""
        ours, theirs = socket.socketpair(family)
        with closing(ours), self.run(name, stdin=theirs, stdout=theirs, stderr=stderr or theirs) as process:
            theirs.close()
            ours.settimeout(PATIENCE)
            yield process, ours


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield Trial(tmp_path, taken.getsockname()[1])


def received(connection: socket.socket, length: int) -> bytes:
    """So many bytes, or fewer where the peer hangs up."""
    data = b""
    while len(data) < length and (more := connection.recv(length - len(data))):
        data += more
    return data


def rest(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(1 << 16):
        data += more
    return data


@each_protocol
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_on_one_socket_there_are_the_replies_and_nothing_else(trial: Trial, protocol: str, loop: str) -> None:
    name, requests, replies = PROTOCOLS[protocol]
    trial.write(loop)
    with trial.on_one_socket(name) as (process, peer):
        peer.sendall(requests)
        assert received(peer, len(replies)) == replies
        peer.sendall(requests)
        assert received(peer, len(replies)) == replies
        peer.shutdown(socket.SHUT_WR)
        assert rest(peer) == b""
        assert process.wait(PATIENCE) == 0


@each_protocol
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_on_pipes_what_was_asked_is_answered_at_the_end_of_input(
    trial: Trial, protocol: str, loop: str
) -> None:
    name, requests, replies = PROTOCOLS[protocol]
    trial.write(loop)
    with trial.run(name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stdout, stderr = process.communicate(requests, PATIENCE)
    assert (process.returncode, stdout) == (0, replies)
    assert b"Traceback" not in stderr
    # What plugins print and what is logged has its place, as nobody but the operator reads that.
    for told in (b"imported\nimported\n12", b"started\nstarted\n12", b"talkative: started"):
        assert told in stderr, stderr.decode()


@each_protocol
def test_on_files_too_even_when_standard_error_is_the_same_file(trial: Trial, protocol: str) -> None:
    name, requests, replies = PROTOCOLS[protocol]
    given, written = trial.directory / "requests", trial.directory / "replies"
    given.write_bytes(requests)
    with (
        given.open("rb") as stdin,
        written.open("wb") as stdout,
        trial.run(name, stdin=stdin, stdout=stdout, stderr=stdout) as process,
    ):
        assert process.wait(PATIENCE) == 0
    assert written.read_bytes() == replies


def test_two_sockets_and_pipes_that_do_not_block_do_too(trial: Trial) -> None:
    name, requests, replies = PROTOCOLS["tcp_table"]
    reading, asking = os.pipe()
    ours, theirs = socket.socketpair()
    os.set_blocking(reading, False)
    theirs.setblocking(False)
    with closing(ours), trial.run(name, stdin=reading, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        theirs.close()
        os.close(reading)
        os.write(asking, requests)
        assert received(ours, len(replies)) == replies
        os.close(asking)
        assert rest(ours) == b""
        assert process.wait(PATIENCE) == 0


def test_a_long_conversation_through_pipes_is_answered_whole(trial: Trial) -> None:
    with trial.run(
        "inet:127.0.0.1:PORT", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        stdout, _ = process.communicate(GET_JOE * 50_000, PATIENCE)
    assert (process.returncode, stdout) == (0, JOE * 50_000)


def test_no_input_at_all_is_a_connection_without_a_request(trial: Trial) -> None:
    with trial.run(
        "unix:policy", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.communicate(timeout=PATIENCE)[0] == b""
    assert process.returncode == 0


def test_a_failure_of_a_policy_lookup_closes_the_socket(trial: Trial) -> None:
    trial.write(site=SITE.replace('key = "{client_address}"', 'key = "{sender}"'))
    with trial.on_one_socket("unix:policy") as (process, peer):
        peer.sendall(policy.encode_request({"sender": "down"}))
        assert rest(peer) == b""
        assert process.wait(PATIENCE) == 0


# The end.


@pytest.mark.parametrize("pipes", [False, True])
def test_sigterm_lets_the_lookup_in_flight_finish(trial: Trial, pipes: bool) -> None:
    with socket.socket(socket.AF_UNIX) as holding:
        holding.bind(str(trial.directory / "holding"))
        holding.listen()
        holding.settimeout(PATIENCE)
        request = tcp_table.encode_request("held")
        ours, theirs = socket.socketpair()
        other, stdin = socket.socketpair() if pipes else (ours.dup(), theirs.dup())
        with (
            closing(ours),
            closing(other),
            trial.run("inet:127.0.0.1:PORT", stdin=stdin, stdout=theirs, stderr=subprocess.PIPE) as process,
        ):
            theirs.close()
            stdin.close()
            ours.settimeout(PATIENCE)
            other.sendall(GET_JOE + request + GET_JOE)
            assert received(ours, len(JOE)) == JOE
            held, _ = holding.accept()
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            while b"SIGTERM: stopping" not in process.stderr.readline():
                pass
            held.close()
            assert rest(ours) == NOBODY + JOE
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_one_that_nobody_asks_anything(trial: Trial, number: int) -> None:
    with trial.run(
        "inet:127.0.0.1:PORT", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(GET_JOE)
        process.stdin.flush()
        assert process.stdout.read(len(JOE)) == JOE
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert process.stdout.read() == b""


def test_a_peer_that_hangs_up_ends_it_quietly(trial: Trial) -> None:
    with trial.run(
        "inet:127.0.0.1:PORT", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(GET_JOE)
        process.stdin.flush()
        assert process.stdout.read(len(JOE)) == JOE
        process.stdout.close()
        process.stdin.write(GET_JOE)
        process.stdin.flush()
        assert process.wait(PATIENCE) == 0
        assert b"Traceback" not in process.stderr.read()


def test_a_full_disk_is_told_with_status_1(trial: Trial) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with (
        full.open("wb") as stdout,
        trial.run("unix:socketmap", stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE) as process,
    ):
        _, stderr = process.communicate(PROTOCOLS["socketmap"][1], PATIENCE)
    assert process.returncode == 1
    assert stderr.endswith(b"tcpmapkit: standard output cannot be written: No space left on device\n")


# What is wrong.


def test_streams_that_are_not_open_are_told_with_status_1(trial: Trial) -> None:
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", *trial.command("unix:policy")]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"tcpmapkit: standard input and output are no connection: Bad file descriptor\n"


WRONG = [
    (SITE.replace("static", "sttic"), "unix:policy", 78, "unknown resolver type 'sttic'"),
    (SITE, "elsewhere", 2, "there is no listener 'elsewhere'"),
    (SITE, "users", 2, "several listeners are 'users': inet:127.0.0.1:"),
    (SITE.replace('"users", "clients"', '"elsewhere"'), "elsewhere", 78, "not there"),
    (SITE.replace("[server]", "[server]\nwrkers = 2"), "unix:policy", 78, "server.wrkers: unknown key"),
]


@pytest.mark.parametrize(("site", "name", "status", "told"), WRONG)
def test_a_mistake_is_told_on_standard_error(
    trial: Trial, site: str, name: str, status: int, told: str
) -> None:
    trial.write(site=site)
    with trial.run(name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stdout, stderr = process.communicate(b"", PATIENCE)
    assert (process.returncode, stdout) == (status, b"")
    assert told in stderr.decode()
    assert b"Traceback" not in stderr


@pytest.mark.parametrize(("site", "name", "status", "told"), WRONG)
@pytest.mark.parametrize("syslog", [True, False])
def test_where_standard_error_is_the_peers_too_it_goes_to_syslog_and_never_to_the_peer(
    trial: Trial, site: str, name: str, status: int, told: str, syslog: bool
) -> None:
    trial.write(site=site)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        if syslog:
            log.bind(str(trial.syslog))
        log.setblocking(False)
        with trial.on_one_socket(name) as (process, peer):
            assert rest(peer) == b""
            assert process.wait(PATIENCE) == status
        lines = logged(log) if syslog else []
    assert not syslog or any("tcpmapkit[" in line and told in line for line in lines), lines


@pytest.mark.parametrize(("level", "failure_told"), [("error", False), ("warning", True)])
def test_the_log_goes_there_too_from_the_level_of_the_configuration_on(
    trial: Trial, level: str, failure_told: bool
) -> None:
    site = SITE.replace("[plugins]", f'[log]\nlevel = "{level}"\nlog_keys = "full"\n[plugins]')
    trial.write(site=site.replace('key = "{client_address}"', 'key = "{sender}"'))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(trial.syslog))
        log.setblocking(False)
        with trial.on_one_socket("unix:policy") as (process, peer):
            peer.sendall(policy.encode_request({"sender": "down"}))
            assert rest(peer) == b""
            assert process.wait(PATIENCE) == 0
        lines = logged(log)
    assert any("talkative: started" in line for line in lines), lines
    assert any("a lookup failed: source is down" in line for line in lines) is failure_told, lines


def logged(log: socket.socket) -> list[str]:
    """What has come to the place of syslog."""
    lines = []
    with suppress(BlockingIOError):
        while True:
            lines.append(log.recv(1 << 16).decode())
    return lines


# spawn(8) itself.


PROGRAM = "from tcpmapkit.cli import main; main()"


def command_for_nobody() -> str:
    """This package's command, in the words of master.cf, as another user than root can run it."""
    places = ":".join(dict.fromkeys([str(TOP), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = ["/usr/bin/env", f"PYTHONPATH={places}", python, "-c", PROGRAM]
        with suppress(OSError, LookupError):
            done = subprocess.run(
                [*command, "--help"], user="nobody", cwd="/", stdout=subprocess.DEVNULL, check=False
            )
            if done.returncode == 0:
                return " ".join([*command[:-1], "{ " + PROGRAM + " }"])
    pytest.skip("spawn(8) does not run a command as root, and nobody else can run this Python")


SPAWNED = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:4242"
map = "recipients"

[[listeners]]
protocol = "socketmap"
endpoint = "unix:private/senders"
maps = ["senders"]

[[listeners]]
protocol = "policy"
endpoint = "unix:private/policy"
map = "actions"
key = "{recipient}"

[maps.recipients]
resolvers = [{ type = "static", entries = { "tcp@example.org" = "REJECT said over tcp_table" } }]

[maps.senders]
resolvers = [{ type = "static", entries = { "sm@example.net" = "REJECT said over socketmap" } }]

[maps.actions]
[[maps.actions.resolvers]]
type = "static"
entries = { "policy@example.org" = "REJECT said over policy" }
[[maps.actions.resolvers]]
type = "regex"
rules = [{ pattern = "()^broken@", result = "$1" }]
"""

SERVICES = """
127.0.0.1:{port} inet n n n - 0 spawn user=nobody argv={command} run -c {file} --stdio recipients
senders unix - n n - 0 spawn user=nobody argv={command} run -c {file} --stdio senders
policy unix - n n - 0 spawn user=nobody argv={command} run -c {file} --stdio unix:private/policy
wrong unix - n n - 0 spawn user=nobody argv={command} run -c {file} --stdio unix:private/wrong
"""


@pytest.fixture(scope="module")
def spawning() -> Iterator[PrivatePostfix]:
    with running_postfix() as mail:
        file = mail.directory / "tcpmapkit.toml"
        file.write_text(SPAWNED)
        port = free_port()
        services = SERVICES.format(command=command_for_nobody(), file=file, port=port)
        with (mail.configuration / "master.cf").open("a") as master:
            master.write(services)
        mail.configure(
            smtpd_recipient_restrictions=", ".join(
                [
                    f"check_recipient_access tcp:127.0.0.1:{port}",
                    "check_sender_access socketmap:unix:private/senders:senders",
                    "check_policy_service unix:private/policy",
                ]
            ),
        )
        yield mail


@pytest.mark.parametrize(
    ("sender", "recipient", "code", "text"),
    [
        ("joe@example.net", "somebody@example.org", 250, "Ok"),
        ("joe@example.net", "tcp@example.org", 554, "said over tcp_table"),
        ("sm@example.net", "somebody@example.org", 554, "said over socketmap"),
        ("joe@example.net", "policy@example.org", 554, "said over policy"),
        ("joe@example.net", "broken@example.org", 451, "Server configuration problem"),
    ],
)
def test_spawn_runs_it_for_the_real_smtpd(
    spawning: PrivatePostfix, sender: str, recipient: str, code: int, text: str
) -> None:
    with spawning.session() as session:
        session.accepted(f"MAIL FROM:<{sender}>")
        for _ in range(2):
            reply = session.ask(f"RCPT TO:<{recipient}>")
            assert (reply[0], text in reply[1]) == (code, True), (reply, spawning.log())


def test_spawn_logs_a_command_that_is_wrong_and_mail_is_deferred(spawning: PrivatePostfix) -> None:
    before = spawning.parameters["smtpd_recipient_restrictions"]
    spawning.configure(smtpd_recipient_restrictions="check_policy_service unix:private/wrong")
    try:
        with spawning.session() as session:
            session.accepted("MAIL FROM:<joe@example.net>")
            assert session.ask("RCPT TO:<somebody@example.org>")[0] == 451
        assert "spawn[" in spawning.log()
        assert "exit status 2" in spawning.log()
    finally:
        spawning.configure(smtpd_recipient_restrictions=before)


# What takes time, in this process.

BOTH = pytest.mark.parametrize("one_socket", [True, False])

QUIET = """
[server]
grace = "50ms"
[plugins]
directory = "slow"
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:4242"
map = "users"
[maps.users]
resolvers = [{ type = "static", entries = { "joe@example.org" = "joe" } }, { type = "endless" }]
"""

ENDLESS = """
import asyncio
from tcpmapkit import hookimpl

class Endless:
    async def resolve(self, query):
        await asyncio.Event().wait()

@hookimpl
def register_resolvers(register):
    register("endless", Endless)
"""


@asynccontextmanager
async def single(directory: Path, one_socket: bool) -> AsyncIterator[tuple[SingleConnection, socket.socket]]:
    """The connection of the first listener, and its peer; on one socket, or copied by threads."""
    (directory / "slow").mkdir(mode=0o700)
    (directory / "slow" / "endless.py").write_text(ENDLESS)
    (directory / "slow" / "endless.py").chmod(0o600)
    (directory / "tcpmapkit.toml").write_text(QUIET)
    site = open_site(directory / "tcpmapkit.toml")
    listener = site.config.listeners[0]
    ours, theirs = socket.socketpair()
    writing = os.dup(theirs.fileno())
    with closing(ours):
        ours.settimeout(PATIENCE)
        streams = StandardStreams(theirs.detach(), writing, one_socket=one_socket, has_error=True)
        try:
            yield SingleConnection(site, listener, streams), ours
        finally:
            await site.maps.stop()


@BOTH
async def test_an_idle_peer_is_hung_up_on(tmp_path: Path, one_socket: bool) -> None:
    async with single(tmp_path, one_socket) as (connection, peer):
        connection.service.idle_timeout = 0.05
        peer.sendall(GET_JOE)
        async with asyncio.timeout(PATIENCE):
            await connection.serve(asyncio.Event())
        assert received(peer, len(JOE)) == JOE


@BOTH
async def test_what_does_not_finish_within_the_grace_is_dropped(
    tmp_path: Path, one_socket: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with single(tmp_path, one_socket) as (connection, peer):
        peer.sendall(GET_NOBODY)
        stopping = asyncio.Event()
        serving = asyncio.ensure_future(connection.serve(stopping))
        async with asyncio.timeout(PATIENCE):
            while not connection.service.maps[""].current.flights:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            stopping.set()
            await serving
    assert "did not finish within the grace" in caplog.text

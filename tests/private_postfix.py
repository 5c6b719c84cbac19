"""A Postfix of a test's own, running: its own directories, its own log, a port on the loopback.

It runs master(8) itself, not ``postfix start``, whose scripts check the system's files. Nothing of the
system's Postfix is touched but its programs, and no mail can leave: every delivery agent is discard(8),
except the transport ``sink``, an smtp(8) for servers on the loopback. The log tells a discarded
recipient's transport (the syslog name) and nexthop (the reason).

Postfix is started by root only; see `missing_privilege`.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.real_postfix import UNPACKED, environment_for, find_program, missing_server, settle

START_WITHIN = 20.0
STOP_WITHIN = 10.0

# Outlives a run of the tests that is killed, which its standard input tells, and cleans up after it.
WATCHER = """\
cat
kill "$1"
while kill -0 "$1"; do sleep 0.1; done
kill -9 -- "-$1"
rm -r -- "$2"
"""

HOSTNAME = "mail.example.org"

# Transports that accept all mail and throw it away: discard(8) under each of these names.
DISCARDING = ("discard", "smtp", "relay", "local", "virtual", "lmtp", "alpha", "beta", "gamma")

MAIN_CF: Mapping[str, str] = {
    "compatibility_level": "3.6",
    "myhostname": HOSTNAME,
    "mydomain": "example.org",
    "myorigin": "$myhostname",
    "mydestination": "$myhostname, local.example.org",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "all",  # or no client could be IPv6
    "mynetworks": "127.0.0.0/8",
    "recipient_delimiter": "+",
    # no file of the system's, no name server, no other host
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "smtp_host_lookup": "native",
    "smtpd_peername_lookup": "no",
    "default_transport": "discard",
    "local_transport": "discard",
    "relay_transport": "discard",
    "virtual_transport": "discard",
    "notify_classes": "",
    # any number of commands, errors and recipients, as fast as they come
    "smtpd_authorized_xclient_hosts": "static:all",
    "smtpd_client_event_limit_exceptions": "static:all",
    "smtpd_error_sleep_time": "0",
    "smtpd_soft_error_limit": "1000000",
    "smtpd_hard_error_limit": "1000000",
    "smtpd_junk_command_limit": "1000000",
    "smtpd_recipient_limit": "100000",
    "smtpd_recipient_overshoot_limit": "100000",
    "default_destination_recipient_limit": "10000",
    "duplicate_filter_limit": "0",
    "in_flow_delay": "0",
    # what a restriction or a transport says is not anticipated by these
    "smtpd_reject_unlisted_recipient": "no",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "enable_long_queue_ids": "yes",
}

MASTER_CF = """\
127.0.0.1:{port} inet n - {chroot} - - smtpd
pickup    unix  n - n 60   1 pickup
cleanup   unix  n - n -    0 cleanup
qmgr      unix  n - n 300  1 qmgr
rewrite   unix  - - n -    - trivial-rewrite
bounce    unix  - - n -    0 bounce
defer     unix  - - n -    0 bounce
trace     unix  - - n -    0 bounce
verify    unix  - - n -    1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -    - proxymap
proxywrite unix - - n -    1 proxymap
showq     unix  n - n -    - showq
error     unix  - - n -    1 error
retry     unix  - - n -    - error
anvil     unix  - - n -    1 anvil
scache    unix  - - n -    1 scache
postlog   unix-dgram n - n - 1 postlogd
sink      unix  - - n -    - smtp
    -o syslog_name=postfix/sink
"""
DISCARD_ENTRY = "{name} unix - - n - - discard\n    -o syslog_name=postfix/{name}\n"

QUEUES = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
    *("private", "saved", "trace"),
)


def missing_privilege() -> str | None:
    """Why no Postfix can be started here, None when it can.

    master(8) is for root alone and its daemons drop to mail_owner's user ID, so that a user namespace
    that maps a single user ID does not do.
    """
    return "starting a Postfix needs root" if os.geteuid() else None


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], object], within: float, otherwise: Callable[[], str]) -> None:
    """Return as soon as `holds()`; `AssertionError(otherwise())` when it does not within so many seconds."""
    give_up = time.monotonic() + within
    while not holds():
        if time.monotonic() > give_up:
            raise AssertionError(f"{otherwise()} (waited {within:g} s)")
        time.sleep(0.005)


def running_in(group: int) -> frozenset[int]:
    """The processes of a process group that have not ended (a zombie has)."""
    alive = set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _parent, its_group = (place / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                alive.add(int(place.name))
    return frozenset(alive)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a master and every daemon of it: by SIGTERM to the group, and what is left by SIGKILL."""
    process.terminate()  # master(8) passes it on to its process group
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(5)
    wait_until(
        lambda: not running_in(process.pid),
        STOP_WITHIN,
        lambda: f"processes {sorted(running_in(process.pid))} of a Postfix do not end",
    )


def account() -> dict[str, str]:
    """mail_owner and setgid_group: Postfix's own where there are any, else others than root's."""
    try:
        pwd.getpwnam("postfix")
        grp.getgrnam("postdrop")
    except KeyError:
        return {"mail_owner": "daemon", "setgid_group": "mail"}
    return {"mail_owner": "postfix", "setgid_group": "postdrop"}


@attrs.frozen
class Delivery:
    """What the log says about one recipient of one message.

    `service` is the transport's name, `status` "sent", "deferred" or "bounced", `reason` what stands in
    the parentheses: after a delivery by a discarding transport, the nexthop.
    """

    queue_id: str
    service: str
    recipient: str
    original: str
    relay: str
    status: str
    reason: str


DELIVERY = re.compile(
    r" postfix/(?:(?P<name>[\w-]+)/)?(?P<daemon>[\w-]+)\[\d+\]: (?P<queue_id>\w+): to=<(?P<to>.*?)>,"
    r" (?:orig_to=<(?P<orig>.*?)>, )?relay=(?P<relay>.+?), (?:conn_use=\d+, )?delay=\S+ delays=\S+"
    r" dsn=\S+ status=(?P<status>\w+) \((?P<reason>.*)\)$"
)

Reply = tuple[int, str]
Message = tuple[str, Sequence[str], str]

TEXT = "Subject: test\n\ntest\n"


class Session(smtplib.SMTP):
    """One SMTP session with the private Postfix: strict, in UTF-8, with pipelining and XCLIENT."""

    def connect(self, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        greeting = super().connect(*args, **kwargs)
        assert self.sock is not None
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or each group waits 40 ms
        return greeting

    def ask(self, command: str) -> Reply:
        """Send one command; the reply's code and text."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Iterable[str], at_once: int = 50) -> list[Reply]:
        """Send commands in groups (RFC 2920), and give the reply to each."""
        commands = list(commands)
        replies = []
        for start in range(0, len(commands), at_once):
            group = commands[start : start + at_once]
            for command in group:
                if set(command) & set("\r\n\0"):
                    raise ValueError(f"no SMTP command: {command!r}")
            self.send("".join(f"{command}\r\n" for command in group).encode(errors="surrogateescape"))
            for _ in group:
                code, text = self.getreply()
                replies.append((code, text.decode(errors="surrogateescape")))
        return replies

    def become(
        self,
        address: str = "",
        name: str = "[UNAVAILABLE]",
        login: str = "",
        helo: str = "client.example.net",
    ) -> Reply:
        """XCLIENT: be the client at `address` (IPv4 or IPv6) called `name`, logged in as `login`.

        The reply is the new greeting, or what smtpd_client_restrictions say instead.
        """
        wanted = {"NAME": name, "ADDR": f"IPV6:{address}" if ":" in address else address, "LOGIN": login}
        wanted["HELO"] = helo
        return self.ask("XCLIENT " + " ".join(f"{key}={value}" for key, value in wanted.items() if value))

    def accepted(self, command: str) -> str:
        """Send a command that must succeed; the reply's text. Raises `AssertionError` else."""
        code, text = self.ask(command)
        if not 200 <= code < 400:
            raise AssertionError(f"{command}: {code} {text}")
        return text


@attrs.define(eq=False)
class PrivatePostfix:
    """A running Postfix; `running_postfix` makes it.

    `port` is smtpd(8)'s on 127.0.0.1. `directory` is readable for the daemons' user, and a place for the
    test's own tables and sockets; `queue_directory` is what a chrooted smtpd takes for the root.
    """

    directory: Path
    programs: Path
    environment: dict[str, str]
    chroot_smtpd: bool
    parameters: dict[str, str]
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    watcher: subprocess.Popen[bytes] | None = None

    @property
    def configuration(self) -> Path:
        return self.directory / "etc"

    @property
    def queue_directory(self) -> Path:
        return self.directory / "queue"

    def log(self) -> str:
        """All that Postfix has logged so far."""
        file = self.directory / "maillog"
        return file.read_text(errors="surrogateescape") if file.exists() else ""

    def run(self, program: str, *args: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        """One of Postfix's programs for administrators (postqueue, postcat ...) with this configuration."""
        return subprocess.run(
            [self.programs / program, "-c", self.configuration, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            env=self.environment,
            check=False,
        )

    # ---- configuration

    def write_configuration(self) -> None:
        own = {
            "maillog_file": f"{self.directory}/maillog",
            "maillog_file_prefixes": str(self.directory),
            "queue_directory": str(self.queue_directory),
            "data_directory": f"{self.directory}/data",
            "meta_directory": str(self.configuration),
            # beyond the default: libraries of packages that are only unpacked
            "import_environment": "MAIL_CONFIG MAIL_DEBUG TZ LANG=C LD_LIBRARY_PATH",
            **account(),
        }
        if self.programs.is_relative_to(UNPACKED):
            lib = UNPACKED / "usr" / "lib" / "postfix"
            own |= {"shlib_directory": f"{lib}", "daemon_directory": f"{lib}/sbin"}
            own["command_directory"] = f"{UNPACKED}/usr/sbin"
        settings = {**MAIN_CF, **own, **self.parameters}
        main_cf = self.configuration / "main.cf"
        main_cf.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        settle(main_cf)
        for table in re.findall(r"\w+:(/[^\s,]+)", " ".join(self.parameters.values())):
            settle(Path(table))

    def write_services(self) -> None:
        entries = MASTER_CF.format(port=self.port, chroot="y" if self.chroot_smtpd else "n")
        entries += "".join(DISCARD_ENTRY.format(name=name) for name in DISCARDING)
        (self.configuration / "master.cf").write_text(entries)

    def configure(self, **parameters: str | None) -> None:
        """Change parameters of main.cf (None: back to `MAIN_CF`'s or the default) and reload.

        Waits until every daemon that may still know the old ones is gone: those there were when main.cf
        had been written. Raises `AssertionError` when one stays, as an smtpd in an open session does.
        """
        for name, value in parameters.items():
            if value is None:
                self.parameters.pop(name, None)
            else:
                self.parameters[name] = value
        self.write_configuration()
        assert self.process is not None
        master = self.process.pid
        old = running_in(master) - {master}
        os.kill(master, signal.SIGHUP)
        wait_until(
            lambda: not old & running_in(master),
            STOP_WITHIN,
            lambda: f"daemons do not reload:\n{self.log()}",
        )

    # ---- processes

    def start(self) -> None:
        """Start master(8) on a free port and wait for smtpd's greeting; `RuntimeError` with the log else."""
        assert self.process is None
        output = self.directory / "output"
        daemons = self.run_postconf("daemon_directory")
        for _attempt in range(5):  # somebody else may have taken the free port in between
            self.port = free_port()
            self.write_services()
            with output.open("wb") as file:
                self.process = subprocess.Popen(
                    [f"{daemons}/master", "-c", self.configuration, "-d"],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=self.environment,
                    start_new_session=True,
                )
            self.watcher = subprocess.Popen(
                ["sh", "-c", WATCHER, "watcher", str(self.process.pid), self.directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            give_up = time.monotonic() + START_WITHIN
            while self.process.poll() is None and time.monotonic() < give_up:
                if self.answers():
                    return
                time.sleep(0.005)
            self.stop()
        raise RuntimeError(f"Postfix does not start:\n{output.read_text(errors='replace')}{self.log()}")

    def run_postconf(self, name: str) -> str:
        return self.run("postconf", "-h", name).stdout.decode().strip()

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    def stop(self) -> None:
        """End master and all its daemons; the queue and the log stay."""
        process, self.process = self.process, None
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            os.killpg(watcher.pid, signal.SIGKILL)
            watcher.communicate()
        if process is not None:
            end(process)

    # ---- mail

    @contextlib.contextmanager
    def session(self, helo: str | None = "client.example.net") -> Iterator[Session]:
        """An SMTP session after EHLO (None: before it); it is ended without QUIT when the test fails."""
        session = Session(timeout=60)
        try:
            session.connect("127.0.0.1", self.port)
            if helo is not None:
                session.accepted(f"EHLO {helo}")
            yield session
            session.ask("QUIT")
        finally:
            session.close()

    def submit_all(self, messages: Iterable[Message]) -> list[str]:
        """Hand over messages, every recipient of which must be accepted, in one session; the queue IDs.

        A message is the sender, the recipients, and the text. Addresses are as in SMTP, without the
        brackets (a quoted localpart keeps its quotes). Raises `AssertionError` with the reply.
        """
        queued = []
        with self.session() as session:
            for sender, recipients, text in messages:
                # An ORCPT of each one's own keeps cleanup from taking User@ for a duplicate of user@.
                commands = [
                    f"RCPT TO:<{address}> ORCPT=rfc822;{number}@example.net"
                    for number, address in enumerate(recipients)
                ]
                commands = [f"MAIL FROM:<{sender}> SMTPUTF8", *commands]
                for command, (code, reply) in zip(commands, session.ask_all(commands), strict=True):
                    assert code == 250, f"{command}: {code} {reply}"
                session.accepted("DATA")
                stuffed = (f".{line}" if line.startswith(".") else line for line in text.splitlines())
                session.send("".join(f"{line}\r\n" for line in stuffed).encode())
                queued.append(session.accepted(".").rpartition(" ")[2])
        return queued

    def submit(self, sender: str, recipients: Iterable[str], text: str = TEXT) -> str:
        """`submit_all` of one message; its queue ID."""
        return self.submit_all([(sender, list(recipients), text)])[0]

    def wait_delivered(self, queued: Iterable[str], within: float = 30) -> None:
        """Wait until messages have left the queue; raises `AssertionError` with the log."""
        left = set(queued)

        def gone() -> bool:
            left.difference_update(re.findall(r" (\w+): removed$", self.log(), re.MULTILINE))
            return not left

        wait_until(gone, within, lambda: f"{sorted(left)} are not delivered:\n{self.log()}")

    def deliveries(self, queue_id: str) -> list[Delivery]:
        """What the log says so far about the recipients of a message."""
        found = []
        for line in self.log().splitlines():
            match = DELIVERY.search(line) if queue_id in line else None
            if match:
                to = match["to"]
                found.append(
                    Delivery(
                        queue_id=match["queue_id"],
                        service=match["name"] or match["daemon"],
                        recipient=to,
                        original=to if match["orig"] is None else match["orig"],
                        relay=match["relay"],
                        status=match["status"],
                        reason=match["reason"],
                    )
                )
        return found

    def deliver(self, sender: str, recipients: Iterable[str], text: str = TEXT) -> list[Delivery]:
        """`submit`, `wait_delivered` and `deliveries`."""
        queue_id = self.submit(sender, recipients, text)
        self.wait_delivered([queue_id])
        return self.deliveries(queue_id)


def make_directories(place: Path) -> None:
    """A queue and a data directory with the owners that the daemons count on."""
    owner, group = (account()[name] for name in ("mail_owner", "setgid_group"))
    place.chmod(0o755)
    for name, mode in (("etc", 0o755), ("data", 0o700), ("queue", 0o755)):
        (place / name).mkdir(mode)
    shutil.chown(place / "data", owner)
    for name in QUEUES:
        (place / "queue" / name).mkdir(0o700)
        shutil.chown(place / "queue" / name, owner)
    (place / "queue" / "pid").mkdir(0o755)
    for name, mode in (("public", 0o710), ("maildrop", 0o730)):
        directory = place / "queue" / name
        directory.mkdir()
        shutil.chown(directory, owner, group)
        directory.chmod(mode)


@contextlib.contextmanager
def running_postfix(
    main_cf: Mapping[str, str] | None = None, chroot_smtpd: bool = False
) -> Iterator[PrivatePostfix]:
    """Start a Postfix with `main_cf` on top of `MAIN_CF`; end it and remove all its files.

    Skips the test (`missing_server`) where there is no Postfix, and where this user cannot start one.
    """
    postconf = find_program("postconf")
    if postconf is None:
        missing_server("Postfix is not installed: no postconf")
    reason = missing_privilege()
    if reason:
        pytest.skip(reason)
    # Not pytest's directory: it is closed to other users, and long for the path of a unix socket.
    with tempfile.TemporaryDirectory(prefix="postfix-") as place:
        make_directories(Path(place))
        mail = PrivatePostfix(
            directory=Path(place),
            programs=postconf.parent,
            environment=environment_for(postconf),
            chroot_smtpd=chroot_smtpd,
            parameters=dict(main_cf or {}),
        )
        mail.write_configuration()
        try:
            mail.start()
            yield mail
        finally:
            mail.stop()

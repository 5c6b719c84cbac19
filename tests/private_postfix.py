"""A Postfix of a test's own, running: its own directories, its own log, a port on the loopback.

It runs master(8) itself, not ``postfix start``, whose scripts check the system's files. Nothing of the
system's Postfix is touched but its programs, and no mail can leave: every delivery agent is discard(8),
except the transport ``sink``, an smtp(8) for servers on the loopback. The log tells a discarded
recipient's transport (the syslog name) and nexthop (the reason).

Where the tests are not root's, proot(1) stands in; see `tests.postfix_instance.as_root`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from tests.postfix_instance import (
    DISCARD_ENTRY,
    DISCARDING,
    MAIN_CF,
    MASTER_CF,
    account,
    as_root,
    end,
    end_watch,
    environment_as_root,
    free_port,
    make_directories,
    running_in,
    wait_until,
    watch,
)
from tests.postfix_session import Delivery, Reply, Session, deliveries
from tests.real_postfix import UNPACKED, find_program, missing_server, settle

__all__ = [
    "TEXT",
    "Delivery",
    "PrivatePostfix",
    "Reply",
    "Session",
    "free_port",
    "running_in",
    "running_postfix",
    "wait_until",
]

START_WITHIN = 20.0
RELOAD_WITHIN = 10.0
Message = tuple[str, Sequence[str], str]

TEXT = "Subject: test\n\ntest\n"


@attrs.define(eq=False)
class PrivatePostfix:
    """A running Postfix; `running_postfix` makes it.

    `port` is smtpd(8)'s on 127.0.0.1. `directory` is readable for the daemons' user, and a place for the
    test's own tables and sockets; `queue_directory` is what a chrooted smtpd takes for the root.
    """

    directory: Path
    programs: Path
    as_root: list[str | Path]
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
            [*self.as_root, self.programs / program, "-c", self.configuration, *args],
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
        new = self.configuration / "main.cf.new"  # a daemon that starts just now reads it whole
        new.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        settle(new)
        new.replace(self.configuration / "main.cf")
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
        group = self.process.pid
        master = int((self.queue_directory / "pid" / "master.pid").read_text())
        old = running_in(group) - {group, master}
        os.kill(master, signal.SIGHUP)
        wait_until(
            lambda: not old & running_in(group),
            RELOAD_WITHIN,
            lambda: f"daemons do not reload:\n{self.log()}",
        )

    # ---- processes

    def start(self) -> None:
        """Start master(8) on a free port and wait for smtpd's greeting; `RuntimeError` with the log else."""
        assert self.process is None
        output = self.directory / "output"
        daemons = self.run("postconf", "-h", "daemon_directory").stdout.decode().strip()
        for _attempt in range(5):  # somebody else may have taken the free port in between
            self.port = free_port()
            self.write_services()
            with output.open("wb") as file:
                self.process = subprocess.Popen(
                    [*self.as_root, f"{daemons}/master", "-c", self.configuration, "-d"],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=self.environment,
                    start_new_session=True,
                )
            self.watcher = watch(self.process.pid, self.directory)
            give_up = time.monotonic() + START_WITHIN
            while self.process.poll() is None and time.monotonic() < give_up:
                if self.answers():
                    return
                time.sleep(0.005)
            self.stop()
        raise RuntimeError(f"Postfix does not start:\n{output.read_text(errors='replace')}{self.log()}")

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
            end_watch(watcher)
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
        return deliveries(self.log(), queue_id)

    def deliver(self, sender: str, recipients: Iterable[str], text: str = TEXT) -> list[Delivery]:
        """`submit`, `wait_delivered` and `deliveries`."""
        queue_id = self.submit(sender, recipients, text)
        self.wait_delivered([queue_id])
        return self.deliveries(queue_id)


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
    prefix = as_root()
    if prefix is None:
        pytest.skip("starting a Postfix needs root, or proot")
    if prefix and chroot_smtpd:
        pytest.skip("a chrooted smtpd needs root")
    # Not pytest's directory: it is closed to other users, and long for the path of a unix socket.
    with tempfile.TemporaryDirectory(prefix="postfix-") as place:
        make_directories(Path(place))
        mail = PrivatePostfix(
            directory=Path(place),
            programs=postconf.parent,
            as_root=prefix,
            environment=environment_as_root(postconf),
            chroot_smtpd=chroot_smtpd,
            parameters=dict(main_cf or {}),
        )
        mail.write_configuration()
        try:
            mail.start()
            yield mail
        finally:
            mail.stop()

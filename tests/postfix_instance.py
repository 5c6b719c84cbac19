"""What a Postfix of a test's own is made of: its configuration, its directories, its processes."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.real_postfix import environment_for, find_program

STOP_WITHIN = 10.0

# Outlives a run of the tests that is killed, which its standard input tells, and cleans up after it.
WATCHER = """\
cat
kill -- "-$1"
sleep 0.2
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


def as_root() -> list[str | Path] | None:
    """What to put in front of a command that is for root; None when there is nothing that would do.

    master(8) is for root, and its daemons drop to mail_owner's user ID: a user namespace with a single
    user ID does not do, proot(1), which makes them believe in it all, does.
    """
    if os.geteuid() == 0:
        return []
    proot = find_program("proot")
    return [proot, "-0"] if proot else None


def environment_as_root(program: Path) -> dict[str, str]:
    """The environment for `program` behind `as_root`."""
    environment = environment_for(program)
    proot = None if os.geteuid() == 0 else find_program("proot")
    if proot:
        environment = {**environment_for(proot), **environment, "PROOT_NO_SECCOMP": "1"}
    return environment


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
    """End a master and every daemon of it: the group it leads by SIGTERM, what is left by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    wait_until(
        lambda: not running_in(process.pid),
        STOP_WITHIN,
        lambda: f"processes {sorted(running_in(process.pid))} of a Postfix do not end",
    )


def watch(group: int, directory: Path) -> subprocess.Popen[bytes]:
    """See to it that nothing is left of a Postfix, even when the run of the tests is killed."""
    return subprocess.Popen(
        ["sh", "-c", WATCHER, "watcher", str(group), directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_watch(watcher: subprocess.Popen[bytes]) -> None:
    os.killpg(watcher.pid, signal.SIGKILL)
    watcher.communicate()


def account() -> dict[str, str]:
    """mail_owner and setgid_group: Postfix's own where there are any, else others than root's."""
    try:
        pwd.getpwnam("postfix")
        grp.getgrnam("postdrop")
    except KeyError:
        return {"mail_owner": "daemon", "setgid_group": "mail"}
    return {"mail_owner": "postfix", "setgid_group": "postdrop"}


def make_directories(place: Path) -> None:
    """A queue and a data directory with the owners that the daemons count on."""
    owner, group = (account()[name] for name in ("mail_owner", "setgid_group"))

    def give(directory: Path, *to: str) -> None:
        if os.geteuid() == 0:  # else proot says that it is so
            shutil.chown(directory, *to)

    place.chmod(0o755)
    for name, mode in (("etc", 0o755), ("data", 0o700), ("queue", 0o755)):
        (place / name).mkdir(mode)
    give(place / "data", owner)
    for name in QUEUES:
        (place / "queue" / name).mkdir(0o700)
        give(place / "queue" / name, owner)
    (place / "queue" / "pid").mkdir(0o755)
    for name, mode in (("public", 0o710), ("maildrop", 0o730)):
        directory = place / "queue" / name
        directory.mkdir()
        give(directory, owner, group)
        directory.chmod(mode)

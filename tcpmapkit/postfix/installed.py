"""The Postfix of this machine, asked by postconf(1)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tcpmapkit.errors import ConfigError
from tcpmapkit.postfix.postconf import QUEUE_DIRECTORY, parse_postconf

if TYPE_CHECKING:
    from tcpmapkit.postfix.served import Served

__all__ = ["ask_postconf", "queue_directory", "read_settings", "smtpd_chrooted"]

#: Where an administrator's programs are, whether or not PATH says so.
_PLACES: Final = "/usr/sbin:/usr/local/sbin:/sbin"
_TIME: Final = 30.0  # seconds


def ask_postconf(*args: str) -> str:
    """What ``postconf ARGS`` prints. Raises `ConfigError` when there is none, or it fails."""
    program = shutil.which("postconf", path=f"{os.environ.get('PATH', os.defpath)}:{_PLACES}")
    if program is None:
        raise ConfigError("there is no postconf on this machine", hint="give its output: --postconf FILE")
    command = " ".join(("postconf", *args))
    try:
        done = subprocess.run(  # noqa: S603
            [program, *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIME, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{command}: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit {done.returncode}"]
        raise ConfigError(f"{command} failed: {said[-1]}")
    return done.stdout.decode(errors="surrogateescape")


def read_settings(file: str) -> str:
    """Parameters, services and overrides: of this machine's Postfix for "", else what the file says, or
    standard input for ``-``. Raises `ConfigError`."""
    if not file:
        return "\n".join(ask_postconf(*args) for args in ((), ("-M",), ("-P",)))
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=file) from None
    return content.decode(errors="surrogateescape")


def queue_directory(served: Sequence[Served]) -> str:
    """Where relative paths of Postfix's sockets begin, asked when some listener has a unix socket; the
    default where there is no postconf."""
    if not _any_unix(served):
        return QUEUE_DIRECTORY
    try:
        return ask_postconf("-x", "-h", "queue_directory").strip() or QUEUE_DIRECTORY
    except ConfigError:
        return QUEUE_DIRECTORY


def smtpd_chrooted(served: Sequence[Served]) -> bool | None:
    """Whether smtpd(8) is in a chroot jail, asked when it matters; None when nobody knows."""
    if not _any_unix(served):
        return None
    try:
        return parse_postconf(ask_postconf("-M") + ask_postconf("compatibility_level")).chrooted("smtpd")
    except ConfigError:
        return None


def _any_unix(served: Sequence[Served]) -> bool:
    return any(one.listener.endpoint.kind == "unix" for one in served)

"""Where log lines go: standard error or syslog's mail facility, as text or as JSON.

Whatever the line, and whoever logs it: with ``log_keys = "hash"`` no address leaves here (see
`tcpmapkit.shown`), and what a peer sent cannot forge a line.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import Final

from tcpmapkit.errors import ConfigError
from tcpmapkit.shown import Shown, hide, show_keys

__all__ = [
    "change_log",
    "drop_log",
    "has_syslog",
    "lost_lines",
    "name_worker",
    "set_up_log",
    "warn_on_standard_error",
]

_SYSLOG: Final = "/dev/log"

#: Characters of a message that are written.
_MOST: Final = 8192

#: What a JSON line has of a record beside its message, where the record has it.
_FIELDS: Final = ("worker", "map", "step", "key", "outcome", "elapsed")


def _message(record: logging.LogRecord) -> str:
    text = hide(record.getMessage()[: 2 * _MOST], getattr(record, "hidden", ()))
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()


class _OneLine(logging.Formatter):
    """A record on one line whatever is in it; the lines of a traceback follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = _message(record)
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        if hasattr(record, "worker"):
            record.message = f"worker {record.worker}: {record.message}"
        lines = [_printable(self.formatMessage(record))]
        if record.exc_info:
            traceback = hide(self.formatException(record.exc_info), getattr(record, "hidden", ()))
            lines += [f"  {_printable(line)}" for line in traceback.split("\n")]
        return "\n".join(lines)


class _Json(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        fields |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
            fields["traceback"] = hide(traceback, getattr(record, "hidden", ()))
        return json.dumps(fields, ensure_ascii=True, default=str)


def set_up_log(to: str = "stderr", level: str = "info", form: str = "text", keys: Shown = "hash") -> None:
    """Send the log of the whole process to `to` (``"stderr"``, ``"syslog"``), from `level` on, each line
    in the form `form` (``"text"``, ``"json"``), with keys shown as `keys` says.

    Raises `ConfigError` when there is no syslog to talk to.
    """
    from tcpmapkit.log_output import SyslogHandler

    handler: logging.Handler
    if to == "syslog":
        if not has_syslog():
            raise ConfigError(f"there is no syslog at {_SYSLOG}", path=("log", "to"))
        handler = SyslogHandler(_SYSLOG)
        text = "%(name)s: %(message)s"
    else:
        handler = _to_standard_error()
        text = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(_Json() if form == "json" else _OneLine(text))
    _send_to(handler)
    change_log(level, keys)


def change_log(level: str, keys: Shown) -> None:
    """Log from another level on, and show keys otherwise."""
    show_keys(keys)
    logging.getLogger().setLevel(level.upper())


def _to_standard_error() -> logging.Handler:
    from tcpmapkit.log_output import StreamHandler

    try:
        return StreamHandler(sys.stderr.fileno())
    except (OSError, io.UnsupportedOperation):  # something in memory stands there, or nothing
        return logging.StreamHandler(sys.stderr)


def lost_lines() -> int:
    """How many lines this process could not write since the log was set up."""
    return sum(getattr(one, "total_lost", 0) for one in logging.getLogger().handlers)


def _begin_anew() -> None:
    for one in logging.getLogger().handlers:
        if hasattr(one, "total_lost"):
            one.total_lost = 0


os.register_at_fork(after_in_child=_begin_anew)  # what is lost before is the parent's to tell


def name_worker(number: int) -> None:
    """Have each line say from now on which of several workers has written it."""

    def name(record: logging.LogRecord) -> bool:
        record.worker = number
        return True

    for one in logging.getLogger().handlers:
        one.addFilter(name)


def has_syslog() -> bool:
    """Whether there is a syslog to talk to."""
    return Path(_SYSLOG).exists()


def drop_log() -> None:
    """Send the log of the whole process nowhere."""
    _send_to(logging.NullHandler())


def _send_to(handler: logging.Handler) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if hasattr(old, "total_lost"):  # one of ours, with a descriptor of its own
            old.close()
    root.addHandler(handler)


class _Warnings(logging.Handler):
    """Warnings and errors for whoever typed a command, who is told of lookups that fail in another way."""

    def filter(self, record: logging.LogRecord) -> bool:
        about_lookups = hasattr(record, "step") and record.levelno < logging.ERROR
        return not about_lookups and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{record.levelname.lower()}: {self.format(record)}\n")


def warn_on_standard_error() -> None:
    """Show what loading a table warns of, for the commands that do not serve: to whoever has typed one, and
    has the tables, with the keys as they are."""
    show_keys("full")
    root = logging.getLogger()
    if not any(isinstance(handler, _Warnings) for handler in root.handlers):
        handler = _Warnings(logging.WARNING)
        handler.setFormatter(_OneLine("%(message)s"))
        root.addHandler(handler)

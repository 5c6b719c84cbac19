"""Where log lines go: standard error or syslog's mail facility, as text or as JSON."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final

from tcpmapkit.errors import ConfigError

__all__ = ["drop_log", "has_syslog", "set_up_log", "warn_on_standard_error"]

_SYSLOG: Final = "/dev/log"


class _OneLine(logging.Formatter):
    """A record on one line whatever is in it, traceback excepted: what a peer sent cannot forge a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        text = super().formatMessage(record)
        return text.encode("unicode_escape").decode() if not text.isprintable() else text


class _Json(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=True)


def set_up_log(to: str = "stderr", level: str = "info", form: str = "text") -> None:
    """Send the log of the whole process to `to` (``"stderr"``, ``"syslog"``), from `level` on, each line
    in the form `form` (``"text"``, ``"json"``).

    Raises `ConfigError` when there is no syslog to talk to.
    """
    import logging.handlers

    handler: logging.Handler
    if to == "syslog":
        if not has_syslog():  # the handler itself would wait for it in silence
            raise ConfigError(f"there is no syslog at {_SYSLOG}", path=("log", "to"))
        handler = logging.handlers.SysLogHandler(_SYSLOG, facility=logging.handlers.SysLogHandler.LOG_MAIL)
        handler.ident = "tcpmapkit: "
        text = "%(name)s: %(message)s"
    else:
        handler = logging.StreamHandler(sys.stderr)
        text = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(_Json() if form == "json" else _OneLine(text))
    _send_to(handler)
    logging.getLogger().setLevel(level.upper())


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
    root.addHandler(handler)


class _Warnings(logging.Handler):
    """Warnings and errors for whoever typed a command."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{record.levelname.lower()}: {self.format(record)}\n")


def warn_on_standard_error() -> None:
    """Show what loading a table warns of, for the commands that do not serve."""
    root = logging.getLogger()
    if not any(isinstance(handler, _Warnings) for handler in root.handlers):
        handler = _Warnings(logging.WARNING)
        handler.setFormatter(_OneLine("%(message)s"))
        root.addHandler(handler)

"""Where log lines go: standard error or syslog's mail facility, as text or as JSON."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from typing import Final

from tcpmapkit.errors import ConfigError

__all__ = ["set_up_log"]

_SYSLOG: Final = "/dev/log"
_TEXT: Final = "%(levelname)s %(name)s: %(message)s"


class _OneLine(logging.Formatter):
    """A record on one line whatever is in it, traceback excepted: what a peer sent cannot forge a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        text = super().formatMessage(record)
        return text.encode("unicode_escape").decode() if not text.isprintable() else text


class _Json(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
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
    """Send the log of the whole process to `to` (``"stderr"``, ``"syslog"``).

    Raises `ConfigError` when there is no syslog to talk to.
    """
    handler: logging.Handler
    if to == "syslog":
        try:
            handler = logging.handlers.SysLogHandler(
                _SYSLOG, facility=logging.handlers.SysLogHandler.LOG_MAIL
            )
        except OSError as error:
            raise ConfigError(
                f"cannot reach syslog at {_SYSLOG}: {error.strerror}", path=("log", "to")
            ) from None
        handler.ident = "tcpmapkit: "
        text = "%(name)s: %(message)s"
    else:
        handler = logging.StreamHandler(sys.stderr)
        text = f"%(asctime)s {_TEXT}"
    handler.setFormatter(_Json() if form == "json" else _OneLine(text))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())

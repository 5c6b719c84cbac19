"""The token that a request must bring, kept in a file."""

from __future__ import annotations

import hmac
import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tcpmapkit.errors import ConfigError

if TYPE_CHECKING:
    from tcpmapkit.config import AdminConfig

__all__ = ["Token", "read_token", "token_mistakes"]

#: More than this is no token.
_LONGEST: Final = 4096

_PATH: Final = ("admin", "token_file")

_log = logging.getLogger(__name__)

#: What tells one state of the file from the next.
_State = tuple[int, int, int, int, int]


def _state(status: os.stat_result) -> _State:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_token(file: Path) -> str:
    """The token in `file`, outer white space dropped.

    Raises `ConfigError`, which never shows it: for a file that everybody on this host can read, too, since
    everybody on this host can connect.
    """
    return _read(file)[0]


def _read(file: Path) -> tuple[str, _State]:
    try:
        # Opening a FIFO would wait for a writer.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError("it is not a regular file", file=file, path=_PATH)
            if status.st_mode & stat.S_IROTH:
                raise ConfigError(
                    "every user of this host can read the token",
                    file=file,
                    path=_PATH,
                    hint="chmod o= on the file; a group may read it",
                )
            content = opened.read(_LONGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}", file=file, path=_PATH) from None
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or len(content) > _LONGEST or " " in token or not token.isprintable():
        raise ConfigError(
            "not one token, printable and without spaces",
            file=file,
            path=_PATH,
            hint="make one with: openssl rand -hex 32",
        )
    return token, _state(status)


def token_mistakes(config: AdminConfig | None) -> list[ConfigError]:
    """What is wrong with the token of an ``[admin]``, for whoever checks a configuration."""
    try:
        if config is not None and config.token_file is not None:
            read_token(config.token_file)
    except ConfigError as error:
        return [error]
    return []


class Token:
    """The token in a file, read anew when that changes.

    When it cannot be read any more, as by the user that the server has become, or is no token, the last
    one holds; that is logged once for each state of the file. Raises `ConfigError` as `read_token` does.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        token, self._seen = _read(file)
        self._token = token.encode()

    def __repr__(self) -> str:
        return f"Token({str(self._file)!r})"

    def is_right(self, given: str) -> bool:
        """Whether this is the token; takes as long whatever is wrong with it."""
        self._look()
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def _look(self) -> None:
        try:
            seen = _state(self._file.stat())
        except OSError:
            return  # as while it is replaced
        if seen == self._seen:
            return
        self._seen = seen
        try:
            token, self._seen = _read(self._file)
        except ConfigError as error:
            _log.error("the token stays as it was: %s", str(error))
            return
        self._token = token.encode()
        _log.info("the token was read anew")

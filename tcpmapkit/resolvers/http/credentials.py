"""What an HTTP server is shown, and which certificates are trusted: read from files, at start."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from tcpmapkit import ConfigError

__all__ = ["read_token", "tls_context"]


def read_token(file: Path) -> str:
    """The token in `file`, outer white space dropped. Raises `ConfigError`."""
    try:
        _refuse_fifo(file)
        token = file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise _unreadable(error, file, "token_file") from None
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError("not one token, printable and without spaces", file=file, path=("token_file",))
    return token


def tls_context(ca_file: Path | None, client_cert: Path | None) -> Any:
    """An `ssl.SSLContext` that trusts the certificates in `ca_file` only, the system's when it is
    None, and shows the one in `client_cert`. Raises `ConfigError`."""
    import ssl

    try:
        if ca_file is not None:
            _refuse_fifo(ca_file)
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise _unreadable(error, ca_file, "ca_file") from None
    if client_cert is not None:
        try:
            _refuse_fifo(client_cert)
            # With a password at hand, be it none, an encrypted key fails; without, it asks the terminal.
            context.load_cert_chain(client_cert, password="")
        except (OSError, ValueError) as error:
            raise _unreadable(error, client_cert, "client_cert") from None
    return context


def _refuse_fifo(file: Path) -> None:
    """A FIFO that nobody writes to would be waited for. Raises `OSError`."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("not a regular file")


def _unreadable(error: Exception, file: Path | None, option: str) -> ConfigError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return ConfigError(f"cannot be read: {reason}", file=file, path=(option,))

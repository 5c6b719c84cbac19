"""What an HTTP server is shown, and which certificates are trusted: read from files, at start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tcpmapkit import ConfigError

__all__ = ["read_token", "tls_context"]


def read_token(file: Path) -> str:
    """The token in `file`, outer white space dropped. Raises `ConfigError`."""
    try:
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
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise _unreadable(error, ca_file, "ca_file") from None
    if client_cert is not None:
        try:
            # With a password at hand, be it none, an encrypted key fails; without, it asks the terminal.
            context.load_cert_chain(client_cert, password="")
        except (OSError, ValueError) as error:
            raise _unreadable(error, client_cert, "client_cert") from None
    return context


def _unreadable(error: Exception, file: Path | None, option: str) -> ConfigError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return ConfigError(f"cannot be read: {reason}", file=file, path=(option,))

"""What the file says of the process: ``[server]``, ``[log]``, ``[admin]``, ``[plugins]``."""

# ruff: noqa: RUF009  (`option` is attrs.field with a help text)

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import attrs

from tcpmapkit.config.scalars import Endpoint
from tcpmapkit.option import Duration, option, positive

__all__ = [
    "INTERNAL",
    "AdminConfig",
    "LogConfig",
    "PluginsConfig",
    "ServerConfig",
    "lookup_time",
    "none_for_false",
    "not_empty",
]

#: A lookup's longest deadline in seconds: the clients of Postfix wait for 100.
LONGEST_DEADLINE = 90.0

#: More processes than this are a typing error.
_MOST_WORKERS = 256

#: The metadata of a field that the structuring fills in.
INTERNAL = {"internal": True}


def lookup_time(instance: object, attribute: Any, value: float | None) -> None:
    """A validator. Raises `ValueError`."""
    if value is not None and not 0 < value <= LONGEST_DEADLINE:
        raise ValueError(f"must be more than 0 and at most {LONGEST_DEADLINE:g} seconds")


def not_empty(instance: object, attribute: Any, value: object) -> None:
    """A validator. Raises `ValueError`."""
    if value is not None and not value:
        raise ValueError("it is empty")


def none_for_false(value: Any) -> Any:
    """A converter for what ``false`` switches off."""
    return None if value is False else value


def _workers(instance: object, attribute: Any, value: int | str) -> None:
    if value != "auto" and not (isinstance(value, int) and 1 <= value <= _MOST_WORKERS):
        raise ValueError(f'must be from 1 to {_MOST_WORKERS}, or "auto"')


@attrs.frozen
class ServerConfig:
    """``[server]``."""

    workers: int | Literal["auto"] = option(
        "Number of processes that serve; auto: one for each processor.", 1, validator=_workers
    )
    deadline: Duration = option(
        "Time that a lookup may take, unless its map says.", 5.0, validator=lookup_time
    )
    max_connections: int = option("Connections served at once.", 10_000, validator=positive)
    user: str | None = option("User to become after binding and reading secrets.", None, validator=not_empty)
    group: str | None = option("Group to become, by default the user's.", None, validator=not_empty)
    grace: Duration = option("Time to finish what is in flight when told to stop.", 10.0)
    loop: Literal["auto", "asyncio", "uvloop"] = option("Event loop; auto: uvloop if installed.", "auto")
    #: Whether the file says it, and so insists on it.
    max_connections_written: bool = attrs.field(default=False, metadata=INTERNAL)


@attrs.frozen
class LogConfig:
    """``[log]``."""

    to: Literal["stderr", "syslog"] = option("Where the log goes; syslog: facility mail.", "stderr")
    level: Literal["debug", "info", "warning", "error"] = option("The least that is logged.", "info")
    format: Literal["text", "json"] = option("Form of a line.", "text")
    log_keys: Literal["hash", "full"] = option("How a key is shown: as a salted hash, or as it is.", "hash")
    slow_lookup: Duration = option("A lookup that takes longer is logged; 0: none.", 1.0)


@attrs.frozen
class AdminConfig:
    """``[admin]``."""

    endpoint: Endpoint = option("Where to listen: unix:path, or inet:host:port on loopback with a token.")
    token_file: Path | None = option("File with the token that a request must bring.", None)
    mode: Annotated[int, "mode"] = option("Permissions of a unix socket, in octal.", 0o600)
    owner: str | None = option("Owner of a unix socket.", None, validator=not_empty)
    group: str | None = option("Group of a unix socket.", None, validator=not_empty)
    path: tuple[str | int, ...] = attrs.field(default=("admin",), metadata=INTERNAL)


@attrs.frozen
class PluginsConfig:
    """``[plugins]``."""

    directory: Path | None = option("Directory of drop-in .py files.", None)
    disable: tuple[str, ...] = option("Plugins that are not loaded.", ())

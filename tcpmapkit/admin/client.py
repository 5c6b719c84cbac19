"""Asks a running server, for the commands. Neither asyncio nor aiohttp: a command is done in an instant."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tomli

from tcpmapkit.admin.guard import ROUTES
from tcpmapkit.admin.token import read_token
from tcpmapkit.config import Document, admin_config, read_document
from tcpmapkit.errors import ConfigError

if TYPE_CHECKING:
    from tcpmapkit.config import AdminConfig

__all__ = ["AdminClient", "Unreachable", "find_admin"]

#: Seconds for an answer; a lookup has a deadline of its own below it.
_TIME: Final = 100.0

#: Bytes of an answer.
_LONGEST: Final = 64 << 20

_TABLE: Final = re.compile(r"^\[admin\][^\n]*\n(?:(?!\s*\[)[^\n]*\n?)*", re.MULTILINE)


class Unreachable(Exception):
    """There is no answer: no server, nobody that may ask it, or something that is none of ours."""


def find_admin(file: Path) -> AdminConfig:
    """What ``[admin]`` of a configuration file says, whatever else is wrong with the file: a server may run
    that has not taken it. Raises `ConfigError`."""
    try:
        document = read_document(file)
    except ConfigError:
        salvaged = _salvaged(file)
        if salvaged is None:
            raise
        document = salvaged
    admin = admin_config(document)
    if admin is None:
        hint = 'such as [admin] with endpoint = "unix:/run/tcpmapkit/admin.sock"'
        raise ConfigError("there is no [admin], so the server cannot be asked", file=file, hint=hint)
    return admin


def _salvaged(file: Path) -> Document | None:
    """What can be read of the table ``[admin]`` in a file that is not TOML as a whole."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, ValueError):
        return None
    found = _TABLE.search(text)
    if found is None:
        return None
    data: dict[str, Any] = {}
    for line in found[0].splitlines()[1:]:
        with contextlib.suppress(tomli.TOMLDecodeError):
            data |= tomli.loads(line)
    return Document(file, text, {"admin": data}) if "endpoint" in data else None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AdminClient:
    """Asks the server that has this ``[admin]``. Raises `ConfigError` when its token cannot be read."""

    def __init__(self, config: AdminConfig) -> None:
        self._config = config
        self._headers = {"Content-Type": "application/json"}
        if config.token_file is not None:
            self._headers["Authorization"] = f"Bearer {read_token(config.token_file)}"

    def ask(self, command: str, *, patient: bool = False, **parameters: Any) -> dict[str, Any]:
        """The answer to a command (see `tcpmapkit.control`); `patient` waits for it without end.

        Raises `Unreachable`.
        """
        [(path, route)] = [(path, one) for path, one in ROUTES.items() if one.command == command]
        body = json.dumps(parameters) if route.parameters else None
        connection = self._connection(None if patient else _TIME)
        try:
            connection.request("GET" if body is None else "POST", path, body, self._headers)
            response = connection.getresponse()
            content = response.read(_LONGEST)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self._why(error)) from None
        finally:
            connection.close()
        return self._answer(response.status, content)

    def _connection(self, timeout: float | None) -> http.client.HTTPConnection:
        endpoint = self._config.endpoint
        if endpoint.kind == "unix":
            return _UnixConnection(endpoint.path, timeout)
        return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout)

    def _why(self, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = ""
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            hint = " (does it run?)"
        elif isinstance(error, PermissionError):
            hint = " (`mode`, `owner` and `group` of [admin] say who may)"
        return f"cannot ask the server at {self._config.endpoint}: {reason}{hint}"

    def _answer(self, status: int, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Unreachable(f"what listens at {self._config.endpoint} is no tcpmapkit")
        if status in (401, 403):
            raise Unreachable(f"the server at {self._config.endpoint} refuses: {answer.get('error')}")
        return answer

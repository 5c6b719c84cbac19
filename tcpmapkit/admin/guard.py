"""Which requests are let in, and which command each is. Pure: head in, verdict out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import attrs

__all__ = ["LONGEST_BODY", "ROUTES", "Refused", "Route", "asks_here", "bearer", "command_of", "route_of"]

LONGEST_BODY: Final = 128 << 10
"""Bytes: holds the longest key, however JSON has it."""

#: The names that this host has for itself. A page whose name was made to lead here (DNS rebinding) has
#: its own name in the Host header.
_OWN_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/?#\s]+)(?::[0-9]{1,5})?")

_YES: Final = frozenset({"", "1", "true", "yes"})
_NO: Final = frozenset({"0", "false", "no"})


class Refused(Exception):
    """A request that is refused: the status of the response, and why."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


@attrs.frozen
class Route:
    """What can be asked at a path: which command it is, its parameters by name with their types, and
    whether it changes something, which only POST may."""

    command: str
    parameters: Mapping[str, type] = attrs.Factory(dict)
    changes: bool = False
    required: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods it takes; a question with parameters may come as POST too, as one too long for a
        request line must."""
        if self.changes:
            return ("POST",)
        return ("GET", "HEAD", "POST") if self.parameters else ("GET", "HEAD")


ROUTES: Final[Mapping[str, Route]] = {
    "/livez": Route("live"),
    "/readyz": Route("ready"),
    "/metrics": Route("metrics"),
    "/v1/status": Route("status"),
    "/v1/tables": Route("tables"),
    "/v1/lookup": Route(
        "lookup",
        {"map": str, "key": str, "policy": str, "attributes": dict, "explain": bool},
    ),
    "/v1/purge": Route("purge", {"map": str, "key": str}, changes=True, required=("map",)),
    "/v1/reload": Route("reload", {"force": bool}, changes=True),
}


def asks_here(hosts: Sequence[str], own: str = "") -> bool:
    """Whether the Host headers of a request name this host: one, ``localhost``, ``127.0.0.1``, ``[::1]`` or
    `own`, the endpoint's host; with any port, as a tunnel has another."""
    if len(hosts) != 1:
        return False
    match = _HOST.fullmatch(hosts[0].lower())
    if match is None:
        return False
    own = f"[{own.lower()}]" if ":" in own else own.lower()
    return match[1] in _OWN_NAMES or (own != "" and match[1] == own)


def bearer(headers: Sequence[str]) -> str | None:
    """The token in the Authorization headers of a request, when there is exactly one."""
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def route_of(method: str, target: str) -> tuple[Route, str]:
    """The route of a request target, and its query.

    A path is one of `ROUTES` byte for byte: nothing is decoded, joined or normalized. Raises `Refused`.
    """
    path, _, query = target.partition("?")
    route = ROUTES.get(path)
    if route is None:
        raise Refused(404, "there is nothing here")
    if method not in route.methods:
        allowed = ", ".join(route.methods)
        raise Refused(405, f"only {allowed}", {"Allow": allowed})
    return route, query


def command_of(route: Route, query: str, body: bytes) -> dict[str, Any]:
    """The command that a request is: its parameters are in the query, or in a body that is a JSON object.
    Raises `Refused`."""
    given = _from_query(route, query)
    if body:
        given |= _from_body(body)
    for name, value in given.items():
        kind = route.parameters.get(name)
        if kind is None:
            known = ", ".join(route.parameters) or "none"
            raise Refused(400, f"there is no such parameter; there are: {known}")
        if not isinstance(value, kind):
            raise Refused(400, f"{name} is not {_WORDS[kind]}")
        if isinstance(value, dict) and not all(isinstance(one, str) for one in value.values()):
            raise Refused(400, f"{name}: a value is not text")
    for name in route.required:
        if name not in given:
            raise Refused(400, f"{name} is missing")
    return {"command": route.command, **given}


_WORDS: Final = {str: "text", bool: "true or false", dict: "an object"}


def _from_query(route: Route, query: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise Refused(400, "the query is not UTF-8 in percent-encoding, or is too long") from None
    given: dict[str, Any] = {}
    for name, text in pairs:
        if name in given:
            raise Refused(400, "a parameter is there twice")
        given[name] = _flag(name, text) if route.parameters.get(name) is bool else text
    return given


def _flag(name: str, text: str) -> bool:
    if text.lower() in _YES | _NO:
        return text.lower() in _YES
    raise Refused(400, f"{name} is not true or false")


def _from_body(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(given, dict):
        raise Refused(400, "the body is not a JSON object")
    return given

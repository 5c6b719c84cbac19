"""What a value of main.cf asks over the network: the ``tcp:`` and ``socketmap:`` tables and the policy
services in lists, in ``proxy:``, ``pipemap:{}`` and ``unionmap:{}``, in restriction lists and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from tcpmapkit.config.scalars import Endpoint
from tcpmapkit.postfix.values import NotUnderstood, split_list, unbrace

__all__ = ["Reference", "Strange", "find_references"]

#: Tables made of tables.
_MADE_OF_TABLES: Final = ("pipemap", "unionmap")


@attrs.frozen
class Reference:
    """One table or policy service.

    `parameter` is what asks it: the parameter, or a ``check_*_access`` in it; `place` the way there, such
    as ``smtpd_recipient_restrictions > greylist``. `kind` is the protocol's name; the path of a unix
    `endpoint` is as written. `map` is the name in a ``socketmap:``. `shared` is what follows ``proxy:``,
    where that asks; `later`: asked for another table's result, not for Postfix's key. `options` are a
    policy service's own.
    """

    place: str
    parameter: str
    kind: str
    endpoint: Endpoint
    text: str
    map: str = ""
    shared: str = ""
    later: bool = False
    options: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Strange:
    """What looks like a reference and cannot be read, and why."""

    place: str
    text: str
    why: str


def find_references(
    parameter: str, value: str, classes: Mapping[str, str] | None = None
) -> Iterator[Reference | Strange]:
    """What the expanded value of a parameter asks; `classes` are the restriction classes' values."""
    yield from _restrictions(parameter, parameter, value, dict(classes or {}))


def _restrictions(
    place: str, parameter: str, value: str, classes: dict[str, str]
) -> Iterator[Reference | Strange]:
    before = ""
    for token in split_list(value):
        if before == "check_policy_service":
            yield from _caught(place, token, _policy(place, token))
        elif before.startswith("check_") and before.endswith(("_access", "_maps")):
            yield from _caught(place, token, _tables(place, before, token))
        elif token in classes:
            inside = {name: text for name, text in classes.items() if name != token}  # never in a circle
            yield from _restrictions(f"{place} > {token}", parameter, classes[token], inside)
        else:
            yield from _caught(place, token, _tables(place, parameter, token))
        before = token.lower()


def _caught(place: str, token: str, found: Iterator[Reference | Strange]) -> Iterator[Reference | Strange]:
    try:
        yield from found
    except NotUnderstood as error:
        yield Strange(place, token, str(error))


def _tables(
    place: str, parameter: str, token: str, shared: str = "", later: bool = False
) -> Iterator[Reference | Strange]:
    """The tables of one ``type:name``, or of several in braces."""
    token = token.lstrip("!")  # "not", in a list of patterns
    if token.startswith("{"):
        if _worth_reading(token):
            for member in split_list(unbrace(token)):
                yield from _tables(place, parameter, member, shared, later)
        return
    kind, colon, name = token.partition(":")
    if not colon or not _worth_reading(token):
        return
    if kind == "proxy":
        yield from _tables(place, parameter, name, name, later)
    elif kind in _MADE_OF_TABLES:
        for index, member in enumerate(split_list(unbrace(name))):
            yield from _tables(place, parameter, member, shared, later or (kind == "pipemap" and index > 0))
    elif kind == "tcp":
        endpoint = _inet(name)
        yield Reference(place, parameter, "tcp_table", endpoint, token, shared=shared, later=later)
    elif kind == "socketmap":
        server, colon, map_name = name.rpartition(":")
        if not colon or not map_name:
            raise NotUnderstood("a socketmap: table ends with :name")
        yield Reference(place, parameter, "socketmap", _endpoint(server), token, map_name, shared, later)


def _worth_reading(token: str) -> bool:
    """Whether a table can be one of ours, so that a mistake in other people's is not told."""
    return "tcp:" in token or "socketmap:" in token


def _policy(place: str, token: str) -> Iterator[Reference]:
    """``inet:host:port``, ``unix:path``, or ``{ service, name=value ... }``."""
    options = {}
    if token.startswith("{"):
        service, *rest = list(split_list(unbrace(token))) or [""]
        for one in rest:
            pair = unbrace(one) if one.startswith("{") else one
            name, equals, value = pair.partition("=")
            if not equals:
                raise NotUnderstood(f"{one!r} is not name=value")
            options[name.strip()] = value.strip()
    else:
        service = token
    yield Reference(place, "check_policy_service", "policy", _endpoint(service), service, options=options)


def _endpoint(text: str) -> Endpoint:
    kind, colon, rest = text.partition(":")
    if not colon or not rest or kind not in ("inet", "unix", "local"):
        raise NotUnderstood(f"{text!r} is neither inet:host:port nor unix:path")
    return _inet(rest) if kind == "inet" else Endpoint("unix", path=rest)


def _inet(text: str) -> Endpoint:
    """``host:port``, ``[address]:port`` or ``port``, where no host stands for this machine."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal():
        raise NotUnderstood(f"the port of {text!r} is not a number")
    return Endpoint("inet", host.strip("[]").lower() or "localhost", int(port))

"""Which parameters of a Postfix point to our listeners."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final

import attrs

from tcpmapkit.config import Endpoint, MapConfig
from tcpmapkit.postfix.parameters import REFUSING, RESTRICTION_LISTS, find_parameter
from tcpmapkit.postfix.postconf import Postconf
from tcpmapkit.postfix.references import Reference, Strange, find_references
from tcpmapkit.postfix.served import Served
from tcpmapkit.postfix.values import NotUnderstood, split_list

__all__ = ["Pointing", "Row", "addresses", "find_pointing"]

#: What kind of fact, what it is about, and the fact.
Row = tuple[str, str, str]

_ASKS: Final = re.compile(r"tcp:|socketmap:|check_policy_service", re.IGNORECASE)
_VARIABLE: Final = re.compile(r"\$[({]?([A-Za-z0-9_]+)")
#: They repeat the tables of other parameters, to allow them.
_LISTS_OF_TABLES: Final = frozenset({"proxy_read_maps", "proxy_write_maps"})
_LOCALHOST: Final = frozenset({"127.0.0.1", "::1"})


@attrs.frozen
class Pointing:
    """A reference of Postfix's (`service` ``submission/inet``, or "" for main.cf) and the listener it
    leads to; `map` None where that serves no such map."""

    service: str
    reference: Reference
    served: Served
    map: MapConfig | None

    @property
    def place(self) -> str:
        """The way to it, an override of master.cf named as ``postconf -P`` does."""
        return _place(self.service, self.reference)


def _place(service: str, one: Reference | Strange) -> str:
    return f"{service}/{one.place}" if service else one.place


def _every_reference(postconf: Postconf) -> Iterator[tuple[str, Reference | Strange]]:
    """Everything that is asked over the network, with its service ("" for main.cf)."""
    classes = _classes(postconf)
    texts = [text for values in (postconf.values, *postconf.overrides.values()) for text in values.values()]
    inside = {name for text in texts for name in _VARIABLE.findall(text)}
    reached = set()
    values = []
    for service, name in postconf.every_value():
        written = postconf.written(name, service) or ""
        known = find_parameter(name) or name in REFUSING or name in RESTRICTION_LISTS
        if name in _LISTS_OF_TABLES or (not known and (name in inside or not _ASKS.search(written))):
            continue
        if name.startswith("address_verify_") and not _ASKS.search(written):
            continue
        if name in classes:
            continue
        try:
            value = postconf.value(name, service, complete=False)
        except NotUnderstood as error:
            yield service, Strange(name, written, str(error))
            continue
        values.append((service, name, value))
        reached |= {token for token in split_list(value) if token in classes}
    for name, value in classes.items():
        if name not in reached and not any(name in split_list(other) for other in classes.values()):
            values.append(("", name, value))
    for service, name, value in values:
        for found in find_references(name, value, classes):
            yield service, found


def _classes(postconf: Postconf) -> dict[str, str]:
    classes = {}
    try:
        for name in split_list(postconf.value("smtpd_restriction_classes", complete=False)):
            classes[name] = postconf.value(name, complete=False)
    except NotUnderstood:
        pass  # told where the parameter is read for itself
    return classes


def find_pointing(
    postconf: Postconf, served: Sequence[Served], queue_directory: str
) -> tuple[list[Pointing], list[Row]]:
    """What points to our listeners; and what seems to, but misses them or cannot be read."""
    found: list[Pointing] = []
    missed: list[Row] = []
    for service, one in _every_reference(postconf):
        place = _place(service, one)
        if isinstance(one, Strange):
            missed.append(("not understood", place, f"{one.text}: {one.why}"))
            continue
        here = [each for each in served if _meet(one.endpoint, each.listener.endpoint, queue_directory)]
        speaking = [each for each in here if each.listener.protocol == one.kind]
        if speaking:
            names = {each.name: each for each in speaking[0].maps}
            if one.kind == "socketmap":
                found.append(Pointing(service, one, speaking[0], names.get(one.map)))
            else:
                found.append(Pointing(service, one, speaking[0], speaking[0].maps[0]))
        elif here:
            listener = here[0].listener
            text = f"{one.text}: {listener.endpoint} speaks {listener.protocol}, not {one.kind}"
            missed.append(("wrong protocol", place, text))
        else:
            missed += _near(place, one, served)
    return found, missed


def _near(place: str, reference: Reference, served: Sequence[Served]) -> Iterator[Row]:
    """Our port at another address of the same machine."""
    if reference.endpoint.kind != "inet" or not reference.endpoint.loopback:
        return
    for one in served:
        endpoint = one.listener.endpoint
        if endpoint.kind == "inet" and endpoint.loopback and endpoint.port == reference.endpoint.port:
            yield ("no listener", place, f"{reference.text}: the listener at that port is {endpoint}")


def _meet(asked: Endpoint, listening: Endpoint, queue_directory: str) -> bool:
    """Whether somebody who connects to `asked`, as written in main.cf, comes to the listener."""
    if asked.kind != listening.kind:
        return False
    if asked.kind == "unix":
        # Relative to queue_directory; so is an absolute path for whoever is in a chroot jail.
        places = (os.path.join(queue_directory, asked.path), f"{queue_directory}/{asked.path}")  # noqa: PTH118
        return os.path.normpath(listening.path) in map(os.path.normpath, places)
    if asked.port != listening.port:
        return False
    theirs = addresses(asked.host)
    if listening.host == "::":
        return True
    if listening.host == "0.0.0.0":  # noqa: S104
        return any(":" not in address for address in theirs)
    return bool(theirs & addresses(listening.host))


def addresses(host: str) -> frozenset[str]:
    """The network addresses that a host of an endpoint stands for; a name other than localhost is itself."""
    if host.lower() == "localhost":
        return _LOCALHOST
    try:
        address = ip_address(host)
    except ValueError:
        return frozenset({host.lower().rstrip(".")})
    return frozenset({str(getattr(address, "ipv4_mapped", None) or address)})

"""Which parameters of a Postfix point to our listeners, and whether they can use what is there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Final

import attrs

from tcpmapkit.config import Endpoint, MapConfig
from tcpmapkit.config.mistakes import did_you_mean
from tcpmapkit.postfix.parameters import DELAYED, REFUSING, RESTRICTION_LISTS, STAGES, find_parameter, misfit
from tcpmapkit.postfix.postconf import Postconf
from tcpmapkit.postfix.references import Reference, Strange, find_references
from tcpmapkit.postfix.served import Served
from tcpmapkit.postfix.values import NotUnderstood, split_list

__all__ = ["Pointing", "Row", "find_pointing", "pointing_rows", "unclear_rows"]

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
        return f"{self.service}/{self.reference.place}" if self.service else self.reference.place


def references(postconf: Postconf) -> Iterator[tuple[str, Reference | Strange]]:
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
    for service, one in references(postconf):
        place = f"{service}/{one.place}" if service else one.place
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
    addresses = _addresses(asked.host)
    if listening.host == "::":
        return True
    if listening.host == "0.0.0.0":  # noqa: S104
        return any(":" not in address for address in addresses)
    return bool(addresses & _addresses(listening.host))


def _addresses(host: str) -> frozenset[str]:
    if host.lower() == "localhost":
        return _LOCALHOST
    try:
        address = ip_address(host)
    except ValueError:
        return frozenset({host.lower().rstrip(".")})
    return frozenset({str(getattr(address, "ipv4_mapped", None) or address)})


def pointing_rows(postconf: Postconf, pointing: Sequence[Pointing], queue_directory: str) -> Iterator[Row]:
    """What there is to say of each reference that leads here."""
    allowed = _shared_tables(postconf)
    for one in pointing:
        reference, listener = one.reference, one.served.listener
        if one.map is None:
            hint = did_you_mean(reference.map, [each.name for each in one.served.maps])
            text = f"{reference.text}: {listener.endpoint} serves no map {reference.map!r}"
            yield ("no such map", one.place, f"{text} ({hint})" if hint else text)
            continue
        yield ("points here", one.place, f"{reference.text}: map {one.map.name}, {listener.endpoint}")
        if reference.kind == "policy":
            yield from _stage(postconf, one)
        else:
            yield from _table(postconf, one, one.map, allowed)
        yield from _reach(postconf, one, queue_directory)


def _table(
    postconf: Postconf, one: Pointing, served: MapConfig, allowed: frozenset[str] | None
) -> Iterator[Row]:
    reference = one.reference
    refused = REFUSING.get(reference.parameter)
    if reference.parameter == "virtual_mailbox_maps":  # refused by the delivery agent only
        try:
            transport = postconf.value("virtual_transport", one.service, complete=False)
        except NotUnderstood:
            transport = ""
        if transport and transport.partition(":")[0] != "virtual":
            refused = None
    if refused is not None:
        yield ("refused", one.place, f"{reference.text}: {refused}")
    parameter = find_parameter(reference.parameter)
    wrong = None
    if parameter and not reference.later:
        wrong = misfit(parameter, served.search, one.served.brought.get(served.name, frozenset()))
    if wrong is not None:
        yield ("search", one.place, f"map {served.name}: {wrong}")
    if reference.shared and allowed is not None and reference.shared not in allowed:
        yield ("refused", one.place, f"proxy:{reference.shared}: proxy_read_maps does not list it")


def _stage(postconf: Postconf, one: Pointing) -> Iterator[Row]:
    """Whether the restriction list is asked at the stage that the listener expects."""
    stage = one.served.listener.stage
    where = one.reference.place.partition(" ")[0]
    if stage is None or where not in RESTRICTION_LISTS:
        return
    states = {state for state, name in STAGES.items() if name == where} or {"RCPT"}
    try:
        delayed = postconf.value("smtpd_delay_reject", one.service).lower() == "yes"
    except NotUnderstood:
        return
    if states <= DELAYED and delayed:
        states = {"RCPT"}
        where += " with smtpd_delay_reject = yes"
    if stage not in states:
        asked = " or ".join(sorted(states))
        yield ("stage", one.place, f"{where} asks at {asked}, {one.served.listener.endpoint} expects {stage}")


def _reach(postconf: Postconf, one: Pointing, queue_directory: str) -> Iterator[Row]:
    """Whether Postfix can connect at all."""
    endpoint = one.reference.endpoint
    if endpoint.kind == "unix":
        if not endpoint.path.startswith("/"):
            return
        inside = one.served.listener.endpoint.path.startswith(f"{os.path.normpath(queue_directory)}/")
        chrooted = postconf.chrooted("smtpd")
        if inside:
            relative = os.path.relpath(one.served.listener.endpoint.path, queue_directory)
            text = f"an absolute path means another file in a chroot jail and outside: write {relative}"
        else:
            text = f"it is not below queue_directory ({queue_directory})"
        if chrooted or (chrooted is None and not inside):
            jail = "smtpd(8) is chrooted" if chrooted else "a chrooted service (master.cf) cannot connect"
            yield ("chroot", one.place, f"{one.reference.text}: {text}; {jail}")
        return
    try:
        protocols = postconf.value("inet_protocols", one.service)
    except NotUnderstood:
        return
    addresses = _addresses(endpoint.host)
    if protocols == "ipv4" and all(":" in address for address in addresses):
        yield ("inet_protocols", one.place, f"{one.reference.text}: Postfix uses IPv4 only")
    if protocols == "ipv6" and all(_is_ipv4(address) for address in addresses):
        yield ("inet_protocols", one.place, f"{one.reference.text}: Postfix uses IPv6 only")


def _is_ipv4(address: str) -> bool:
    try:
        return isinstance(ip_address(address), IPv4Address)
    except ValueError:
        return False


def _shared_tables(postconf: Postconf) -> frozenset[str] | None:
    """What proxymap(8) opens; None when that cannot be told."""
    if "proxy_read_maps" not in postconf.values:
        return None
    try:
        tables = split_list(postconf.value("proxy_read_maps", complete=False))
        return frozenset(one.removeprefix("proxy:") for one in tables if one.startswith("proxy:"))
    except NotUnderstood:
        return None


def unclear_rows(postconf: Postconf) -> Iterator[Row]:
    """The lines that are not postconf's."""
    for number, line in postconf.strange:
        yield ("not understood", f"line {number}", line)

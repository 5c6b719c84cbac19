"""Whether the parameters of a Postfix that point to our listeners can use what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, ip_address

from tcpmapkit.config import MapConfig
from tcpmapkit.config.mistakes import did_you_mean
from tcpmapkit.postfix.parameters import DELAYED, REFUSING, RESTRICTION_LISTS, STAGES, find_parameter, misfit
from tcpmapkit.postfix.pointing import Pointing, Row, addresses
from tcpmapkit.postfix.postconf import Postconf
from tcpmapkit.postfix.values import NotUnderstood, split_list

__all__ = ["pointing_rows"]


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
    theirs = addresses(endpoint.host)
    if protocols == "ipv4" and all(":" in address for address in theirs):
        yield ("inet_protocols", one.place, f"{one.reference.text}: Postfix uses IPv4 only")
    if protocols == "ipv6" and all(_is_ipv4(address) for address in theirs):
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

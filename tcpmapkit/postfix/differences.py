"""Where Postfix's settings and ours differ: time-outs, and what a search order depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Final

from tcpmapkit.config import MapConfig
from tcpmapkit.postfix.pointing import Pointing, Row
from tcpmapkit.postfix.served import Served
from tcpmapkit.postfix.values import NotUnderstood, seconds, split_list
from tcpmapkit.protocols import PROTOCOLS

__all__ = ["difference_rows", "time_out_rows"]

#: The expanded value of a parameter, for a service ("" for main.cf). Raises `NotUnderstood`.
Read = Callable[[str, str], str]

_PREFIX: Final = "smtpd_policy_service_"

#: `search` -> its word in parent_domain_matches_subdomains.
_PARENT: Final = {"access": "smtpd_access_maps", "domain": "relay_domains", "transport": "transport_maps"}


def time_out_rows(read: Read, served: Sequence[Served], pointing: Sequence[Pointing]) -> Iterator[Row]:
    """The time limits of Postfix that end a lookup, or a connection, before we do.

    Those of tcp: and socketmap: tables cannot be set: 100 s, more than any deadline (dict_tcp,
    dict_sockmap).
    """
    tables = [one for one in served if one.listener.protocol != "policy"]
    if tables:
        yield from _ipc(read, max(tables, key=lambda one: one.deadline))
    for each in pointing:
        if each.reference.kind == "policy":
            yield from _policy(read, each)


def _ipc(read: Read, served: Served) -> Iterator[Row]:
    """cleanup(8), trivial-rewrite(8) and proxymap(8) look up for others, who wait ipc_timeout."""
    try:
        limit = seconds(read("ipc_timeout", ""))
    except NotUnderstood as error:
        yield ("not understood", "ipc_timeout", str(error))
        return
    if limit <= served.deadline:
        text = f"{limit:g} s: a lookup at {served.listener.endpoint} may take {served.deadline:g} s"
        yield ("time-out", "ipc_timeout", text)


def _policy(read: Read, one: Pointing) -> Iterator[Row]:
    """The limits of one check_policy_service: its own, else the parameters."""
    own, served, where = one.reference.options, one.served, f"{one.place}: "

    def limit(name: str) -> str:
        return own[name] if name in own else read(f"{_PREFIX}{name}", one.service)

    endpoint = served.listener.endpoint
    kept = PROTOCOLS["policy"].idle_timeout
    try:
        timeout, idle, life = (seconds(limit(name)) for name in ("timeout", "max_idle", "max_ttl"))
        requests, action = limit("request_limit"), limit("default_action")
    except NotUnderstood as error:
        yield ("not understood", f"{where}{_PREFIX}*", str(error))
        return
    if timeout <= served.deadline:
        text = f"{timeout:g} s: a lookup at {endpoint} may take {served.deadline:g} s"
        yield ("time-out", f"{where}{_PREFIX}timeout", text)
    if min(most or inf for most in (idle, life)) >= kept:  # 0 is no limit
        text = f"{idle:g} s (0: no limit): {endpoint} closes a connection that is idle for {kept:g} s"
        yield ("time-out", f"{where}{_PREFIX}max_idle", text)
    if requests.strip() != "0":
        text = f"{requests}: Postfix connects anew after so many requests; 0 keeps the connection"
        yield ("time-out", f"{where}{_PREFIX}request_limit", text)
    ours = served.listener.default_action
    if ours == "close":
        text = f"{action}: what Postfix does when a lookup at {endpoint} fails"
        yield ("default action", f"{where}{_PREFIX}default_action", text)
    elif action.split() != ours.split():
        text = f"{action}: when nobody answers; {endpoint} says {ours} when a lookup fails"
        yield ("differs", f"{where}{_PREFIX}default_action", text)


def difference_rows(read: Read, maps: Iterable[MapConfig]) -> Iterator[Row]:
    """Where a setting is not what the maps' options say."""
    for one in maps:
        for parameter, compare in _COMPARISONS.items():
            try:
                yield from compare(read, one)
            except NotUnderstood as error:
                yield ("not understood", parameter, f"cannot be compared with map {one.name}: {error}")


def _delimiter(read: Read, one: MapConfig) -> Iterator[Row]:
    if one.search in (None, "domain"):
        return
    theirs = read("recipient_delimiter", "").strip()
    if set(theirs) != set(one.recipient_delimiter):
        text = f'"{theirs}": map {one.name} has recipient_delimiter = "{one.recipient_delimiter}"'
        yield ("differs", "recipient_delimiter", text)


def _local_domains(read: Read, one: MapConfig) -> Iterator[Row]:
    """``user`` alone is asked for the domains of mydestination and for $myorigin (resolve_local)."""
    order = one.search_order
    if order is None or order.bare_is_domain:
        return
    theirs, unclear = set(), []
    for member in split_list(read("mydestination", "")):
        if _is_pattern(member):
            unclear.append(member)
        else:
            theirs.add(member.lower())
    origin = read("myorigin", "").strip().lower()
    if origin.startswith("/"):  # a file with the name
        unclear.append(origin)
    else:
        theirs.add(origin)
    ours = {domain.lower() for domain in one.local_domains}
    if unclear:
        text = f"{' '.join(unclear)}: a table, file or pattern; compare it with map {one.name} by hand"
        yield ("not understood", "mydestination", text)
    for domain in sorted(theirs - ours):
        text = f"{domain} is not among the local_domains of map {one.name}"
        yield ("differs", "myorigin" if domain == origin else "mydestination", text)
    # The literals of inet_interfaces' addresses are local without being named.
    named = {domain for domain in ours if not domain.startswith("[")}
    for domain in sorted(named - theirs) if not unclear else ():
        text = f"{domain} is among the local_domains of map {one.name}, and not in mydestination or myorigin"
        yield ("differs", "mydestination", text)


def _is_pattern(member: str) -> bool:
    """Whether a member of a list is a table, a file or a "not"."""
    return member[0] in "!/{" or (":" in member and member[0] != "[")


def _extension(read: Read, one: MapConfig) -> Iterator[Row]:
    order = one.search_order
    if order is None or not order.rewrites:
        return
    ours = order.propagates
    theirs = one.search in list(split_list(read("propagate_unmatched_extensions", "").lower()))
    if theirs != ours:
        text = f"{_has(theirs)} {one.search}: map {one.name} has propagate_extension = {str(ours).lower()}"
        yield ("differs", "propagate_unmatched_extensions", text)


def _subdomains(read: Read, one: MapConfig) -> Iterator[Row]:
    order, word = one.search_order, _PARENT.get(one.search or "")
    if order is None or word is None:
        return
    members = [member.lower() for member in split_list(read("parent_domain_matches_subdomains", ""))]
    unclear = list(filter(_is_pattern, members))
    if unclear:
        raise NotUnderstood(f"{' '.join(unclear)} is a table, file or pattern")
    if (word in members) != order.asks_parents:
        ours = "parent" if order.asks_parents else "dot"
        text = f'{_has(word in members)} {word}: map {one.name} has match_subdomains = "{ours}"'
        yield ("differs", "parent_domain_matches_subdomains", text)


def _has(there: bool) -> str:
    return "has" if there else "lacks"


#: The parameter that is read first -> what compares a map with it.
_COMPARISONS: Final[Mapping[str, Callable[[Read, MapConfig], Iterator[Row]]]] = {
    "recipient_delimiter": _delimiter,
    "mydestination": _local_domains,
    "propagate_unmatched_extensions": _extension,
    "parent_domain_matches_subdomains": _subdomains,
}

"""Search orders: the keys that Postfix asks its own indexed tables for, in Postfix's order.

Over tcp_table and socketmap Postfix sends the full key only (tcp_table(5), socketmap_table(5)); a map
with a search order is asked the rest on this side. Pure functions on str.

Sources: Postfix's mail_addr_find(3), with the strategies of its callers (transport(5), access(5),
virtual(5), canonical(5), generic(5), relocated(5)), smtpd's check_domain_access() and
check_addr_access(), and match_hostname() for the lists of domains.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, Literal, get_args

import attrs

from tcpmapkit.keys import (
    MAX_HOST_NAME,
    SPECIAL_KEYS,
    fold,
    quote_address,
    split_extension,
    unquote_address,
)
from tcpmapkit.rewriting import prepend_localpart, propagate

__all__ = ["SEARCHES", "Kind", "Search", "SearchKey", "SearchOrder"]

#: The values of a map's ``search``.
Search = Literal["address", "virtual", "canonical", "generic", "transport", "access", "domain"]
SEARCHES: Final[tuple[Search, ...]] = get_args(Search)


class Kind(IntEnum):
    """Which of an order's keys one is. Quoting and capitals make no difference to it."""

    FULL = 0
    #: ``user@domain``
    WITHOUT_EXTENSION = 1
    #: ``user+extension``, of a local domain
    LOCALPART = 2
    #: ``user``, of a local domain
    USER = 3
    #: ``@domain``
    AT_DOMAIN = 4
    #: The domain, and what it is part of
    DOMAIN = 5
    #: The network address cut short
    NETWORK = 6
    #: ``user+extension@``
    LOCALPART_AT = 7
    #: ``user@``
    USER_AT = 8


_WITHOUT_EXTENSION = frozenset({Kind.WITHOUT_EXTENSION, Kind.USER})

# What smtp_sasl_password_maps asks besides addresses: a next hop with brackets or a port.
_NEXT_HOP = re.compile(r"\[[^\]]*\](?::\w+)?|[\w.-]+:\w+")

# An IPv4 address as valid_ipv4_hostaddr() has it: 0.0.0.0 is one, 0.1.2.3 is none.
_OCTET = "0*(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[0-9]{1,2})"
_IPV4 = re.compile(rf"(?!0+\.[0.]*[1-9]){_OCTET}(?:\.{_OCTET}){{3}}")


@attrs.frozen
class SearchKey:
    """One key of a search.

    `key` is what is asked; `kind` a `Kind`, which `SearchOrder.rewritten` needs; `partial` is false for
    the full key, in both its forms (Postfix asks a regexp_table(5) for both), and true for all others.
    """

    key: str
    kind: int
    partial: bool


@attrs.frozen
class SearchOrder:
    """A map's search order.

    `recipient_delimiter` is a set of characters. `local_domains` are $myorigin and $mydestination,
    folded, address literals (``[192.0.2.1]``, ``[IPv6:2001:db8::1]``) included. None for
    `match_subdomains` and `propagate_extension` is what Postfix does by default for this order.
    """

    name: Search
    recipient_delimiter: str = "+"
    local_domains: frozenset[str] = frozenset()
    match_subdomains: Literal["dot", "parent"] | None = None
    propagate_extension: bool | None = None
    _local_addresses: frozenset[bytes] = attrs.field(init=False, repr=False, eq=False)

    @_local_addresses.default
    def _from_literals(self) -> frozenset[bytes]:
        return frozenset(filter(None, map(_literal, self.local_domains)))

    @property
    def bare_is_domain(self) -> bool:
        """Whether a key without ``@`` is a domain, a host name or a network address."""
        return self.name in ("access", "transport", "domain")

    @property
    def rewrites(self) -> bool:
        """Whether the value found is an address that takes something over from the key."""
        return self.name in ("virtual", "canonical", "generic")

    def keys(self, key: str) -> Iterator[SearchKey]:
        """The keys to ask for, in order: at least one, never an empty one but of the empty key, none twice.

        `key` may come quoted or unquoted, and in any case; the keys have its capitals. A special key is
        only itself. No key but the full one has a domain longer than a host name can be, so that
        there are never more than some 260 keys.
        """
        if key in SPECIAL_KEYS or (self.name == "address" and _NEXT_HOP.fullmatch(key)):
            yield SearchKey(key, Kind.FULL, False)
            return
        asked = {""}
        for text, kind in self._every_key(key):
            if text not in asked:
                asked.add(text)
                yield SearchKey(text, kind, kind is not Kind.FULL)

    def rewritten(self, value: str, key: str, kind: int) -> str:
        """The answer to `key`, as it came, for which a key of this kind found `value`.

        As mail_addr_map(3): a value that begins with ``@`` gets the localpart in front; then, when
        the extension had been stripped to match, it is put into each address of the value. Other
        orders answer the value as found. Linear in the input.

        Raises `LookupTempFail` when the answer would be longer than any reply can be.
        """
        if not self.rewrites or key in SPECIAL_KEYS:
            return value
        stripped = kind in _WITHOUT_EXTENSION
        if not stripped and not value.startswith("@"):
            return value
        local, at, domain = unquote_address(key).rpartition("@")
        local = local if at else domain
        user = split_extension(local, self.recipient_delimiter)[0] if stripped else local
        if value.startswith("@"):
            value = prepend_localpart(user, value)
        return propagate(local[len(user) :], value) if self.propagates else value

    @property
    def propagates(self) -> bool:
        """Whether an unmatched extension goes into the result (propagate_unmatched_extensions)."""
        return self.name != "generic" if self.propagate_extension is None else self.propagate_extension

    @property
    def asks_parents(self) -> bool:
        """Whether ``example.org`` is asked for its subdomains, not ``.example.org``
        (parent_domain_matches_subdomains)."""
        return self.match_subdomains == "parent" or (
            self.match_subdomains is None and self.name != "transport"
        )

    def _every_key(self, key: str) -> Iterator[tuple[str, Kind]]:
        if self.name == "domain" or (self.bare_is_domain and "@" not in key):
            yield key, Kind.FULL
            if self.name == "access" and _is_network_address(key):
                yield from ((network, Kind.NETWORK) for network in _networks(key))
            else:
                yield from ((name, Kind.DOMAIN) for name in _parents(key, self.asks_parents))
            return
        address = unquote_address(key)
        local, at, domain = address.rpartition("@")
        local = local if at else domain
        user, extension = split_extension(local, self.recipient_delimiter)
        yield from self._forms(address, Kind.FULL)
        if extension is not None:
            yield from self._forms(user + address[len(local) :], Kind.WITHOUT_EXTENSION)
        if not at:
            return
        if not self.bare_is_domain:
            if self._is_local(domain):
                yield from self._forms(local, Kind.LOCALPART, bare=True)
                if extension is not None:
                    yield from self._forms(user, Kind.USER, bare=True)
            yield at + domain, Kind.AT_DOMAIN
            return
        if len(domain) <= MAX_HOST_NAME:
            yield domain, Kind.DOMAIN
        yield from ((name, Kind.DOMAIN) for name in _parents(domain, self.asks_parents))
        if self.name == "access":
            yield from self._forms(local + at, Kind.LOCALPART_AT)
            if extension is not None:
                yield from self._forms(user + at, Kind.USER_AT)

    def _forms(self, address: str, kind: Kind, bare: bool = False) -> Iterator[tuple[str, Kind]]:
        """An address quoted, then, where Postfix asks for that too, unquoted."""
        yield quote_address(address, bare), kind
        if not self.rewrites:
            yield address, kind

    def _is_local(self, domain: str) -> bool:
        """As resolve_local(3): one dot at the end does not count, literals are compared by value."""
        domain = fold(domain.removesuffix("."))
        return domain in self.local_domains or _literal(domain) in self._local_addresses


def _parents(name: str, parents: bool) -> Iterator[str]:
    """The ``parents``, else the ``.parents``, of a name, as Postfix steps through it; not the name itself.

    A step always leaves a character behind: the parents of ``.a.b`` are ``b`` alone. What is longer than a
    host name can be is left out, since its parents would be as many as it has dots.
    """
    at = 0
    while (at := name.find(".", at + 1)) >= 0:
        at += parents
        if len(name) - MAX_HOST_NAME <= at < len(name):
            yield name[at:]


def _networks(address: str) -> Iterator[str]:
    """A network address cut at its last ``:`` or ``.`` again and again, as check_addr_access() does it."""
    delimiter = ":" if ":" in address else "."
    while (at := address.rfind(delimiter)) > 0:
        address = address[:at]
        yield address


def _is_network_address(text: str) -> bool:
    """As valid_hostaddr(): a name that looks like one has no parents, since it is none."""
    if ":" in text:
        return _packed(socket.AF_INET6, text) is not None
    return _IPV4.fullmatch(text) is not None


def _literal(domain: str) -> bytes | None:
    """The network address of a folded address literal; None when the domain is none."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    text = domain[1:-1]
    if text.startswith("ipv6:"):
        return _packed(socket.AF_INET6, text[5:])
    return _packed(socket.AF_INET, text)


def _packed(family: socket.AddressFamily, text: str) -> bytes | None:
    try:
        return socket.inet_pton(family, text)
    except (OSError, ValueError):
        return None

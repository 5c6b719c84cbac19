"""Keys: folding, splitting, quoting, special keys. Pure functions on str.

Sources: Postfix's split_addr(3), quote_822_local(3), ADDRESS_CLASS_README and postconf(5),
``recipient_delimiter``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from tcpmapkit.query import Address

__all__ = [
    "SPECIAL_KEYS",
    "fold",
    "host_or_domain",
    "quote_localpart",
    "split_address",
    "split_extension",
    "splitter",
    "unquote_localpart",
]

#: What Postfix asks that is no address, name or network address: the wild card of transport(5), the
#: two spellings of the null sender, and the empty key.
SPECIAL_KEYS = frozenset({"*", "<>", '""', ""})

#: Localparts that Postfix never splits (split_addr.c).
_NEVER_SPLIT = frozenset({"postmaster", "mailer-daemon", "double-bounce"})

# An RFC 5322 dot-atom, 8-bit text included as Postfix allows it.
_DOT_ATOM = re.compile(r"[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+(?:\.[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+)*")


def fold(key: str) -> str:
    """The key as Postfix folds it: lower case, or case-folded when it is not ASCII."""
    return key.lower() if key.isascii() else key.casefold()


def unquote_localpart(local: str) -> str:
    """A localpart without RFC 5322 quotes and backslashes: ``"john doe"`` is ``john doe``."""
    if '"' not in local and "\\" not in local:
        return local
    text, characters = [], iter(local)
    for character in characters:
        if character == "\\":
            text.append(next(characters, ""))
        elif character != '"':
            text.append(character)
    return "".join(text)


def quote_localpart(local: str) -> str:
    """An unquoted localpart as RFC 5322 writes it: in quotes when it is not a dot-atom."""
    if _DOT_ATOM.fullmatch(local):
        return local
    return '"' + re.sub(r'(["\\\r])', r"\\\1", local) + '"'


def split_extension(local: str, delimiters: str) -> tuple[str, str | None]:
    """An unquoted localpart as user and extension, at the first of `delimiters`; as split_addr(3).

    The extension comes without its delimiter and is None when there is none, or when Postfix never
    splits such a localpart.
    """
    if not delimiters or local.lower() in _NEVER_SPLIT:
        return local, None
    if "-" in delimiters:
        lower = local.lower()
        if lower.startswith("owner-") or (lower.endswith("-request") and len(lower) > len("-request")):
            return local, None
    at = min((found for found in map(local.find, delimiters) if found >= 0), default=-1)
    if at <= 0:
        return local, None
    return local[:at], local[at + 1 :]


def split_address(key: str, delimiters: str = "+") -> Address:
    """The parts of a key, unquoted; the domain is what follows the last ``@``."""
    local, at, domain = key.rpartition("@")
    if not at:
        local = key
    local = unquote_localpart(local)
    user, extension = split_extension(local, delimiters)
    return Address(local, user, extension, domain if at else None)


def splitter(delimiters: str) -> Callable[[str], Address]:
    """`split_address` for one map's ``recipient_delimiter``."""
    return partial(split_address, delimiters=delimiters)


def host_or_domain(key: str, bare_is_domain: bool = False) -> str | None:
    """The domain that a step's ``domains`` is compared with, in lower case; None when there is none.

    `bare_is_domain`: a key without ``@`` is itself a domain (the search orders ``access``,
    ``transport`` and ``domain``), a leading dot dropped.
    """
    _, at, domain = key.rpartition("@")
    if at:
        return fold(domain)
    return fold(key.removeprefix(".")) if bare_is_domain else None

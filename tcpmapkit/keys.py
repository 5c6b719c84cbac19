"""Keys: folding, splitting, quoting, the forms of a domain, special keys. Pure functions on str.

Sources: Postfix's split_addr(3), quote_822_local(3), ADDRESS_CLASS_README and postconf(5),
``recipient_delimiter``; UTS #46 for the two forms of a domain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from functools import partial
from typing import Literal

from tcpmapkit.query import Address

__all__ = [
    "MAX_HOST_NAME",
    "SPECIAL_KEYS",
    "convert_domain",
    "covered",
    "fold",
    "host_or_domain",
    "quote_address",
    "quote_localpart",
    "split_address",
    "split_extension",
    "splitter",
    "unquote_address",
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


def _after_route(address: str) -> int:
    """Where the localpart begins: behind the colon of a source route, ``@a:joe@example.org``."""
    return address.find(":") + 1 if address.startswith("@") else 0


def quote_address(address: str, bare: bool = False) -> str:
    """An unquoted address in the quoted form that Postfix asks for; as quote_822_local(3).

    `bare`: all of it is localpart, whatever ``@`` there is in it.
    """
    start = _after_route(address)
    end = address.rfind("@", start)
    if bare or end < 0:
        end = len(address)
    return address[:start] + quote_localpart(address[start:end]) + address[end:]


def unquote_address(key: str) -> str:
    """The unquoted form of an address that came in either form.

    Postfix asks a table for the form that `quote_address` makes, then for the address unquoted, where
    quotes and backslashes are text: it sends ``"joe\\""@example.org``, then ``joe"@example.org``, and
    the second is not joe's. So a key is unquoted only when quoting it again gives the key.
    """
    if '"' not in key:
        return key
    start = _after_route(key)
    end = key.rfind("@", start)
    if end < 0:
        end = len(key)
    quoted = key[start:end]
    local = unquote_localpart(quoted)
    return key[:start] + local + key[end:] if quote_localpart(local) == quoted else key


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
    local, at, domain = unquote_address(key).rpartition("@")
    if not at:
        local = domain
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


def covered(key: str, domains: Set[str], bare_is_domain: bool = False) -> bool:
    """Whether a step with these ``domains``, in lower case, is asked this key; ``.example.org`` covers the
    subdomains."""
    domain = host_or_domain(key, bare_is_domain)
    if domain is None:
        return False
    # The partial key .example.org is example.org's, and stands for its subdomains.
    if domain in domains or (key.startswith(".") and f".{domain}" in domains):
        return True
    while (dot := domain.find(".", 1)) >= 0:
        domain = domain[dot:]
        if domain in domains:
            return True
    return False


# Every dot that UTS #46 takes for the one between two labels.
_DOT = re.compile("([.\u3002\uff0e\uff61])")

#: The longest host name, in bytes (RFC 1035; Postfix's VALID_HOSTNAME_LEN).
MAX_HOST_NAME = 255


def convert_domain(key: str, form: Literal["alabel", "ulabel"], bare_is_domain: bool = True) -> str:
    """The key with its domain in A-labels (``xn--...``) or U-labels (UTS #46, as Postfix does it).

    `key` is an address, a host name, ``.parent`` or ``@domain``. A special key, an address literal, a
    network address and a domain that has no such form are left as they are, and so is a key without
    ``@`` unless `bare_is_domain`. To be done before folding, which makes ``ss`` of a ``ß``.
    """
    local, at, domain = key.rpartition("@")
    if len(domain) > MAX_HOST_NAME or not (at or bare_is_domain):
        return key
    if domain.isascii() and (form == "alabel" or "xn--" not in domain.lower()):
        return key
    try:
        converted = "".join(map(_to_alabel if form == "alabel" else _to_ulabel, _DOT.split(domain)))
    except UnicodeError:
        return key
    return local + at + converted


def _to_alabel(label: str) -> str:
    if label.isascii():
        return label
    if _DOT.fullmatch(label):
        return "."
    import idna

    return idna.encode(label, uts46=True).decode()


def _to_ulabel(label: str) -> str:
    if label[:4].lower() != "xn--":
        return "." if _DOT.fullmatch(label) else label
    import idna

    return idna.decode(label)

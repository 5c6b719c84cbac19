"""The name that a query asks the DNS for, label by label: nothing in a key is an escape."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from tcpmapkit import ConfigError

__all__ = ["check_template", "name_for"]

#: Variables whose dots are text.
_LOCALPARTS: Final = frozenset({"local", "user", "extension"})

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_template(template: Any) -> None:
    """Raises `ConfigError` when no query could make a name of `template`."""
    labels = _Labels()
    for part in template.parts:
        labels.add(part if isinstance(part, str) else "x")
    try:
        encoded = labels.encoded()
    except UnicodeError:
        encoded = [b""]
    if not encoded or any(not 0 < len(label) < 64 for label in encoded):
        raise ConfigError("not a domain name", path=("query",))


def name_for(template: Any, query: Any, reverse: bool) -> list[bytes] | None:
    """The labels of the name for this query, the root's not among them; None when there is none.

    `template` is None for the default: the key's domain or, with `reverse`, the address's own name
    under in-addr.arpa or ip6.arpa. The labels are text that the DNS may still not take: too long,
    or empty.
    """
    labels = _Labels()
    addresses = 0
    default = ("key", query.key) if reverse else ("domain", query.domain)
    for variable, text in template.texts(query) if template is not None else (default,):
        if not text:
            return None
        if variable is None:
            labels.add(text)
            continue
        pointer = _pointer(text) if reverse else None
        if pointer is not None:
            addresses += 1
            labels.add(pointer if template is None else pointer.rsplit(".", 2)[0])
        elif text.startswith("["):
            return None
        else:
            labels.add(text, dots=variable not in _LOCALPARTS)
    if reverse and not addresses:
        return None
    try:
        return labels.encoded()
    except UnicodeError:
        return None


class _Labels:
    """A name being put together; a label is text, and whether any of it is a localpart's."""

    def __init__(self) -> None:
        self._labels: list[tuple[str, bool]] = [("", False)]

    def add(self, text: str, dots: bool = True) -> None:
        """Put `text` behind what is there; its dots begin labels, or are text."""
        first, *more = text.split(".") if dots else [text]
        before, local = self._labels[-1]
        self._labels[-1] = (before + first, local or not dots)
        self._labels += [(label, False) for label in more]

    def encoded(self) -> list[bytes]:
        """The labels as bytes, a final dot dropped. Raises `UnicodeError` for one that cannot be."""
        labels = self._labels[:-1] if self._labels[-1][0] == "" else self._labels
        return [_encode_label(text, local) for text, local in labels]


def _encode_label(text: str, local: bool) -> bytes:
    if _CONTROL.search(text):
        raise UnicodeError("a control character")
    if local or text.isascii():
        return text.encode()
    import idna

    label = idna.encode(text, uts46=True)
    if b"." in label:
        raise UnicodeError("a full stop that is not a dot")
    return label


def _pointer(text: str) -> str | None:
    """An address's name under in-addr.arpa or ip6.arpa; None when `text` is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    return address.reverse_pointer

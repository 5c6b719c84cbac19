"""Addresses and networks as cidr_table(5) writes them."""

from __future__ import annotations

import re
import socket

import attrs

__all__ = ["FAMILIES", "Addresses", "Interval", "parse_address", "parse_network", "parse_pattern"]

#: First and last address, both included.
Interval = tuple[int, int]

# As plain numbers: the hash of an enumeration's member takes longer than a lookup.
_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)

#: The families, and how many bits their addresses have.
FAMILIES: dict[int, int] = {_INET: 32, _INET6: 128}
_NEGATIONS = re.compile(r"[!\s]*", re.ASCII)


def parse_address(text: str) -> tuple[int, int]:
    """The family (AF_INET, AF_INET6) of an address and its number; as inet_pton(3), no names, no ``%eth0``.

    Raises `ValueError` when it is none.
    """
    family = _INET6 if ":" in text else _INET
    try:
        return family, int.from_bytes(socket.inet_pton(family, text))
    except OSError:
        raise ValueError(f"no address: {text!r}") from None


@attrs.frozen
class Addresses:
    """The addresses, all of one family, that a pattern stands for."""

    family: int
    intervals: tuple[Interval, ...]

    def negated(self) -> Addresses:
        """Every other address of the family."""
        gaps, begin = [], 0
        for first, last in self.intervals:
            if begin < first:
                gaps.append((begin, first - 1))
            begin = last + 1
        end = (1 << FAMILIES[self.family]) - 1
        return Addresses(self.family, (*gaps, (begin, end)) if begin <= end else tuple(gaps))


def parse_network(text: str) -> Addresses:
    """A network or address as cidr_table(5) writes it, ``[`` and ``]`` around the address allowed.

    Raises `ValueError` with the mistake.
    """
    if text.startswith("["):
        pattern, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"missing ']' character after \"{text}\"")
        if rest and not rest.startswith("/"):
            raise ValueError(f'garbage after "[{pattern}]"')
        if rest:
            slash, mask = "/", rest[1:]
        else:
            pattern, slash, mask = pattern.partition("/")
    else:
        pattern, slash, mask = text.partition("/")
    if not slash:
        try:
            family, number = parse_address(pattern)
        except ValueError:
            raise ValueError(f'bad address pattern: "{pattern}"') from None
        return Addresses(family, ((number, number),))
    network = f'"{pattern}/{mask}"'
    if not (mask.isascii() and mask.isdigit()):
        raise ValueError(f"bad mask value in {network}")
    bits = FAMILIES[_INET6 if ":" in pattern else _INET]
    # Postfix keeps the length in one byte (cidr_match.h): /264 is a /8 to it, so it is one here.
    length = min(int(mask.lstrip("0")[:20] or "0"), 2**63 - 1) & 0xFF
    if length > bits:
        raise ValueError(f"bad mask length in {network}")
    try:
        family, number = parse_address(pattern)
    except ValueError:
        raise ValueError(f"bad network value in {network}") from None
    hosts = (1 << (bits - length)) - 1
    if number & hosts:
        meant = socket.inet_ntop(family, (number & ~hosts).to_bytes(bits // 8))
        raise ValueError(
            f'non-null host address bits in {network}, perhaps you should use "{meant}/{length}" instead'
        )
    return Addresses(family, ((number, number + hosts),))


def parse_pattern(text: str) -> Addresses:
    """A network behind any number of ``!``, of which an odd one negates. Raises `ValueError`."""
    signs = _NEGATIONS.match(text).group()  # type: ignore[union-attr]  # it matches the empty text too
    if len(signs) == len(text):
        raise ValueError("no address pattern")
    network = parse_network(text[len(signs) :])
    return network.negated() if signs.count("!") % 2 else network

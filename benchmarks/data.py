"""What everybody is asked: keys, values, and the questions as they are on the wire."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote as quote_as_twisted

from tcpmapkit.protocols import socketmap, tcp_table
from tcpmapkit.protocols.netstrings import netstring
from tcpmapkit.query import Found

__all__ = [
    "ADDRESS",
    "KEYS",
    "address_questions",
    "domains",
    "mta_sts_questions",
    "rows",
    "socketmap_questions",
    "tcp_questions",
    "twisted_questions",
    "value",
    "write_questions",
]

KEYS = 1000
"""Different keys that are asked, in turn: every cache holds them all."""

ADDRESS = "192.0.2.1"
"""The address of every name."""

Question = tuple[bytes, bytes]


def value(key: str) -> str | None:
    """The answer to a key. This is also the source behind the cached maps, asked once for each key."""
    user, at, _ = key.partition("@")
    return f"{user}@mailbox-{len(user)}.example.net" if at else None


def rows(count: int = KEYS) -> list[tuple[str, str]]:
    """Keys and their values."""
    keys = [f"first.last{number}@example.org" for number in range(count)]
    return [(key, value(key) or "") for key in keys]


def domains(count: int = KEYS) -> list[str]:
    return [f"host{number}.example.org" for number in range(count)]


def tcp_questions() -> list[Question]:
    return [(tcp_table.encode_request(key), tcp_table.encode(Found(value))) for key, value in rows()]


def socketmap_questions(map: str) -> list[Question]:
    return [(socketmap.encode_request(map, key), socketmap.encode(Found(value))) for key, value in rows()]


def twisted_questions() -> list[Question]:
    """As `tcp_questions`; Twisted quotes more than needs it."""
    return [
        (tcp_table.encode_request(key), b"200 " + quote_as_twisted(value).encode() + b"\n")
        for key, value in rows()
    ]


def mta_sts_questions() -> list[Question]:
    return [
        (
            socketmap.encode_request("postfix", domain),
            netstring(f"OK secure match=mx.{domain} servername=hostname".encode()),
        )
        for domain in domains()
    ]


def address_questions() -> list[Question]:
    """The keys as in `tcp_questions`, each of them a name that has `ADDRESS`."""
    return [(request, tcp_table.encode(Found(ADDRESS))) for request, _ in tcp_questions()]


def write_questions(path: Path, questions: Iterable[Question]) -> Path:
    """Write them as load.c reads them."""
    path.write_bytes(b"".join(netstring(text) for question in questions for text in question))
    return path

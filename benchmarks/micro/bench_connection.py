"""One request through a connection, from the bytes received to the bytes written, and what is counted on
the way. What `./dev bench` measures over sockets is this and the sockets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit.connection import Connection
from tcpmapkit.listener_service import new_service
from tcpmapkit.site import open_site

_CONFIGURATION = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "ready"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "chain"

[[maps.ready.resolvers]]
type = "static"
entries = { "user@example.org" = "user@example.net" }

[maps.chain]
cache = false
resolvers = [
    { type = "static", entries = { "postmaster@example.org" = "root@example.net" } },
    { type = "static", entries = { "abuse@example.org" = "root@example.net" } },
    { type = "static", entries = { "user@example.org" = "user@example.net" } },
]
"""


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written = data


def _nothing(connection: Connection) -> None:
    pass


@pytest.mark.parametrize("listener", [0, 1], ids=["ready", "chain of three"])
@pytest.mark.parametrize(
    ("key", "reply"),
    [(b"user@example.org", b"200 user@example.net\n"), (b"nobody@example.org", b"500 not%20found\n")],
    ids=["found", "not found"],
)
def bench_request(benchmark: Any, tmp_path: Path, listener: int, key: bytes, reply: bytes) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(_CONFIGURATION)
    site = open_site(file)
    config = site.config.listeners[listener]
    connection = Connection(new_service(config, site.served_by(config), time.monotonic, _nothing, _nothing))
    transport = _Transport()
    connection.connection_made(transport)
    request = b"get %b\n" % key
    benchmark(connection.data_received, request)
    assert transport.written == reply

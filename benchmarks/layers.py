"""What each layer of a lookup costs by itself, in this process: a request through a connection, in pieces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from timeit import Timer
from typing import Any

import attrs

from benchmarks.data import rows
from tcpmapkit.connection import Connection
from tcpmapkit.listener_service import new_service
from tcpmapkit.protocols import socketmap, tcp_table
from tcpmapkit.query import Found
from tcpmapkit.site import open_site

__all__ = ["Layer", "measure_layers"]

_CONFIGURATION = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "ready"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "chain"

[maps.ready]
[[maps.ready.resolvers]]
type = "python"
callable = "benchmarks.sources:value"
inline = true

[maps.chain]
cache = false
resolvers = [
    { type = "static", entries = { "postmaster@example.org" = "root@example.net" } },
    { type = "static", entries = { "abuse@example.org" = "root@example.net" } },
    { type = "static", entries = { "%s" = "user@example.net" } },
]
"""

_SHORTEST = 0.01


@attrs.frozen
class Layer:
    """A layer, and the microseconds it takes, round by round."""

    name: str
    costs: tuple[float, ...]


class _Transport(asyncio.Transport):
    def write(self, data: Any) -> None:
        pass


def measure_layers(directory: Path, *, rounds: int) -> list[Layer]:
    """The layers, from the inmost to the whole but for the event loop and the sockets."""
    calls = _calls(directory)
    costs: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            timer = Timer(call)
            number = 100
            while (took := timer.timeit(number)) < _SHORTEST:
                number *= 4
            costs[name].append(took / number * 1e6)
    return [Layer(name, tuple(cost)) for name, cost in costs.items()]


def _calls(directory: Path) -> dict[str, Callable[[], object]]:
    key, value = rows()[500]
    file = directory / "layers.toml"
    file.write_text(_CONFIGURATION % key)
    site = open_site(file)
    requests = tcp_table.encode_request(key), socketmap.encode_request("ready", key)
    codecs = tcp_table.TcpTableCodec(), socketmap.SocketmapCodec()
    found = Found(value)
    ready, chain = site.maps.maps["ready"], site.maps.maps["chain"]
    ready.ask(ready.query(key), lambda answer: None)
    resolve: Callable[[Any], object] = chain.current.chain.resolve
    connections = []
    for listener in site.config.listeners:
        service = new_service(listener, site.served_by(listener), time.monotonic, _nothing, _nothing)
        connection = Connection(service)
        connection.connection_made(_Transport())
        connections.append(connection)
    return {
        "a request read, tcp_table": lambda: codecs[0].whole_request(requests[0]),
        "a request read, socketmap": lambda: codecs[1].whole_request(requests[1]),
        "a reply written, tcp_table": lambda: tcp_table.encode(found),
        "a reply written, socketmap": lambda: socketmap.encode(found),
        "a question made": lambda: chain.query(key),
        "that, and a chain of three steps": lambda: resolve(chain.query(key)),
        "that, and the answer as the map's": lambda: chain.ask(chain.query(key), _nothing),
        "a question made, and its answer from the cache": lambda: ready.ask(ready.query(key), _nothing),
        "a connection, a ready reply": lambda: connections[0].data_received(requests[0]),
        "a connection, a chain of three steps": lambda: connections[1].data_received(requests[0]),
    }


def _nothing(of: object) -> None:
    pass

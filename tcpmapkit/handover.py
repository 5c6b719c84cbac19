"""Connections that outlive the server: over a restart systemd keeps them (``FileDescriptorStoreMax=``).

Postfix keeps a tcp_table connection for as long as its process lives, and notices when it is closed. So one
with nothing under way is given to the manager when the server stops, and taken back by the next one; what
is asked meanwhile waits in the kernel. A stop that is no restart closes them: the manager does.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from tcpmapkit.inherited import STORED, inherited_sockets
from tcpmapkit.listener import allowed_networks, is_allowed

if TYPE_CHECKING:
    import socket

    from tcpmapkit.connection import Connection
    from tcpmapkit.listener import Listener
    from tcpmapkit.server import Server
    from tcpmapkit.systemd import Notifier

__all__ = ["hand_over", "leave", "store", "take_back", "take_stored"]

#: As many as one message takes: 253 by unix(7).
_AT_ONCE: Final = 128

_PROTOCOL: Final = "tcp_table"

_log = logging.getLogger(__name__)


async def hand_over(connections: Iterable[Connection], notifier: Notifier) -> int:
    """Give the manager the connections that have nothing in flight and no part of a request; how many."""
    if not notifier.is_heard:
        return 0
    return await store(leave(connections), notifier)


def leave(connections: Iterable[Connection]) -> list[int]:
    """Descriptors of the connections that have nothing in flight and no part of a request, which are served
    here no more."""
    return [
        descriptor
        for one in connections
        if one.service.protocol == _PROTOCOL and (descriptor := _leave(one)) is not None
    ]


async def store(given: Sequence[int], notifier: Notifier) -> int:
    """Give the manager these descriptors, and close them here; how many it has."""
    left = 0
    try:
        for batch in _batched(given, _AT_ONCE):
            notifier.store(STORED, batch)
            # A socket holds few messages; and one of a process that has ended is nobody's.
            if not await notifier.settled():
                _log.warning("systemd does not read what it is told: connections are closed")
                break
            left += len(batch)
    finally:
        for descriptor in given:
            os.close(descriptor)
    if left:
        _log.info("%d connections are left with systemd for the next start", left)
    return left


def _batched(descriptors: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """Parts of a list, of so many at most."""
    return (descriptors[at : at + most] for at in range(0, len(descriptors), most))


def _leave(connection: Connection) -> int | None:
    """A descriptor of a connection that is served here no more; None when something is under way."""
    transport = connection.transport
    if not connection.clear or transport.is_closing() or transport.get_write_buffer_size():
        return None
    transport.pause_reading()
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    transport.abort()  # closes our own descriptor: the peer sees nothing of it
    return descriptor


def take_back(server: Server, notifier: Notifier) -> int:
    """Serve what the server before has left with the manager; how many."""
    taken = take_stored(server.listeners, notifier)
    for listener, connection in taken:
        server.serve_connection(listener, connection)
    return len(taken)


def take_stored(listeners: Sequence[Listener], notifier: Notifier) -> list[tuple[int, socket.socket]]:
    """What the server before has left with the manager, as far as there is still a listener for it, whose
    number it comes with, and its peer may connect; the others are closed."""
    taken = []
    stored = inherited_sockets().take_stored()
    for connection in stored:
        listener = _listener_of(connection, listeners)
        if listener is None:
            connection.close()
        else:
            connection.setblocking(False)
            taken.append((listener, connection))
    if stored:
        notifier.forget(STORED)  # else one that we close would stay open
        _log.info("%d of %d connections are taken over from before", len(taken), len(stored))
    return taken


def _listener_of(connection: socket.socket, listeners: Sequence[Listener]) -> int | None:
    """The number of the listener that would have accepted a connection."""
    try:
        ours, peer = connection.getsockname(), connection.getpeername()
    except OSError:  # it has gone
        return None
    for number, listener in enumerate(listeners):
        if getattr(listener.config, "protocol", None) == _PROTOCOL and _is_at(ours, listener):
            return number if is_allowed(peer[0], allowed_networks(listener.config)) else None
    return None


def _is_at(address: tuple[str, int], listener: Listener) -> bool:
    return any(
        port == address[1] and (host == address[0] or ipaddress.ip_address(host).is_unspecified)
        for host, port in listener.addresses
    )

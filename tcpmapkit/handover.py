"""Connections that outlive the server: over a restart systemd keeps them (``FileDescriptorStoreMax=``).

Postfix keeps a tcp_table connection for as long as its process lives, and notices when it is closed. So one
with nothing under way is given to the manager when the server stops, and taken back by the next one; what
is asked meanwhile waits in the kernel. A stop that is no restart closes them: the manager does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from tcpmapkit.inherited import STORED, inherited_sockets
from tcpmapkit.listener import allowed_networks, is_allowed

if TYPE_CHECKING:
    import socket

    from tcpmapkit.connection import Connection
    from tcpmapkit.listener import Address, Listener
    from tcpmapkit.server import Server
    from tcpmapkit.systemd import Notifier

__all__ = ["MOST_LEFT", "hand_over", "leave", "store", "take_back", "take_stored"]

#: As many as one message takes (253 by unix(7)), and second descriptors as there are at a time: there is no
#: room for one of each connection.
_AT_ONCE: Final = 128

MOST_LEFT: Final = 2000
"""Connections that are left for the next start. systemd compares each one with all before it, and passes the
names of all in one variable of 128 KiB; that many Postfix processes are a large site."""

_PROTOCOL: Final = "tcp_table"

_log = logging.getLogger(__name__)


async def hand_over(connections: Iterable[Connection], notifier: Notifier) -> int:
    """Give the manager the connections that have nothing in flight and no part of a request; how many."""
    left = 0
    waiting = iter(connections)
    while notifier.is_heard and left + _AT_ONCE <= MOST_LEFT and (batch := await leave(waiting)):
        stored = await _store(batch, notifier)
        left += stored
        if not stored:
            break
    return _told(left)


async def leave(connections: Iterator[Connection]) -> list[int]:
    """Descriptors of the next connections that have nothing in flight and no part of a request, which are
    served here no more: 128 at most, to be closed before others are left. None of them: there are no more."""
    left, failed = [], 0
    for one in connections:
        if _is_clear(one):
            try:
                left.append(_leave(one))
            except OSError:
                failed += 1
            if len(left) == _AT_ONCE:
                break
    if failed:  # they are closed as ever
        _log.warning("no descriptors left to leave %d connections for the next start", failed)
    await asyncio.sleep(0)  # closes our own descriptors of those
    return left


async def store(given: Sequence[int], notifier: Notifier) -> int:
    """Give the manager these descriptors, and close them here; how many it has."""
    left = 0
    for at in range(0, len(given), _AT_ONCE):
        stored = await _store(given[at : at + _AT_ONCE], notifier)
        left += stored
        if not stored:
            _close(given[at + _AT_ONCE :])
            break
    return _told(left)


async def _store(batch: Sequence[int], notifier: Notifier) -> int:
    """As `store`, all or none of what one message takes."""
    try:
        # A socket holds few messages; and one of a process that has ended is nobody's.
        if notifier.store(STORED, batch) and await notifier.settled():
            return len(batch)
        _log.warning("systemd does not read what it is told: connections are closed")
        return 0
    finally:
        _close(batch)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _told(left: int) -> int:
    if left:
        _log.info("%d connections are left with systemd for the next start", left)
    return left


def _is_clear(connection: Connection) -> bool:
    """Whether it can be left: nothing is under way."""
    transport = connection.transport
    return (
        connection.service.protocol == _PROTOCOL
        and connection.clear
        and not transport.is_closing()
        and not transport.get_write_buffer_size()
    )


def _leave(connection: Connection) -> int:
    """A descriptor of a connection that is served here no more. Raises `OSError` when there is none."""
    transport = connection.transport
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    transport.pause_reading()
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
    able = [
        number
        for number, listener in enumerate(listeners)
        if getattr(listener.config, "protocol", None) == _PROTOCOL
    ]
    for is_at in (_is_of, _takes_all):  # the system too prefers the one at the very address
        for number in able:
            if any(is_at(address, ours) for address in listeners[number].addresses):
                networks = allowed_networks(listeners[number].config)
                return number if is_allowed(peer[0], networks) else None
    return None


def _is_of(address: Address, ours: Address) -> bool:
    return address[:2] == ours[:2]


def _takes_all(address: Address, ours: Address) -> bool:
    """Whether it is the port's address for all of the family: ``[::]`` is ours for IPv6 alone."""
    host, port = address[:2]
    of_family = ip_address(host).version == ip_address(ours[0].partition("%")[0]).version
    return port == ours[1] and of_family and ip_address(host).is_unspecified

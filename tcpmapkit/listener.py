"""A listener: its sockets, and who may connect to them. When it accepts is `tcpmapkit.accepting`'s to say."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import select
import socket
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from tcpmapkit.errors import ConfigError
from tcpmapkit.inherited import inherited_sockets
from tcpmapkit.process import StartError
from tcpmapkit.unix_socket import UnixSocket

if TYPE_CHECKING:
    from tcpmapkit.config import AdminConfig, ListenerConfig
    from tcpmapkit.config.scalars import Network

__all__ = [
    "BACKLOG",
    "Address",
    "Listener",
    "allowed_networks",
    "as_bound",
    "is_allowed",
    "is_waiting",
    "those_there",
]

Address = tuple[Any, ...]
"""Host and port, or the path of a unix socket alone."""

BACKLOG: Final = 1024
"""Connections that wait to be accepted: after a restart every Postfix process comes at once."""

_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

#: Seconds without traffic before the first keepalive probe, between probes, and how many go unanswered:
#: Postfix closes no tcp_table connection itself, so this is how one to a dead host ends.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 120), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))

_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_NOT_HERE: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

_log = logging.getLogger(__name__)


def is_allowed(host: str, networks: Iterable[Network]) -> bool:
    """Whether a peer's address, as text, is in one of the networks; ``::ffff:192.0.2.1`` is 192.0.2.1."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def is_waiting(listening: socket.socket) -> bool:
    """Whether a connection waits to be accepted; a loop may tell so once too often."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


class Listener:
    """The sockets of one endpoint. To one without `allow` only this host may connect, to a unix socket
    whom its mode, owner and group let. `refused` is called with the address of whoever may not."""

    def __init__(
        self, config: ListenerConfig | AdminConfig, refused: Callable[[str], None] = lambda host: None
    ) -> None:
        self._config = config
        self.refused = refused
        self._allow = allowed_networks(config)
        self._sockets: list[socket.socket] = []
        self._unix: UnixSocket | None = None
        self._handed = config  # whose mode, owner and group the unix socket has
        #: What is not as its configuration says, and needs a restart.
        self.unapplied: str | None = None

    @property
    def config(self) -> ListenerConfig | AdminConfig:
        """What it was made of."""
        return self._config

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets that are bound, in the order of `addresses`."""
        return list(self._sockets)

    def take(self, config: ListenerConfig) -> None:
        """Go by another configuration of the same endpoint: who may connect from now on. Where mode, owner
        and group of a unix socket cannot be changed any more, `unapplied` says so."""
        self._config = config
        self._allow = allowed_networks(config)
        if self._unix is None or not self._unix.is_there:
            return
        try:
            self._unix.hand_over(self._handed, config)
        except (StartError, ConfigError) as error:
            self.unapplied = f"mode, owner and group stay as they were: {error}: restart for them to be taken"
        else:
            self._handed, self.unapplied = config, None

    def bound_anew(self, config: ListenerConfig) -> Listener | None:
        """Another for the same endpoint, bound, if the file of this one's unix socket is gone or another's;
        None where it is there, or where it cannot be bound again, which `unapplied` says then."""
        if self._unix is None or self._unix.is_there:
            return None
        anew = Listener(config, self.refused)
        try:
            anew.bind()
        except (StartError, ConfigError) as error:
            self.unapplied = f"the socket's file is gone: {error}: restart for it to be bound again"
            return None
        return anew

    @property
    def addresses(self) -> list[Address]:
        """Where it listens: host and port of each socket, or the path of the one that a unix endpoint has."""
        if self._unix is not None:
            return [(str(self._unix.path),)]
        names = [listening.getsockname() for listening in self._sockets]
        return [(name,) if isinstance(name, str) else name[:2] for name in names]

    def bind(self) -> None:
        """Bind and listen: from now on peers wait instead of being refused. Where systemd passes sockets
        for this listener, those are taken as they are: their unit says who owns them.

        Raises `StartError`, and `ConfigError` when a unix socket's owner or group does not exist.
        """
        if self._inherit():
            return
        if self._config.endpoint.kind == "unix":
            self._unix = UnixSocket.bind(self._config, BACKLOG)
            self._sockets.append(self._unix.listening)
        else:
            self._bind_inet()

    def _inherit(self) -> bool:
        endpoint, name = self._config.endpoint, getattr(self._config, "name", None)
        self._sockets = inherited_sockets().take(name, endpoint)
        if any((one.family == socket.AF_UNIX) != (endpoint.kind == "unix") for one in self._sockets):
            self.close()
            raise StartError(
                f"the socket {name} that systemd passes is not {endpoint.kind}, as {endpoint} is"
            )
        return bool(self._sockets)

    def _bind_inet(self) -> None:
        endpoint = self._config.endpoint
        missing: OSError | None = None
        try:
            found = socket.getaddrinfo(
                endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(found):
                try:
                    self._listen(family, address)
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error  # as ::1 of "localhost" on a host without IPv6
            if missing is not None and not self._sockets:
                raise missing
        except OSError as error:
            self.close()
            raise StartError(f"cannot listen on {endpoint}: {error.strerror or error}") from None

    def _listen(self, family: int, address: tuple[object, ...]) -> None:
        with contextlib.ExitStack() as undo:
            listening = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # As Postfix does: [::] is IPv6 only, so that 0.0.0.0 can have a listener of its own.
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            self._sockets.append(listening)
            undo.pop_all()

    def watch(self, acceptable: Callable[[Listener, socket.socket], None]) -> None:
        """Have `acceptable` called, from the loop, whenever connections wait to be accepted."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.add_reader(listening.fileno(), acceptable, self, listening)

    def unwatch(self) -> None:
        """Leave the connections that come waiting."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening.fileno())

    def close(self) -> None:
        """Listen no more, and remove the file of a unix socket."""
        if self._unix is not None:
            self._unix.close()
            self._unix = None
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()

    def accept(self, listening: socket.socket) -> socket.socket | None:
        """The next connection from where it is allowed; None when there is none for now.

        Raises `OSError` when the system has no descriptor or memory for one.
        """
        while True:
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    raise
                continue  # that one has gone again (accept(2) tells of its errors here)
            if listening.family == socket.AF_UNIX:
                connection.setblocking(False)
                return connection
            if is_allowed(address[0], self._allow):
                _prepare(connection)
                return connection
            connection.close()
            self.refused(address[0])


def allowed_networks(config: ListenerConfig | AdminConfig) -> tuple[Network, ...]:
    """Who may connect: loopback alone, unless `allow` says otherwise."""
    return tuple(getattr(config, "allow", ())) or _LOOPBACK


def as_bound(config: ListenerConfig, addresses: Sequence[Address]) -> ListenerConfig:
    """A listener with the port that it has: port 0 lets the system choose one."""
    if config.endpoint.kind == "unix":
        return config
    return attrs.evolve(config, endpoint=attrs.evolve(config.endpoint, port=addresses[0][1]))


def those_there(wanted: Iterable[ListenerConfig], listeners: Iterable[Listener]) -> list[Listener | None]:
    """For each that is wanted the listener that there is at its endpoint, None where it is to be bound.
    Several may have left the port to the system: each is one's, in their order."""
    there: defaultdict[str, deque[Listener]] = defaultdict(deque)
    for one in listeners:
        there[str(one.config.endpoint)].append(one)
    return [same.popleft() if (same := there[str(one.endpoint)]) else None for one in wanted]


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    with contextlib.suppress(OSError):  # the peer may have gone already
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, number in _KEEPALIVE:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), number)

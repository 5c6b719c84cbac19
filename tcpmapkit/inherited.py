"""Listening sockets that systemd makes and passes to the service (sd_listen_fds(3)).

They are there before the server is, and while it is started again: whoever connects waits. A listener
takes those that have its name (``FileDescriptorName=``), else those that listen at its endpoint.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator, MutableMapping
from functools import cache
from typing import TYPE_CHECKING, Final

import attrs

from tcpmapkit.process import StartError

if TYPE_CHECKING:
    from tcpmapkit.config.scalars import Endpoint

__all__ = ["STORED", "InheritedSocket", "InheritedSockets", "inherited_sockets"]

STORED: Final = "conn"
"""The name of the connections that a server before has left with the manager. Short: the names of all are
passed in one variable, which Linux limits to 131072 bytes."""

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
_FIRST: Final = 3

_log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class InheritedSocket:
    """A listening socket that the manager made: `name` is its FileDescriptorName."""

    name: str
    listening: socket.socket

    def is_at(self, endpoint: Endpoint) -> bool:
        """Whether it listens at the endpoint's own address."""
        address = self.listening.getsockname()
        if endpoint.kind == "unix" or self.listening.family == socket.AF_UNIX:
            if endpoint.kind != "unix" or self.listening.family != socket.AF_UNIX:
                return False
            return os.path.realpath(os.fsdecode(address)) == os.path.realpath(endpoint.path)
        try:
            found = socket.getaddrinfo(
                endpoint.host, endpoint.port, self.listening.family, socket.SOCK_STREAM
            )
        except OSError:
            return False
        return endpoint.port != 0 and address[:2] in {at[:2] for *_, at in found}

    @property
    def place(self) -> str:
        """Its address, as an endpoint is written."""
        address = self.listening.getsockname()
        if self.listening.family == socket.AF_UNIX:
            return f"unix:{os.fsdecode(address)}"
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"inet:{host}:{address[1]}"


class InheritedSockets:
    """The sockets that the manager passed to this process. They stay open as long as it lives: what is
    taken is a duplicate, so that a listener may go with one reload and come back with the next."""

    def __init__(self, sockets: Iterable[InheritedSocket] = (), stored: Iterable[socket.socket] = ()) -> None:
        self._sockets = tuple(sockets)
        self._stored = list(stored)
        #: Of each that was taken the duplicate by the listener that has it, or had it: then it is closed.
        self._taken: dict[InheritedSocket, dict[str, socket.socket]] = {}

    @classmethod
    def from_environment(
        cls, environment: MutableMapping[str, str] = os.environ, first: int = _FIRST
    ) -> InheritedSockets:
        """Those that ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES`` name, which are taken out of the
        environment; no program that we run inherits one. What does not listen is warned about."""
        pid = environment.pop("LISTEN_PID", "")
        number, names = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_FDNAMES", "").split(":")
        if pid != str(os.getpid()) or not number.isdecimal():
            return cls()
        names += [""] * (int(number) - len(names))
        stored: list[socket.socket] = []
        return cls(list(_listening(range(first, first + int(number)), names, stored)), stored)

    def __len__(self) -> int:
        return len(self._sockets)

    def take(self, name: str | None, endpoint: Endpoint) -> list[socket.socket]:
        """Duplicates of the sockets with this name, else of those at the endpoint's address.

        Raises `StartError` for one that another listener has: which of the two answers would be chance.
        """
        found = [one for one in self._sockets if name is not None and one.name == name]
        found = found or [one for one in self._sockets if one.is_at(endpoint)]
        holder = name or str(endpoint)
        for one in found:
            holders = self._taken.get(one, {})
            others = [other for other, taken in holders.items() if other != holder and taken.fileno() != -1]
            if others:
                raise StartError(f"{holder} and {others[0]} take the same socket of systemd's, {one.place}")
        duplicates = []
        for one in found:
            duplicates.append(one.listening.dup())
            self._taken.setdefault(one, {})[holder] = duplicates[-1]
        return duplicates

    def take_stored(self) -> list[socket.socket]:
        """The connections that were left with the manager, once."""
        stored, self._stored = self._stored, []
        return stored

    def close(self) -> None:
        """Give them up: a worker listens on none."""
        for one in self._sockets:
            one.listening.close()
        self._sockets = ()
        for connection in self.take_stored():
            connection.close()

    @property
    def left(self) -> list[InheritedSocket]:
        """Those that nobody has taken."""
        return [one for one in self._sockets if one not in self._taken]

    def warn_of_left(self) -> None:
        """Log those that nobody has taken: who connects there waits in vain."""
        for one in self.left:
            _log.warning(
                "the socket %s that systemd passes (FileDescriptorName %s) is no listener's:"
                " none has this endpoint or name",
                one.place,
                one.name,
            )


def _listening(
    descriptors: Iterable[int], names: Iterable[str], stored: list[socket.socket]
) -> Iterator[InheritedSocket]:
    """Those that listen; what has the name of the stored connections is put there."""
    for descriptor, name in zip(descriptors, names, strict=False):
        try:
            os.set_inheritable(descriptor, False)
            passed = socket.socket(fileno=descriptor)
        except OSError as error:
            _log.warning("descriptor %s of systemd's is no socket: %s", name or descriptor, error.strerror)
            continue
        if passed.type != socket.SOCK_STREAM:
            _log.warning("socket %s of systemd's is not of ListenStream", name or descriptor)
            passed.detach()
        elif passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            passed.setblocking(False)
            yield InheritedSocket(name, passed)
        elif name == STORED:
            stored.append(passed)
        else:
            _log.warning("socket %s of systemd's does not listen: Accept=yes?", name or descriptor)
            passed.detach()


@cache
def inherited_sockets() -> InheritedSockets:
    """The sockets of this process, which are passed to it once."""
    return InheritedSockets.from_environment()

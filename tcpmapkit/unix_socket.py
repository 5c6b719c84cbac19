"""A listening unix-domain socket: who may connect, what may be at its path before, and what is left after.

Two servers that start at the same moment must not take each other's socket for a stale one: between
bind(2) and listen(2) a socket refuses connections just as one whose server has died. So the path is
examined, cleared, bound and listened on while its directory is locked. flock(2) ends with the process
and leaves nothing behind, as a lock file would. (Renaming a listening socket into place does not do
alone: two servers that found the same stale file would each replace what is there then.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from tcpmapkit.process import StartError, find_owner

if TYPE_CHECKING:
    from tcpmapkit.config import AdminConfig, ListenerConfig

__all__ = ["UnixSocket"]

#: Seconds to wait for another server that is about to listen in the same directory; it needs microseconds.
_PATIENCE: Final = 2.0

#: Seconds between two tries to lock.
_PAUSE: Final = 0.02

#: What connect(2) says where a socket is alive: EAGAIN when its backlog is full, EPROTOTYPE when it is of
#: another type.
_ALIVE: Final = (0, errno.EAGAIN, errno.EPROTOTYPE)

_NOT_ALLOWED: Final = (errno.EACCES, errno.EPERM)

_log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class UnixSocket:
    """A socket that listens, and the file that leads to it: its path, device and inode, and the owner and
    the group that it had when it was made."""

    listening: socket.socket
    path: Path
    device: int
    inode: int
    uid: int
    gid: int

    @classmethod
    def bind(cls, config: ListenerConfig | AdminConfig, backlog: int) -> UnixSocket:
        """Listen at the endpoint's path, with its mode and owner set before anybody can connect.

        Raises `ConfigError` when there is no such owner or group, `StartError` when the path cannot be had.
        """
        uid, gid = find_owner(config.owner, config.group, config.path)
        path = Path(config.endpoint.path)
        try:
            with _locked(path.parent):
                _clear(path)
                return cls._listen(path, config, uid, gid, backlog)
        except (OSError, _Refused) as error:
            reason = _reason(error, path.parent) if isinstance(error, OSError) else str(error)
            raise StartError(f"cannot listen on {config.endpoint}: {reason}") from None

    @classmethod
    def _listen(
        cls, path: Path, config: ListenerConfig | AdminConfig, uid: int, gid: int, backlog: int
    ) -> UnixSocket:
        with contextlib.ExitStack() as undo:
            listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listening.setblocking(False)
            listening.bind(str(path))
            status = path.lstat()
            bound = cls(listening, path, status.st_dev, status.st_ino, status.st_uid, status.st_gid)
            undo.callback(bound.remove)
            _hand_over(path, config, uid, gid)
            listening.listen(backlog)  # before this nobody is let in, whatever the umask made of the mode
            undo.pop_all()
            return bound

    @property
    def is_there(self) -> bool:
        """Whether the file still leads to this socket."""
        try:
            status = self.path.lstat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (self.device, self.inode)

    def hand_over(self, before: ListenerConfig | AdminConfig, config: ListenerConfig | AdminConfig) -> None:
        """Change the mode, the owner and the group where `config` says something else than `before`.

        Raises as `bind`; nothing has changed then.
        """
        uid, gid = find_owner(config.owner, config.group, config.path)
        uid = -1 if config.owner == before.owner else self.uid if config.owner is None else uid
        gid = -1 if config.group == before.group else self.gid if config.group is None else gid
        if (config.mode, uid, gid) == (before.mode, -1, -1):
            return
        try:
            mode = stat.S_IMODE(self.path.lstat().st_mode)
            try:
                _hand_over(self.path, config, uid, gid)
            except BaseException:
                with contextlib.suppress(OSError, NotImplementedError):
                    self.path.chmod(mode, follow_symlinks=False)
                raise
        except (OSError, _Refused) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            raise StartError(reason) from None

    def close(self) -> None:
        """Listen no more and remove the file, unless it is another's by now.

        The file goes first: while the socket listens nobody takes the file for a stale one, and its
        inode number is not used again.
        """
        self.remove()
        self.listening.close()

    def remove(self) -> None:
        """Remove the file if it still leads to this socket. What goes wrong is logged: after privileges
        were dropped the directory may not be ours to write, and the next start removes what is left."""
        try:
            if self.is_there:
                self.path.unlink()
        except OSError as error:
            _log.debug("unix:%s: the socket is not removed: %s", self.path, error.strerror)


class _Refused(Exception):
    """Why there can be no socket, for the operator."""


def _reason(error: OSError, directory: Path) -> str:
    if error.errno == errno.ENOENT:
        return f"there is no directory {directory} (create it, writable for the user who starts the server)"
    if error.errno == errno.EACCES:
        return (
            f"directory {directory}: {error.strerror}"
            " (the user who starts the server must be able to read, write and search it)"
        )
    return error.strerror or str(error)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory. Raises `_Refused` when it is not to be had."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise _Refused(f"another process keeps the directory {directory} locked") from None
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(held)


def _clear(path: Path) -> None:
    """Remove a stale socket. Raises `_Refused` when anything else is at the path."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise _Refused("what is there is not a socket, and is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        number = client.connect_ex(str(path))
    if number in _ALIVE:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if number in _NOT_ALLOWED:
        raise _Refused(
            f"{os.strerror(errno.EADDRINUSE)}, or left behind by a server of another user"
            " (remove the file if nobody listens there)"
        )
    if number == errno.ECONNREFUSED:
        try:
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _Refused(f"the stale socket there cannot be removed: {error.strerror}") from None
        _log.info("unix:%s: a stale socket was removed", path)
    elif number != errno.ENOENT:
        raise OSError(number, os.strerror(number))


def _hand_over(path: Path, config: ListenerConfig | AdminConfig, uid: int, gid: int) -> None:
    """Set the mode and the owner. Links are not followed: who may write to the directory could put one
    in the file's place, and have root give away what it leads to."""
    try:
        path.chmod(config.mode, follow_symlinks=False)
    except NotImplementedError:  # it is a link now, or there is neither fchmodat2(2) nor /proc
        raise _Refused("the mode cannot be set without following a link") from None
    if (uid, gid) == (-1, -1):
        # A directory with the setgid bit may have given its group.
        for_postfix = hasattr(config, "protocol")
        if for_postfix and path.lstat().st_uid == path.lstat().st_gid == 0 and not config.mode & 0o006:
            _log.warning("%s: root's own, so Postfix cannot connect: set group, or owner", config.endpoint)
        return
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
    except PermissionError:
        given = (("owner", config.owner), ("group", config.group))
        to = " and ".join(f"{what} {name}" for what, name in given if name is not None)
        raise _Refused(
            f"cannot be given to {to} (without root there is only a group that the user is a member of)"
        ) from None

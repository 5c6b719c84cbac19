"""A file that a resolver is made of: read while nobody changes it, and known again later.

Whether a file is still the one that was read is told by what it is, not by its name: an editor, a package
manager and Kubernetes put another file, or a link to one, in its place.
"""

from __future__ import annotations

import gc
import io
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import attrs

from tcpmapkit import ConfigError

__all__ = ["Identity", "beside_lookups", "identity_of", "is_same", "known", "read_settled", "settled"]

_T = TypeVar("_T")

_BUFFER: Final = 1 << 20

_READING_TRIES: Final = 10
_READING_PAUSE: Final = 0.1  # seconds


@attrs.frozen
class Identity:
    """What changes when a file is replaced or written to, or its permissions are changed.

    `changed_ns` (ctime) also tells of a file written to whose old date was set again.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def identity_of(path: Path) -> Identity:
    """What the file is now. Raises `ConfigError` when it is not there or no regular file."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", path=("path",)) from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file", path=("path",))
    return Identity.of(status)


def known(path: Path) -> Identity | None:
    """What the file is now, to be asked before it is read by somebody else; None when it is not there."""
    try:
        return Identity.of(path.stat())
    except OSError:
        return None


def is_same(path: Path, identity: Identity | None) -> bool:
    """Whether the file there is this one. One stat(2); a file that is gone is not, None never is."""
    return identity is not None and known(path) == identity


class _Reader(io.BufferedReader):
    """Reads a mebibyte at a time, whatever it is asked for. A thread gives the interpreter up for each read,
    and has it again before who waits for it has woken up: were they many, nobody else would be served."""

    def read1(self, size: int = -1) -> bytes:
        return super().read1(max(size, _BUFFER))


def settled(path: Path, read: Callable[[BinaryIO], _T]) -> tuple[_T, Identity]:
    """What `read` makes of a file that nobody changes meanwhile, and what the file was; blocks, so call
    it off the event loop.

    A file that changes while it is read is read again, a few times. Raises `ConfigError` when it cannot
    be read, is no regular file or does not come to rest, and what `read` raises.
    """
    try:
        for _ in range(_READING_TRIES):
            with _Reader(io.FileIO(path, opener=_open_at_once), _BUFFER) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise ConfigError(f"{path} is not a regular file", path=("path",))
                mistake = None
                try:
                    result = read(file)
                except ConfigError as error:
                    mistake = error  # of a file half written, it may be
                after = os.fstat(file.fileno())
            if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                if mistake is not None:
                    raise mistake
                return result, Identity.of(after)
            time.sleep(_READING_PAUSE)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", path=("path",)) from None
    raise ConfigError(
        f"{path} keeps changing while it is read", path=("path",), hint="write a new file and rename it"
    )


def read_settled(path: Path) -> tuple[bytes, Identity]:
    """The content of a file, as `settled`, for about a second in all."""
    return settled(path, lambda file: file.read())


#: Seconds for which a thread that loads keeps the interpreter when others want it; 5 ms are usual.
_TURN: Final = 0.001

#: Objects that the garbage collector would walk through in some milliseconds. What garbage there is by then
#: is kept with them; tables of plain text make few, and freeze nothing.
_MANY: Final = 20_000

_loading = 0
_loading_lock = threading.Lock()
_before = (True, 0.005)


@contextmanager
def beside_lookups() -> Iterator[None]:
    """Make a table in a thread while others are answered.

    No garbage is looked for, of which a table has none: each look would walk through all that is made so far,
    and nobody is answered meanwhile (a quarter of a second for 100000 rules). And the thread gives way soon.
    """
    global _loading, _before
    with _loading_lock:
        if not _loading:
            _before = gc.isenabled(), sys.getswitchinterval()
            gc.disable()
            sys.setswitchinterval(_TURN)
        _loading += 1
    try:
        yield
    finally:
        with _loading_lock:
            _loading -= 1
            if not _loading:
                collected, turn = _before
                sys.setswitchinterval(turn)
                if gc.get_count()[0] > _MANY:
                    gc.freeze()  # what stays for long: the next look would hold everybody up
                if collected:
                    gc.enable()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO that nobody writes to would be waited for

"""Making an index: what the child process does.

Rows are sorted and written in their order, which fills the pages of LMDB and needs no memory. What is
half done has another name, and takes its own only when it is whole and on the disk. The file of that other
name is also the lock: of two who build the same index, the second waits and finds it done.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from tcpmapkit import ConfigError
from tcpmapkit.resolvers.source_file import Identity, identity_of, settled
from tcpmapkit.resolvers.table.index import ABOUT, LONGEST, about, long_key, open_index, source_of
from tcpmapkit.resolvers.table.place import index_prefix, is_trusted
from tcpmapkit.resolvers.table.reading import Reading, Warnings, duplicate, why_refused
from tcpmapkit.resolvers.table.sorting import Sorter

__all__ = ["write_index"]

#: Rows of one transaction: its pages are kept in memory until its end.
_BATCH: Final = 50_000

#: Rows between two looks at how far things are.
_STEP: Final = 10_000

#: Seconds for which the file must have been left alone: a change within one tick of the file system's
#: clock could not be told from what was read.
_AT_REST: Final = 0.05

#: Bytes that are left of a disk that is full.
_FULL: Final = 1 << 20

#: What the reading of the rows takes of the whole time.
_READING: Final = 0.8

Told = Callable[[str, Any], None]


def write_index(reading: Reading, directory: Path, name: str, warnings: Warnings, tell: Told) -> Identity:
    """Make the index `directory`/`name` and say what file it was made of; one that is current is left.

    `tell` is called with ``"waiting"``, and with ``"progress"`` and a number from 0 to 1. Raises
    `ConfigError` for the table, `OSError` and `lmdb.Error` for the index.
    """
    import lmdb

    # Each user has a name of its own for what is half done: what root left could not even be opened.
    path, unfinished = directory / name, directory / f"{name}.{os.geteuid()}.new"
    lock = _lock(unfinished, tell)
    try:
        identity = identity_of(reading.path)
        there = open_index(path, reading, identity) if is_trusted(path, reading.path) else None
        if there is not None:
            there.close()
            unfinished.unlink()
            return identity
        age = time.time() - identity.mtime_ns / 1e9
        if 0 <= age < _AT_REST:
            time.sleep(_AT_REST)
        try:
            identity = _write(reading, unfinished, warnings, tell)
            _protect(unfinished, reading.path)
            os.fsync(lock)
            unfinished.replace(path)
        except BaseException as error:
            # LMDB calls it an input/output error.
            full = isinstance(error, lmdb.Error) and shutil.disk_usage(directory).free < _FULL
            unfinished.unlink(missing_ok=True)
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            raise
        _sync_directory(directory)
        _tidy(directory, reading.path)
        return identity
    finally:
        os.close(lock)


def _lock(unfinished: Path, tell: Told) -> int:
    """An empty file, open and locked. Whoever had it before may have renamed or removed it."""
    while True:
        file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell("waiting", True)
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, unfinished):
                status = os.fstat(file)
                if (status.st_uid, status.st_nlink) == (os.geteuid(), 1) and stat.S_ISREG(status.st_mode):
                    os.ftruncate(file, 0)
                    return file
                # Another's, who may have it open, or another name of a file that is not to be written to.
                unfinished.unlink()
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _write(reading: Reading, path: Path, warnings: Warnings, tell: Told) -> Identity:
    with ExitStack() as sorters:

        def sort(file: BinaryIO) -> Sorter:
            sorters.close()  # the file has changed meanwhile
            warnings.clear()
            size = os.fstat(file.fileno()).st_size
            sorter = sorters.enter_context(closing(Sorter(path.parent, expected=size)))
            _sort_rows(reading, file, sorter, warnings, tell)
            return sorter

        sorter, identity = settled(reading.path, sort)
        records = _shown(sorter.sorted(), sorter, tell)
        _fill(path, reading, identity, records, sorter.size + 32 * sorter.count, warnings)
        return identity


def _sort_rows(reading: Reading, file: BinaryIO, sorter: Sorter, warn: Warnings, tell: Told) -> None:
    """Hand every row to the sorter: the key as in the index, NUL, the number of the row, the value, LF;
    so that rows come by key, then in the order of the file."""
    size = os.fstat(file.fileno()).st_size or 1
    add = sorter.add
    with closing(reading.rows(file, warn)) as rows:
        for at, (line, key, value) in enumerate(rows):
            raw = key.encode()
            if len(raw) > LONGEST:
                add(b"%b\0%010x%b\0%b\n" % (long_key(raw), line, raw, value.encode()))
            else:
                add(b"%b\0%010x%b\n" % (raw, line, value.encode()))
            if not at % _STEP:
                tell("progress", _READING * min(_position(file) / size, 1))


def _position(file: BinaryIO) -> int:
    return os.lseek(file.fileno(), 0, os.SEEK_CUR)


def _shown(records: Iterator[bytes], sorter: Sorter, tell: Told) -> Iterator[bytes]:
    done = 0
    while batch := list(islice(records, _STEP)):
        yield from batch
        done += len(batch)
        tell("progress", _READING + (1 - _READING) * done / sorter.count)


def _fill(
    path: Path,
    reading: Reading,
    identity: Identity,
    records: Iterator[bytes],
    size: int,
    warnings: Warnings,
) -> None:
    """Write the sorted records, at most `size` bytes of them, into the empty file at `path`."""
    import lmdb

    # A page that holds one large value is filled to the half at worst, and pages come on top that say
    # where others are. The size is of addresses, not of the file.
    environment = lmdb.open(
        str(path),
        map_size=4 * size + (64 << 20),
        subdir=False,
        create=False,
        lock=False,
        sync=False,
        metasync=False,
        map_async=True,
    )
    with environment:
        pairs = (_joined if reading.joined else _first)(records, warnings)
        rows = 0
        while batch := list(islice(pairs, _BATCH)):
            _put(environment, batch)
            rows += len(batch)
        _put(environment, [(ABOUT, about(reading, identity, warnings, rows))])
        environment.sync(True)


def _put(environment: Any, pairs: list[tuple[bytes, bytes]]) -> None:
    with environment.begin(write=True) as transaction:
        _, added = transaction.cursor().putmulti(pairs, append=True)
    assert added == len(pairs), "keys out of order"


def _first(records: Iterable[bytes], warn: Warnings) -> Iterator[tuple[bytes, bytes]]:
    """Of records with the same key the first."""
    previous = b""
    for record in records:
        key, _, rest = record.partition(b"\0")
        if key == previous:
            warn(int(rest[:10], 16), duplicate(_text(key, rest)))
            continue
        previous = key
        value = rest[10:-1]
        if b"\r" in value:
            refused = why_refused(_text(key, rest), value.rpartition(b"\0")[2].decode())
            if refused is not None:
                warn(int(rest[:10], 16), refused)
        yield key, value


def _text(key: bytes, rest: bytes) -> str:
    """The key as it is in the table."""
    return (key if key[0] != 0xFF else rest[10:].partition(b"\0")[0]).decode()


def _joined(records: Iterable[bytes], warn: Warnings) -> Iterator[tuple[bytes, bytes]]:
    """The values of records with the same key, equal ones once."""
    key, first, values = b"", b"", []
    for record in records:
        next_key, _, rest = record.partition(b"\0")
        if next_key == key:
            values.append(rest[10:-1])
            continue
        if key:
            yield key, _together(key, first, values) if values else first
        key, first, values = next_key, rest[10:-1], []
    if key:
        yield key, _together(key, first, values) if values else first


def _together(key: bytes, first: bytes, others: list[bytes]) -> bytes:
    if key[0] == 0xFF:  # its values repeat the whole key
        others = [one.partition(b"\0")[2] for one in others]
        whole, _, value = first.partition(b"\0")
        return whole + b"\0" + b"\n".join(dict.fromkeys([value, *others]))
    return b"\n".join(dict.fromkeys([first, *others]))


def _protect(path: Path, source: Path) -> None:
    """Let those read the index who can read the table, and nobody else; let its owner write."""
    status = source.stat()
    mode = (status.st_mode & 0o444) | 0o600
    try:
        os.chown(path, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
    except PermissionError:
        mode &= ~0o040 if not mode & 0o004 else ~0  # our group is not the table's
    path.chmod(mode)


def _tidy(directory: Path, source: Path) -> None:
    """Remove the indexes that other options made of the table as it was before, and what others of this user
    left half done. What cannot be removed stays."""
    prefix = index_prefix(source)
    with suppress(OSError, ConfigError):
        now = identity_of(source)
        for path in [one for one in directory.iterdir() if one.name.startswith(prefix)]:
            with suppress(OSError):
                if path.name.endswith(f".{os.geteuid()}.new"):
                    _remove_unlocked(path)
                elif path.name.endswith(".index") and is_trusted(path, source):
                    made_of = source_of(path)
                    if made_of is not None and made_of[0] == str(source.absolute()) and made_of[1] != now:
                        path.unlink()


def _remove_unlocked(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, path):
            path.unlink()
    finally:
        os.close(file)


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError:  # not every file system can: then the index is built again after a crash
        pass
    finally:
        os.close(file)

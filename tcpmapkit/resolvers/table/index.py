"""An index on disk, mapped into memory: an LMDB file that is written once and then only read.

What LMDB holds by key, in its own order of bytes:

* a key in UTF-8, at most `LONGEST` bytes -> its values in UTF-8, joined by LF;
* 0xFF and the SHA-256 digest, in hexadecimal, of a longer key -> the key, NUL, its values likewise;
* `ABOUT` -> what the index was made of, as JSON. It is written last: a file without it is not an index.

No UTF-8 text begins with 0xFE or 0xFF. A file in place is never written to: whoever has mapped it would be
killed by SIGBUS if it became shorter. It is replaced by another file (rename), and lives on for those who
have it open.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import attrs

from tcpmapkit import LookupTempFail
from tcpmapkit.resolvers.source_file import Identity
from tcpmapkit.resolvers.table.reading import Entry, Reading, Warnings

__all__ = ["ABOUT", "LONGEST", "Index", "about", "long_key", "open_index", "source_of"]

#: Changes whenever an older index would be misread.
FORMAT: Final = 3

#: Bytes of a key that LMDB takes.
LONGEST: Final = 511

ABOUT: Final = b"\xff\xff"


def long_key(key: bytes) -> bytes:
    """What stands for a key that LMDB does not take."""
    return b"\xff" + hashlib.sha256(key).hexdigest().encode()


def about(reading: Reading, identity: Identity, warnings: Warnings, rows: int) -> bytes:
    """The entry `ABOUT` of an index of this file."""
    made_of = {
        "format": FORMAT,
        "path": str(reading.path.absolute()),
        "meaning": reading.meaning,
        "source": attrs.astuple(identity),
        "rows": rows,
        "warnings": warnings.kept(),
        "warned": warnings.count,
    }
    return json.dumps(made_of).encode()


@attrs.define(eq=False)
class _Opened:
    """An LMDB environment: one for each file in a process, since LMDB refuses a second one."""

    environment: Any
    file: tuple[int, int]
    size: int
    users: int = 0

    def is_cut_off(self) -> bool:
        """Whether the end is missing, as of a copy that did not end: it must not be touched."""
        pages: int = self.environment.info()["last_pgno"] + 1
        return self.size < pages * int(self.environment.stat()["psize"])


_lock = threading.Lock()
_opened: dict[tuple[int, int], _Opened] = {}


@attrs.define(eq=False)
class Index:
    """An open index: `size` in bytes, `rows` the number of its keys, `identity` the file that it was made
    of, `warnings` what the rows of that warn of. Opening and closing block."""

    path: Path
    size: int
    rows: int
    identity: Identity
    warnings: Warnings
    _opened: _Opened
    _transaction: Any
    _get: Any
    _error: type[Exception]

    def load(self, identities: Iterable[Identity], reading: Reading) -> bool:
        """Read what the index is made of; whether it is what is wanted. Raises anything for one that is
        damaged."""
        if self._opened.is_cut_off():
            return False
        made_of = json.loads(self._get(ABOUT, b"null"))
        if made_of is None or made_of["format"] != FORMAT or tuple(made_of["meaning"]) != reading.meaning:
            return False
        self.rows = made_of["rows"]
        self.identity = Identity(*made_of["source"])
        self.warnings = Warnings([(line, text) for line, text in made_of["warnings"]], made_of["warned"])
        return self.identity in identities

    def get(self, key: str) -> Entry | None:
        """The value or values of a folded key. Raises `LookupTempFail` when the index is damaged."""
        try:
            raw = key.encode()
            found = self._get(raw) if 0 < len(raw) <= LONGEST else self._get_long(raw)
            if found is None:
                return None
            text: str = found.decode()
        except UnicodeEncodeError:
            return None
        except (self._error, UnicodeDecodeError) as error:
            raise LookupTempFail(f"{self.path.name}: {error}") from None
        return text if "\n" not in text else tuple(text.split("\n"))

    def _get_long(self, raw: bytes) -> bytes | None:
        found: bytes | None = self._get(long_key(raw)) if raw else None
        if found is None:
            return None
        key, _, values = found.partition(b"\0")
        return values if key == raw else None

    def close(self) -> None:
        """Unmap the file when nobody else of this process uses it."""
        self._transaction.abort()
        with _lock:
            self._opened.users -= 1
            if not self._opened.users:
                del _opened[self._opened.file]
                self._opened.environment.close()


def source_of(path: Path) -> tuple[str, Identity] | None:
    """The table that the index in this file was made of, and what that was then; None when the file is no
    index, or of another version. Raises `ImportError`, `OSError`."""
    import lmdb

    with _lock:
        opened = _open(lmdb, path)
        if opened is None or opened.users:
            return None
        try:
            with opened.environment.begin() as transaction:
                made_of = None if opened.is_cut_off() else json.loads(transaction.get(ABOUT, b"null"))
            return None if made_of is None else (made_of["path"], Identity(*made_of["source"]))
        except (lmdb.Error, ValueError, KeyError, TypeError):
            return None
        finally:
            del _opened[opened.file]
            opened.environment.close()


def open_index(path: Path, reading: Reading, *identities: Identity) -> Index | None:
    """The index in this file, if it is one of `reading`'s meaning and made of one of these `identities`.

    Raises `ImportError` without py-lmdb, `OSError` when the file is there and cannot be read.
    """
    import lmdb

    with _lock:
        opened = _open(lmdb, path)
        if opened is None:
            return None
        opened.users += 1
    transaction = opened.environment.begin()
    found = Index(
        *(path, opened.size, 0, Identity(0, 0, 0, 0, 0), Warnings()),
        *(opened, transaction, transaction.get, lmdb.Error),
    )
    try:
        if found.load(identities, reading):
            return found
    except (lmdb.Error, ValueError, KeyError, TypeError):
        pass  # damaged, or of another version: the next one is built in its place
    found.close()
    return None


def _open(lmdb: Any, path: Path) -> _Opened | None:
    """The environment of the file that is there now; None when there is none. The lock is held."""
    while True:
        try:
            before = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(before.st_mode) or not os.access(path, os.R_OK):
            return None
        file = before.st_dev, before.st_ino
        if file in _opened:
            return _opened[file]
        try:
            environment = lmdb.open(
                str(path), subdir=False, readonly=True, create=False, lock=False, max_spare_txns=0
            )
        except lmdb.Error:
            return None
        try:
            now = path.stat()
        except FileNotFoundError:
            now = None
        if now is not None and (now.st_dev, now.st_ino) == file:
            return _opened.setdefault(file, _Opened(environment, file, now.st_size))
        environment.close()  # replaced between the two: which one it is nobody knows

"""Where the index of a table is, and whether it can be trusted."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Final

from tcpmapkit.resolvers.source_file import identity_of
from tcpmapkit.resolvers.table.index import Index, open_index
from tcpmapkit.resolvers.table.reading import Reading

__all__ = ["find_index", "index_directories", "index_name", "index_prefix", "is_trusted"]

#: Where systemd makes the directory of ``CacheDirectory=tcpmapkit``.
_SYSTEM_CACHE: Final = "/var/cache/tcpmapkit"


def index_directories(source: Path, wanted: Path | None) -> tuple[Path, ...]:
    """Where the index of a file may be, the best place first: the directory `wanted`; else the cache
    directory of the service or of the system, if there is one, and the one that the file is in."""
    if wanted is not None:
        return (wanted.absolute(),)
    caches = [Path(name) for name in os.environ.get("CACHE_DIRECTORY", _SYSTEM_CACHE).split(":") if name]
    return *(cache for cache in caches[:1] if cache.is_dir()), source.absolute().parent


def index_name(reading: Reading) -> str:
    """The name of the file, one for each meaning of each table: several maps may read one file."""
    source = reading.path.absolute()
    meant = json.dumps([str(source), *reading.meaning], ensure_ascii=True)
    return f"{index_prefix(source)}{hashlib.sha256(meant.encode()).hexdigest()[:12]}.index"


def index_prefix(source: Path) -> str:
    """What the names of all indexes of a table begin with, and of tables with the same name elsewhere."""
    return f".{source.name[:200]}."


def find_index(reading: Reading, directories: tuple[Path, ...]) -> Index | None:
    """The current index of the table, if there is one.

    Raises `ConfigError` when the table is not there.
    """
    identity = identity_of(reading.path)
    name = index_name(reading)
    for directory in directories:
        path = directory / name
        try:
            if is_trusted(path, reading.path):
                found = open_index(path, reading, identity)
                if found is not None:
                    return found
        except (ImportError, OSError):
            continue  # no current index: building one says why
    return None


def is_trusted(path: Path, source: Path) -> bool:
    """Whether there is an index and nobody but root, us and whoever owns the table itself can have written
    it. Raises `OSError`."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    owners = {0, os.geteuid(), source.stat().st_uid}
    return status.st_uid in owners and not status.st_mode & 0o022

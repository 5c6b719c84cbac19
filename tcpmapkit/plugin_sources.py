"""Where plugins come from: installed packages, and the files of a drop-in directory."""

from __future__ import annotations

import os
import stat
import sys
from errno import ENOTDIR
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import attrs

from tcpmapkit.errors import ConfigError

__all__ = ["Origin", "drop_in_files", "entry_origin", "import_file", "own_version"]


@attrs.frozen
class Origin:
    """A plugin's name, and whose it is: distribution, version, module or file."""

    name: str
    distribution: str
    version: str
    source: str


def entry_origin(entry: EntryPoint) -> Origin:
    """Of an installed package's entry point."""
    distribution = entry.dist
    if distribution is None:
        return Origin(entry.name, entry.name, "", entry.value)
    return Origin(entry.name, distribution.name, distribution.version, entry.value)


def own_version() -> str:
    """The version of tcpmapkit, "" when it runs without being installed."""
    try:
        return version("tcpmapkit")
    except PackageNotFoundError:
        return ""


def drop_in_files(directory: Path) -> list[Path]:
    """The ``.py`` files of the directory. Raises `ConfigError` when others can write to it or to one."""
    try:
        _refuse_writable_by_others(directory)
        if not directory.is_dir():
            raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR))
        files = sorted(directory.glob("*.py"))
        for file in files:
            _refuse_writable_by_others(file)
    except OSError as error:
        raise ConfigError(
            f"cannot read {directory}: {error.strerror}", path=("plugins", "directory")
        ) from None
    return files


def _refuse_writable_by_others(path: Path) -> None:
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        who = "belongs to another user"
    elif status.st_mode & stat.S_IWOTH:
        who = "can be written to by everybody"
    elif status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        who = "can be written to by another group"
    else:
        return
    raise ConfigError(
        f"{path} {who}, so its code is not loaded", path=("plugins", "directory"), hint="chmod go-w, chown"
    )


def import_file(file: Path) -> object:
    """The file as a module; raises whatever its code raises."""
    spec = spec_from_file_location(f"tcpmapkit_drop_in_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where the annotations of its classes are looked up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module

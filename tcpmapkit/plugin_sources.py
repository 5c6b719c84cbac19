"""Where plugins come from: installed packages, and the files of a drop-in directory."""

from __future__ import annotations

import importlib
import os
import re
import stat
import sys
from collections.abc import Callable
from errno import ENOTDIR
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from tcpmapkit.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Origin", "drop_in_files", "import_file", "installed", "own_version"]


@attrs.frozen
class Origin:
    """A plugin's name, and whose it is: distribution, version, module or file."""

    name: str
    distribution: str
    version: str
    source: str


def installed(group: str) -> list[tuple[Origin, Callable[[], object]]]:
    """The entry points of installed packages in this group: whose each is, and what imports it."""
    found = _read_entries(group)
    if found is None:
        from importlib.metadata import entry_points

        found = [(_origin(entry), entry.load) for entry in entry_points(group=group)]
    return sorted(found, key=lambda one: (one[0].name, one[0].source))


def _origin(entry: EntryPoint) -> Origin:
    distribution = entry.dist
    if distribution is None:
        return Origin(entry.name, entry.name, "", entry.value)
    return Origin(entry.name, distribution.name, distribution.version, entry.value)


_ENTRY: Final = re.compile(r"([\w.]+)\s*(?::\s*([\w.]+)\s*)?(?:\[.*\]\s*)?")


def _read_entries(group: str) -> list[tuple[Origin, Callable[[], object]]] | None:
    """What `importlib.metadata` finds, in a tenth of its time: to import it, and to let it read what
    every installed package has, is a quarter of all that ``query`` does. None where packages may be
    found otherwise than in directories."""
    if any(hasattr(finder, "find_distributions") for finder in sys.meta_path if finder is not PathFinder):
        return None
    entries: list[tuple[Origin, Callable[[], object]]] = []
    seen = set()
    for place in sys.path:
        if place.endswith(".egg") or _is_file(Path(place)):
            return None
        for directory in _directories(Path(place)):
            name, _, version = directory.stem.partition("-")
            if (folded := re.sub(r"[-_.]+", "-", name).lower()) in seen:
                continue  # the first one is the one that is imported
            seen.add(folded)
            for entry, value in _section(directory / "entry_points.txt", group):
                about = _about(directory)
                origin = Origin(entry, about.get("name", name), about.get("version", version), value)
                entries.append((origin, partial(_import_entry, value)))
    return entries


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # what we may not look at the import system passes over too
        return False


def _directories(place: Path) -> list[Path]:
    """The directories about what is installed in this one of ``sys.path``."""
    try:
        with os.scandir(place) as found:
            return [Path(one) for one in found if one.name.endswith((".dist-info", ".egg-info"))]
    except OSError:
        return []


def _section(file: Path, group: str) -> list[tuple[str, str]]:
    """What stands in a section of a list of entry points, names and values; nothing if there is none."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if f"[{group}]" not in text:
        return []
    entries, within = [], False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            within = line == f"[{group}]"
        elif within and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            entries.append((name.strip(), value.strip()))
    return entries


def _about(directory: Path) -> dict[str, str]:
    """The fields of a package's metadata, by their names in lower case."""
    fields: dict[str, str] = {}
    for name in ("METADATA", "PKG-INFO"):
        try:
            text = (directory / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.partition("\n\n")[0].splitlines():
            field, _, value = line.partition(":")
            fields.setdefault(field.lower(), value.strip())
    return fields


def _import_entry(value: str) -> object:
    """The object that an entry point names; raises whatever its code raises."""
    match = _ENTRY.fullmatch(value)
    if match is None:
        raise ImportError(f"{value!r} does not name a module")
    named: object = importlib.import_module(match[1])
    for attribute in (match[2] or "").split("."):
        named = getattr(named, attribute) if attribute else named
    return named


def own_version() -> str:
    """The version of tcpmapkit, "" when it runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version

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

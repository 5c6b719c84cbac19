"""Where a file can change: the directories on the way to it, and what it is at a moment. Blocks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["State", "directories_of", "is_told_of", "network_devices", "state_of"]

#: What a file is: device, inode, size, the times of change in ns; or why that cannot be told.
State = tuple[int, ...]

#: Symbolic links that the system follows in one name (path_resolution(7)).
_MOST_LINKS: Final = 40

#: Types of file systems that others can change without our system being told, as /proc/self/mountinfo
#: names them.
_NETWORK: Final = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "gfs", "gfs2", "glusterfs", "gpfs"),
        *("lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "vboxsf"),
        "virtiofs",
    )
)


def state_of(file: Path) -> State:
    """What the file is now."""
    try:
        status = file.stat()
    except OSError as error:
        return (error.errno or errno.EIO,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def directories_of(files: Iterable[Path]) -> dict[str, frozenset[str]]:
    """The directories in which a change can make another file of one of these, and the names in each that
    matter: that of the file itself and those of all symbolic links on the way to it.

    Where something is missing on the way, it ends with the directory that it is missing from.
    """
    found: dict[str, set[str]] = {}
    for file in files:
        for directory, name in _steps(file):
            found.setdefault(directory, set()).add(name)
    return {directory: frozenset(names) for directory, names in found.items()}


def _steps(file: Path) -> list[tuple[str, str]]:
    steps: list[tuple[str, str]] = []
    ahead = list(reversed(file.absolute().parts[1:]))
    here = Path("/")
    links = 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = here.parent
            continue
        there = here / name
        try:
            target = there.readlink()
        except OSError as error:
            if error.errno != errno.EINVAL or not ahead:  # it is missing, or it is the file
                return [*steps, (str(here), name)]
            here = there
            continue
        steps.append((str(here), name))
        links += 1
        if links > _MOST_LINKS:
            break
        if target.is_absolute():
            here = Path("/")
        ahead.extend(reversed(target.parts[target.is_absolute() :]))
    return steps


def network_devices(mounts: Path = Path("/proc/self/mountinfo")) -> frozenset[int]:
    """The devices (st_dev) of file systems on the network; none where the system does not tell."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    devices = set()
    for line in lines:
        fields, _, types = line.partition(" - ")
        kind = types.split(" ", 1)[0]
        if kind in _NETWORK or kind.startswith("fuse."):
            major, _, minor = fields.split(" ", 3)[2].partition(":")
            devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


def is_told_of(directory: str, network: frozenset[int]) -> bool:
    """Whether the system tells us of every change in a directory: it is there, we may read it, and it is
    not on the network."""
    try:
        return os.access(directory, os.R_OK) and Path(directory).stat().st_dev not in network
    except OSError:
        return False

"""What the process may do: how many files it can hold open, and as whom it runs."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import resource
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from tcpmapkit.errors import ConfigError

if TYPE_CHECKING:
    from tcpmapkit.config import Config

__all__ = [
    "OTHER_FILES",
    "StartError",
    "drop_privileges",
    "find_identity",
    "find_owner",
    "identity_mistakes",
    "limit_connections",
]

OTHER_FILES: Final = 1536
"""Descriptors kept for what is no connection of Postfix's: tables, logs, listeners, and the sockets to the
sources, of which the HTTP client alone opens up to 1000."""

FEWEST_OTHER_FILES: Final = 256
"""What is left of them where the limit is so low that they would take more than half of it."""

#: The highest 32-bit number means "leave it as it is" to the system, and is nobody's.
_NOBODYS: Final = 2**32 - 1

_Path = tuple[str | int, ...]

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The server cannot start here and now; one line for the operator, exit status 1."""


def limit_connections(wanted: int, *, written: bool) -> int:
    """How many connections the limit on open files allows, after the soft limit was raised as far as needed.

    `wanted` is `max_connections`. When the hard limit is too low: `StartError` if the operator has
    `written` the number, else what fits, with a warning.
    """
    needed = wanted + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft, needed):
        return wanted
    attainable = needed if _enough(hard, needed) else hard
    if attainable != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (attainable, hard))
        except (OSError, ValueError) as error:
            # Some systems have a lower limit of their own than the one they tell.
            _log.warning("the limit on open files stays at %d: %s", soft, error)
            attainable = soft
    fits = attainable - max(min(OTHER_FILES, attainable // 2), FEWEST_OTHER_FILES)
    if fits >= wanted:
        return wanted
    if written or fits < 1:
        raise StartError(
            f"max_connections = {wanted} needs {needed} open files, and the limit is {attainable}"
            " (raise LimitNOFILE or ulimit -n, or lower max_connections)"
        )
    _log.warning(
        "the limit on open files is %d: at most %d connections instead of %d", attainable, fits, wanted
    )
    return fits


def _enough(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed


def drop_privileges(user: str | None, group: str | None) -> None:
    """Become `user` (a name or a number) with its groups, or with `group` alone when that is given too.

    Raises `ConfigError` when there is no such user or group, `StartError` when this process may not
    become it. Root without a `user` is warned about.
    """
    uid, gid, groups = find_identity(user, group)
    if uid is None and os.geteuid() == 0:
        _log.warning("running as root: set user in [server]")
    try:
        if gid is not None and (gid, set(groups)) != (os.getegid(), set(os.getgroups())):
            if os.geteuid() == 0:
                os.setgroups(groups)
            if gid != os.getegid():
                os.setgid(gid)
        if uid is not None and uid != os.geteuid():
            os.setuid(uid)
    except PermissionError:
        names = " and ".join(
            f"{what} {name}" for what, name in (("user", user), ("group", group)) if name is not None
        )
        raise StartError(f"cannot become {names}: not started as root") from None


def find_identity(user: str | None, group: str | None) -> tuple[int | None, int | None, list[int]]:
    """The user, the group, and the supplementary groups to have.

    Raises `ConfigError` when there is no such user or group.
    """
    gid = _group_id(group, ("server", "group")) if group is not None else None
    if user is None:
        return None, gid, [] if gid is None else [gid]
    uid = _user_id(user, ("server", "user"))
    try:
        entry = pwd.getpwuid(uid) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if gid is None:
            raise ConfigError(
                f"user {user} has no entry, so a group is needed", path=("server", "user")
            ) from None
        return uid, gid, [gid]
    if gid is not None:
        return uid, gid, [gid]
    return uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)


def find_owner(owner: str | None, group: str | None, path: _Path = ()) -> tuple[int, int]:
    """The numbers of a file's owner and group (names or numbers), -1 for none, as chown(2) takes them.

    `path` is that of the table whose options they are. Raises `ConfigError` for those that do not exist.
    """
    numbers, errors = [], []
    for option, name, find in (("owner", owner, _user_id), ("group", group, _group_id)):
        try:
            numbers.append(-1 if name is None else find(name, (*path, option)))
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ConfigError.several(errors)
    return numbers[0], numbers[1]


def identity_mistakes(config: Config) -> list[ConfigError]:
    """The users and groups of a configuration that do not exist on this machine."""
    server = config.server
    finders: list[Callable[[], object]] = [partial(find_identity, server.user, server.group)]
    owned = [*config.listeners, *([config.admin] if config.admin is not None else ())]
    finders += [partial(find_owner, one.owner, one.group, one.path) for one in owned]
    errors = []
    for find in finders:
        try:
            find()
        except ConfigError as error:
            errors.append(error)
    return errors


def _user_id(user: str, path: _Path) -> int:
    try:
        return _number(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        raise ConfigError(f"there is no user {user!r}", path=path) from None


def _group_id(group: str, path: _Path) -> int:
    try:
        return _number(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ConfigError(f"there is no group {group!r}", path=path) from None


def _number(text: str) -> int:
    number = int(text)
    if number >= _NOBODYS:
        raise ValueError(text)
    return number

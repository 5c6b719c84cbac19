"""What only a start takes, so that a reload can say that it has not been taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tcpmapkit.errors import ConfigError
from tcpmapkit.plugin_sources import drop_in_files

if TYPE_CHECKING:
    from tcpmapkit.config import Config

__all__ = ["AtStart"]

#: The options, by their sections.
_OPTIONS: Final = {"server": ("workers", "user", "group", "loop"), "log": ("to", "format")}

_TEXT: Final = "this is read at the start only: restart for it to be taken"


class AtStart:
    """What a process was started with."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._plugin_files = _identities(config.plugins.directory)

    def needs_a_restart(self, now: Config) -> list[ConfigError]:
        """What of another configuration is not taken, and whether a plugin's file has changed."""
        before = self._config
        warnings = [
            ConfigError(_TEXT, path=(section, name))
            for section, names in _OPTIONS.items()
            for name in names
            if getattr(getattr(before, section), name) != getattr(getattr(now, section), name)
        ]
        if before.admin != now.admin:
            warnings.append(ConfigError(_TEXT, path=("admin",)))
        if before.plugins != now.plugins:
            warnings.append(ConfigError(_TEXT, path=("plugins",)))
        elif _identities(now.plugins.directory) != self._plugin_files:
            text = "a plugin has changed, and is read at the start only: restart for it to be taken"
            warnings.append(ConfigError(text, path=("plugins", "directory")))
        return warnings


def _identities(directory: Path | None) -> dict[Path, tuple[int, int, int]]:
    """The plugins in the drop-in directory, and what tells whether one has been changed."""
    if directory is None:
        return {}
    found = {}
    try:
        for file in drop_in_files(directory):
            status = file.stat()
            found[file] = (status.st_ino, status.st_mtime_ns, status.st_size)
    except (OSError, ConfigError):
        return {}
    return found

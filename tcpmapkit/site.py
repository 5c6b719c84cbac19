"""A configuration file with all that it stands for: plugins loaded, maps built, nothing started yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tcpmapkit.build import build_maps
from tcpmapkit.built_maps import BuiltMaps
from tcpmapkit.config import locate, plugins_config, read_document, structure
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.plugins import Plugins, load_plugins

if TYPE_CHECKING:
    from tcpmapkit.config import Config, Document

__all__ = ["DEFAULT_FILES", "Site", "find_configuration", "open_site"]

#: Where the configuration is looked for when none is named.
DEFAULT_FILES = (Path("tcpmapkit.toml"), Path("/etc/tcpmapkit/tcpmapkit.toml"))


@attrs.frozen
class Site:
    """What a configuration file says (`config`), and the objects made of it."""

    document: Document
    config: Config
    plugins: Plugins
    maps: BuiltMaps

    async def start(self, only: Iterable[str] | None = None) -> None:
        """Load the tables of all maps, or of those named and what they refer to.

        Raises `ConfigErrors` with places.
        """
        try:
            await self.maps.start(only)
        except ConfigErrors as errors:
            raise located(self.document, errors.errors) from None


def find_configuration(file: Path | None) -> Path:
    """The file named, or the first of `DEFAULT_FILES` that exists. Raises `ConfigError`."""
    if file is not None:
        return file
    for default in DEFAULT_FILES:
        if default.exists():
            return default
    places = " or ".join(str(default) for default in DEFAULT_FILES)
    raise ConfigError(f"there is no {places}", hint="name the file with -c FILE")


def open_site(
    file: Path,
    *,
    offline: bool = False,
    clock: Callable[[], float] = time.monotonic,
    mistakes: list[ConfigError] | None = None,
) -> Site:
    """Read a configuration, load its plugins, build its maps.

    `offline`: what would have to wait fails at once instead. Raises `ConfigErrors` with every
    mistake, each with its place; or adds them to `mistakes` when that is given, for a caller who
    wants to know too what else is wrong with the rest, which is not to be served.
    """
    document = read_document(file)
    try:
        wanted = plugins_config(document)
        plugins = load_plugins(wanted.directory, wanted.disable)
    except ConfigError as error:
        raise located(document, [error]) from None
    config, errors = structure(document, plugins.types)
    maps, more = build_maps(config, plugins, clock, offline=offline)
    errors = [*errors, *more]
    if errors:
        broken = [
            ConfigError(str(one))
            for one in plugins.broken
            if any("resolver type" in error.message for error in errors)
        ]
        found = located(document, [*errors, *broken])
        if mistakes is None:
            raise found
        mistakes.extend(found.errors)
    return Site(document, config, plugins, maps)


def located(document: Document, errors: Sequence[ConfigError]) -> ConfigErrors:
    """The errors with their places in the document, in the order of its lines."""
    for one in (every := ConfigErrors(errors)).errors:
        if one.file is None and one.path:
            locate(document, one)
    here = str(document.path)
    return ConfigErrors(
        sorted(
            every.errors,
            key=lambda one: (str(one.file) != here, str(one.file), one.line or 0, one.column or 0),
        )
    )

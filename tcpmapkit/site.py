"""A configuration file with all that it stands for: plugins loaded, maps built, nothing started yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from tcpmapkit.build import build_maps, served_maps
from tcpmapkit.built_maps import BuiltMaps
from tcpmapkit.config import locate, plugins_config, read_document, structure
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.plugins import Plugins, load_plugins

if TYPE_CHECKING:
    from tcpmapkit.built_step import BuiltStep, Place
    from tcpmapkit.config import Config, Document, ListenerConfig
    from tcpmapkit.maps import Map

__all__ = [
    "DEFAULT_FILES",
    "Site",
    "build_site",
    "examine_site",
    "find_configuration",
    "located",
    "open_site",
]

#: Where the configuration is looked for when none is named.
DEFAULT_FILES = (Path("tcpmapkit.toml"), Path("/etc/tcpmapkit/tcpmapkit.toml"))


@attrs.frozen
class Site:
    """What a configuration file says (`config`), and the objects made of it.

    With `mistakes`, each with its place, what is right can be started, to find what else is wrong, but
    is not to be served.
    """

    document: Document
    config: Config
    plugins: Plugins
    maps: BuiltMaps
    mistakes: tuple[ConfigError, ...] = ()

    def served_by(self, listener: ListenerConfig) -> list[Map]:
        """The maps that a listener serves."""
        return [self.maps.maps[name] for name in served_maps(listener, self.maps.maps)]

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


def open_site(file: Path, *, clock: Callable[[], float] = time.monotonic) -> Site:
    """Read a configuration, load its plugins, build its maps.

    Raises `ConfigErrors` with every mistake, each with its place.
    """
    site = examine_site(file, clock=clock)
    if site.mistakes:
        raise ConfigErrors(site.mistakes)
    return site


def examine_site(file: Path, *, offline: bool = False, clock: Callable[[], float] = time.monotonic) -> Site:
    """As `open_site`, for whoever wants to know what else is wrong: mistakes are left in the site.

    `offline`: what would have to wait fails at once instead. Raises `ConfigErrors` for a file that is
    not TOML and for a directory of plugins that cannot be read.
    """
    document = read_document(file)
    try:
        wanted = plugins_config(document)
        named = frozenset(_types_named(document.data))
        plugins = load_plugins(wanted.directory, wanted.disable, named)
    except ConfigError as error:
        raise located(document, [error]) from None
    return build_site(document, plugins, offline=offline, clock=clock)


def _types_named(value: object) -> Iterator[str]:
    """The resolver types that a document's steps name, and at worst some that they do not."""
    if isinstance(value, dict):
        name = value.get("type")
        if isinstance(name, str):
            yield name
    elif not isinstance(value, list):
        return
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _types_named(inner)


def build_site(
    document: Document,
    plugins: Plugins,
    *,
    offline: bool = False,
    clock: Callable[[], float] = time.monotonic,
    before: BuiltMaps | None = None,
    kept: Mapping[Place, BuiltStep] = MappingProxyType({}),
) -> Site:
    """What a document says, made with these plugins; its mistakes are left in the site. `before` and `kept`
    are for `build_maps`."""
    if not set(_types_named(document.data)) <= plugins.types.keys():
        plugins.load_postponed()  # one of them may be what is meant
    config, errors = structure(document, plugins.types)
    maps, more = build_maps(config, plugins, clock, offline=offline, before=before, kept=kept)
    errors = [*errors, *more]
    if any("resolver type" in error.message for error in errors):
        errors += [ConfigError(str(broken)) for broken in plugins.broken]
    return Site(document, config, plugins, maps, located(document, errors).errors)


def located(document: Document, errors: Sequence[ConfigError]) -> ConfigErrors:
    """The errors with their places in the document, in the order of its lines."""
    every = ConfigErrors(errors).errors
    for one in every:
        if one.file is not None or one.path:
            locate(document, one)
    here = str(document.path)
    return ConfigErrors(
        sorted(every, key=lambda one: (str(one.file) != here, str(one.file), one.line or 0, one.column or 0))
    )

"""What the commands share: the option that names the file, mistakes told with status 78, a site opened."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tcpmapkit.errors import ConfigError
from tcpmapkit.output import tell

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.site import Site

__all__ = [
    "complete_map",
    "config_errors",
    "file_option",
    "listener_named",
    "open_configuration",
    "run_async",
    "warn_of_broken_plugins",
]

_T = TypeVar("_T")

file_option = click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="Configuration file; default tcpmapkit.toml here, else /etc/tcpmapkit/tcpmapkit.toml.",
)


def complete_map(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of the maps that begin like this, for a shell; none for a file that cannot be read, or
    when the map has been named."""
    from tcpmapkit.config.document import read_document
    from tcpmapkit.site import find_configuration

    if parameter.name is not None and context.params.get(parameter.name):
        return []
    try:
        maps = read_document(find_configuration(context.params.get("file"))).data.get("maps")
    except ConfigError:
        return []
    return sorted(name for name in maps if name.startswith(incomplete)) if isinstance(maps, dict) else []


@contextmanager
def config_errors() -> Iterator[None]:
    """Tell the operator's mistakes and exit 78."""
    try:
        yield
    except ConfigError as error:
        tell(str(error))
        sys.exit(os.EX_CONFIG)


def open_configuration(file: Path | None) -> Site:
    """The configuration named, or the default one; broken plugins are warned of. Raises `ConfigError`."""
    gc.disable()  # nothing that is made here is garbage: to look for some takes a tenth of the time
    try:
        from tcpmapkit.site import find_configuration, open_site

        site = open_site(find_configuration(file))
    finally:
        gc.enable()
    gc.freeze()
    warn_of_broken_plugins(site)
    return site


def run_async(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine, run to its end in an event loop of its own."""
    import asyncio  # not needed for help, completion, wrong usage

    return asyncio.run(coroutine)


def warn_of_broken_plugins(site: Site) -> None:
    """Name the plugins that could not be loaded, unless a mistake of the configuration has."""
    told = {mistake.message for mistake in site.mistakes}
    for plugin in site.plugins.broken:
        if str(plugin) not in told:
            tell(f"warning: {plugin}")


def listener_named(site: Site, name: str) -> ListenerConfig:
    """The listener with this endpoint, spelled as in the file, or that alone serves the map of this name.

    Raises `click.UsageError`, with what may have been meant.
    """
    from tcpmapkit.build import served_maps
    from tcpmapkit.config.mistakes import did_you_mean
    from tcpmapkit.config.scalars import parse_endpoint

    try:
        endpoint = str(parse_endpoint(name, site.config.directory)).lower()
    except ConfigError:
        endpoint = ""
    listeners = site.config.listeners
    found = [one for one in listeners if endpoint == str(one.endpoint).lower()]
    found = found or [one for one in listeners if name in served_maps(one, site.maps.maps)]
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(str(one.endpoint) for one in found)
        raise click.UsageError(f"several listeners are {name!r}: {places}")
    known = {str(one.endpoint) for one in listeners}
    hint = did_you_mean(name, known.union(*(served_maps(one, site.maps.maps) for one in listeners)))
    raise click.UsageError(f"there is no listener {name!r}" + (f" ({hint})" if hint else ""))

"""What ``tcpmapkit bench`` is to ask, of whom: the words of the command line understood."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from tcpmapkit.build import served_maps
from tcpmapkit.command_line import listener_named
from tcpmapkit.output import tell
from tcpmapkit.protocols import PROTOCOLS

if TYPE_CHECKING:
    from tcpmapkit.config import Endpoint
    from tcpmapkit.maps import Map
    from tcpmapkit.site import Site

__all__ = ["Server", "protocol_of", "read_keys", "server_of_listener", "server_of_table"]


@attrs.frozen
class Server:
    """A map of a running server; `map` is "" where the protocol does not name it."""

    endpoint: Endpoint
    protocol: str
    map: str = ""


def read_keys(lines: Iterable[bytes], *, expect: bool) -> tuple[list[str], dict[str, str | None]]:
    """One key a line, and what each shall give where `expect` is said: the value behind a TAB, None ("not
    found") without one.

    What is not UTF-8 is left out, as Postfix asks no such key. Raises `click.UsageError` for none at all.
    """
    keys = []
    expected: dict[str, str | None] = {}
    left_out = 0
    for line in lines:
        try:
            text = line.rstrip(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            left_out += 1
            continue
        if expect:
            text, tab, value = text.partition("\t")
            expected[text] = value if tab else None
        keys.append(text)
    if left_out:
        tell(f"warning: {left_out} of the keys are not UTF-8 and left out: Postfix asks no such key")
    if not keys:
        raise click.UsageError("there are no keys")
    return keys, expected


def protocol_of(site: Site, map: Map) -> str:
    """The protocol over which a map is asked for keys, by its listeners; tcp_table when there is none.

    Raises `click.UsageError` for a map that reads more than a key.
    """
    if map.current.attributes != ():
        raise click.UsageError(f"map {map.name} reads attributes of a policy request, and keys have none")
    for listener in site.config.listeners:
        if not PROTOCOLS[listener.protocol].has_attributes and map.name in served_maps(
            listener, site.maps.maps
        ):
            return listener.protocol
    return "tcp_table"


def server_of_listener(site: Site, name: str, map: str | None) -> Server:
    """The server behind the listener of this name (see `listener_named`). Raises `click.UsageError`."""
    listener = listener_named(site, name)
    protocol = PROTOCOLS[listener.protocol]
    if protocol.has_attributes:
        raise click.UsageError(
            f"{listener.endpoint} is asked for actions, not for keys: see query --policy {listener.endpoint}"
        )
    if listener.endpoint.kind == "inet" and listener.endpoint.port == 0:
        raise click.UsageError(f"the system chooses the port of {listener.endpoint}: say tcp:HOST:PORT")
    served = served_maps(listener, site.maps.maps)
    if map is None and len(served) == 1:
        map = served[0]
    if map not in served:
        wanted = "which map?" if map is None else f"it does not serve map {map!r}"
        raise click.UsageError(f"{listener.endpoint}: {wanted} It serves {', '.join(served)}")
    return Server(listener.endpoint, listener.protocol, map if protocol.names_map else "")


def server_of_table(table: str, map: str | None) -> Server | None:
    """The server that main.cf would name so, ``tcp:HOST:PORT`` or ``socketmap:ENDPOINT:MAP``; None for
    another spelling. Raises `click.UsageError` for one of these with a mistake in it."""
    if not table.startswith(("tcp:", "socketmap:")):
        return None
    from tcpmapkit.postfix.references import Strange, find_references

    found = list(find_references("bench", table))
    if len(found) != 1 or isinstance(found[0], Strange):
        why = ", ".join(one.why for one in found if isinstance(one, Strange)) or "not one table"
        raise click.UsageError(f"{table!r}: {why}")
    reference = found[0]
    if map is not None and map != reference.map:
        raise click.UsageError(f"{table!r} says which map is asked: leave out {map!r}")
    endpoint = reference.endpoint
    if endpoint.kind == "unix":
        endpoint = attrs.evolve(endpoint, path=str(Path(endpoint.path).absolute()))
    return Server(endpoint, reference.kind, reference.map)

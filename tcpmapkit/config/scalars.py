"""What TOML has no type for: durations, sizes, networks, endpoints."""

from __future__ import annotations

import math
import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import attrs

from tcpmapkit.config.mistakes import show, wrong
from tcpmapkit.errors import ConfigError

__all__ = [
    "Endpoint",
    "Network",
    "parse_duration",
    "parse_endpoint",
    "parse_mode",
    "parse_network",
    "parse_size",
]

Network = IPv4Network | IPv6Network

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]+)(B|KiB|MiB|GiB|TiB)")
_MAPPED = IPv6Network("::ffff:0:0/96")  # IPv4 addresses as an IPv6 socket sees them; peers are told as IPv4
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.?)+")

#: sun_path of a socket address holds 108 bytes on Linux, the closing NUL included (unix(7)).
_LONGEST_SOCKET_PATH = 107


def parse_duration(value: Any) -> float:
    """Seconds of ``"300ms"``, ``"5s"``, ``"2m"``, ``"1h"``, ``"7d"`` or a number of seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ConfigError(
                f"{show(value)} is not a duration", hint='such as "300ms", "5s", "2m", "1h", "7d"'
            )
        seconds = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if -1e15 < value < 1e15 else math.inf
    else:
        raise wrong('a duration such as "5s" or a number of seconds', value)
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{show(value)} is not a duration", hint="must be neither negative nor endless")
    return seconds


def parse_size(value: Any) -> int:
    """Bytes of ``"64MiB"`` or a number of bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ConfigError(f"{show(value)} is not a size", hint='such as "512KiB", "64MiB", "1GiB"')
        return int(match[1]) * _BYTES[match[2]]
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong('a size such as "64MiB" or a number of bytes', value)
    if value < 0:
        raise ConfigError(f"{show(value)} is not a size", hint="must not be negative")
    return value


def parse_mode(value: Any) -> int:
    """The permission bits of ``"0660"``, octal as chmod(1) takes it."""
    if not isinstance(value, str):
        raise wrong('permissions in octal such as "0660"', value)
    if not re.fullmatch("0?[0-7]{3}", value):
        raise ConfigError(f"{show(value)} is not permissions in octal", hint='such as "0660"')
    return int(value, 8)


def parse_network(value: Any) -> Network:
    """An address or network, ``192.0.2.0/24`` or ``2001:db8::/32``, without bits right of its mask."""
    if not isinstance(value, str):
        raise wrong('a network such as "192.0.2.0/24"', value)
    try:
        found = ip_network(value)
    except ValueError:
        pass
    else:
        if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
            text = f"{found.network_address.ipv4_mapped}/{found.prefixlen - 96}"
            raise ConfigError(f"{show(value)} is of IPv4", hint=f"did you mean '{text}'?")
        return found
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise ConfigError(f"{show(value)} is not a network", hint='such as "192.0.2.0/24"') from None
    raise ConfigError(f"{show(value)} has bits set right of its mask", hint=f"did you mean '{network}'?")


@attrs.frozen
class Endpoint:
    """Where a listener listens, in main.cf's words: ``inet:host:port`` or ``unix:path``.

    `host` is an address without brackets or a name, `port` 0 lets the system choose one; `path` is
    absolute. What belongs to the other kind is empty.
    """

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"inet:[{self.host}]:{self.port}" if ":" in self.host else f"inet:{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect. A name other than ``localhost`` may be any address."""
        if self.kind == "unix" or self.host.lower() == "localhost":
            return True
        try:
            address = ip_address(self.host)
        except ValueError:
            return False
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def parse_endpoint(value: Any, directory: Path) -> Endpoint:
    """``inet:host:port``, ``inet:[2001:db8::1]:port`` or ``unix:path``, relative to `directory`."""
    example = '"inet:127.0.0.1:4242"'
    if not isinstance(value, str):
        raise wrong(f"an endpoint such as {example}", value)
    kind, colon, rest = value.partition(":")
    if colon and kind == "unix":
        return _unix_endpoint(value, rest, directory)
    host, colon, port = rest.rpartition(":")
    if kind != "inet" or not colon:
        raise ConfigError(f"{show(value)} is not an endpoint", hint=f'such as {example} or "unix:/path"')
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ConfigError(f"{show(value)}: the port is not a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if _is_address(host, 6):
            return Endpoint("inet", host, int(port))
    elif _is_address(host, 6):
        raise ConfigError(
            f"{show(value)}: an IPv6 address stands in brackets", hint=f"did you mean 'inet:[{host}]:{port}'?"
        )
    elif _is_address(host, 4) or (_HOST_NAME.fullmatch(host) and not re.fullmatch(r"[0-9.]+", host)):
        return Endpoint("inet", host, int(port))
    raise ConfigError(
        f"{show(value)}: the host is neither an address nor a name",
        hint="for every address of this machine: 0.0.0.0 or [::]"
        if host in ("", "*")
        else f"such as {example}",
    )


def _unix_endpoint(value: str, path: str, directory: Path) -> Endpoint:
    if not path or "\0" in path:
        raise ConfigError(f"{show(value)}: a path follows unix:")
    full = str(directory / path)
    if len(os.fsencode(full)) > _LONGEST_SOCKET_PATH:
        raise ConfigError(f"the path of a unix socket has at most {_LONGEST_SOCKET_PATH} bytes")
    return Endpoint("unix", path=full)


def _is_address(text: str, version: int) -> bool:
    try:
        return ip_address(text).version == version
    except ValueError:
        return False

"""What the options of one listener must be to one another, to its protocol, and to the maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tcpmapkit.config.mistakes import KeyMistake, did_you_mean, show
from tcpmapkit.errors import ConfigError
from tcpmapkit.protocols import PROTOCOLS, ServedProtocol

__all__ = ["admin_mistakes", "listener_mistakes", "listener_schemas"]

_Fits = Callable[[ServedProtocol], bool]

#: The options that not every protocol has.
_ONLY: Final[Mapping[str, _Fits]] = {
    "map": lambda protocol: not protocol.names_map,
    "maps": lambda protocol: protocol.names_map,
    **dict.fromkeys(("key", "default_action", "stage", "tests"), lambda protocol: protocol.has_attributes),
}
_ONLY_UNIX: Final = ("mode", "owner", "group")


def listener_mistakes(
    fields: Mapping[str, Any], table: Mapping[str, Any], maps: Mapping[str, Any]
) -> list[ConfigError]:
    """What is wrong between the options of one listener, and between it and the maps.

    `fields` holds what is right in its `table`; `maps` has the names of the maps.
    """
    errors = [
        ConfigError(f"there is no map {show(name)}", path=path, hint=did_you_mean(name, maps))
        for path, name in _named(fields)
        if name not in maps
    ]
    name = fields.get("protocol")
    if name is not None:
        errors += _unfitting(name, PROTOCOLS[name], table)
        if not PROTOCOLS[name].names_map and "map" not in table:
            errors.append(ConfigError("it is missing", path=("map",)))
    return errors + _endpoint_mistakes(fields, table)


def admin_mistakes(fields: Mapping[str, Any]) -> list[ConfigError]:
    """What is wrong between the options of ``[admin]``, of which `fields` holds those that are right."""
    endpoint = fields["endpoint"]
    if endpoint.kind == "unix":
        return []
    errors: list[ConfigError] = [
        KeyMistake("only a unix socket has one", path=(option,)) for option in _ONLY_UNIX if option in fields
    ]
    if not endpoint.loopback:
        hint = "whoever controls the server is on this host: unix:path, or an address on loopback"
        errors.append(ConfigError("it is not on loopback", path=("endpoint",), hint=hint))
    if "token_file" not in fields:
        hint = "every user of this host can connect: name a file that holds a token"
        errors.append(ConfigError("it is missing", path=("token_file",), hint=hint))
    return errors


def listener_schemas() -> list[dict[str, Any]]:
    """The same as JSON Schema, as far as it goes: what each protocol must and must not have."""
    return [
        {
            "if": {"properties": {"protocol": {"const": name}}, "required": ["protocol"]},
            "then": {
                "properties": {option: False for option, fits in _ONLY.items() if not fits(protocol)},
                "required": [] if protocol.names_map else ["map"],
            },
        }
        for name, protocol in PROTOCOLS.items()
    ]


def _named(fields: Mapping[str, Any]) -> Iterable[tuple[tuple[str | int, ...], str]]:
    if fields.get("map") is not None:
        yield ("map",), fields["map"]
    for index, name in enumerate(fields.get("maps") or ()):
        yield ("maps", index), name


def _unfitting(name: str, protocol: ServedProtocol, table: Mapping[str, Any]) -> Iterable[ConfigError]:
    for option, fits in _ONLY.items():
        if option in table and not fits(protocol):
            others = " and ".join(other for other, one in PROTOCOLS.items() if fits(one))
            hint = {"map": "`maps` names the maps of it", "maps": "`map` names its one map"}.get(option)
            yield KeyMistake(f"{name} has no such option, only {others}", path=(option,), hint=hint)


def _endpoint_mistakes(fields: Mapping[str, Any], table: Mapping[str, Any]) -> list[ConfigError]:
    endpoint, name = fields.get("endpoint"), fields.get("protocol")
    if endpoint is None:
        return []
    if endpoint.kind == "unix":
        if name is not None and not PROTOCOLS[name].unix_sockets:
            hint = 'such as "inet:127.0.0.1:4242"'
            return [ConfigError(f"{name} has no unix sockets", path=("endpoint",), hint=hint)]
        if "allow" in table:
            hint = "`mode`, `owner` and `group` say who may connect"
            return [KeyMistake("a unix socket has no networks", path=("allow",), hint=hint)]
        return []
    errors: list[ConfigError] = [
        KeyMistake("only a unix socket has one", path=(option,)) for option in _ONLY_UNIX if option in table
    ]
    if not endpoint.loopback and not table.get("allow"):
        errors.append(
            ConfigError(
                "an endpoint that is not on loopback needs `allow`",
                path=("endpoint",),
                hint='the networks that may connect, such as allow = ["192.0.2.0/24"]',
            )
        )
    return errors

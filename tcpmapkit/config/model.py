"""The configuration as frozen classes: what each table of the file may say, and what it means.

A field is an option, its ``help`` one sentence for the manual and the schema; fields marked with
`INTERNAL` are filled in by the structuring. ``toml`` is the annotation of what is written where
that differs from what is kept.
"""

# ruff: noqa: RUF009  (`option` is attrs.field with a help text)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import attrs

from tcpmapkit.cache import CacheOptions
from tcpmapkit.config.process import (
    INTERNAL,
    AdminConfig,
    LogConfig,
    PluginsConfig,
    ServerConfig,
    lookup_time,
    none_for_false,
    not_empty,
)
from tcpmapkit.config.scalars import Endpoint, Network
from tcpmapkit.errors import ConfigError
from tcpmapkit.keys import convert_domain, fold
from tcpmapkit.option import Duration, fraction, option
from tcpmapkit.protocols.policy import Stage
from tcpmapkit.protocols.policy import encode as policy_reply
from tcpmapkit.query import Found
from tcpmapkit.search import Search, SearchOrder

__all__ = [
    "Config",
    "ListenerConfig",
    "MapConfig",
    "MapTest",
    "PolicyTest",
    "StepConfig",
]

TemplateText = Annotated[str, "template"]


def _delimiters(instance: object, attribute: Any, value: str) -> None:
    for character in value:
        # A letter would make the capitals of a key decide where it is split.
        if character in '@"\\' or character.isspace() or character.isalpha() or not character.isprintable():
            raise ValueError(f"{character!r} cannot be a delimiter")


def _descriptor_name(instance: object, attribute: Any, value: str | None) -> None:
    # What FileDescriptorName= takes: systemd.socket(5).
    if value is not None and not (0 < len(value) < 256 and value.isascii() and value.isprintable()):
        raise ValueError("must be 1 to 255 printable ASCII characters")
    if ":" in (value or ""):
        raise ValueError("a colon separates names")


def _action(instance: object, attribute: Any, value: str) -> None:
    if not value.strip() or any(character in value for character in "\r\n\0"):
        raise ValueError("an action is one line of text")
    if not policy_reply(Found(value)):
        raise ValueError("no reply can carry so long an action")


def _domains(instance: object, attribute: Any, value: tuple[str, ...] | None) -> None:
    for index, domain in enumerate(value or ()):
        if not domain.strip(".") or "@" in domain or any(map(str.isspace, domain)):
            raise ConfigError("not a domain", path=(index,), hint='such as "example.org", ".example.org"')


def _share(instance: object, attribute: Any, value: float | None) -> None:
    if value is not None:
        fraction(instance, attribute, value)


@attrs.frozen
class PolicyTest:
    """One of ``[[listeners.tests]]``: `expect` is None for no opinion (``DUNNO``)."""

    attributes: Mapping[str, str] = attrs.field(
        metadata={"help": "The attributes of the request; others are absent."}
    )
    expect: str | None = attrs.field(
        converter=none_for_false,
        metadata={"help": "The action, or false for none (DUNNO).", "toml": str | Literal[False]},
    )

    def __attrs_post_init__(self) -> None:
        if self.expect == "":
            raise ConfigError("no action is empty", path=("expect",), hint="false is DUNNO")


@attrs.frozen
class ListenerConfig:
    """One of ``[[listeners]]``."""

    protocol: Literal["tcp_table", "socketmap", "policy"] = option("Protocol that Postfix speaks here.")
    endpoint: Endpoint = option("Where to listen: inet:host:port, or unix:path (not tcp_table).")
    name: str | None = option(
        "FileDescriptorName of the sockets that systemd passes for it.", None, validator=_descriptor_name
    )
    map: str | None = option("Name of the map that is served (tcp_table, policy).", None)
    maps: tuple[str, ...] | None = option(
        "Names of the maps that are served (socketmap); by default every map that can be.",
        None,
        validator=not_empty,
    )
    allow: tuple[Network, ...] = option("Networks that may connect; needed unless on loopback.", ())
    mode: Annotated[int, "mode"] = option("Permissions of a unix socket, in octal.", 0o660)
    owner: str | None = option("Owner of a unix socket.", None, validator=not_empty)
    group: str | None = option("Group of a unix socket.", None, validator=not_empty)
    key: Annotated[str, "template", "of attributes"] = option(
        "Template of what the map is asked (policy).", "{client_address}", validator=not_empty
    )
    default_action: str = option(
        "Action when a lookup fails (policy); close: say nothing, so that Postfix takes its own.",
        "close",
        validator=_action,
    )
    stage: Stage | None = option("The protocol_state to be asked at; others are warned about (policy).", None)
    tests: tuple[PolicyTest, ...] = option("Requests and the actions that they shall give (policy).", ())
    path: tuple[str | int, ...] = attrs.field(default=(), eq=False, metadata=INTERNAL)


@attrs.frozen
class MapTest:
    """One of ``[[maps.X.tests]]``: `expect` is None for "not found"."""

    key: str = attrs.field(metadata={"help": "What is asked."})
    expect: str | None = attrs.field(
        converter=none_for_false,
        metadata={"help": 'The value, or false for "not found".', "toml": str | Literal[False]},
    )
    path: tuple[str | int, ...] = attrs.field(default=(), eq=False, metadata=INTERNAL)

    def __attrs_post_init__(self) -> None:
        if self.expect == "":
            raise ConfigError("no value found is empty", path=("expect",), hint='false is "not found"')


@attrs.frozen
class StepConfig:
    """One of ``[[maps.X.resolvers]]``: the options that every step takes, and its type's in `options`.

    `options` holds what the file says, by name; the steps of a chain as `StepConfig`. What is not
    written is left to the type's own defaults.
    """

    type: str = option("Resolver type.")
    name: str | None = option("Name for logs and metrics.", None, validator=not_empty)
    on_error: Literal["fail", "next", "ignore"] | None = option(
        "What a failure does: end the chain, ask the next steps (only a value found counts), or be a miss.",
        None,
    )
    authoritative: bool = option('Whether a miss means "not found".', False)
    timeout: Duration | None = option("Time that this step may take.", None, validator=lookup_time)
    special_keys: bool | None = option('Whether it is asked *, <>, "" and the empty key.', None)
    key: TemplateText = option("Template of what this step is asked.", "{key}", validator=not_empty)
    result: Annotated[TemplateText, "of a value"] = option(
        "Template applied to each value found.", "{value}", validator=not_empty
    )
    breaker: bool = option(
        "Whether a source that failed 20 times in a row is asked once a second only, until it answers.", True
    )
    max_shrink: float | None = attrs.field(
        default=0.5,
        converter=none_for_false,
        validator=_share,
        metadata={
            "help": "The share of its rows that a table may lose when its file changes, or false.",
            "toml": float | Literal[False],
        },
    )
    domains: tuple[str, ...] | None = option(
        "Ask this step only for these domains; .example.org: the subdomains.",
        None,
        validator=attrs.validators.and_(not_empty, _domains),
    )
    options: Mapping[str, Any] = attrs.field(factory=dict, metadata=INTERNAL)
    path: tuple[str | int, ...] = attrs.field(default=(), eq=False, metadata=INTERNAL)


@attrs.frozen
class MapConfig:
    """``[maps.NAME]``: `cache` is None when it is off, `deadline` None for the server's."""

    name: str = attrs.field(metadata=INTERNAL)
    resolvers: tuple[StepConfig, ...] = option("The chain, asked in this order.")
    cache: CacheOptions | None = attrs.field(
        factory=CacheOptions,
        converter=none_for_false,
        metadata={
            "help": "The cache in front of the chain, or false.",
            "toml": CacheOptions | Literal[False],
        },
    )
    deadline: Duration | None = option("Time that a lookup may take.", None, validator=lookup_time)
    fold: bool = option("Whether keys are folded to lower case, as Postfix does.", True)
    search: Search | None = option("The keys that Postfix would ask of an indexed table.", None)
    recipient_delimiter: str = option(
        "The characters of which each separates a user from an extension.", "+", validator=_delimiters
    )
    local_domains: tuple[str, ...] = option(
        "The domains of $myorigin and $mydestination, address literals included.", (), validator=_domains
    )
    propagate_extension: bool | None = option(
        "Whether an unmatched extension goes into the result, as the search order says by default.", None
    )
    match_subdomains: Literal["dot", "parent"] | None = option(
        "Whether .example.org or example.org is asked for its subdomains; the search order's own by default.",
        None,
    )
    idna: Literal["alabel", "ulabel"] | None = option("The form of domains that is asked.", None)
    tests: tuple[MapTest, ...] = option("Keys and what they shall give.", ())
    #: Whether the file has a `cache` for this map.
    cache_written: bool = attrs.field(default=False, metadata=INTERNAL)
    path: tuple[str | int, ...] = attrs.field(default=(), eq=False, metadata=INTERNAL)

    def converted(self, domain: str) -> str:
        """A domain as the map's chain is asked for it: in the form that `idna` says, then folded."""
        return fold(domain if self.idna is None else convert_domain(domain, self.idna))

    @property
    def search_order(self) -> SearchOrder | None:
        """The search order that the options describe."""
        if self.search is None:
            return None
        local = frozenset(map(self.converted, self.local_domains))
        delimiters, subdomains = self.recipient_delimiter, self.match_subdomains
        return SearchOrder(self.search, delimiters, local, subdomains, self.propagate_extension)


@attrs.frozen
class Config:
    """A whole configuration file. `file` is its path as given."""

    file: Path = attrs.field(metadata=INTERNAL)
    server: ServerConfig = option("The server.", ServerConfig())
    listeners: tuple[ListenerConfig, ...] = option("Where Postfix asks.", ())
    maps: Mapping[str, MapConfig] = option("The maps by name.", MappingProxyType({}))
    log: LogConfig = option("The log.", LogConfig())
    admin: AdminConfig | None = option("The endpoint for control and metrics.", None)
    plugins: PluginsConfig = option("Plugins.", PluginsConfig())

    @property
    def directory(self) -> Path:
        """Where relative paths begin: the file's own directory, absolute."""
        return self.file.absolute().parent

"""From a document to a `Config`: section by section, everything right kept, everything wrong told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from tcpmapkit.config.document import Document, locate
from tcpmapkit.config.environment import expand
from tcpmapkit.config.listeners import admin_mistakes, listener_mistakes
from tcpmapkit.config.mistakes import KeyMistake, did_you_mean, show, wrong
from tcpmapkit.config.model import Config, ListenerConfig, MapConfig, MapTest, StepConfig
from tcpmapkit.config.options import STEP_OPTIONS, type_options
from tcpmapkit.config.process import AdminConfig, LogConfig, PluginsConfig, ServerConfig
from tcpmapkit.config.reading import Plan, Reader
from tcpmapkit.config.searches import search_mistakes
from tcpmapkit.errors import ConfigError, ConfigErrors, under

if TYPE_CHECKING:
    from tcpmapkit.plugins import ResolverType

__all__ = ["admin_config", "plugins_config", "structure"]

_T = TypeVar("_T")

#: The options of a step that `StepConfig` holds itself.
_OWN = frozenset(option.name for option in STEP_OPTIONS)


def plugins_config(document: Document, environ: Mapping[str, str] | None = None) -> PluginsConfig:
    """What ``[plugins]`` says, so that plugins can be loaded before the rest is structured.

    What is wrong in it is left at its default here; `structure` reports it.
    """
    table = document.data.get("plugins", {})
    data, _ = expand(table, os.environ if environ is None else environ, document.secrets)
    reader = Reader(document.directory, document.secrets, lambda value: ())
    fields, _ = reader.fields(reader.plan_of(PluginsConfig), data)
    return PluginsConfig(**fields)


def admin_config(document: Document, environ: Mapping[str, str] | None = None) -> AdminConfig | None:
    """What ``[admin]`` says, whatever is wrong elsewhere; None when it is not there.

    Raises `ConfigErrors` with every mistake in it, located.
    """
    if "admin" not in document.data:
        return None
    table = {"admin": document.data["admin"]}
    data, errors = expand(table, os.environ if environ is None else environ, document.secrets)
    structuring = _Structuring(document, {})
    admin = structuring.admin(data["admin"])
    errors += structuring.errors
    if errors:
        raise ConfigErrors(locate(document, error) for error in errors)
    return admin


def structure(
    document: Document,
    types: Mapping[str, ResolverType],
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, list[ConfigError]]:
    """The configuration, and every mistake in it, located and sorted by line.

    Steps, listeners and tests with a mistake are left out, other wrong options are left at their
    defaults: what remains can be built and loaded, to find further mistakes, but not served.
    `environ` is the process's environment unless given.
    """
    data, errors = expand(document.data, os.environ if environ is None else environ, document.secrets)
    structuring = _Structuring(document, types)
    config = structuring.config(data)
    errors += structuring.errors
    for error in errors:
        locate(document, error)
    # A variable that is not set is met again where its string is read: the first is enough.
    unique: dict[Any, ConfigError] = {}
    for error in sorted(errors, key=lambda error: (error.line or 0, error.column or 0)):
        unique.setdefault((error.path, error.message), error)
    return config, list(unique.values())


class _Structuring:
    def __init__(self, document: Document, types: Mapping[str, ResolverType]) -> None:
        self.document = document
        self.types = types
        self.errors: list[ConfigError] = []
        self.reader = Reader(document.directory, document.secrets, self.chain)
        self.plans: dict[str, Plan] = {}

    def config(self, data: dict[str, Any]) -> Config:
        top = self.reader.plan_of(Config)
        _, errors = self.reader.fields(top, data, apart=tuple(top.readers))
        self.errors += errors
        names, server = data.get("maps", {}), data.get("server", {})
        return Config(
            file=self.document.path,
            server=ServerConfig(
                **self.section("server", ServerConfig, server),
                max_connections_written=isinstance(server, dict) and "max_connections" in server,
            ),
            listeners=self.listeners(data.get("listeners", []), names if isinstance(names, dict) else {}),
            maps=self.maps(names),
            admin=self.admin(data["admin"]) if "admin" in data else None,
            log=LogConfig(**self.section("log", LogConfig, data.get("log", {}))),
            plugins=PluginsConfig(**self.section("plugins", PluginsConfig, data.get("plugins", {}))),
        )

    def section(self, name: str, cls: type, table: Any) -> dict[str, Any]:
        fields, errors = self.reader.fields(self.reader.plan_of(cls), table)
        self.errors += under(ConfigErrors(errors), name)
        return fields

    def admin(self, table: Any) -> AdminConfig | None:
        fields = self.section("admin", AdminConfig, table)
        if "endpoint" not in fields:
            return None
        self.errors += under(ConfigErrors(admin_mistakes(fields)), "admin")
        return AdminConfig(**fields)

    # Listeners

    def listeners(self, value: Any, maps: Mapping[str, Any]) -> tuple[ListenerConfig, ...]:
        def read(table: Any) -> ListenerConfig:
            path = tuple(self.reader.path)
            fields, errors = self.reader.fields(self.reader.plan_of(ListenerConfig), table)
            if isinstance(table, dict):
                errors += listener_mistakes(fields, table, maps)
            if errors:
                raise ConfigErrors(errors)
            return ListenerConfig(**fields, path=path)

        listeners = self.kept(self.array("listeners", value), read, "listeners")
        one_socketmap = "one socketmap endpoint serves many maps; for the others each has its own"
        self.told_apart(listeners, "endpoint", _endpoint_of, one_socketmap)
        self.told_apart(listeners, "name", lambda listener: listener.name)
        return tuple(listeners)

    def told_apart(
        self,
        listeners: Sequence[ListenerConfig],
        option: str,
        value_of: Callable[[ListenerConfig], str | None],
        hint: str | None = None,
    ) -> None:
        first: dict[str, ListenerConfig] = {}
        for listener in listeners:
            value = value_of(listener)
            other = listener if value is None else first.setdefault(value, listener)
            if other is not listener:
                line = locate(self.document, ConfigError("", path=(*other.path, option))).line
                what = f"another listener has this {option}, in line {line}"
                self.errors.append(ConfigError(what, path=(*listener.path, option), hint=hint))

    # Maps

    def maps(self, value: Any) -> Mapping[str, MapConfig]:
        if not isinstance(value, dict):
            self.errors += under(wrong("a table of maps, [maps.NAME]", value), "maps")
            return MappingProxyType({})
        maps = {}
        for name, table in value.items():
            self.reader.path = ["maps", name]
            if not isinstance(table, dict):
                self.errors += under(wrong(f"a table, [maps.{name}]", table), "maps", name)
            elif not name or any(character.isspace() or not character.isprintable() for character in name):
                self.errors.append(
                    KeyMistake("a map's name is one word", path=("maps", name), hint="no white space")
                )
            else:
                maps[name] = self.map(name, table)
        self.reader.path = []
        return MappingProxyType(maps)

    def map(self, name: str, table: dict[str, Any]) -> MapConfig:
        path = ("maps", name)
        plan = self.reader.plan_of(MapConfig)
        fields, errors = self.reader.fields(plan, table, apart=("resolvers", "tests"))
        errors += search_mistakes(fields, table)
        self.errors += under(ConfigErrors(errors), *path)
        written = table.get("resolvers")
        if written == []:
            self.errors.append(ConfigError("there are no resolvers in it", path=(*path, "resolvers")))
        elif written is not None:
            steps = self.array("resolvers", written, *path)
            fields["resolvers"] = self.kept(steps, self.step, *path, "resolvers")
        fields.setdefault("resolvers", ())
        fields["tests"] = self.kept(
            self.array("tests", table.get("tests", []), *path), self.test, *path, "tests"
        )
        return MapConfig(name=name, **fields, cache_written="cache" in table, path=path)

    def test(self, table: Any) -> MapTest:
        fields, errors = self.reader.fields(self.reader.plan_of(MapTest), table)
        if errors:
            raise ConfigErrors(errors)
        return MapTest(**fields, path=tuple(self.reader.path))

    # Steps

    def chain(self, value: Any) -> tuple[StepConfig, ...]:
        """The steps of an option that takes a chain; all must be right."""
        if not isinstance(value, list):
            raise wrong("an array of tables", value)
        if not value:
            raise ConfigError("there are no resolvers in it")
        errors: list[ConfigError] = []
        steps = self.each(value, self.step, errors)
        if errors:
            raise ConfigErrors(errors)
        return steps

    def step(self, table: Any) -> StepConfig:
        if not isinstance(table, dict):
            raise wrong("a table", table)
        try:
            plan = self.step_plan(table)
        except ConfigError as error:
            # Of an unknown type only what every step takes can be judged.
            errors = under(error, "type") if "type" in table else []
            theirs = tuple(name for name in table if name not in _OWN or name == "type")
            errors += self.reader.fields(self.reader.plan_of(StepConfig), table, apart=theirs)[1]
            raise ConfigErrors(errors) from None
        fields, errors = self.reader.fields(plan, table)
        if errors:
            raise ConfigErrors(errors)
        own = {name: fields.pop(name) for name in tuple(fields) if name in _OWN}
        if own.get("domains") is not None:
            own["domains"] = tuple(map(str.lower, own["domains"]))  # not folded: the map's `idna` goes first
        return StepConfig(**own, options=fields, path=tuple(self.reader.path))

    def step_plan(self, table: dict[str, Any]) -> Plan:
        name = table.get("type")
        if not isinstance(name, str):
            raise wrong("the name of a resolver type", name)
        plan = self.plans.get(name)
        if plan is not None:
            return plan
        resolver_type = self.types.get(name)
        if resolver_type is None:
            raise ConfigError(f"unknown resolver type {show(name)}", hint=did_you_mean(name, self.types))
        options = type_options(resolver_type)
        try:
            plan = self.reader.plan((*STEP_OPTIONS, *options))
        except Exception as error:  # annotations that come from a plugin
            raise ConfigError(
                f"resolver type {name!r} of {resolver_type.distribution or resolver_type.source}:"
                f" an option of it cannot be read: {error}"
            ) from error
        self.plans[name] = plan
        return plan

    # Arrays of which one wrong member does not spoil the others

    def array(self, option: str, value: Any, *path: str | int) -> list[Any]:
        if isinstance(value, list):
            return value
        name = ".".join(map(str, (*path, option)))
        hint = f"write [[{name}]]" if isinstance(value, dict) else None
        self.errors += under(wrong("an array of tables", value, hint), *path, option)
        return []

    def kept(self, values: list[Any], read: Callable[[Any], _T], *path: str | int) -> tuple[_T, ...]:
        self.reader.path = list(path)
        errors: list[ConfigError] = []
        kept = self.each(values, read, errors)
        self.errors += under(ConfigErrors(errors), *path)
        return kept

    def each(
        self, values: Iterable[Any], read: Callable[[Any], _T], errors: list[ConfigError]
    ) -> tuple[_T, ...]:
        kept = []
        for index, value in enumerate(values):
            self.reader.path.append(index)
            try:
                kept.append(read(value))
            except ConfigError as error:
                errors += under(error, index)
            finally:
                self.reader.path.pop()
        return tuple(kept)


def _endpoint_of(listener: ListenerConfig) -> str | None:
    """The same text for the same place; None for a port that the system chooses."""
    endpoint = listener.endpoint
    return None if endpoint.kind == "inet" and endpoint.port == 0 else str(endpoint).lower()

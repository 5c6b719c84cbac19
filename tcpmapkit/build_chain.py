"""From the steps of one map's configuration to its chain."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from tcpmapkit import keys
from tcpmapkit.binding import Binding, Path
from tcpmapkit.built_maps import BuiltMaps, BuiltResolver
from tcpmapkit.chain import InlineChain, WaitingChain, compile_chain
from tcpmapkit.config.mistakes import closest
from tcpmapkit.config.options import type_options
from tcpmapkit.errors import ConfigError, ConfigErrors, format_path, under
from tcpmapkit.map_reference import refer_to
from tcpmapkit.markers import refuse_marked_resolver
from tcpmapkit.plugins import Plugins, ResolverType, order_steps
from tcpmapkit.protocols.policy import ATTRIBUTES
from tcpmapkit.query import TempFail
from tcpmapkit.resolver import Context
from tcpmapkit.step import InlineStep, OnError, WaitingStep
from tcpmapkit.template import KEY_VARIABLES, VARIABLES, Template
from tcpmapkit.threads import SmallPool

if TYPE_CHECKING:
    from tcpmapkit.config import Config, MapConfig, StepConfig
    from tcpmapkit.maps import Map

__all__ = ["OFFLINE", "Assembly", "ChainBuilder", "Group", "Traits"]

#: What a step that was not asked under ``--offline`` answers.
OFFLINE = TempFail("not asked: offline")

#: Seconds that a group has past the time of its members, for those that cannot wait.
_GROUP_GRACE = 0.1


@attrs.frozen
class Traits:
    """What a step's type, or the members of a group, are like (see `Register`); `attributes` is
    None for any."""

    folded: bool
    in_memory: bool
    attributes: frozenset[str] | None

    @classmethod
    def of_all(cls, traits: Iterable[Traits]) -> Traits:
        """Folded and in memory when all are; attributes of any."""
        every = list(traits)
        attributes: frozenset[str] | None = frozenset()
        for one in every:
            attributes = None if attributes is None or one.attributes is None else attributes | one.attributes
        return cls(all(one.folded for one in every), all(one.in_memory for one in every), attributes)

    @classmethod
    def of_step(cls, resolver_type: ResolverType, inner: list[Traits], read: Iterable[str]) -> Traits:
        """As the type was registered, or as its `inner` chains and maps are; it reads what these read,
        what the type was registered for, and `read`, what its templates and options name."""
        every = cls.of_all(inner)
        own = resolver_type
        attributes = None
        if every.attributes is not None and "*" not in own.attributes:
            attributes = every.attributes.union(own.attributes, read)
        if inner:
            return cls(every.folded, every.in_memory, attributes)
        return cls(own.folded, own.in_memory, attributes)


class _Offline:
    """Stands where a resolver would ask a network."""

    def resolve(self, query: object) -> TempFail:
        return OFFLINE


@attrs.frozen
class Group:
    """A chain, and what all of its steps together are like."""

    chain: InlineChain | WaitingChain
    traits: Traits


class Assembly(Protocol):
    """What the chains of all maps are built from, and into."""

    config: Config
    plugins: Plugins
    built: BuiltMaps
    errors: list[ConfigError]
    offline: bool

    def map(self, name: str, path: tuple[str | int, ...]) -> Map | None:
        """Another map, built now if need be; None, with its mistake told, when it cannot be."""


class ChainBuilder:
    """Builds the steps of one map."""

    def __init__(self, assembly: Assembly, config: MapConfig) -> None:
        self.assembly = assembly
        self.config = config
        self.names: set[str] = set()

    def group(self, steps: Iterable[StepConfig], on_error: OnError) -> Group | None:
        """A chain of these steps; `on_error` is for those that say nothing. None when one is wrong."""
        built = [self._step(step, on_error) for step in steps]
        whole = [one for one in built if one is not None]
        if len(whole) < len(built):
            return None
        ordered = order_steps([step for step, _ in whole], [step.name for step, _ in whole])
        return Group(compile_chain(ordered), Traits.of_all(traits for _, traits in whole))

    def _step(self, config: StepConfig, on_error: OnError) -> tuple[InlineStep | WaitingStep, Traits] | None:
        resolver_type = self.assembly.plugins.types[config.type]
        inner: list[Traits] = []
        order = self.config.search_order
        try:
            name = self._name(config)
            binding = self._binding(config, inner)
            options = _options(config, resolver_type, binding)
            key = _template(config, "key", VARIABLES, "{key}")
            result = _template(config, "result", (*VARIABLES, "value"), "{value}")
            resolver = _make(resolver_type, options)
        except ConfigError as error:
            self.assembly.errors.extend(under(error, *config.path))
            return None
        domains = None if config.domains is None else frozenset(map(self.config.converted, config.domains))
        away = self.assembly.offline and not inner and inspect.iscoroutinefunction(resolver.resolve)
        if away:
            resolver = _Offline()
        read = binding.attributes.union(*(one.attributes for one in (key, result) if one is not None))
        traits = Traits.of_step(resolver_type, inner, read)
        fold = keys.fold if self.config.fold and traits.folded else None
        special_keys = config.special_keys
        if special_keys is None:
            variables = binding.templates if key is None else key.variables
            special_keys = bool(inner) or resolver_type.special_keys or _is_about_the_request(variables)
        logger = logging.getLogger(f"tcpmapkit.map.{self.config.name}.{name}")
        waits, blocks = _how(resolver)
        common: dict[str, Any] = {
            "name": name,
            "resolver": resolver,
            "logger": logger,
            "fold": fold,
            "partial_keys": bool(inner) or resolver_type.partial_keys,
            "special_keys": special_keys,
            "domains": domains,
            "bare_is_domain": order is not None and order.bare_is_domain,
            "key": key,
            "result": result,
            # What was not asked stays unknown, through every group around it.
            "on_error": "fail" if away or (self.assembly.offline and inner) else config.on_error or on_error,
            "authoritative": config.authoritative,
            "timeout": config.timeout,
        }
        pool = SmallPool(f"{self.config.name}.{name}") if blocks else None
        step: InlineStep | WaitingStep
        if waits or blocks:
            step = WaitingStep(**common, pool=pool, grace=_GROUP_GRACE if inner else 0.0)
        else:
            step = InlineStep(**common)
        context = Context(
            directory=self.assembly.config.directory,
            name=name,
            map=self.config.name,
            logger=logger,
            clock=self.assembly.built.clock,
            fold=fold or str,
            open_http=self.assembly.built.http.session,
            open_progress=self.assembly.built.open_progress,
        )
        self.assembly.built.resolvers.append(
            BuiltResolver(resolver, context, config.path, pool, _unknown_attributes(config, binding))
        )
        return step, traits

    def _name(self, config: StepConfig) -> str:
        """The step's name, or its type with a number where the map has several."""
        if config.name is not None:
            if config.name in self.names:
                raise ConfigError(f"another step of the map is named {config.name!r}", path=("name",))
            name = config.name
        else:
            name, number = config.type, 1
            while name in self.names:
                number += 1
                name = f"{config.type}-{number}"
        self.names.add(name)
        return name

    def _binding(self, config: StepConfig, inner: list[Traits]) -> Binding:
        """What makes the values of the step's options; `inner` gets what its chains and maps are like."""

        def chain(steps: tuple[StepConfig, ...], on_error: str | None) -> Any:
            group = self.group(steps, on_error or "fail")  # type: ignore[arg-type]
            if group is None:
                raise ConfigErrors([])  # its mistakes are told already
            inner.append(group.traits)
            return group.chain

        def other_map(name: str, path: Path) -> Any:
            found = self.assembly.map(name, (*config.path, *path))
            if found is None:
                raise ConfigErrors([])
            current = found.current
            attributes = None if current.attributes is None else frozenset(current.attributes)
            inner.append(Traits(current.blind_to_case, current.in_memory, attributes))
            self.assembly.built.references.setdefault(self.config.name, set()).add(name)
            return refer_to(found)

        return Binding(VARIABLES, chain, other_map)


def _options(config: StepConfig, resolver_type: ResolverType, binding: Binding) -> dict[str, Any]:
    """The options as the factory takes them. Raises `ConfigErrors`, empty when all is told already."""
    bound: dict[str, Any] = {}
    errors: list[ConfigError] = []
    for option in type_options(resolver_type):
        value = config.options.get(option.name, option.default)
        if isinstance(value, attrs.Factory) and not value.takes_self:  # type: ignore[arg-type]
            value = value.factory()
        if value is attrs.NOTHING or isinstance(value, attrs.Factory):  # type: ignore[arg-type]
            continue
        try:
            bound[option.name] = binding.bind(option.annotation, value, (option.name,))
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ConfigErrors(errors)
    return bound


def _unknown_attributes(config: StepConfig, binding: Binding) -> tuple[str, ...]:
    """A warning for each attribute named that Postfix, as known here, does not send."""
    warnings = []
    for path, name in binding.named:
        if name not in ATTRIBUTES:
            hint = closest(name, ATTRIBUTES)
            where = format_path((*config.path, *path))
            warnings.append(f"{where}: Postfix sends no attribute {name!r}{f' ({hint})' if hint else ''}")
    return tuple(warnings)


def _is_about_the_request(variables: Set[str]) -> bool:
    """Whether what a step asks is made of a policy request's attributes alone: an empty key of the
    listener's then says nothing about it."""
    return bool(variables) and variables.isdisjoint(KEY_VARIABLES)


def _template(config: StepConfig, option: str, variables: tuple[str, ...], default: str) -> Template | None:
    """A step's own template; None when it changes nothing."""
    text = getattr(config, option)
    if text == default:
        return None
    try:
        return Template.compile(text, variables)
    except ConfigError as error:
        error.path = (option,)
        raise


def _make(resolver_type: ResolverType, options: Mapping[str, Any]) -> Any:
    """The resolver object. Raises `ConfigError` for whatever its factory raises."""
    try:
        resolver = resolver_type.factory(**options)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    except Exception as error:
        raise ConfigError(
            f"resolver type {resolver_type.name} of {resolver_type.distribution} failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(resolver, "resolve", None)):
        raise ConfigError(
            f"resolver type {resolver_type.name} of {resolver_type.distribution} has no `resolve`"
        )
    refuse_marked_resolver(resolver)
    return resolver


def _how(resolver: Any) -> tuple[bool, bool]:
    """Whether its `resolve` is a coroutine function, and whether it blocks."""
    waits = inspect.iscoroutinefunction(resolver.resolve)
    return waits, not waits and bool(getattr(resolver.resolve, "tcpmapkit_blocking", False))

"""From the steps of one map's configuration to its chain."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Set
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from tcpmapkit import keys
from tcpmapkit.binding import Binding, Path
from tcpmapkit.breaker import Breaker
from tcpmapkit.built_maps import BuiltMaps
from tcpmapkit.built_step import BuiltStep, Place
from tcpmapkit.chain import InlineChain, WaitingChain, compile_chain
from tcpmapkit.config.mistakes import closest
from tcpmapkit.errors import ConfigError, ConfigErrors, format_path, under
from tcpmapkit.make_resolver import Traits, bound_options, how_it_answers, make_resolver
from tcpmapkit.map_reference import refer_to
from tcpmapkit.plugins import Plugins, order_steps
from tcpmapkit.protocols.policy import ATTRIBUTES
from tcpmapkit.query import TempFail
from tcpmapkit.resolver import Context
from tcpmapkit.step import InlineStep, OnError, WaitingStep
from tcpmapkit.template import KEY_VARIABLES, VARIABLES, Template
from tcpmapkit.threads import SmallPool

if TYPE_CHECKING:
    from tcpmapkit.config import Config, MapConfig, StepConfig
    from tcpmapkit.maps import Map

__all__ = ["OFFLINE", "Assembly", "ChainBuilder", "Group"]

#: What a step that was not asked under ``--offline`` answers.
OFFLINE = TempFail("not asked: offline")

#: Seconds that a group has past the time of its members, for those that cannot wait.
_GROUP_GRACE = 0.1


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
    """What the chains of all maps are built from, and into. `kept` are steps that may serve in them as they
    are, where the configuration of them is still the same."""

    config: Config
    plugins: Plugins
    built: BuiltMaps
    errors: list[ConfigError]
    offline: bool
    kept: Mapping[Place, BuiltStep]

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
        try:
            name = self._name(config)
            kept = self.assembly.kept.get((self.config.name, name))
            if kept is None or not self._fits(kept, config, on_error):
                kept = self._new(config, name, on_error)
        except ConfigError as error:
            self.assembly.errors.extend(under(error, *config.path))
            return None
        self.assembly.built.steps.append(kept)
        self.assembly.built.configs[kept.place] = config
        return kept.step, kept.traits

    def _fits(self, kept: BuiltStep, config: StepConfig, on_error: OnError) -> bool:
        if self.assembly.offline and isinstance(kept.step, WaitingStep) and kept.step.pool is None:
            return False
        return kept.config == config and kept.about_keys == self._about_keys(on_error)

    def _about_keys(self, on_error: OnError) -> object:
        """What a step goes by beside its own options."""
        map = self.config
        return map.fold, map.idna, map.search_order, map.recipient_delimiter, on_error

    def _new(self, config: StepConfig, name: str, on_error: OnError) -> BuiltStep:
        """A step with a resolver object of its own. Raises `ConfigError`."""
        resolver_type = self.assembly.plugins.types[config.type]
        inner: list[Traits] = []
        binding = self._binding(config, inner)
        make = partial(make_resolver, resolver_type, bound_options(config, resolver_type, binding))
        key = _template(config, "key", VARIABLES, "{key}")
        result = _template(config, "result", (*VARIABLES, "value"), "{value}")
        resolver = make()
        if config.max_shrink != attrs.fields(type(config)).max_shrink.default and not hasattr(
            resolver, "rows"
        ):
            raise ConfigError(f"a step of type {config.type} has no rows to lose", path=("max_shrink",))
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
        context = self._context(name, fold)
        order = self.config.search_order
        waits, blocks = how_it_answers(resolver)
        # What was not asked stays unknown, through every group around it.
        unasked = away or (self.assembly.offline and inner)
        make_step = partial(WaitingStep if waits or blocks else InlineStep)
        if waits or blocks:
            clock = self.assembly.built.clock
            make_step.keywords.update(
                pool=SmallPool(f"{self.config.name}.{name}") if blocks else None,
                grace=_GROUP_GRACE if inner else 0.0,
                breaker=Breaker(clock) if config.breaker and not inner else None,
            )
        step = make_step(
            name=name,
            resolver=resolver,
            logger=context.logger,
            fold=fold,
            partial_keys=bool(inner) or resolver_type.partial_keys,
            special_keys=special_keys,
            domains=self._domains(config),
            bare_is_domain=order is not None and order.bare_is_domain,
            key=key,
            result=result,
            on_error="fail" if unasked else config.on_error or on_error,
            authoritative=config.authoritative,
            timeout=config.timeout,
            leaf=not inner and not away,
            counters=self.assembly.built.step_counters[self.config.name, name],
        )
        return BuiltStep(
            step,
            traits,
            config,
            self._about_keys(on_error),
            context,
            make,
            alone=not inner and not away,
            warnings=_unknown_attributes(config, binding),
        )

    def _domains(self, config: StepConfig) -> frozenset[str] | None:
        return None if config.domains is None else frozenset(map(self.config.converted, config.domains))

    def _context(self, name: str, fold: Callable[[str], str] | None) -> Context:
        built = self.assembly.built
        return Context(
            directory=self.assembly.config.directory,
            name=name,
            map=self.config.name,
            logger=logging.getLogger(f"tcpmapkit.map.{self.config.name}.{name}"),
            clock=built.clock,
            fold=fold or str,
            open_http=built.http.session,
            open_progress=built.progress.open,
        )

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

"""From the options of a step to its resolver object, and what that is like."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from tcpmapkit.binding import Binding
from tcpmapkit.config.options import type_options
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.markers import refuse_marked_resolver
from tcpmapkit.plugins import ResolverType

if TYPE_CHECKING:
    from tcpmapkit.config import StepConfig

__all__ = ["Traits", "bound_options", "how_it_answers", "make_resolver"]


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


def bound_options(config: StepConfig, resolver_type: ResolverType, binding: Binding) -> dict[str, Any]:
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


def make_resolver(resolver_type: ResolverType, options: Mapping[str, Any]) -> Any:
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


def how_it_answers(resolver: Any) -> tuple[bool, bool]:
    """Whether its `resolve` is a coroutine function, and whether it blocks."""
    waits = inspect.iscoroutinefunction(resolver.resolve)
    return waits, not waits and bool(getattr(resolver.resolve, "tcpmapkit_blocking", False))

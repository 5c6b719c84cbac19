"""The options that a class or a function takes: the one list that structuring and schema go by."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, get_args, get_origin

import attrs

from tcpmapkit.config.model import StepConfig
from tcpmapkit.errors import ConfigError

if typing.TYPE_CHECKING:
    from tcpmapkit.plugins import ResolverType

__all__ = ["STEP_OPTIONS", "Option", "options_of", "type_options"]


@attrs.frozen
class Option:
    """One option: its name in TOML, the annotation of what may be written, its default and help.

    `default` is `attrs.NOTHING` for an option that must be written. `validate` takes the value and
    raises ValueError, TypeError or ConfigError.
    """

    name: str
    annotation: Any
    default: Any = attrs.NOTHING
    help: str = ""
    validate: Callable[[Any], None] | None = attrs.field(default=None, eq=False)

    @property
    def required(self) -> bool:
        """Whether it must be written."""
        return self.default is attrs.NOTHING


def options_of(factory: Any) -> tuple[Option, ...]:
    """The options of an attrs class (its fields) or of any other callable (its parameters).

    Raises whatever reading foreign annotations raises: NameError, TypeError, ValueError...
    """
    return tuple(_fields(factory) if attrs.has(factory) else _parameters(factory))


def _fields(cls: type) -> Iterable[Option]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in attrs.fields(cls):
        if not field.init or field.metadata.get("internal"):
            continue
        annotation = field.metadata.get("toml", hints.get(field.name, field.type))
        yield Option(
            name=field.alias or field.name,
            annotation=Any if annotation is None else annotation,
            default=field.default,
            help=field.metadata.get("help", "") or _help_in(annotation),
            # With a converter the validator is about what that makes of the value: at construction.
            validate=None if field.validator is None or field.converter else partial(_run_validator, field),
        )


def _run_validator(field: attrs.Attribute[Any], value: Any) -> None:
    """Run a field's validator before there is an instance, so that no error hides another.

    One that needs the instance fails here in its own way; it is run again when that is made.
    """
    try:
        field.validator(None, field, value)  # type: ignore[misc]
    except (ValueError, TypeError, ConfigError):
        raise
    except Exception:  # noqa: S110
        pass


def _parameters(function: Any) -> Iterable[Option]:
    target: Any = function
    while isinstance(target, partial):
        target = target.func
    if inspect.isclass(target):
        target = target.__init__
    elif not inspect.isroutine(target):
        target = type(target).__call__
    hints: Mapping[str, Any] = typing.get_type_hints(target, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"parameter {parameter.name!r} cannot be given by name")
        annotation = hints.get(parameter.name, Any)
        yield Option(
            name=parameter.name,
            annotation=annotation,
            default=attrs.NOTHING if parameter.default is parameter.empty else parameter.default,
            help=_help_in(annotation),
        )


def _help_in(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        for note in get_args(annotation)[1:]:
            if isinstance(note, str) and note.startswith("help:"):
                return note.removeprefix("help:").strip()
    return ""


#: What every step takes, whatever its type.
STEP_OPTIONS = options_of(StepConfig)


def type_options(resolver_type: ResolverType) -> tuple[Option, ...]:
    """The options of a resolver type. Raises `ConfigError` for a type whose options cannot be
    read, a bug of its plugin's, which is named."""
    whose = f"resolver type {resolver_type.name!r} of {resolver_type.distribution or resolver_type.source}"
    try:
        options = options_of(resolver_type.factory)
    except Exception as error:  # annotations are evaluated: foreign code
        raise ConfigError(f"{whose}: its options cannot be read: {type(error).__name__}: {error}") from error
    taken = {option.name for option in STEP_OPTIONS}
    for option in options:
        if option.name in taken:
            raise ConfigError(f"{whose} has an option {option.name!r}, which is every step's own")
    return options

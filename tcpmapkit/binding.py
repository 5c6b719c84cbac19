"""A resolver type's option values, made ready for its factory."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import attrs

from tcpmapkit.resolver import Chain, Map
from tcpmapkit.template import JsonTemplate, Template

__all__ = ["BoundOption", "bind"]


@attrs.frozen
class BoundOption:
    """What the values of one option are made of: the template variables known, and how a chain of
    steps (with its default ``on_error``) and another map (with the option that names it) are built."""

    name: str
    variables: tuple[str, ...]
    chain: Callable[[Any, str | None], Any]
    map: Callable[[str, str], Any]


def bind(hint: Any, value: Any, option: BoundOption, extras: tuple[Any, ...] = ()) -> Any:
    """The value as the factory takes it: templates compiled, chains and maps built, the rest as it is.

    Raises `ConfigError` with the path within the option.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        base, *more = get_args(hint)
        if value is not None and "template" in more:
            return Template.compile(value, option.variables) if isinstance(value, str) else value
        if value is not None and "template-json" in more:
            return JsonTemplate.compile(value, option.variables)
        return bind(base, value, option, (*extras, *more))
    if value is None:
        return None
    if hint is Chain:
        return option.chain(value, _said(extras, "on_error: "))
    if hint is Map:
        return option.map(value, option.name)
    if origin in (Union, types.UnionType):
        for arm in get_args(hint):
            made = bind(arm, value, option, extras)
            if made is not value:
                return made
        return value
    if origin is tuple and isinstance(value, tuple):
        inner = get_args(hint)[0]
        if inner is Chain:
            return tuple(option.chain((step,), None) for step in value)
        return tuple(bind(inner, one, option, extras) for one in value)
    if origin is not None and isinstance(value, Mapping):
        inner = get_args(hint)[-1]
        return {name: bind(inner, one, option, extras) for name, one in value.items()}
    return value


def _said(extras: tuple[Any, ...], what: str) -> str | None:
    for extra in extras:
        if isinstance(extra, str) and extra.startswith(what):
            return extra.removeprefix(what)
    return None

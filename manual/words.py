"""Options in words: what may be written for one, its default, its meaning. The tests hold the documents to
the same words."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import attrs

from tcpmapkit import Chain, Map
from tcpmapkit.config.model import MapTest, PolicyTest, StepConfig
from tcpmapkit.config.options import Option, options_of
from tcpmapkit.config.scalars import Endpoint, Network

__all__ = ["code", "default_words", "either", "sentence", "type_words", "with_members"]

_SCALARS: Final[Mapping[Any, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    Path: "path",
    Any: "any value",
    Map: "name of a map",
    Endpoint: "endpoint",
}
_NOTED: Final = {
    "duration": "duration",
    "size": "size",
    "mode": "permissions",
    "template": "template",
    "template-json": "any value",
}


def type_words(annotation: Any) -> str:
    """What may be written for an option, in the words of the documents."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation == Network:
        return "network"
    if annotation in (Chain, tuple[Chain, ...]):
        return "array of steps"
    if origin is Annotated:
        return next((_NOTED[note] for note in arguments[1:] if note in _NOTED), type_words(arguments[0]))
    if origin is Literal:
        return either(
            str(one) if isinstance(one, int) and not isinstance(one, bool) else code(one) for one in arguments
        )
    if origin in (typing.Union, types.UnionType):
        return either(type_words(one) for one in arguments if one is not type(None))
    if origin is tuple:
        return "array of steps" if arguments[0] is StepConfig else f"array of {type_words(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"table of {type_words(arguments[1])}"
    return "table" if attrs.has(annotation) and annotation is not Endpoint else _SCALARS[annotation]


def code(value: object) -> str:
    """A value of TOML, in backticks."""
    return f'`"{value}"`' if isinstance(value, str) else f"`{str(value).lower()}`"


def either(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def default_words(option: Option) -> str:
    """What holds when the option is not written: a value in backticks, ``required``, or nothing."""
    value, notes = option.default, get_args(option.annotation)[1:]
    if option.required:
        return "required"
    if isinstance(value, attrs.Factory) or value is None:  # type: ignore[arg-type]
        return ""
    if "duration" in notes:
        return code(duration(value))
    if "size" in notes:
        return code(size(value))
    if "mode" in notes:
        return code(f"{value:04o}")
    if isinstance(value, (str, int, float)):
        return code(value)
    if isinstance(value, tuple) and value and all(isinstance(one, (str, int)) for one in value):
        return f"`[{', '.join(code(one).strip('`') for one in value)}]`"
    return ""


def duration(seconds: float) -> str:
    """As short as it can be written: ``500ms``, ``5s``, ``2m``."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s" if seconds == int(seconds) else f"{seconds * 1000:g}ms"


def size(number: int) -> str:
    """As short as it can be written: ``64MiB``."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number and number % length == 0:
            return f"{number // length}{unit}"
    return f"{number}B"


def sentence(text: str) -> str:
    """A help text with a capital and a full stop, which some begin and end without."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') or not text else '.'}"


def with_members(options: Iterable[Option]) -> dict[str, Option]:
    """Options by name; those of the tables in an array too, as `rules[].pattern`."""
    named = {}
    for option in options:
        named[option.name] = option
        for inner in get_args(option.annotation):
            member = get_args(inner)[0] if get_origin(inner) is tuple else inner
            array = tuple in (get_origin(inner), get_origin(option.annotation))
            if array and attrs.has(member) and member not in (StepConfig, MapTest, PolicyTest):
                inner_options = with_members(options_of(member))
                named |= {f"{option.name}[].{name}": one for name, one in inner_options.items()}
    return named

"""TOML's own types taken strictly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from typing import Any, get_args

from tcpmapkit.config.masking import Secret
from tcpmapkit.config.mistakes import Unset, closest, show, wrong
from tcpmapkit.errors import ConfigError, ConfigErrors, under
from tcpmapkit.template import VARIABLES, Template

__all__ = [
    "boolean",
    "integer",
    "json_like",
    "json_template",
    "literal_reader",
    "number",
    "string",
    "template",
]


def string(value: Any) -> str:
    """A string as it is."""
    if not isinstance(value, str):
        raise wrong("a string", value)
    return value


def integer(value: Any) -> int:
    """An integer; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong("an integer", value)
    return value


def number(value: Any) -> float:
    """An integer or a float, neither infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong("a number", value)
    if not -1e308 < value < 1e308:
        raise ConfigError(f"{show(value)} is not a number that can be used")
    return float(value)


def boolean(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise wrong("true or false", value)
    return value


def json_like(value: Any) -> Any:
    """The value, once it is sure that there is nothing in it that JSON has not."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, (Unset, date, datetime, time)):
        raise wrong("a string, number, boolean, array or table", value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{show(value)} is not a number that can be used")
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    errors: list[ConfigError] = []
    for key, item in inner:
        try:
            json_like(item)
        except ConfigError as error:
            errors += under(error, key)
    if errors:
        raise ConfigErrors(errors)
    return value


def literal_reader(kind: Any) -> Callable[[Any], Any]:
    """The reader of one of a `Literal`'s words."""
    words = get_args(kind)
    expected = " or ".join(show(word) for word in words)

    def read(value: Any) -> Any:
        for word in words:
            if value == word and isinstance(value, bool) == isinstance(word, bool):
                return word
        if isinstance(value, str) and all(isinstance(word, str) for word in words):
            raise ConfigError(f"{show(value)} is not {expected}", hint=closest(value, words))
        raise wrong(expected, value)

    return read


def template(value: Any, variables: Iterable[str] = VARIABLES) -> str:
    """A template's text, in which what came from the environment is no template. `variables` are those
    that it may use."""
    text = string(value)
    if isinstance(text, Secret):
        text = text.literal
    Template.compile(text, variables)
    return text


def json_template(value: Any) -> Any:
    """A JSON value whose strings are templates (see `template`)."""
    if isinstance(value, str):
        return template(value)
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    else:
        return value
    filled: dict[Any, Any] = {}
    errors: list[ConfigError] = []
    for key, item in inner:
        try:
            filled[key] = json_template(item)
        except ConfigError as error:
            errors += under(error, key)
    if errors:
        raise ConfigErrors(errors)
    return filled if isinstance(value, dict) else list(filled.values())

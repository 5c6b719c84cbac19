"""The words in which the operator is told what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time
from typing import Any

import attrs

from tcpmapkit.config.masking import Secret
from tcpmapkit.errors import ConfigError

__all__ = [
    "KeyMistake",
    "Unset",
    "WrongType",
    "closest",
    "did_you_mean",
    "refused",
    "show",
    "unknown_key",
    "words_of",
    "wrong",
]


@attrs.frozen
class Unset:
    """Stands where a string names an environment variable that is not there."""

    name: str

    def __str__(self) -> str:
        return f"${{{self.name}}} is not set in the environment"


class KeyMistake(ConfigError):
    """A mistake in the name of an option, not in its value."""


class WrongType(ConfigError):
    """The value is not of a type that the option takes. `expected` says which, with an article."""

    def __init__(self, expected: str, value: Any, hint: str | None = None) -> None:
        super().__init__(f"expected {expected}, not {_type_of(value)}", hint=hint)
        self.expected = expected


def wrong(expected: str, value: Any, hint: str | None = None) -> ConfigError:
    """The error for a value of the wrong type; for one that was to come from the environment, that."""
    return ConfigError(str(value)) if isinstance(value, Unset) else WrongType(expected, value, hint)


def show(value: Any) -> str:
    """A value as an error may print it: a string in quotes, shortened; nothing of a secret."""
    if isinstance(value, Secret):
        return "the value from the environment"
    text = repr(str(value)) if isinstance(value, str) else _toml(value)
    return text if len(text) <= 60 else text[:56] + "..." + text[-1]


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return _toml(value)
    for kinds, word in (
        (str, "a string"),
        (int, "an integer"),
        (float, "a float"),
        (dict, "a table"),
        (list, "an array"),
        ((date, datetime, time), "a date or time"),
    ):
        if isinstance(value, kinds):
            return word
    return f"a {type(value).__name__}"


def closest(word: str, known: Iterable[str]) -> str | None:
    """A hint with the known word that is closest, when one is; a secret is compared with none."""
    from difflib import get_close_matches

    close = [] if isinstance(word, Secret) else get_close_matches(word, sorted(known), 1)
    return f"did you mean {close[0]!r}?" if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint with the known word that is closest, or with all of them when none is."""
    names = sorted(known)
    return closest(word, names) or ("known: " + ", ".join(names) if names else None)


def unknown_key(name: str, known: Iterable[str]) -> ConfigError:
    """The error for an option that is not there."""
    return KeyMistake("unknown key", hint=did_you_mean(name, known))


def refused(raw: Any, value: Any, error: Exception) -> ConfigError:
    """What a validator says; it may not know that the value is one not to be printed."""
    if isinstance(raw, Secret) and not isinstance(value, str):
        return ConfigError(f"{show(raw)} is refused")
    return ConfigError(words_of(error))


def words_of(error: Exception) -> str:
    """An exception's own message: attrs' validators give further arguments after it."""
    return str(error.args[0]) if error.args else type(error).__name__

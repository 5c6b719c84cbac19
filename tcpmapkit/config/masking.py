"""Secrets: what must not be printed, and how text is freed from it.

Two kinds are never printed: options annotated as secret, and whatever came from the environment. A
third is a guess in the operator's favour: options named like a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Secret", "Secrets", "hide_in_urls", "sounds_secret"]

_SOUNDS_SECRET = re.compile(r"(?:pass(?:word|wd|phrase)?|secret|token|authorization|api[-_]?key)\Z", re.I)

#: What stands between a URL's scheme and its host: user and password.
_IN_URL = re.compile(r"(?<=://)[^\s/?#@\"']*:[^\s/?#\"']+(?=@)")

#: Below this many characters a secret is only looked for as a word of its own: masking each "1" in a
#: message would hide the message and tell the secret.
_SHORT = 4


def sounds_secret(name: object) -> bool:
    """Whether an option of this name probably holds a secret."""
    return isinstance(name, str) and _SOUNDS_SECRET.search(name) is not None


def hide_in_urls(text: str) -> str:
    """The text with the user and password of every URL in it masked, at their own width."""
    return _IN_URL.sub(lambda match: "*" * len(match[0]), text)


class Secret(str):
    """A str that does not show itself: its `repr` is masked.

    `literal` is the same text for a template, with the braces of what came from the environment
    doubled, since that is data and never a variable.
    """

    literal: str

    def __new__(cls, text: str, literal: str | None = None) -> Secret:
        secret = super().__new__(cls, text)
        secret.literal = text if literal is None else cls(literal)
        return secret

    def __repr__(self) -> str:
        return "'***'"


@attrs.define(eq=False)
class Secrets:
    """The secrets of one document: their texts, and the paths of the options that hold them."""

    texts: set[str] = attrs.field(factory=set, repr=False)
    paths: set[tuple[str | int, ...]] = attrs.field(factory=set)

    def add(self, text: str) -> None:
        """Never print this text, whole or as Python would quote it."""
        if text.strip():
            self.texts.update((text, repr(text)[1:-1]))

    def add_suspects(self, value: Any, name: object = None) -> None:
        """Add every string of a TOML value that is named like a secret."""
        if isinstance(value, Mapping):
            for key, inner in value.items():
                self.add_suspects(inner, key)
        elif isinstance(value, list):
            for inner in value:
                self.add_suspects(inner, name)
        elif isinstance(value, str) and sounds_secret(name):
            self.add(value)

    def hide(self, text: str) -> str:
        """The text with every secret in it masked."""
        text = hide_in_urls(text)
        if not self.texts:
            return text
        alternatives = (
            re.escape(secret) if len(secret) >= _SHORT else rf"(?<!\w){re.escape(secret)}(?!\w)"
            for secret in sorted(self.texts, key=len, reverse=True)
        )
        return re.sub("|".join(alternatives), "***", text, flags=re.IGNORECASE)

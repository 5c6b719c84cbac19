"""``static``: entries written in the configuration, or one value for every key as Postfix's ``static:``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from tcpmapkit import ConfigError, Found, hookimpl


def _found(value: str, *path: str) -> Found:
    try:
        return Found(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), path=path) from None


@attrs.define(eq=False)
class Static:
    """Exactly one of `entries` and `value`; every key, the special ones too, gets `value`.

    Raises `ConfigError` for a value that cannot be an answer.
    """

    entries: Mapping[str, str] | None = attrs.field(
        default=None, metadata={"help": "the values by key, as {key = value}"}
    )
    value: str | None = attrs.field(default=None, metadata={"help": "the value of every key"})
    _answers: dict[str, Found] = attrs.field(init=False, factory=dict, repr=False)
    _answer: Found | None = attrs.field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        if (self.entries is None) == (self.value is None):
            raise ConfigError("static takes either entries = {key = value} or value = ...")
        if self.value is not None:
            self._answer = _found(self.value, "value")
        for key, value in (self.entries or {}).items():
            self._answers[key] = _found(value, "entries", key)

    async def start(self, context: Any) -> None:
        """Fold the entries' keys. Raises `ConfigError` when two of them become the same."""
        folded: dict[str, Found] = {}
        for key, answer in self._answers.items():
            name = context.fold(key)
            if name in folded:
                raise ConfigError(
                    f"the key {name!r} is there already: keys are compared in lower case",
                    path=("entries", key),
                )
            folded[name] = answer
        self._answers = folded

    def resolve(self, query: Any) -> Found | None:
        """The entry of the key, or `value`."""
        return self._answers.get(query.key, self._answer)


@hookimpl
def register_resolvers(register: Any) -> None:
    register("static", Static, special_keys=True, in_memory=True)

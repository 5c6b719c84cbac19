"""``${NAME}`` in strings: the value of an environment variable, which is never printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tcpmapkit.config.masking import Secret, Secrets
from tcpmapkit.config.mistakes import Unset
from tcpmapkit.errors import ConfigError

__all__ = ["expand"]

#: Other dollars are the operator's own: ``$1``, ``${1}``, ``$$`` belong to regex results.
_VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}")


def expand(data: Any, environ: Mapping[str, str], secrets: Secrets) -> tuple[Any, list[ConfigError]]:
    """The data with every variable replaced, and an error for each that is not set.

    A string with a variable becomes a `Secret`, or `Unset` when there is none of that name; keys
    and the rules of regex steps stay as they are. What was put in is added to `secrets`.
    """
    errors: list[ConfigError] = []

    def put_in(text: str, path: tuple[str | int, ...]) -> Any:
        names = _VARIABLE.findall(text)
        if not names:
            return text
        for name in names:
            value = environ.get(name)
            if value is None:
                unset = Unset(name)
                errors.append(ConfigError(str(unset), path=path))
                return unset
            secrets.add(value)
        plain = _VARIABLE.sub(lambda match: environ[match[1]], text)
        literal = _VARIABLE.sub(lambda match: re.sub(r"[{}]", r"\g<0>\g<0>", environ[match[1]]), text)
        return Secret(plain, literal)

    def walk(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, str):
            return put_in(value, path) if "${" in value else value
        if isinstance(value, list):
            return [walk(inner, (*path, index)) for index, inner in enumerate(value)]
        if isinstance(value, dict):
            kept = "rules" if value.get("type") == "regex" else None
            return {
                name: inner if name == kept else walk(inner, (*path, name)) for name, inner in value.items()
            }
        return value

    return walk(data, ()), errors

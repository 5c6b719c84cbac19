"""Templates: ``{key} {local} {user} {extension} {domain} {value}`` in an option's text.

Nothing in a key is ever evaluated: a template is cut into literal text and variable names when the
configuration is read, and a lookup only joins strings. ``{{`` and ``}}`` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from tcpmapkit.errors import ConfigError
from tcpmapkit.keys import quote_localpart
from tcpmapkit.protocols.policy import ATTRIBUTES
from tcpmapkit.query import Query

__all__ = ["KEY_VARIABLES", "VARIABLES", "JsonTemplate", "Template", "Variable"]

#: What the key of any query gives.
KEY_VARIABLES = ("key", "local", "user", "extension", "domain")

VARIABLES = (*KEY_VARIABLES, *ATTRIBUTES)
"""What a template may use: the key's parts, and every attribute of a policy request."""

_LOCAL_VARIABLES = frozenset({"local", "user", "extension"})

# What needs no quotes in a localpart (atext and dots, 8-bit text included, as in `tcpmapkit.keys`).
_ATOMS = re.compile(r"([^\x00-\x20\x7f()<>@,;:\\\"\[\]]+)")

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@attrs.frozen
class Variable:
    """A variable's place in a template."""

    name: str


def _unchanged(text: str) -> str:
    return text


@attrs.frozen
class Template:
    """A compiled template.

    `text` is its source; `parts` its literal texts and variables in turn; `variables` the names it
    uses; `constant` the literal text before the first variable.
    """

    text: str
    parts: tuple[str | Variable, ...]

    @classmethod
    def compile(cls, text: str, variables: Iterable[str] = VARIABLES) -> Template:
        """Raises `ConfigError` for a lone brace and for a variable that is not in `variables`."""
        known = tuple(variables)
        parts: list[str | Variable] = []
        literal, end = "", 0
        for token in _TOKEN.finditer(text):
            literal += text[end : token.start()]
            end = token.end()
            name = token[1]
            if token[0] in ("{{", "}}"):
                literal += token[0][0]
            elif name is None:
                raise ConfigError(f"a lone {token[0]!r} in the template {text!r}", hint="a brace is {{ or }}")
            elif name not in known:
                from difflib import get_close_matches

                close = get_close_matches(name, known, 1)
                raise ConfigError(
                    f"unknown variable {{{name}}}",
                    hint=f"did you mean {{{close[0]}}}?" if close else _known(known),
                )
            else:
                if literal:
                    parts.append(literal)
                    literal = ""
                parts.append(Variable(name))
        literal += text[end:]
        if literal:
            parts.append(literal)
        return cls(text, tuple(parts))

    @property
    def variables(self) -> frozenset[str]:
        """The names of the variables used."""
        return frozenset(part.name for part in self.parts if isinstance(part, Variable))

    @property
    def attributes(self) -> frozenset[str]:
        """The attributes of a policy request among them."""
        return self.variables.intersection(ATTRIBUTES)

    @property
    def constant(self) -> str:
        """The literal text before the first variable."""
        return self.parts[0] if self.parts and isinstance(self.parts[0], str) else ""

    def __call__(self, query: Query, quote: Callable[[str], str] = _unchanged) -> str | None:
        """The text for this query, each variable's passed through `quote`.

        None when a variable is absent or empty, ``{key}`` excepted: then the step misses, as
        Postfix does with an empty ``%d``.
        """
        text = ""
        for part in self.parts:
            if isinstance(part, str):
                text += part
                continue
            found = self._find(part.name, query)
            if found is None:
                return None
            text += quote(found)
        return text

    def texts(self, query: Query) -> Iterator[tuple[str | None, str | None]]:
        """The parts for this query, for whoever treats each variable in its own way: None and a literal
        text, or a variable's name and its text, None when it is absent or empty."""
        for part in self.parts:
            yield (None, part) if isinstance(part, str) else (part.name, self._find(part.name, query))

    def result(self, query: Query, value: str) -> str | None:
        """The text as a value to be answered: `value` is ``{value}``, localparts are quoted (RFC 5322).

        The localpart that the template makes is quoted as a whole, its literal text included
        (``{user}+{extension}@example.net``), and only when a variable in it needs that.
        """
        text = local = ""
        odd = False
        for part in self._cut_at_atoms():
            if isinstance(part, Variable) and part.name in _LOCAL_VARIABLES:
                found = getattr(query, part.name)
                if not found:
                    return None
                local += found
                odd = odd or quote_localpart(found) != found
            elif isinstance(part, str) and _ATOMS.fullmatch(part):
                local += part
            else:
                found = part if isinstance(part, str) else self._find(part.name, query, value)
                if found is None:
                    return None
                text += (quote_localpart(local) if odd else local) + found
                local, odd = "", False
        return text + (quote_localpart(local) if odd else local)

    def _cut_at_atoms(self) -> Iterator[str | Variable]:
        """The parts, the literal ones cut into what can belong to a localpart and what cannot."""
        for part in self.parts:
            if isinstance(part, str):
                yield from filter(None, _ATOMS.split(part))
            else:
                yield part

    @staticmethod
    def _find(name: str, query: Query, value: str | None = None) -> str | None:
        """A variable's text; None when it is absent or empty."""
        if name == "key":
            return query.key
        if name == "value" and value is not None:
            return value or None
        found: str | None = getattr(query, name) if name in KEY_VARIABLES else query.attributes.get(name)
        return found or None


def _known(variables: Iterable[str]) -> str:
    """What there is, the attributes not one by one."""
    names = [f"{{{name}}}" for name in variables if name not in ATTRIBUTES]
    return f"known: {' '.join([*names, *(['and'] if names else []), 'the attributes of a policy request'])}"


@attrs.frozen
class JsonTemplate:
    """A JSON value whose strings are templates, object keys excepted; called with a query it gives
    the value, or None when a variable in it is absent or empty."""

    value: Any

    @classmethod
    def compile(cls, value: Any, variables: Iterable[str] = VARIABLES) -> JsonTemplate:
        """Raises `ConfigError` as `Template.compile` does, with the path to the string."""
        return cls(_compile_json(value, tuple(variables), ()))

    @property
    def variables(self) -> frozenset[str]:
        """The names of the variables used."""
        return frozenset(name for template in _templates(self.value) for name in template.variables)

    @property
    def attributes(self) -> frozenset[str]:
        """The attributes of a policy request among them."""
        return self.variables.intersection(ATTRIBUTES)

    def __call__(self, query: Query) -> Any:
        try:
            return _fill(self.value, query)
        except LookupError:
            return None


def _compile_json(value: Any, variables: tuple[str, ...], path: tuple[str | int, ...]) -> Any:
    if isinstance(value, str):
        try:
            return Template.compile(value, variables)
        except ConfigError as error:
            error.path = path
            raise
    if isinstance(value, Mapping):
        return {name: _compile_json(inner, variables, (*path, name)) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_compile_json(inner, variables, (*path, index)) for index, inner in enumerate(value))
    return value


def _templates(value: Any) -> Iterable[Template]:
    if isinstance(value, Template):
        yield value
    elif isinstance(value, (Mapping, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _templates(inner)


def _fill(value: Any, query: Query) -> Any:
    if isinstance(value, Template):
        text = value(query)
        if text is None:
            raise LookupError(value.text)
        return text
    if isinstance(value, Mapping):
        return {name: _fill(inner, query) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_fill(inner, query) for inner in value]
    return value

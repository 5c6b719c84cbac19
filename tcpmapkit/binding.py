"""A resolver type's option values, made ready for its factory; and what they read of a policy request."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

import attrs

from tcpmapkit.config.options import options_of
from tcpmapkit.errors import ConfigError, ConfigErrors, under
from tcpmapkit.map_reference import complement_of
from tcpmapkit.resolver import Chain, Map
from tcpmapkit.template import JsonTemplate, Template

__all__ = ["Binding", "Path"]

#: The way to a value within its step: the option, then indexes and the options of tables in it.
Path = tuple[str | int, ...]


@attrs.define(eq=False)
class Binding:
    """Makes the values of one step's options: templates compiled with these `variables`; chains of
    steps (with their default ``on_error``) and other maps (by name, and the way to it) built by the
    two functions. `attributes` are the request attributes that the values made so far read, `templates`
    the variables of templates among them; `named` the attributes that the operator has named, and where.
    """

    variables: tuple[str, ...]
    chain: Callable[[Any, str | None], Any]
    map: Callable[[str, Path], Any]
    attributes: set[str] = attrs.field(factory=set, init=False)
    templates: set[str] = attrs.field(factory=set, init=False)
    named: list[tuple[Path, str]] = attrs.field(factory=list, init=False)
    _fields: dict[type, tuple[tuple[str, str, Any], ...]] = attrs.field(factory=dict, init=False)

    def bind(self, hint: Any, value: Any, path: Path, notes: tuple[Any, ...] = ()) -> Any:
        """The value as the factory takes it, the tables in it included; what needs no making as it is.

        Raises `ConfigErrors` for all that is wrong in it, each with its path within the step; what
        the two functions have told already is not told again.
        """
        origin = get_origin(hint)
        if value is None:
            return None
        if origin is Annotated:
            base, *more = get_args(hint)
            if "template" in more:
                return self._template(Template.compile, value, path) if isinstance(value, str) else value
            if "template-json" in more:
                return self._template(JsonTemplate.compile, value, path)
            if "attribute" in more:
                self._name(value, path)
            return self.bind(base, value, path, (*notes, *more))
        if hint is Chain:
            return self.chain(value, _said(notes, "on_error: "))
        if hint is Map:
            return self._map(value, path, "negatable" in notes)
        if origin in (Union, types.UnionType):
            return self._member(get_args(hint), value, path, notes)
        if origin in (tuple, list, Sequence) and isinstance(value, (tuple, list)):
            inner = get_args(hint)[0]
            if inner is Chain and origin is tuple:
                value = type(value)((step,) for step in value)
            return type(value)(self._each(enumerate(value), lambda key: inner, path, notes).values())
        if origin is not None and isinstance(value, Mapping):
            inner = get_args(hint)[-1]
            return self._each(value.items(), lambda key: inner, path, notes)
        if isinstance(hint, type) and attrs.has(hint) and isinstance(value, hint):
            return self._table(hint, value, path)
        return value

    def _template(self, compile: Callable[..., Any], value: Any, path: Path) -> Any:  # noqa: A002
        try:
            template = compile(value, self.variables)
        except ConfigError as error:
            raise ConfigErrors(under(error, *path)) from None
        self.attributes |= template.attributes
        self.templates |= template.variables
        return template

    def _name(self, value: Any, path: Path) -> None:
        if isinstance(value, str):
            self.attributes.add(value)
            self.named.append((path, value))
        elif isinstance(value, (tuple, list)):
            for index, one in enumerate(value):
                self._name(one, (*path, index))

    def _map(self, text: str, path: Path, negatable: bool) -> Any:
        name = text.lstrip("! ") if negatable else text
        found = self.map(name, path)
        negated = text[: len(text) - len(name)].count("!") % 2 == 1
        return complement_of(found, name) if negated else found

    def _member(self, arms: Iterable[Any], value: Any, path: Path, notes: tuple[Any, ...]) -> Any:
        for arm in arms:
            made = self.bind(arm, value, path, notes)
            if made is not value:
                return made
        return value

    def _each(
        self,
        items: Iterable[tuple[Any, Any]],
        hint_of: Callable[[Any], Any],
        path: Path,
        notes: tuple[Any, ...],
    ) -> dict[Any, Any]:
        """Every value made; all that is wrong with any of them is told."""
        made: dict[Any, Any] = {}
        errors: list[ConfigError] = []
        for key, item in items:
            try:
                made[key] = self.bind(hint_of(key), item, (*path, key), notes)
            except ConfigError as error:
                errors.append(error)
        if errors:
            raise ConfigErrors(errors)
        return made

    def _table(self, cls: type, value: Any, path: Path) -> Any:
        """The object of a table, made again with what its fields have become; itself if nothing has."""
        fields = self._fields.get(cls)
        if fields is None:
            names = {field.alias: field.name for field in attrs.fields(cls)}
            fields = tuple((one.name, names[one.name], one.annotation) for one in options_of(cls))
            self._fields[cls] = fields
        hints = {option: hint for option, _, hint in fields}
        values = {option: getattr(value, name) for option, name, _ in fields}
        made = self._each(values.items(), hints.__getitem__, path, ())
        changed = {option: one for option, one in made.items() if one is not values[option]}
        if not changed:
            return value
        try:
            return attrs.evolve(value, **changed)
        except ConfigError as error:
            raise ConfigErrors(under(error, *path)) from None
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error), path=path) from error


def _said(notes: tuple[Any, ...], what: str) -> str | None:
    for note in notes:
        if isinstance(note, str) and note.startswith(what):
            return note.removeprefix(what)
    return None

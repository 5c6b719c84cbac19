"""Strict structuring of TOML values by annotation: nothing is coerced, no error hides another.

cattrs finds the hook for an annotation; the hooks are ours. They raise `ConfigError` with a path
relative to the value they were given, and whoever called them puts the rest in front. (cattrs' own
hooks for classes run validators after all fields, where the first hides the others, and name
errors by Python's types.)
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs
import cattrs

from tcpmapkit.config.masking import Secret, Secrets
from tcpmapkit.config.mistakes import WrongType, closest, refused, show, unknown_key, words_of, wrong
from tcpmapkit.config.options import Option, options_of
from tcpmapkit.config.scalars import (
    Endpoint,
    Network,
    parse_duration,
    parse_endpoint,
    parse_mode,
    parse_network,
    parse_size,
)
from tcpmapkit.config.strict import (
    boolean,
    integer,
    json_like,
    json_template,
    literal_reader,
    number,
    string,
    template,
)
from tcpmapkit.errors import ConfigError, ConfigErrors, under
from tcpmapkit.protocols.policy import ATTRIBUTES
from tcpmapkit.resolver import Chain, Map
from tcpmapkit.template import VARIABLES

__all__ = ["Plan", "Reader"]

Read = Callable[[Any], Any]


@attrs.frozen
class Plan:
    """How a table is read: a reader for each option, which must be there, which hold secrets."""

    readers: Mapping[str, Read]
    required: tuple[str, ...]
    secret: tuple[str, ...]


class Reader:
    """Reads the values of one document."""

    def __init__(self, directory: Path, secrets: Secrets, read_steps: Callable[[Any], Any]) -> None:
        self.directory = directory
        self.secrets = secrets
        #: The path of the value that is being read.
        self.path: list[str | int] = []
        self._plans: dict[type, Plan] = {}
        self._converter = converter = cattrs.Converter(detailed_validation=False)
        scalars: tuple[tuple[Any, Read], ...] = (
            (str, string),
            (int, integer),
            (float, number),
            (bool, boolean),
            (Path, self._path),
        )
        for kind, read in scalars:
            converter.register_structure_hook(kind, _as_hook(read))
        # The last that fits is taken.
        others: tuple[tuple[Callable[[Any], bool], Callable[[Any], Read]], ...] = (
            (lambda kind: True, _unknown_annotation),
            (attrs.has, self._table_reader),
            (lambda kind: get_origin(kind) in (tuple, list, Sequence), self._array_reader),
            (lambda kind: get_origin(kind) in (dict, Mapping), self._mapping_reader),
            (lambda kind: get_origin(kind) is Literal, literal_reader),
            (lambda kind: get_origin(kind) in (typing.Union, types.UnionType), self._union_reader),
            (lambda kind: get_origin(kind) is Annotated, self._annotated_reader),
            (lambda kind: kind is Any, lambda kind: json_like),
            (lambda kind: kind is Map, lambda kind: string),
            (lambda kind: kind in (Chain, tuple[Chain, ...]), lambda kind: read_steps),
            (lambda kind: kind is Endpoint, lambda kind: lambda value: parse_endpoint(value, directory)),
            (lambda kind: kind == Network, lambda kind: parse_network),
        )
        for fits, make in others:
            converter.register_structure_hook_factory(fits, _as_hook_factory(make))

    def reader(self, annotation: Any) -> Read:
        """The function that reads a value of this annotation. Raises TypeError for an unknown one."""
        hook = self._converter.get_structure_hook(annotation)
        return lambda value: hook(value, annotation)

    def plan(self, options: Iterable[Option]) -> Plan:
        """How to read a table of these options. Raises TypeError for an annotation not known here."""
        options = tuple(options)
        return Plan(
            {option.name: self._option_reader(option) for option in options},
            tuple(option.name for option in options if option.required),
            tuple(option.name for option in options if _is_secret(option.annotation)),
        )

    def plan_of(self, cls: type) -> Plan:
        """How to read a table into this attrs class."""
        plan = self._plans.get(cls)
        if plan is None:
            plan = self._plans[cls] = self.plan(options_of(cls))
        return plan

    def fields(
        self, plan: Plan, table: Any, apart: Sequence[str] = ()
    ) -> tuple[dict[str, Any], list[ConfigError]]:
        """The options of a table that are right, and what is wrong with the others; those in `apart` are
        left for the caller to read."""
        if not isinstance(table, dict):
            return {}, [wrong("a table", table)]
        fields: dict[str, Any] = {}
        errors: list[ConfigError] = []
        for name, value in table.items():
            if name in apart:
                continue
            self.path.append(name)
            try:
                read = plan.readers.get(name)
                if read is None:
                    if closest(name, plan.secret):
                        self.secrets.paths.add(tuple(self.path))
                    raise unknown_key(name, plan.readers)
                fields[name] = read(value)
            except ConfigError as error:
                errors += under(error, name)
            finally:
                self.path.pop()
        errors += [ConfigError("it is missing", path=(name,)) for name in plan.required if name not in table]
        return fields, errors

    def _option_reader(self, option: Option) -> Read:
        read = self.reader(option.annotation)
        validate = option.validate
        if validate is None:
            return read

        def read_and_validate(raw: Any) -> Any:
            value = read(raw)
            try:
                validate(value)
            except ConfigError:
                raise
            except (ValueError, TypeError) as error:
                raise refused(raw, value, error) from None
            return value

        return read_and_validate

    def _table_reader(self, cls: Any) -> Read:
        plan = self.plan_of(cls)

        def read(value: Any) -> Any:
            if not isinstance(value, dict):
                raise wrong("a table", value)
            fields, errors = self.fields(plan, value)
            if errors:
                raise ConfigErrors(errors)
            try:
                return cls(**fields)
            except ConfigError:
                raise
            except (ValueError, TypeError) as error:
                raise ConfigError(words_of(error)) from None

        return read

    def _array_reader(self, kind: Any) -> Read:
        origin, arguments = get_origin(kind), get_args(kind)
        if not arguments or (origin is tuple and arguments[1:] != (...,)):
            raise TypeError(f"{kind} says nothing of the length or type of an array that TOML could hold")
        read_item = self.reader(arguments[0])
        collect = list if origin is list else tuple
        return lambda value: collect(self._items(value, read_item))

    def _items(self, value: Any, read: Read) -> Iterable[Any]:
        if not isinstance(value, list):
            raise wrong("an array", value)
        return self._each(enumerate(value), read).values()

    def _mapping_reader(self, kind: Any) -> Read:
        arguments = get_args(kind)
        if not arguments or arguments[0] not in (str, Any):
            raise TypeError(f"{kind}: the keys of a TOML table are str")
        read_item = self.reader(arguments[1])

        def read(value: Any) -> dict[Any, Any]:
            if not isinstance(value, dict):
                raise wrong("a table", value)
            return self._each(value.items(), read_item)

        return read

    def _each(self, items: Iterable[tuple[Any, Any]], read: Read) -> dict[Any, Any]:
        values, errors = {}, []
        for key, item in items:
            self.path.append(key)
            try:
                values[key] = read(item)
            except ConfigError as error:
                errors += under(error, key)
            finally:
                self.path.pop()
        if errors:
            raise ConfigErrors(errors)
        return values

    def _union_reader(self, kind: Any) -> Read:
        readers = [self.reader(member) for member in get_args(kind) if member is not type(None)]
        if len(readers) == 1:
            return readers[0]

        def read(value: Any) -> Any:
            expected, refused = [], None
            for read_member in readers:
                try:
                    return read_member(value)
                except ConfigError as error:
                    if isinstance(error, WrongType) and not error.path:
                        expected.append(error.expected)
                    else:
                        refused = refused or error
            raise refused or wrong(" or ".join(expected), value)

        return read

    def _annotated_reader(self, kind: Any) -> Read:
        inner, *notes = get_args(kind)
        read = self.reader(inner)
        for note in notes:
            if note == "duration":
                return parse_duration
            if note == "size":
                return parse_size
            if note == "mode":
                return parse_mode
            if note == "secret":
                return lambda value: self._secret(value, read)
            if note == "template":
                known: tuple[str, ...] = (*VARIABLES, "value") if "of a value" in notes else VARIABLES
                if "of attributes" in notes:
                    known = ATTRIBUTES
                return lambda value: template(value, known)
            if note == "template-json":
                return lambda value: json_template(json_like(value))
        return read

    def _secret(self, value: Any, read: Read) -> Any:
        self.secrets.paths.add(tuple(self.path))
        secret = read(value)
        if not isinstance(secret, str):
            return secret
        self.secrets.add(secret)
        return secret if isinstance(secret, Secret) else Secret(secret)

    def _path(self, value: Any) -> Path:
        text = string(value)
        if not text or "\0" in text:
            raise ConfigError(f"{show(value)} is not a path")
        return self.directory / text


def _is_secret(kind: Any) -> bool:
    arguments = get_args(kind)
    return (get_origin(kind) is Annotated and "secret" in arguments[1:]) or any(map(_is_secret, arguments))


def _as_hook(read: Read) -> Callable[[Any, Any], Any]:
    return lambda value, _: read(value)


def _as_hook_factory(make: Callable[[Any], Read]) -> Callable[[Any], Callable[[Any, Any], Any]]:
    return lambda kind: _as_hook(make(kind))


def _unknown_annotation(kind: Any) -> Read:
    raise TypeError(f"{getattr(kind, '__name__', kind)} is not a type that an option can have")

"""JSON Schema (draft 2020-12) of the configuration, for editors: from the classes that read it."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import attrs

from tcpmapkit.config.listeners import listener_schemas
from tcpmapkit.config.model import Config, StepConfig
from tcpmapkit.config.options import STEP_OPTIONS, Option, options_of, type_options
from tcpmapkit.config.scalars import Endpoint, Network
from tcpmapkit.resolver import Chain, Map

if TYPE_CHECKING:
    from tcpmapkit.plugins import ResolverType

__all__ = ["config_schema"]

Schema = dict[str, Any]

#: A string may come from the environment, whatever it stands for.
_OR_VARIABLE = r"|^\$\{[A-Z_][A-Z0-9_]*\}$"

_SCALARS: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Path: {"type": "string", "minLength": 1},
    Map: {"type": "string"},
    Any: {},
    Endpoint: {"type": "string", "pattern": "^(inet:.+:[0-9]+|unix:.+)$" + _OR_VARIABLE},
    Network: {"type": "string"},
}
_NOTED: Mapping[str, Schema] = {
    "duration": {
        "type": ["string", "number"],
        "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$" + _OR_VARIABLE,
        "minimum": 0,
    },
    "size": {
        "type": ["string", "integer"],
        "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$" + _OR_VARIABLE,
        "minimum": 0,
    },
    "mode": {"type": "string", "pattern": "^0?[0-7]{3}$" + _OR_VARIABLE},
    "template": {"type": "string"},
    "template-json": {},
}


def config_schema(types: Mapping[str, ResolverType]) -> Schema:
    """The schema of a file whose steps are of these types.

    A type whose options cannot be read, a plugin's bug that is told when the type is used, is
    described without them.
    """
    schema = _table(options_of(Config))
    schema["properties"]["listeners"]["items"]["allOf"] = listener_schemas()
    maps = schema["properties"]["maps"]
    maps["propertyNames"] = {"pattern": r"^\S+$"}
    branches = [_branch(types[name]) for name in sorted(types)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tcpmapkit.toml",
        **schema,
        "$defs": {"resolver": {"oneOf": branches} if branches else False},
    }


def _branch(resolver_type: ResolverType) -> Schema:
    try:
        options = type_options(resolver_type)
        schema = _table((*STEP_OPTIONS, *options))
    except Exception:  # annotations that come from a plugin
        schema = _table(STEP_OPTIONS)
        schema["additionalProperties"] = True
    schema["properties"]["type"] = {
        "const": resolver_type.name,
        "description": schema["properties"]["type"].get("description", ""),
    }
    return schema


def _table(options: Iterable[Option]) -> Schema:
    options = tuple(options)
    schema: Schema = {
        "type": "object",
        "properties": {option.name: _described(option) for option in options},
        "additionalProperties": False,
    }
    required = [option.name for option in options if option.required]
    if required:
        schema["required"] = required
    return schema


def _described(option: Option) -> Schema:
    schema = dict(_schema(option.annotation))
    if option.help:
        schema["description"] = option.help
    if isinstance(option.default, (str, int, float, bool)):
        schema["default"] = option.default
    return schema


def _schema(annotation: Any) -> Schema:
    try:
        scalar = _SCALARS.get(annotation)
    except TypeError:  # an annotation that cannot be hashed
        scalar = None
    if scalar is not None:
        return scalar
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is StepConfig:
        return {"$ref": "#/$defs/resolver"}
    if annotation in (Chain, tuple[Chain, ...]):
        return {"type": "array", "items": {"$ref": "#/$defs/resolver"}, "minItems": 1}
    if origin is Annotated:
        noted = [_NOTED[note] for note in arguments[1:] if isinstance(note, str) and note in _NOTED]
        return noted[0] if noted else _schema(arguments[0])
    if origin is Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        members = [_schema(member) for member in arguments if member is not type(None)]
        return members[0] if len(members) == 1 else {"anyOf": members}
    if origin in (tuple, list, Sequence) and arguments:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin in (dict, Mapping) and arguments:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if attrs.has(annotation):
        return _table(options_of(annotation))
    raise TypeError(f"{annotation} is not a type that an option can have")

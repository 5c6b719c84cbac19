"""Resolver types of no use but to be configured, and a document from a string."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs

from tcpmapkit import Chain, ConfigError, Map
from tcpmapkit.config import Config, read_document, structure
from tcpmapkit.plugins import ResolverType


@attrs.frozen
class Rule:
    pattern: str
    result: str = attrs.field(validator=attrs.validators.min_len(1))
    negate: bool = False

    def __attrs_post_init__(self) -> None:
        if self.pattern.startswith("("):
            raise ConfigError("bad regex: missing )", path=("pattern",))


def _one_character(instance: object, attribute: Any, value: str) -> None:
    if len(value) != 1:
        raise ValueError(f"{value!r} is not one character")


@attrs.define(eq=False)
class Csv:
    path: Path
    key_column: int | str = 1
    delimiter: str = attrs.field(default=",", validator=_one_character, metadata={"help": "What separates."})
    header: bool = True


@attrs.define(eq=False)
class Regex:
    rules: tuple[Rule, ...] | None = None
    path: Path | None = None
    engine: Literal["auto", "pcre2", "re"] = "auto"


@attrs.define(eq=False)
class Http:
    url: Annotated[Any, "template"]
    params: Mapping[str, Annotated[Any, "template"]] = attrs.field(factory=dict)
    json: Annotated[Any, "template-json"] = None
    password: Annotated[str, "secret"] = attrs.field(default="", validator=attrs.validators.max_len(12))
    max_body: Annotated[int, "size"] = 2**20
    wait: Annotated[float, "duration"] | None = None
    not_found: tuple[int, ...] = (404,)
    ratio: float = 1.0
    anything: Any = None


@attrs.define(eq=False)
class Pin:
    url: str
    pin: Annotated[str, "secret"]


@attrs.define(eq=False)
class Group:
    resolvers: Chain
    other: Chain | None = None


def pipe(resolvers: tuple[Chain, ...], separator: Annotated[str, "help: What joins."] = ",") -> object:
    return resolvers, separator


def other_map(map: Map) -> object:
    return map


class NoFields:
    pass


@attrs.define(eq=False)
class Unresolvable:
    option: NotImportedAnywhere  # type: ignore[name-defined]  # noqa: F821


@attrs.define(eq=False)
class NestsUnresolvable:
    options: tuple[Unresolvable, ...] = ()


@attrs.define(eq=False)
class Strange:
    option: complex = 0j


@attrs.define(eq=False)
class TakesTimeout:
    timeout: int = 3


@attrs.define(eq=False)
class NeedsItself:
    least: int = 1
    most: int = attrs.field(default=2)

    @most.validator
    def _more_than_least(self, attribute: Any, value: int) -> None:
        if value < self.least:
            raise ValueError("least is more than most")


def resolver_type(name: str, factory: Any) -> ResolverType:
    return ResolverType(name, factory, distribution="example-plugin")


TYPES = {
    name: resolver_type(name, factory)
    for name, factory in (
        ("csv", Csv),
        ("regex", Regex),
        ("http", Http),
        ("chain", Group),
        ("pipe", pipe),
        ("map", other_map),
        ("nothing", NoFields),
    )
}


def configure(
    directory: Path, text: str, environ: Mapping[str, str] | None = None, types: Mapping[str, Any] = TYPES
) -> tuple[Config, list[ConfigError]]:
    file = directory / "tcpmapkit.toml"
    file.write_text(text, "utf-8", newline="")
    return structure(read_document(file), types, environ or {})


def mistakes(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The first line of each error, without the directory."""
    _, errors = configure(directory, text, environ)
    return [str(error).splitlines()[0].replace(f"{directory}/tcpmapkit.toml:", "") for error in errors]

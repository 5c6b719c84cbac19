"""How the core's own classes declare an option: an attrs field with a help text, and what checks it."""

from __future__ import annotations

from typing import Annotated, Any

import attrs

__all__ = ["Duration", "Size", "fraction", "option", "positive"]

#: Seconds; in TOML ``"300ms"``, ``"5s"``, ``"2m"``, ``"1h"``, ``"7d"`` or a number.
Duration = Annotated[float, "duration"]

#: Bytes; in TOML ``"64MiB"`` or a number.
Size = Annotated[int, "size"]


def option(help: str, default: Any = attrs.NOTHING, **more: Any) -> Any:  # noqa: A002
    """A field whose `help` is one sentence for the manual and the schema; `more` is a `validator`, and
    metadata. Without a `default` the option must be written."""
    validator = more.pop("validator", None)
    return attrs.field(default=default, validator=validator, metadata={"help": help, **more})


def positive(instance: object, attribute: Any, value: float) -> None:
    """A validator. Raises `ValueError`."""
    if value <= 0:
        raise ValueError("must be more than 0")


def fraction(instance: object, attribute: Any, value: float) -> None:
    """A validator. Raises `ValueError`."""
    if not 0 <= value <= 1:
        raise ValueError("must be from 0 to 1")

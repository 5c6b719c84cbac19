"""Options of the design that this version does not have yet: refused, never accepted and ignored.

An option is looked up here when nothing else knows it or its value, so an entry that has been
built can only be forgotten here without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["NOT_AVAILABLE", "not_available"]

_Refused = Callable[[Any], bool]


def _any(value: Any) -> bool:
    return True


def _several(value: Any) -> bool:
    return value == "auto" or (isinstance(value, int) and value > 1)


def _all_of(names: Iterable[str]) -> dict[str, _Refused]:
    return dict.fromkeys(names, _any)


#: Section -> option -> which of its values are not available. The section ``""`` is the file itself.
NOT_AVAILABLE: Mapping[str, Mapping[str, _Refused]] = {
    "": _all_of(["admin"]),
    "server": {"workers": _several},
    "log": _all_of(["log_keys"]),
    "resolvers": _all_of(["max_shrink", "breaker"]),
}


def not_available(section: str, option: str, value: Any) -> bool:
    """Whether the design has this option with this value, and this version has not."""
    refused = NOT_AVAILABLE.get(section, {}).get(option)
    return refused is not None and refused(value)

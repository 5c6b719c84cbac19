"""The options of a map that belong to some search orders only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tcpmapkit.config.mistakes import KeyMistake
from tcpmapkit.errors import ConfigError
from tcpmapkit.search import SEARCHES, SearchOrder

__all__ = ["search_mistakes"]

_ONLY: Final[Mapping[str, Callable[[SearchOrder], bool]]] = {
    "local_domains": lambda order: not order.bare_is_domain,
    "propagate_extension": lambda order: order.rewrites,
    "match_subdomains": lambda order: order.bare_is_domain,
}


def search_mistakes(fields: Mapping[str, Any], table: Mapping[str, Any]) -> Iterable[ConfigError]:
    """What a map says of a search that it has not. `fields` holds what is right in its `table`."""
    if "search" in table and "search" not in fields:
        return
    search = fields.get("search")
    for option, fits in _ONLY.items():
        if option in table and (search is None or not fits(SearchOrder(search))):
            fitting = ", ".join(f'"{name}"' for name in SEARCHES if fits(SearchOrder(name)))
            yield KeyMistake(
                "without effect here" if search is None else f'without effect for search = "{search}"',
                path=(option,),
                hint=f"it belongs to search = {fitting}",
            )

"""``map``: another map of the same file, with its cache, deadline and folding.

What the other map has not found is a miss of the step; an answer has the time left that it has in
the other map's cache.
"""

from __future__ import annotations

from typing import Annotated, Any

from tcpmapkit import Map, hookimpl


def map_(map: Annotated[Map, "help: the name of the other map; a cycle is an error"]) -> Map:
    """The other map, which is itself a resolver."""
    return map


@hookimpl
def register_resolvers(register: Any) -> None:
    register("map", map_)

"""``chain``: a group of resolvers tried in order, the chained fallback.

Inside the group a failing step lets the next one be asked (``on_error = "next"`` by default); the
failure stands when none of them finds the key, so an outage never becomes "not found".
"""

from __future__ import annotations

from typing import Annotated, Any

from tcpmapkit import Chain, hookimpl


def chain(
    resolvers: Annotated[
        Chain, "help: the steps of the group; a failing one lets the next be asked", "on_error: next"
    ],
) -> Chain:
    """The group, which is itself a resolver."""
    return resolvers


@hookimpl
def register_resolvers(register: Any) -> None:
    register("chain", chain)

"""Which worker gets a connection, and which one is asked to make room. Pure."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["fewest", "most_first"]


def fewest(connections: Mapping[int, int], last: int) -> int:
    """The worker with the fewest connections; of several, the next in turn after `last`.

    `connections` is how many each worker has, by its number; not empty.
    """
    in_turn = max(connections) + 1
    return min(connections, key=lambda number: (connections[number], (number - last - 1) % in_turn))


def most_first(connections: Mapping[int, int]) -> list[int]:
    """The workers in the order in which they are asked to make room; those that have nothing are not."""
    return sorted((number for number, have in connections.items() if have), key=lambda one: -connections[one])

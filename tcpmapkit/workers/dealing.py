"""Which worker gets a connection, and which one is asked to make room. Pure."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["fewest", "most_first"]


def fewest(connections: Mapping[int, int], last: int) -> int:
    """The worker with the fewest connections; of several, the next in turn after `last`.

    `connections` is how many each worker has, by its number; not empty.
    """
    return min(connections, key=lambda number: (connections[number], _turn(connections, number, last)))


def most_first(connections: Mapping[int, int], last: int) -> list[int]:
    """The workers in the order in which they are asked to make room, equals in turn after `last`; those
    that have no connection are not asked."""
    able = [number for number, have in connections.items() if have]
    return sorted(able, key=lambda number: (-connections[number], _turn(connections, number, last)))


def _turn(connections: Mapping[int, int], number: int, last: int) -> int:
    return (number - last - 1) % (max(connections) + 1)

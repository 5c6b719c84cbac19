"""Which worker gets a connection, and which one is asked to make room. Pure."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["fewest", "makes_room"]


def fewest(connections: Mapping[int, int], last: int) -> int:
    """The worker with the fewest connections; of several, the next in turn after `last`.

    `connections` is how many each worker has, by its number; not empty.
    """
    return min(connections, key=lambda number: (connections[number], _turn(connections, number, last)))


def makes_room(idle: Mapping[int, tuple[bool, float]]) -> int:
    """The worker whose connection makes room, of each worker the one that it would close: whether its client
    reconnects unasked, and since when it has been idle, by a clock that all have. Not empty."""
    return min(idle, key=lambda number: (not idle[number][0], idle[number][1]))


def _turn(connections: Mapping[int, int], number: int, last: int) -> int:
    return (number - last - 1) % (max(connections) + 1)

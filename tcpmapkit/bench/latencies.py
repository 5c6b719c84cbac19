"""How long lookups took, in constant memory: counters of times that are told apart to one part in 64."""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["Latencies"]

#: Times of up to 2 ** (_BITS + 1) ns are kept as they are, of longer ones the first _BITS + 1 bits.
_BITS: Final = 6


class Latencies:
    """A distribution of times in seconds, kept to the nanosecond below 128 ns and to 1.6 % above."""

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        #: All of them together.
        self.total = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds
        nanoseconds = int(seconds * 1e9)
        shift = nanoseconds.bit_length() - _BITS - 1
        if shift < 0:
            shift = 0
        self._buckets[(shift << _BITS) + (nanoseconds >> shift)] += 1

    def percentile(self, percent: float) -> float:
        """The time within which so many of a hundred were done, never below the true one; 0 of none."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(_upper(bucket), self.longest)
        return self.longest


def _upper(bucket: int) -> float:
    """The longest time of a bucket, in seconds."""
    shift = max((bucket >> _BITS) - 1, 0)
    return (((bucket - (shift << _BITS)) + 1) << shift) / 1e9

"""What a pass over the keys gave: times, outcomes, where the answers came from, the slowest keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from tcpmapkit.bench.latencies import Latencies
from tcpmapkit.query import Found, NotFound, Outcome

__all__ = ["Figures"]

#: How many different reasons of failures are kept, and wrong answers.
_REASONS: Final = 5


class Figures:
    """The figures of one pass. `slowest` is how many of the slowest keys are kept."""

    def __init__(self, slowest: int) -> None:
        self.latencies = Latencies()
        self.found = 0
        self.not_found = 0
        self.failed = 0
        #: Answers other than what was expected, and the first few of them.
        self.wrong = 0
        self.wrong_answers: dict[str, str] = {}
        #: How often each of the first few reasons of failures came.
        self.reasons: Counter[str] = Counter()
        #: How many answers came from where: "ready", "cache", "stale", "chain", "refused".
        self.sources: Counter[str] = Counter()
        #: Seconds from the first question to the last answer, less what keeping the figures took.
        self.elapsed = 0.0
        self._slowest = slowest
        self._slow: dict[str, float] = {}
        self._slow_enough = 0.0

    def note(self, key: str, seconds: float, outcome: Outcome, source: str = "") -> None:
        """Count the answer to a key."""
        self.latencies.add(seconds)
        if source:
            self.sources[source] += 1
        if type(outcome) is Found:
            self.found += 1
        elif type(outcome) is NotFound:
            self.not_found += 1
        else:
            self.failed += 1
            reason = outcome.reason
            if reason in self.reasons or len(self.reasons) < _REASONS:
                self.reasons[reason] += 1
        if seconds > self._slow_enough:
            self._keep_slow(key, seconds)

    def note_wrong(self, key: str, text: str) -> None:
        """Count an answer that was not the one expected."""
        self.wrong += 1
        if len(self.wrong_answers) < _REASONS:
            self.wrong_answers.setdefault(key, text)

    def _keep_slow(self, key: str, seconds: float) -> None:
        """Each key once, with its longest time."""
        slow = self._slow
        if seconds > slow.get(key, 0.0):
            slow[key] = seconds
        if len(slow) > self._slowest:
            del slow[min(slow, key=slow.__getitem__)]
        if len(slow) == self._slowest:
            self._slow_enough = min(slow.values(), default=float("inf"))

    @property
    def slowest(self) -> Iterable[tuple[str, float]]:
        """The keys that took longest, and the seconds."""
        return sorted(self._slow.items(), key=lambda one: -one[1])

    @property
    def rate(self) -> float:
        """Lookups a second."""
        return self.latencies.count / self.elapsed if self.elapsed > 0 else 0.0

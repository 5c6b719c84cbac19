"""What the figures are printed as: records, of which the first field says what they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tcpmapkit.bench.figures import Figures
from tcpmapkit.bench.latencies import Latencies
from tcpmapkit.bench.steps import StepFigures

__all__ = ["pass_rows", "step_rows"]

Row = tuple[str, ...]

_PERCENTILES = (50, 90, 99, 99.9)


def pass_rows(name: str, figures: Figures) -> Iterator[Row]:
    """One pass; times are in microseconds."""
    count = figures.latencies.count
    yield name, "lookups", str(count), f"in {figures.elapsed:.3f} s"
    if not count:
        return
    yield name, "rate", f"{figures.rate:.0f} a second"
    yield from ((name, what, took) for what, took in _times(figures.latencies))
    for what, number in (
        ("found", figures.found),
        ("not found", figures.not_found),
        ("failed", figures.failed),
        *((f"from {source}", number) for source, number in sorted(figures.sources.items())),
    ):
        yield name, what, str(number), f"{number / count:.2%}"
    for reason, times in figures.reasons.most_common():
        yield name, "failure", str(times), reason
    if figures.wrong:
        yield name, "wrong", str(figures.wrong), f"{figures.wrong / count:.2%}"
    for key, text in figures.wrong_answers.items():
        yield name, "wrong answer", repr(key), text
    for key, seconds in figures.slowest:
        yield name, "slowest", _microseconds(seconds), repr(key)


def step_rows(steps: Iterable[StepFigures]) -> Iterator[Row]:
    """The steps; one that asks other steps has their time in its own."""
    for one in steps:
        yield (
            f"step {one.step}",
            f"map {one.map}",
            f"asked {one.latencies.count}",
            f"found {one.found}",
            f"failed {one.failed}",
            f"passed by {one.passed_by}",
            *(f"{what} {took}" for what, took in _times(one.latencies)),
        )


def _times(latencies: Latencies) -> Iterator[tuple[str, str]]:
    for percent in _PERCENTILES:
        yield f"p{percent:g}", _microseconds(latencies.percentile(percent))
    yield "max", _microseconds(latencies.longest)


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"

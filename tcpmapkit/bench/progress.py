"""A progress bar for whoever looks at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tcpmapkit.bench.passes import Pass

__all__ = ["shown_progress"]


@contextmanager
def shown_progress(name: str) -> Iterator[Callable[[Pass], None]]:
    """What is to be told how far the pass is: on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # No thread of its own, which would take time from what is measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(name, total=1.0)

        def show(run: Pass) -> None:
            text = f"{name}: {run.figures.latencies.count} lookups, {run.figures.failed} failed"
            bar.update(task, completed=run.progress, description=text)
            bar.refresh()

        yield show

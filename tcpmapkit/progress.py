"""How far a long start is: a bar for whoever waits at a terminal, else one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tcpmapkit.output import tell

if TYPE_CHECKING:
    from tcpmapkit.built_maps import BuiltMaps

__all__ = ["show_progress"]


def show_progress(maps: BuiltMaps, *, logged: bool) -> None:
    """Show on standard error how far the start of these maps is, when it takes long. Without a terminal
    it is one line, and none when what is done is `logged` anyway."""
    if sys.stderr.isatty():
        maps.progress.show = _Bars().task
    elif not logged:
        maps.progress.show = _one_line


@contextmanager
def _one_line(what: str) -> Iterator[Callable[[float], None]]:
    tell(f"building the {what}")
    yield lambda done: None


class _Bars:
    """The bars of what goes on at once; a terminal has one place for them."""

    def __init__(self) -> None:
        self._shown: Any = None
        self._tasks = 0

    @contextmanager
    def task(self, what: str) -> Iterator[Callable[[float], None]]:
        """A bar for as long as this is entered."""
        if self._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            text = TextColumn("{task.description}", markup=False)  # a file may have any name
            columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
        shown = self._shown
        if not self._tasks:
            shown.start()
        self._tasks += 1
        task = shown.add_task(what, total=1.0)
        try:
            yield lambda done: shown.update(task, completed=done)
        finally:
            shown.remove_task(task)
            self._tasks -= 1
            if not self._tasks:
                shown.stop()

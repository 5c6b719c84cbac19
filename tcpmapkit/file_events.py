"""Being told of changes in directories, by watchfiles: a thread that does nothing as long as none comes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["FileEvents"]

_log = logging.getLogger(__name__)

#: Milliseconds between two looks at whether there is something, for which the thread wakes up.
_STEP: Final = 250

#: Milliseconds for which changes that go on are gathered.
_GATHERED: Final = 1000


class FileEvents:
    """Calls `changed`, in the event loop, when one of the names in one of the directories has changed.

    `alive` becomes false when no more will be told; `changed` is called then too.
    """

    def __init__(
        self, directories: Mapping[str, frozenset[str]], notify: Any, changed: Callable[[], object]
    ) -> None:
        self._directories = directories
        self._notify = notify
        self._changed = changed
        self._stopping = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.alive = True
        threading.Thread(target=self._listen, name="table-files", daemon=True).start()

    @classmethod
    async def open(
        cls, directories: Mapping[str, frozenset[str]], changed: Callable[[], object]
    ) -> FileEvents:
        """Begin to watch: every change after this has returned is told.

        Raises `ImportError` without watchfiles, `OSError` when the system watches no more, or a directory
        is gone.
        """
        return cls(directories, await asyncio.to_thread(_begin, list(directories)), changed)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                told = self._notify.watch(_GATHERED, _STEP, 0, self._stopping)
            except Exception as error:  # whatever it is: tables are then looked at more often
                if not self._stopping.is_set():
                    _log.warning("changes of table files are told no more: %s", error)
                break
            if not isinstance(told, set):
                break
            if any(self._matters(path) for _, path in told):
                self._tell(self._changed)
        self._tell(self._end)

    def _matters(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        return name in self._directories.get(directory or "/", ()) or path in self._directories

    def _tell(self, what: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop is closed: nobody wants to know
            self._stopping.set()

    def _end(self) -> None:
        self.alive = False
        self._notify.close()
        if not self._stopping.is_set():
            self._changed()

    def stop(self) -> None:
        """Tell nothing more; the thread ends by itself."""
        self._stopping.set()
        self._changed = _nothing


def _nothing() -> None:
    pass


def _begin(directories: list[str]) -> Any:
    from watchfiles._rust_notify import RustNotify

    return RustNotify(directories, False, False, 0, False, False)

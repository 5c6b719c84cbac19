"""The index of a table: the current one, or one that a child process builds while the event loop goes on."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Any, Final
from weakref import WeakKeyDictionary

from tcpmapkit import ConfigError
from tcpmapkit.resolvers.source_file import Identity, identity_of
from tcpmapkit.resolvers.table.index import Index, open_index
from tcpmapkit.resolvers.table.place import find_index, index_directories, index_name
from tcpmapkit.resolvers.table.reading import Reading, Warnings

__all__ = ["CannotIndex", "current_index"]

#: Seconds that the child has to end when it has said all, and to tidy up when it is told to end.
_GOODBYE: Final = 0.1
_PATIENCE: Final = 2.0

#: Processes that build at a time, of which each takes a processor, some 200 MB and the disk.
_BUILDERS: Final = 2

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


class CannotIndex(Exception):
    """An index must be built and cannot; `hint` says what can be done."""

    def __init__(self, reason: str, hint: str = "name another place with index_directory") -> None:
        super().__init__(reason)
        self.hint = hint


async def current_index(reading: Reading, directory: Path | None, context: Any) -> Index:
    """The index of the table as it is now, built if there is none; `directory` is where it belongs, None
    for the usual places.

    Raises `ConfigError` for the table, `CannotIndex` for the index.
    """
    try:
        import lmdb  # noqa: F401
    except ImportError:
        raise CannotIndex("the package lmdb is not installed", 'install lmdb, or index = "memory"') from None
    places = index_directories(reading.path, directory)
    found = await asyncio.to_thread(find_index, reading, places)
    if found is not None:
        return found
    reasons = []
    for place in places:
        why_not = await asyncio.to_thread(_why_not, place)
        if why_not is not None:
            reasons.append(why_not)
            continue
        try:
            return await _build(reading, place, context)
        except CannotIndex as failure:
            reasons.append(f"{place}: {failure}")
    raise CannotIndex("; ".join(reasons))


def _why_not(place: Path) -> str | None:
    """Why nothing can be written there."""
    if os.access(place, os.W_OK | os.X_OK):
        return None
    return f"{place} is not writable" if place.is_dir() else f"there is no directory {place}"


async def _build(reading: Reading, place: Path, context: Any) -> Index:
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_BUILDERS)):
        return await _build_now(reading, place, context)


async def _build_now(reading: Reading, place: Path, context: Any) -> Index:
    name = index_name(reading)
    size = (await asyncio.to_thread(identity_of, reading.path)).size
    context.logger.info("building the index of %s (%d bytes) in %s", reading.path, size, place)
    began = time.monotonic()
    with context.progress(f"index of {reading.path.name}") as show:
        identity = await _in_child(reading, place, name, show, context)
    path = place / name
    # If the table has changed since, this is still what it was when it was read.
    found = await asyncio.to_thread(open_index, path, reading, identity)
    if found is None:
        raise CannotIndex("the index is not the one that was built")
    context.logger.info(
        "the index of %s has %d keys in %d bytes, built in %.1f s",
        *(reading.path, found.rows, found.size, time.monotonic() - began),
    )
    return found


def _program() -> str:
    """What the child runs, with the module paths of this process, however it came by them."""
    paths = [str(Path(one).absolute()) for one in sys.path]
    return f"import sys; sys.path[:] = {paths!r}; from tcpmapkit.resolvers.table.child import main; main()"


async def _in_child(
    reading: Reading, place: Path, name: str, show: Callable[[float], None], context: Any
) -> Identity:
    """Let a child process build it; what file that was made of."""
    child = _spawn(pickle.dumps((reading, place, name)))
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def tell(said: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(heard.put_nowait, said)

    listening = asyncio.ensure_future(asyncio.to_thread(_listen, child, tell))
    try:
        while said := await heard.get():
            if "progress" in said:
                show(said["progress"])
            elif "waiting" in said:
                context.logger.info("another process builds the index of %s: waiting for it", reading.path)
            elif "warnings" in said:
                kept = [(one, text) for one, text in said["warnings"]["kept"]]
                Warnings(kept, said["warnings"]["count"]).log(reading.path, context.logger)
            elif "mistake" in said:
                raise _mistake(said["mistake"], reading)
            elif "failure" in said:
                raise CannotIndex(said["failure"])
            elif "done" in said:
                return Identity(*said["done"])
    finally:
        status = await asyncio.to_thread(_end, child)
        await listening
    why = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    raise CannotIndex(f"the process that builds it ended with {why}")


def _spawn(work: bytes) -> Popen[bytes]:
    """Start the child. Not as uvloop does it: its fork copies the page tables of the whole server, some
    40 ms for two gigabytes."""
    try:
        child = Popen([sys.executable, "-c", _program()], stdin=PIPE, stdout=PIPE)  # noqa: S603 - ourselves
    except OSError as error:
        raise CannotIndex(f"no process can be started: {error.strerror}") from None
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin:  # it says itself, or its status does, why it ended
        child.stdin.write(work)
    return child


def _listen(child: Popen[bytes], tell: Callable[[dict[str, Any]], object]) -> None:
    """Tell all that the child says, and nothing at its end; blocks."""
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            tell(json.loads(line))
    tell({})


def _end(child: Popen[bytes]) -> int:
    """Let the child end, told to if it goes on; its status. Blocks."""
    try:
        return child.wait(_GOODBYE)
    except TimeoutExpired:
        child.terminate()
    try:
        return child.wait(_PATIENCE)
    except TimeoutExpired:
        child.kill()
        return child.wait()


def _mistake(said: dict[str, Any], reading: Reading) -> ConfigError:
    return ConfigError(**{**said, "file": reading.path if said["file"] else None})

"""The index of a table: the current one, or one that a child process builds while the event loop goes on."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tcpmapkit import ConfigError
from tcpmapkit.resolvers.table.index import Index, open_index
from tcpmapkit.resolvers.table.place import find_index, index_directories, index_name
from tcpmapkit.resolvers.table.reading import Identity, Reading, Warnings, identity_of

__all__ = ["CannotIndex", "current_index"]

#: Bytes of a line that the child says.
_LONGEST_LINE: Final = 64 << 20

#: Seconds that the child has to tidy up.
_PATIENCE: Final = 2.0


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
        if not os.access(place, os.W_OK | os.X_OK):
            reasons.append(f"{place} is not writable" if place.is_dir() else f"there is no directory {place}")
            continue
        try:
            return await _build(reading, place, context)
        except CannotIndex as failure:
            reasons.append(f"{place}: {failure}")
    raise CannotIndex("; ".join(reasons))


async def _build(reading: Reading, place: Path, context: Any) -> Index:
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
        *(reading.path, found.rows, path.stat().st_size, time.monotonic() - began),
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
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _program(), stdin=PIPE, stdout=PIPE, limit=_LONGEST_LINE
        )
    except OSError as error:
        raise CannotIndex(f"no process can be started: {error.strerror}") from None
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(pickle.dumps((reading, place, name)))
        child.stdin.close()
        async for line in child.stdout:
            said = json.loads(line)
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
                await child.wait()
                return Identity(*said["done"])
        status = await child.wait()
    finally:
        await _end(child)
    why = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    raise CannotIndex(f"the process that builds it ended with {why}")


def _mistake(said: dict[str, Any], reading: Reading) -> ConfigError:
    return ConfigError(**{**said, "file": reading.path if said["file"] else None})


async def _end(child: Process) -> None:
    """Let the child tidy up and end."""
    if child.returncode is None:
        try:
            child.terminate()
        except ProcessLookupError:
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()

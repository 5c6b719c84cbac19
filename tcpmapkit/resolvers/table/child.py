"""The process that makes an index; what it has to say goes to standard output, a JSON object a line."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import signal
import sys
import time
from types import FrameType
from typing import Any, Final

from tcpmapkit import ConfigError
from tcpmapkit.resolvers.table.reading import Warnings
from tcpmapkit.resolvers.table.writing import write_index

__all__ = ["main"]

#: Seconds between two lines about how far it is.
_SELDOM: Final = 0.1


def main() -> None:
    """Make the index that the pickle on standard input asks for."""
    import lmdb

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: our parent says when to end
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(OSError):  # a service may be forbidden to
        os.nice(10)  # whoever is served comes first
    gc.disable()  # millions of rows are no garbage, and none of them refers to another
    reading, directory, name = pickle.load(sys.stdin.buffer)  # noqa: S301 - our parent's
    last = float("-inf")

    def tell(what: str, value: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if what == "progress" and now - last < _SELDOM:
            return
        last = now
        # A parent that is gone ends this here.
        sys.stdout.write(json.dumps({what: value}) + "\n")
        sys.stdout.flush()

    warnings = Warnings()
    try:
        identity = write_index(reading, directory, name, warnings, tell)
    except ConfigError as error:
        tell("warnings", {"kept": warnings.kept(), "count": warnings.count})
        fields = ("message", "path", "line", "hint")
        tell("mistake", {one: getattr(error, one) for one in fields} | {"file": error.file is not None})
    except BrokenPipeError:
        sys.exit(1)
    except (OSError, lmdb.Error) as error:
        tell("failure", getattr(error, "strerror", None) or str(error))
    else:
        from attrs import astuple

        tell("done", astuple(identity))


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(1)


if __name__ == "__main__":
    main()

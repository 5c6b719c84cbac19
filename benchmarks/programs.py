"""The two C programs, compiled on the spot: the reference server and the load."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import attrs

__all__ = ["NoCompiler", "Programs", "compile_programs"]

_HERE = Path(__file__).parent


class NoCompiler(Exception):
    """There is no C compiler, or it does not compile; one line says so."""


@attrs.frozen
class Programs:
    """Where the compiled programs are; each begins with a comment on how it is used."""

    reference: Path
    load: Path


def compile_programs(directory: Path) -> Programs:
    """Compile both into `directory` with ``$CC``, cc, gcc or clang. Raises `NoCompiler`."""
    names = [os.environ.get("CC") or "cc", "gcc", "clang"]
    compiler = next((found for name in names if (found := shutil.which(name))), None)
    if compiler is None:
        raise NoCompiler("there is no C compiler (cc, gcc, clang): nothing to measure with")
    for name in ("reference", "load"):
        command: list[str | Path] = [compiler, "-O2", "-o", directory / name, _HERE / f"{name}.c"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoCompiler(f"{compiler} does not compile {name}.c: {done.stderr.strip()[-500:]}")
    return Programs(directory / "reference", directory / "load")

"""The fuzz targets, each for a short run: what they would find in hours must not be there in seconds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmapkit.protocols import PROTOCOLS

HOME = Path(__file__).parent.parent
TARGETS = sorted(file.name for file in (HOME / "fuzz").glob("fuzz_*.py"))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("target", TARGETS)
def test_a_fuzz_target_finds_nothing_in_a_short_run(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, HOME / "fuzz" / target, "-runs=1500", "-seed=1", "-max_len=4096", tmp_path],
        capture_output=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(HOME), "PATH": "/usr/bin:/bin"},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert b"Done 1500 runs" in done.stderr


def test_there_is_a_target_for_each_protocol() -> None:
    assert {f"fuzz_{name}.py" for name in PROTOCOLS} <= set(TARGETS)

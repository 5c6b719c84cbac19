"""Reloads as they are asked for, by signals and by the command, of one process and of several."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.running_tcpmapkit import COMMAND
from tests.running_workers import Workers, running_workers

ROOT = Path(__file__).resolve().parent.parent

TEXT = """
[server]
workers = {workers}
[admin]
endpoint = "unix:admin"
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "aliases"
[maps.aliases]
resolvers = [{{ type = "patient", value = "{value}" }}]
"""

#: A plugin whose tables load when a file lets them.
PATIENT = """
import asyncio, os
import attrs
from tcpmapkit import Found, hookimpl

@attrs.define(eq=False)
class Patient:
    value: str = "one"
    async def start(self, context):
        (context.directory / f"starting-{self.value}-{os.getpid()}").touch()
        while (context.directory / "wait").exists():
            await asyncio.sleep(0.01)
    def resolve(self, query):
        return Found(self.value)

@hookimpl
def register_resolvers(register):
    register("patient", Patient)
"""

both = pytest.mark.parametrize("count", [1, 2])


def text(count: int, value: str = "one") -> str:
    return '[plugins]\ndirectory = "plugins"\n' + TEXT.format(workers=count, value=value)


def command(file: Path, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND[:-2], "reload", "-c", str(file)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def hang_up(workers: Workers) -> None:
    """SIGHUP, which is there when this returns."""
    os.kill(workers.parent, signal.SIGHUP)
    status = Path(f"/proc/{workers.parent}/status")

    def pending() -> int:
        found = [
            line.split()[1] for line in status.read_text().splitlines() if line[:6] in ("SigPnd", "ShdPnd")
        ]
        return sum(int(mask, 16) & 1 << signal.SIGHUP - 1 for mask in found)

    workers.wait_for(lambda: not pending())


@both
def test_signals_that_come_while_one_reload_runs_are_one_more(tmp_path: Path, count: int) -> None:
    with running_workers(tmp_path, TEXT.format(workers=count, value="one"), patient=PATIENT) as workers:
        file = workers.server.configuration
        (file.parent / "wait").touch()
        file.write_text(text(count, "two"))
        hang_up(workers)
        workers.wait_for(lambda: len(list(file.parent.glob("starting-two-*"))) == count)
        for _ in range(20):
            hang_up(workers)
        (file.parent / "wait").unlink()
        done = command(file)  # waits for those before it
        assert done.returncode == 0, done
        assert workers.server.log().count("reload: taken") == 3


@both
def test_a_reload_changes_what_is_logged(tmp_path: Path, count: int) -> None:
    with running_workers(tmp_path, TEXT.format(workers=count, value="one"), patient=PATIENT) as workers:
        file = workers.server.configuration
        assert command(file).returncode == 0
        assert workers.server.log().count("reload: taken") == 1
        file.write_text(text(count) + '[log]\nlevel = "error"\n')
        assert command(file).returncode == 0
        assert workers.server.log().count("reload: taken") == 1
        file.write_text(text(count))
        assert command(file).returncode == 0
        assert workers.server.log().count("reload: taken") == 2


@both
def test_a_server_that_was_started_with_a_relative_path_tells_where_its_file_is(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # the directory of what is started
    place = Path(os.path.relpath(tmp_path, ROOT))
    text = TEXT.format(workers=count, value="one")
    short = text.replace("unix:admin", f"unix:{tmp_path}/admin")  # however deep ROOT lies
    with running_workers(place, short, patient=PATIENT) as workers:
        done = command(tmp_path / "tcpmapkit" / "tcpmapkit.toml", tmp_path)
        assert done.returncode == 0, done
        assert "hint" not in done.stderr
        other = tmp_path / "tcpmapkit" / "other.toml"
        other.write_bytes(workers.server.configuration.read_bytes())
        done = command(other, tmp_path)
        assert done.returncode == 0, done
        (hint,) = [line for line in done.stderr.splitlines() if line.startswith("hint: ")]
        told = Path(hint.removeprefix("hint: the server was started with "))
        assert told.is_absolute()
        assert told.samefile(workers.server.configuration)


@both
def test_a_reload_whose_file_is_gone_tells_so_and_ends_as_it_should(tmp_path: Path, count: int) -> None:
    with running_workers(tmp_path, TEXT.format(workers=count, value="one"), patient=PATIENT) as workers:
        file = workers.server.configuration
        other = file.rename(file.with_name("other.toml"))
        done = command(other)
        assert done.returncode == 78, done
        assert f"hint: the server was started with {file}\n" in done.stderr
        assert "Traceback" not in done.stderr

"""`tcpmapkit run` as an administrator starts it: a process that is stopped, killed and started again."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from tests.private_postfix import wait_until

READY_WITHIN = 30.0
STOP_WITHIN = 15.0

COMMAND = (sys.executable, "-c", "from tcpmapkit.cli import main; main()", "run", "-c")


def lasting_port() -> int:
    """A port on 127.0.0.1 that nobody has, and that no client will be given: a server that is started
    again finds it free."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # Workers that run tests side by side never draw the same one.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = max(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), 1)
    mine = range(max(1024, lowest // 2) + worker, max(lowest, 2048), workers)
    for port in random.SystemRandom().sample(mine, 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("there is no free port")


@attrs.define(eq=False)
class RunningTcpmapkit:
    """`configuration` is its tcpmapkit.toml; it writes to files beside it."""

    configuration: Path
    process: subprocess.Popen[bytes] | None = None
    endpoints: list[str] = attrs.Factory(list)

    def _file(self, name: str) -> Path:
        return self.configuration.with_name(name)

    def log(self) -> str:
        """What all its processes so far have logged."""
        return self._file("log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and wait until it serves; `AssertionError` with the log when it does not."""
        assert self.process is None
        with self._file("output").open("wb") as output, self._file("log").open("ab") as log:
            self.process = self._run(output, log)
        process = self.process
        listeners = self.configuration.read_text().count("[[listeners]]")

        def told() -> list[str]:
            return [line for line in self._file("output").read_text().splitlines(True) if line[-1] == "\n"]

        wait_until(
            lambda: len(told()) == listeners or process.poll() is not None,
            READY_WITHIN,
            lambda: f"tcpmapkit does not serve:\n{self.log()}",
        )
        assert len(told()) == listeners, self.log()
        self.endpoints = [line.split(" ")[0] for line in told()]

    def _run(self, output: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, str(self.configuration)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def terminate(self) -> None:
        """Tell it to stop (SIGTERM); `wait` waits for it."""
        assert self.process is not None
        self.process.terminate()

    def wait(self) -> None:
        """Wait until it has stopped, which it must do as it should: with status 0."""
        process, self.process = self.process, None
        assert process is not None
        try:
            assert process.wait(STOP_WITHIN) == 0, self.log()
        finally:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Have it stop as an administrator does."""
        self.terminate()
        self.wait()

    def kill(self) -> None:
        """End it by SIGKILL."""
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        assert process.wait() == -signal.SIGKILL

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()


@contextmanager
def running_tcpmapkit(directory: Path, text: str, **plugins: str) -> Iterator[RunningTcpmapkit]:
    """A tcpmapkit with this configuration, and these drop-in plugins (name and source), in a directory of
    its own below `directory`. It must stop as it should when the context ends, unless it was killed."""
    place = directory / "tcpmapkit"
    (place / "plugins").mkdir(parents=True, mode=0o755)
    for name, source in plugins.items():
        (place / "plugins" / f"{name}.py").write_text(source)
    configuration = place / "tcpmapkit.toml"
    configuration.write_text(f'[plugins]\ndirectory = "plugins"\n{text}')
    server = RunningTcpmapkit(configuration)
    try:
        server.start()
        yield server
        if server.process is not None:
            server.stop()
    finally:
        if server.process is not None:
            server.kill()
    assert "Traceback" not in server.log(), server.log()

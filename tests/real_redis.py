"""A real redis-server on the loopback, empty, with nothing kept on disk."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.real_postfix import environment_for

START_WITHIN = 20.0


@attrs.frozen
class RedisServer:
    """Where a running redis-server listens: on 127.0.0.1 and on a unix socket."""

    port: int
    socket: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}?db=0"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _start(program: Path, directory: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "unixsocket": str(directory / "redis.sock"),
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    with log.open("wb") as output:
        return subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment_for(program),
        )


@contextmanager
def running_redis(program: Path) -> Iterator[RedisServer]:
    """Start a redis-server and end it; raises `RuntimeError` with its log when it does not come up."""
    # Not pytest's directory: the path of a unix socket has room for 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="redis-") as place:
        log = Path(place) / "redis.log"
        for _attempt in range(3):  # somebody else may have taken the free port in between
            port = _free_port()
            process = _start(program, Path(place), port, log)
            give_up = time.monotonic() + START_WITHIN
            try:
                while process.poll() is None and time.monotonic() < give_up:
                    if _answers(port):
                        yield RedisServer(port, Path(place) / "redis.sock", process)
                        return
                    time.sleep(0.02)
            finally:
                process.kill()
                process.wait(10)
        raise RuntimeError(f"redis-server does not start:\n{log.read_text(errors='replace')}")

"""Servers of this plugin's own: a Redis to be stopped and started, and one that is no Redis at all."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from tests.real_postfix import environment_for, find_program
from tests.real_redis import RedisServer


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The shared Redis, emptied; to be filled by a test."""
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
        yield client


class OwnRedis:
    """A redis-server that a test may stop and start; `options` as on its command line."""

    def __init__(self, directory: Path, **options: str) -> None:
        program = find_program("redis-server")
        assert program is not None, "the fixture redis_server comes first"
        self._program = program
        self.socket = directory / "own.sock"
        self._arguments = [
            word
            for name, value in ({"port": "0", "save": "", "unixsocket": str(self.socket)} | options).items()
            for word in ("--" + name.replace("_", "-"), value)
        ]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self.socket}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, *self._arguments],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment_for(self._program),
        )
        assert self._process.stdout is not None
        log = b""
        for line in self._process.stdout:
            log += line
            if b"ready to accept connections" in line.lower():
                return
        raise RuntimeError(f"redis-server does not start:\n{log.decode(errors='replace')}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=10)
            self._process = None


@pytest.fixture
def own_redis(redis_server: RedisServer) -> Iterator[Callable[..., OwnRedis]]:
    """Makes an `OwnRedis`, started."""
    made: list[OwnRedis] = []
    # Not pytest's directory: the path of a unix socket has room for 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="redis-") as place:

        def make(**options: str) -> OwnRedis:
            server = OwnRedis(Path(place), **options)
            made.append(server)
            server.start()
            return server

        yield make
        for server in made:
            server.stop()


Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(converse: Converse) -> AsyncIterator[str]:
    """A server that does what `converse` does with each connection; the url of it."""
    conversations: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            await converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the peer is gone, or the test is over
        finally:
            conversations.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        for task in list(conversations):
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """One command as a client of Redis sends it."""
    words = []
    for _ in range(int((await reader.readexactly(1) + await reader.readline())[1:])):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

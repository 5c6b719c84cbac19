"""`tcpmapkit run` with several workers, as the tests see it: its processes, and clients that keep asking."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import attrs

from tests.private_postfix import wait_until
from tests.running_tcpmapkit import RunningTcpmapkit, running_tcpmapkit

#: Seconds for what takes a moment.
PATIENCE = 20.0


@attrs.define(eq=False)
class Workers:
    """The workers of a tcpmapkit that runs."""

    server: RunningTcpmapkit
    parent: int
    seen: set[int] = attrs.Factory(set)

    def pids(self) -> list[int]:
        """Those that there are now, oldest first."""
        children = Path(f"/proc/{self.parent}/task/{self.parent}/children")
        found = [int(word) for word in children.read_text().split()]
        self.seen.update(found)
        return found

    def sockets(self, pid: int) -> int:
        """How many sockets a worker has."""
        return len(_sockets(pid))

    def listening(self, pid: int) -> set[str]:
        """The sockets of a process that listen, as the system names them."""
        found = set()
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                found.add(f"socket:[{words[9]}]")
        for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "00010000":
                found.add(f"socket:[{words[6]}]")
        return found & _sockets(pid)

    @property
    def port(self) -> int:
        """Of the first listener."""
        return int(self.server.endpoints[0].rpartition(":")[2])

    def kill(self, pid: int) -> None:
        """End one by SIGKILL."""
        os.kill(pid, signal.SIGKILL)

    async def replaced(self, pid: int) -> None:
        """Until another has the place of the one that was killed."""
        count = len(self.pids())
        await self.becomes(lambda: pid not in self.pids() and len(self.pids()) >= count)

    def wait_for(self, true: Callable[[], object]) -> None:
        """Until it is so, for a moment at most."""
        wait_until(lambda: bool(true()), PATIENCE, self.server.log)

    async def becomes(self, true: Callable[[], object]) -> None:
        """As `wait_for`, while clients go on."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.01)


@contextmanager
def running_workers(directory: Path, text: str, **plugins: str) -> Iterator[Workers]:
    """A tcpmapkit with this configuration, which names the workers; none of its processes is left after."""
    workers = None
    try:
        with running_tcpmapkit(directory, text, **plugins) as server:
            assert server.process is not None
            workers = Workers(server, server.process.pid)
            workers.pids()
            yield workers
            if server.process is not None:
                workers.pids()
    finally:
        if workers is not None:
            left = workers.seen
            try:
                wait_until(lambda: not any(map(_is_there, left)), PATIENCE, workers.server.log)
            finally:
                for pid in filter(_is_there, left):
                    os.kill(pid, signal.SIGKILL)


def _sockets(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(link.readlink().name)
    return {name for name in found if name.startswith("socket:")}


def _is_there(pid: int) -> bool:
    try:
        return b"tcpmapkit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


@attrs.define(eq=False)
class Clients:
    """Clients of a tcp_table or socketmap listener that ask one thing after the other, and connect again
    when they must."""

    port: int
    request: bytes
    #: What is right just now.
    right: set[bytes]
    answered: int = 0
    wrong: Counter[bytes] = attrs.Factory(Counter)
    refused: int = 0
    #: How often each had to connect again.
    reconnects: Counter[int] = attrs.Factory(Counter)
    stopping: bool = False

    async def _client(self, number: int) -> None:
        while not self.stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                self.refused += 1
                continue
            try:
                await self._ask(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.reconnects[number] += 1
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        last = self.request[-1:]
        while not self.stopping:
            writer.write(self.request)
            before = set(self.right)
            reply = await asyncio.wait_for(reader.readuntil(last), PATIENCE)
            if reply not in before | self.right:
                self.wrong[reply] += 1
            self.answered += 1
            await asyncio.sleep(0.001)

    async def more(self, number: int = 50) -> None:
        """Until that many more lookups are answered."""
        until = self.answered + number
        async with asyncio.timeout(PATIENCE):
            while self.answered < until:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def asking(port: int, request: bytes, right: bytes, count: int = 10) -> AsyncIterator[Clients]:
    """`count` clients at work."""
    clients = Clients(port, request, {right})
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(clients._client(number))
        try:
            await clients.more(count)
            yield clients
            await clients.more(count)
        finally:
            clients.stopping = True


async def answer(port: int, request: bytes) -> bytes:
    """What a new client is told."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.readuntil(request[-1:]), PATIENCE)
    finally:
        writer.close()

"""A thousand lookups that wait at once, each source through its one client: what they hold, and give back."""

from __future__ import annotations

import asyncio
import resource
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import dns.message
import pytest

from tcpmapkit import Found, TempFail
from tcpmapkit.cache import Answer
from tcpmapkit.maps import Map
from tcpmapkit.site import Site, open_site
from tcpmapkit.testing import Client, serve
from tests.loopback_dns import reply

MANY = 1000

CONFIGURATION = """\
[maps.http]
cache = false
deadline = "60s"
resolvers = [{{ type = "http", url = "http://127.0.0.1:{port}/{{user}}" }}]

[maps.dns]
cache = false
deadline = "60s"
resolvers = [{{ type = "dns", query = "{{user}}.example.org", nameservers = ["127.0.0.1:{port}"] }}]

[maps.table]
resolvers = [{{ type = "static", value = "x@example.net" }}]

[maps.coroutine]
cache = false
resolvers = [{{ type = "python", callable = "tests.test_waiting_lookups:later" }}]
"""


async def later(key: str) -> str:
    """Waits for some turns of the event loop."""
    for _ in range(5):
        await asyncio.sleep(0)
    return "y@example.net"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is asked again, however busy the machine is."""
    monkeypatch.setattr("tcpmapkit.resolvers.dns._ATTEMPT", 30.0)


@pytest.fixture(autouse=True)
def _files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * MANY + 200  # both ends of each connection are here
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"the limit on open files is {hard}: too low for {needed}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@attrs.define(eq=False)
class Held:
    """The requests that a source has, by what they ask for; none is answered before `release`."""

    port: int = 0
    waiting: dict[bytes, Any] = attrs.Factory(dict)
    changed: asyncio.Event = attrs.Factory(asyncio.Event)
    open: set[Any] = attrs.Factory(set)

    def hold(self, name: bytes, answer: Any) -> None:
        self.waiting[name] = answer
        self.changed.set()

    async def all_here(self, count: int) -> None:
        while len(self.waiting) < count:
            self.changed.clear()
            await self.changed.wait()

    def release(self) -> None:
        for answer in self.waiting.values():
            answer()


class Api(asyncio.Protocol):
    def __init__(self, held: Held) -> None:
        self.held = held

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.held.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.held.open.discard(self)

    def data_received(self, data: bytes) -> None:
        body = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
        self.held.hold(data.split(b" ")[1], lambda: self.transport.write(body))


class Names(asyncio.DatagramProtocol):
    def __init__(self, held: Held) -> None:
        self.held = held

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: Any) -> None:
        request = dns.message.from_wire(data)
        name = str(request.question[0].name)
        answer = reply(request, [f"{name} 60 IN A 192.0.2.1"]).to_wire()
        self.held.hold(name.encode(), lambda: self.transport.sendto(answer, peer))


@asynccontextmanager
async def source(kind: str) -> AsyncIterator[Held]:
    loop, held = asyncio.get_running_loop(), Held()
    if kind == "http":
        server = await loop.create_server(lambda: Api(held), "127.0.0.1", 0, backlog=MANY)
        held.port = server.sockets[0].getsockname()[1]
        yield held
        server.close()
        await server.wait_closed()
    else:
        transport, _ = await loop.create_datagram_endpoint(lambda: Names(held), ("127.0.0.1", 0))
        held.port = transport.get_extra_info("sockname")[1]
        yield held
        transport.close()


@attrs.frozen
class Census:
    tasks: int
    threads: int
    sockets: int

    @classmethod
    def taken(cls) -> Census:
        sockets = 0
        for file in Path("/proc/self/fd").iterdir():
            try:
                sockets += str(file.readlink()).startswith("socket:")
            except FileNotFoundError:  # the one that reads the directory
                continue
        return cls(len(asyncio.all_tasks()), threading.active_count(), sockets)


async def turns_until(condition: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to that")


async def become(expected: Census) -> None:
    """Turns of the loop until this is how things are."""
    for _ in range(2000):
        if Census.taken() == expected:
            return
        await asyncio.sleep(0)
    assert Census.taken() == expected


async def begin(map: Map, held: Held) -> list[Answer]:
    """Ask; they all wait at the source then. In portions: a full socket drops datagrams."""
    answers: list[Answer] = []
    for number in range(MANY):
        assert map.ask(map.query(f"user{number}@example.net"), answers.append) is None
        if number % 50 == 49:
            await held.all_here(number + 1)
    return answers


@asynccontextmanager
async def opened(directory: Path, held: Held, kind: str) -> AsyncIterator[tuple[Site, Map, Census]]:
    """The site, the map, and the census before anything was asked, which is that of the end too."""
    sockets = Census.taken().sockets
    file = directory / "tcpmapkit.toml"
    file.write_text(CONFIGURATION.format(port=held.port))
    site = open_site(file)
    await site.start({kind, "table", "coroutine"})
    before = Census.taken()  # a source may have read its files in a thread
    assert before.sockets == sockets
    try:
        yield site, site.maps.maps[kind], before
    finally:
        await site.maps.stop()
    await become(before)


@pytest.mark.parametrize("kind", ["http", "dns"])
async def test_a_thousand_lookups_cost_tasks_and_a_socket_each_until_they_are_answered(
    kind: str, tmp_path: Path
) -> None:
    async with source(kind) as held, opened(tmp_path, held, kind) as (_, map, before):
        answers = await begin(map, held)
        during = Census.taken()
        assert answers == []
        # dnspython waits in asyncio.wait_for(), which until Python 3.12 makes a task of its own.
        each = 2 if kind == "dns" and sys.version_info < (3, 12) else 1
        ends = 2 if kind == "http" else 1
        assert during == Census(before.tasks + each * MANY, before.threads, before.sockets + ends * MANY)
        held.release()
        await turns_until(lambda: len(answers) == MANY)
        assert {type(answer.outcome) for answer in answers} == {Found}
        assert map.current.flights == {}


@pytest.mark.parametrize("kind", ["http", "dns"])
async def test_a_thousand_lookups_under_way_leave_nothing_behind_at_the_end(
    kind: str, tmp_path: Path
) -> None:
    async with source(kind) as held, opened(tmp_path, held, kind) as (site, map, _):
        answers = await begin(map, held)
        await site.maps.stop()
        assert [type(answer.outcome) for answer in answers] == [TempFail] * MANY


@pytest.mark.parametrize("kind", ["http", "dns"])
async def test_a_second_thousand_holds_no_more_than_the_first(kind: str, tmp_path: Path) -> None:
    async with source(kind) as held, opened(tmp_path, held, kind) as (_, map, _before):
        at_once = []
        for _ in range(2):
            held.waiting.clear()
            answers = await begin(map, held)
            at_once.append(Census.taken())
            held.release()
            await turns_until(lambda answers=answers: len(answers) == MANY)  # type: ignore[misc]
        assert at_once[1] == at_once[0]


async def turns_of(map: Map, key: str) -> int:
    """How many turns of the loop it takes until this map has answered."""
    answers: list[Answer] = []
    answer = map.ask(map.query(key), answers.append)
    turns = 0
    while answer is None and not answers:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 100, "it waits for the others"
    assert type((answer or answers[0]).outcome) is Found
    return turns


@pytest.mark.parametrize("kind", ["http", "dns"])
async def test_while_a_thousand_hang_in_one_map_the_others_answer_as_soon_as_ever(
    kind: str, tmp_path: Path
) -> None:
    async with source(kind) as held, opened(tmp_path, held, kind) as (site, map, _):
        table, coroutine = site.maps.maps["table"], site.maps.maps["coroutine"]
        alone = [await turns_of(one, "user@example.org") for one in (table, coroutine)]
        answers = await begin(map, held)
        for number in range(200):
            key = f"user{number}@example.org"
            assert [await turns_of(one, key) for one in (table, coroutine)] == alone == [0, alone[1]]
        assert (answers, len(map.current.flights)) == ([], MANY)
        held.release()
        await turns_until(lambda: len(answers) == MANY)


@pytest.mark.parametrize("kind", ["http", "dns"])
async def test_nor_do_clients_of_other_maps_notice(kind: str, tmp_path: Path) -> None:
    async with source(kind) as held, opened(tmp_path, held, kind) as (site, map, _):
        for name, reply in (("table", "x@example.net"), ("coroutine", "y@example.net")):
            async with serve(site.maps.maps[name]) as port, Client(port) as client:
                assert await client.get("before@example.org") == Found(reply)
                if name == "table":
                    answers = await begin(map, held)
                for number in range(100):
                    assert await client.get(f"user{number}@example.org") == Found(reply)
        assert (answers, len(map.current.flights)) == ([], MANY)
        held.release()
        await turns_until(lambda: len(answers) == MANY)

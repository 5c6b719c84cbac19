"""socketmap on real sockets: in order, one reply each, whoever is slow, silent or gone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from tcpmapkit.config import ListenerConfig
from tcpmapkit.counters import Outcomes
from tcpmapkit.protocols.netstrings import netstring
from tcpmapkit.protocols.socketmap import encode, encode_request
from tcpmapkit.query import Found, NotFound, PermFail, TempFail
from tcpmapkit.server import Server
from tcpmapkit.testing import FakeClock
from tests.endpoints import KINDS, connected, endpoint, named, serving, until
from tests.serving import HeldMap

K = encode_request("aliases", "k")
SLOW = encode_request("aliases", "slow")
FOUND = encode(Found("v"))
ANSWERED = encode(Found("SLOW"))
MISSING = encode(NotFound())
UNKNOWN = encode(PermFail("unknown map"))


@pytest.fixture
def aliases() -> HeldMap:
    return named("aliases", {"k": Found("v"), "f": TempFail("down"), "long": Found("x" * 99_000)})


@pytest.fixture
def routes() -> HeldMap:
    return named("routes", {"k": Found("other")})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=KINDS)
async def server(
    request: pytest.FixtureRequest, tmp_path: Path, aliases: HeldMap, routes: HeldMap, clock: FakeClock
) -> AsyncIterator[Server]:
    async with socketmap(request.param, tmp_path, aliases, routes, clock=clock) as server:
        yield server


@asynccontextmanager
async def socketmap(
    kind: str, directory: Path, *maps: HeldMap, clock: FakeClock, **options: object
) -> AsyncIterator[Server]:
    config = ListenerConfig("socketmap", endpoint(kind, directory))
    async with serving(config, *maps, clock=clock, **options) as server:
        yield server


async def test_one_connection_asks_several_maps(server: Server, aliases: HeldMap, routes: HeldMap) -> None:
    async with connected(server) as peer:
        await peer.ask(K, FOUND)
        await peer.ask(encode_request("routes", "k"), encode(Found("other")))
        await peer.ask(encode_request("routes", "no"), MISSING)
        await peer.ask(encode_request("aliases", "f"), encode(TempFail("down")))
        await peer.ask(encode_request("aliases", ""), MISSING)
    assert (aliases.asked, routes.asked) == (["k", "f", ""], ["k", "no"])


@pytest.mark.parametrize("name", ["unknown", "ALIASES", "held", "x" * 900])
async def test_an_unknown_map_is_told_and_the_connection_lives(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(server) as peer:
        for _ in range(3):
            await peer.ask(encode_request(name, "k"), UNKNOWN)
        await peer.ask(K, FOUND)
    assert server.counters[0].permanent == 3
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "aliases, routes" in record.getMessage()


async def test_a_map_name_that_is_not_utf8_is_unknown(server: Server) -> None:
    async with connected(server) as peer:
        await peer.ask(netstring(b"\xff\xfe k"), UNKNOWN)
        await peer.ask(K, FOUND)


@pytest.mark.parametrize("content", [b"", b"aliases", b" k", b"aliases \xff", b"aliases " + b"k" * 500_000])
async def test_a_request_that_no_map_needs_to_see_does_not_cost_the_connection(
    server: Server, content: bytes, aliases: HeldMap
) -> None:
    async with connected(server) as peer:
        peer.send(netstring(content))
        reply = await peer.reader.readuntil(b",")
        assert reply == MISSING or b":PERM malformed request: " in reply
        await peer.ask(K, FOUND)
    assert aliases.asked == ["k"]
    assert server.counters[0].refused == 1


@pytest.mark.parametrize("data", [b"get k\n", b"01:", b"3:a b;", b"1048576:aliases k"])
async def test_broken_framing_closes_after_the_replies_before_it(
    server: Server, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tcpmapkit"):
        async with connected(server) as peer:
            peer.send(K + data)
            assert await peer.rest() == FOUND
    [record] = caplog.records
    assert (record.levelno, "closing" in record.getMessage()) == (logging.INFO, True)


async def test_requests_on_their_way_together_are_answered_in_order(server: Server, aliases: HeldMap) -> None:
    async with connected(server) as peer, connected(server) as other:
        peer.send(K + SLOW + encode_request("routes", "k") + encode_request("nowhere", "k") + K * 1000)
        await until(lambda: "slow" in aliases.held)
        await other.ask(K, FOUND)
        aliases.answer("slow")
        await peer.read(FOUND + ANSWERED + encode(Found("other")) + UNKNOWN + FOUND * 1000)


@pytest.mark.parametrize("size", [1, 7])
async def test_a_request_may_come_in_pieces(server: Server, size: int) -> None:
    async with connected(server) as peer:
        for start in range(0, len(K), size):
            peer.send(K[start : start + size])
            await peer.writer.drain()
        await peer.read(FOUND)


async def test_a_half_closed_connection_gets_its_replies(server: Server, aliases: HeldMap) -> None:
    async with connected(server) as peer:
        peer.send(SLOW + K * 1000 + K[:-1])
        peer.writer.write_eof()
        await until(lambda: "slow" in aliases.held)
        aliases.answer("slow")
        assert await peer.rest() == ANSWERED + FOUND * 1000
    await until(lambda: server.counters[0].connections_open == 0)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_hangs_up_during_its_lookup_hurts_nobody(
    server: Server, aliases: HeldMap, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(server) as peer, connected(server) as other:
        peer.send(SLOW + K)
        await until(lambda: "slow" in aliases.held)
        peer.hang_up(reset)
        if reset and peer.resets:
            await until(lambda: server.counters[0].connections_open == 1)
        await other.ask(K, FOUND)
        aliases.answer("slow")
        await until(lambda: server.counters[0].connections_open == 1)
        await other.ask(K, FOUND)
    assert caplog.records == []


async def test_a_client_that_does_not_read_stops_only_itself(server: Server, aliases: HeldMap) -> None:
    asked = encode_request("aliases", "long")
    async with connected(server) as greedy, connected(server) as other:
        greedy.writer.transport.pause_reading()  # type: ignore[attr-defined]
        greedy.send(asked * 2000)
        for _ in range(300):
            await other.ask(K, FOUND)
        assert aliases.asked.count("long") < 500
        greedy.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await greedy.read(encode(Found("x" * 99_000)) * 100)


async def test_a_netstring_that_is_never_finished_is_closed_when_its_time_is_over(
    server: Server, aliases: HeldMap, clock: FakeClock
) -> None:
    async with connected(server) as peer, connected(server) as other:
        await peer.ask(K, FOUND)
        peer.send(b"5000:aliases ")
        for _ in range(11):
            peer.send(b"x" * 100)
            clock.now += 10
            await other.ask(K, FOUND)
            server.sweep()
        clock.now += 10  # two minutes since the last reply: bytes that complete nothing are no activity
        server.sweep()
        assert await peer.rest() == b""
        await other.ask(K, FOUND)


async def test_an_idle_connection_is_closed_after_two_minutes_and_a_busy_one_is_not(
    server: Server, aliases: HeldMap, clock: FakeClock
) -> None:
    async with connected(server) as idle, connected(server) as busy:
        await idle.ask(K, FOUND)
        busy.send(SLOW)
        await until(lambda: "slow" in aliases.held)
        clock.now += 119
        server.sweep()
        await idle.ask(K, FOUND)
        clock.now += 120
        server.sweep()
        assert await idle.rest() == b""
        aliases.answer("slow")
        await busy.read(ANSWERED)


async def test_a_ready_reply_is_that_of_its_map(
    server: Server, aliases: HeldMap, routes: HeldMap, clock: FakeClock
) -> None:
    aliases.expires = routes.expires = clock.now + 10
    async with connected(server) as peer:
        for _ in range(3):
            await peer.ask(K, FOUND)
            await peer.ask(encode_request("routes", "k"), encode(Found("other")))
            await peer.ask(encode_request("nowhere", "k"), UNKNOWN)
    assert (aliases.asked, routes.asked) == (["k"], ["k"])
    assert (server.counters[0].ready, server.counters[0].permanent) == (4, 3)


async def test_outcomes_are_counted_by_map(
    server: Server, aliases: HeldMap, routes: HeldMap, clock: FakeClock
) -> None:
    aliases.expires = clock.now + 10
    async with connected(server) as peer:
        for _ in range(3):
            await peer.ask(K, FOUND)
        for _ in range(2):
            await peer.ask(encode_request("aliases", "f"), encode(TempFail("down")))
            await peer.ask(encode_request("routes", "no"), MISSING)
            await peer.ask(encode_request("nowhere", "k"), UNKNOWN)
    counters = server.counters[0]
    assert told(counters.of("aliases")) == {"ready_found": 2, "found": 1, "temporary": 2}
    assert told(counters.of("routes")) == {"not_found": 2}
    assert told(counters.no_map) == {"permanent": 2}


def told(outcomes: Outcomes) -> dict[str, int]:
    return {name: times for name, times in attrs.asdict(outcomes).items() if type(times) is int and times}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_longest_idle_connection_makes_room(
    kind: str, tmp_path: Path, aliases: HeldMap, clock: FakeClock
) -> None:
    async with (
        socketmap(kind, tmp_path, aliases, clock=clock, max_connections=2) as server,
        connected(server) as first,
        connected(server) as second,
    ):
        await first.ask(K, FOUND)
        clock.now += 1
        await second.ask(K, FOUND)
        clock.now += 11
        async with connected(server) as third:
            await third.ask(K, FOUND)
            assert await first.rest() == b""
            await second.ask(K, FOUND)

"""Policy requests on real sockets: answered in order on one connection; a failure is silence and the end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tcpmapkit.config import ListenerConfig
from tcpmapkit.protocols.policy import MAX_REPLY, encode, encode_request
from tcpmapkit.query import Found, NotFound, PermFail, TempFail
from tcpmapkit.server import Server
from tcpmapkit.testing import FakeClock
from tests.endpoints import KINDS, connected, endpoint, named, serving, until
from tests.serving import HeldMap


def asking(key: str, **attributes: str) -> bytes:
    return encode_request({"client_address": key, "sender": ""} | attributes)


OK = encode(Found("OK"))
DUNNO = encode(NotFound())
ANSWERED = encode(Found("SLOW"))


@pytest.fixture
def clients() -> HeldMap:
    table = {
        "192.0.2.1": Found("OK"),
        "192.0.2.2": TempFail("down"),
        "192.0.2.3": PermFail("wrong"),
        "192.0.2.4": Found("x" * MAX_REPLY),
        "192.0.2.5": Found("REJECT " + "x" * 60_000),
    }
    return named("clients", table)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=KINDS)
async def server(
    request: pytest.FixtureRequest, tmp_path: Path, clients: HeldMap, clock: FakeClock
) -> AsyncIterator[Server]:
    async with policy(request.param, tmp_path, clients, clock) as server:
        yield server


@asynccontextmanager
async def policy(
    kind: str, directory: Path, map: HeldMap, clock: FakeClock, **options: str
) -> AsyncIterator[Server]:
    config = ListenerConfig("policy", endpoint(kind, directory), "clients", **options)  # type: ignore[arg-type]
    async with serving(config, map, clock=clock) as server:
        yield server


async def test_one_connection_serves_many_requests(server: Server, clients: HeldMap) -> None:
    async with connected(server) as peer:
        for _ in range(500):
            await peer.ask(asking("192.0.2.1"), OK)
            await peer.ask(asking("192.0.2.99"), DUNNO)
    counters = server.counters[0]
    assert (counters.connections, counters.found, counters.not_found, counters.ready) == (1, 500, 500, 0)


async def test_an_answer_that_may_be_kept_is_asked_for_again_all_the_same(
    server: Server, clients: HeldMap, clock: FakeClock
) -> None:
    clients.expires = clock.now + 1000
    async with connected(server) as peer:
        await peer.ask(asking("192.0.2.1") * 2, OK * 2)
        await peer.ask(asking("192.0.2.1"), OK)
    assert len(clients.asked) == 3


async def test_nothing_is_said_unasked(server: Server, clients: HeldMap) -> None:
    async with connected(server) as peer:
        await peer.ask(asking("192.0.2.1"), OK)
        peer.send(asking("192.0.2.1")[:-1])
        async with connected(server) as other:
            await other.ask(asking("192.0.2.99"), DUNNO)
        peer.writer.write_eof()
        assert await peer.rest() == b""


async def test_requests_on_their_way_together_are_answered_in_order(server: Server, clients: HeldMap) -> None:
    async with connected(server) as peer, connected(server) as other:
        peer.send(asking("192.0.2.1") + asking("slow") + asking("192.0.2.9") + asking("192.0.2.1") * 600)
        await until(lambda: "slow" in clients.held)
        await other.ask(asking("192.0.2.1"), OK)
        clients.answer("slow")
        await peer.read(OK + ANSWERED + DUNNO + OK * 600)


@pytest.mark.parametrize("key", ["192.0.2.2", "192.0.2.3", "192.0.2.4", "bug", "x" * 10_001, "\u00e9" * 6000])
async def test_a_failure_closes_without_a_byte_after_the_replies_before_it(
    server: Server, clients: HeldMap, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(server) as peer, connected(server) as other:
        peer.send(asking("192.0.2.1") * 3 + asking(key) + asking("192.0.2.1"))
        assert await peer.rest() == OK * 3
        await other.ask(asking("192.0.2.1"), OK)
    assert clients.asked.count("192.0.2.1") == 4
    assert [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_failure_that_comes_late_closes_without_a_byte_too(server: Server, clients: HeldMap) -> None:
    async with connected(server) as peer:
        peer.send(asking("192.0.2.1") + asking("slow") + asking("192.0.2.1"))
        await until(lambda: "slow" in clients.held)
        clients.answer("slow", TempFail("down"))
        assert await peer.rest() == OK
    assert clients.asked == ["192.0.2.1", "slow"]


async def test_replies_that_fill_the_connection_arrive_before_the_close(
    server: Server, clients: HeldMap
) -> None:
    reply = encode(Found("REJECT " + "x" * 60_000))
    async with connected(server) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.send(asking("192.0.2.5") * 200 + asking("192.0.2.2") + asking("192.0.2.1"))
        await until(lambda: len(clients.asked) > 1)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await peer.rest() == reply * 200


async def test_where_there_is_a_default_action_a_failure_is_told_as_it_and_the_connection_lives(
    tmp_path: Path, clients: HeldMap, clock: FakeClock
) -> None:
    action = "DEFER_IF_PERMIT try again"
    async with (
        policy("inet", tmp_path, clients, clock, default_action=action) as server,
        connected(server) as peer,
    ):
        for key in ("192.0.2.2", "192.0.2.3", "bug", "x" * 10_001):
            await peer.ask(asking(key), encode(Found(action)))
        await peer.ask(asking("192.0.2.1"), OK)


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"request=junk\n\n",
        b"sender=a\n\n",
        b"request=smtpd_access_policy\nsender\n\n",
        b"a=b\n" * 100_000,
        b"x" * 70_000,
        b"get k\n\n",
    ],
)
async def test_what_is_no_request_closes_without_a_byte(
    server: Server, clients: HeldMap, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tcpmapkit"):
        async with connected(server) as peer:
            await peer.ask(asking("192.0.2.1"), OK)
            peer.send(data)
            if len(data) < 60_000:
                assert await peer.rest() == b""
            else:  # what was not read any more may make a reset of the close
                with contextlib.suppress(ConnectionError):
                    assert await peer.rest() == b""
    [record] = caplog.records
    assert (record.levelno, "closing" in record.getMessage()) == (logging.INFO, True)


async def test_attributes_make_the_key(tmp_path: Path, clients: HeldMap, clock: FakeClock) -> None:
    key = "{client_address}"
    async with policy("inet", tmp_path, clients, clock, key=key) as server, connected(server) as peer:
        await peer.ask(asking("192.0.2.1", unknown="x", sender="a=b"), OK)
        await peer.ask(asking("", ccert_subject="a b"), DUNNO)
        await peer.ask(asking("\ufffd"), DUNNO)
        peer.send(asking("@").replace(b"@", b"\xff"))
        await peer.read(DUNNO)
    assert clients.asked == ["192.0.2.1", "", "\ufffd", "\ufffd"]


async def test_a_half_closed_connection_gets_its_replies(server: Server, clients: HeldMap) -> None:
    async with connected(server) as peer:
        peer.send(asking("slow") + asking("192.0.2.1") * 100 + asking("192.0.2.1")[:-1])
        peer.writer.write_eof()
        await until(lambda: "slow" in clients.held)
        clients.answer("slow")
        assert await peer.rest() == ANSWERED + OK * 100
    await until(lambda: server.counters[0].connections_open == 0)


@pytest.mark.parametrize("outcome", [Found("OK"), TempFail("down")])
async def test_a_client_that_hangs_up_during_its_lookup_hurts_nobody(
    server: Server, clients: HeldMap, outcome: Found | TempFail
) -> None:
    async with connected(server) as peer, connected(server) as other:
        peer.send(asking("slow") + asking("192.0.2.1"))
        await until(lambda: "slow" in clients.held)
        peer.hang_up(reset=True)
        await other.ask(asking("192.0.2.99"), DUNNO)
        clients.answer("slow", outcome)
        await until(lambda: server.counters[0].connections_open == 1)
        await other.ask(asking("192.0.2.99"), DUNNO)


async def test_a_client_that_does_not_read_stops_only_itself(server: Server, clients: HeldMap) -> None:
    async with connected(server) as greedy, connected(server) as other:
        greedy.writer.transport.pause_reading()  # type: ignore[attr-defined]
        greedy.send(asking("192.0.2.5") * 3000)
        for _ in range(300):
            await other.ask(asking("192.0.2.1"), OK)
        assert clients.asked.count("192.0.2.5") < 1000
        greedy.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await greedy.read(encode(Found("REJECT " + "x" * 60_000)) * 100)


async def test_an_idle_connection_outlives_the_clients_own_patience_and_a_busy_one_any(
    server: Server, clients: HeldMap, clock: FakeClock
) -> None:
    async with connected(server) as idle, connected(server) as busy, connected(server) as begun:
        for peer in (idle, begun):
            await peer.ask(asking("192.0.2.1"), OK)
        begun.send(asking("192.0.2.1")[:-1])
        busy.send(asking("slow"))
        await until(lambda: "slow" in clients.held)
        clock.now += 1099
        server.sweep()
        await idle.ask(asking("192.0.2.1"), OK)
        clock.now += 1
        server.sweep()
        assert await begun.rest() == b""
        clock.now += 1099
        server.sweep()
        assert await idle.rest() == b""
        clients.answer("slow")
        await busy.read(ANSWERED)

"""The server on real sockets of the loopback, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tcpmapkit import listener as listener_module
from tcpmapkit.cache import CacheOptions
from tcpmapkit.chain import WaitingChain
from tcpmapkit.config import Endpoint, ListenerConfig, ServerConfig
from tcpmapkit.connection import Connection
from tcpmapkit.connections import Connections
from tcpmapkit.generation import Generation
from tcpmapkit.listener import is_allowed
from tcpmapkit.maps import Map
from tcpmapkit.process import StartError
from tcpmapkit.query import Found, Query
from tcpmapkit.server import Server
from tcpmapkit.testing import FakeClock
from tests.serving import HeldMap, Transport, make_server, make_service, running

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def map() -> HeldMap:
    return HeldMap(k=Found("v"), long=Found("x" * 4000))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@asynccontextmanager
async def serving(*maps: Any, clock: FakeClock, **options: Any) -> AsyncIterator[Server]:
    server = make_server(*maps, clock=clock, **options)
    async with running(server):
        yield server


@asynccontextmanager
async def connected(server: Server, listener: int = 0) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(*server.addresses[listener][0])
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(streams: Streams, request: bytes = b"get k\n") -> bytes:
    """One reply; empty when the server hung up."""
    reader, writer = streams
    writer.write(request)
    async with asyncio.timeout(10):
        return await reader.readline()


def resetting_client(server: Server) -> socket.socket:
    """A client whose close is a reset: one that only ends its input may still want its reply."""
    client = socket.create_connection(server.addresses[0][0])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return client


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_each_listener_serves_its_own_map(map: HeldMap, clock: FakeClock) -> None:
    other = HeldMap(k=Found("other"))
    async with (
        serving(map, other, clock=clock) as server,
        connected(server, 0) as first,
        connected(server, 1) as second,
    ):
        assert await ask(first) == b"200 v\n"
        assert await ask(second) == b"200 other\n"
        assert [counters.requests for counters in server.counters] == [1, 1]
        assert [counters.connections for counters in server.counters] == [1, 1]


async def test_a_repeated_request_is_answered_from_the_ready_replies(map: HeldMap, clock: FakeClock) -> None:
    map.expires = clock.now + 10
    async with serving(map, clock=clock) as server, connected(server) as streams:
        for _ in range(3):
            assert await ask(streams) == b"200 v\n"
        assert map.asked == ["k"]
        assert server.counters[0].ready == 2
        clock.now += 11
        assert await ask(streams) == b"200 v\n"
        assert map.asked == ["k", "k"]


async def test_replies_come_in_order_while_another_connection_is_not_held_up(
    map: HeldMap, clock: FakeClock
) -> None:
    async with serving(map, clock=clock) as server, connected(server) as slow, connected(server) as quick:
        slow[1].write(b"get slow\nget k\n")
        await until(lambda: "slow" in map.held)
        assert await ask(quick) == b"200 v\n"
        map.answer("slow")
        assert await slow[0].readline() == b"200 SLOW\n"
        assert await slow[0].readline() == b"200 v\n"


async def test_a_half_closed_connection_gets_its_replies(map: HeldMap, clock: FakeClock) -> None:
    async with serving(map, clock=clock) as server, connected(server) as (reader, writer):
        writer.write(b"get slow\nget k\n" + b"get k\n" * 1000)
        writer.write_eof()
        await until(lambda: "slow" in map.held)
        map.answer("slow")
        async with asyncio.timeout(10):
            assert await reader.read() == b"200 SLOW\n" + b"200 v\n" * 1001
        await until(lambda: server.counters[0].connections_open == 0)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_hangs_up_in_the_midst_hurts_nobody(
    map: HeldMap, clock: FakeClock, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(map, clock=clock) as server, connected(server) as other:
        client = resetting_client(server) if reset else socket.create_connection(server.addresses[0][0])
        client.sendall(b"get slow\nget k\n")
        await until(lambda: "slow" in map.held)
        client.close()
        other[1].write(b"get slow\n")
        await until(lambda: len(map.held["slow"]) == 2)
        map.answer("slow")
        assert await other[0].readline() == b"200 SLOW\n"
        await until(lambda: server.counters[0].connections_open == 1)
    assert caplog.records == []


async def test_a_client_that_does_not_read_stops_only_itself(map: HeldMap, clock: FakeClock) -> None:
    async with (
        serving(map, clock=clock) as server,
        connected(server) as (reader, writer),
        connected(server) as other,
    ):
        requests = 5000
        writer.transport.pause_reading()
        writer.write(b"get long\n" * requests)
        await until(lambda: server.counters[0].found > 100)
        before = -1
        while before != server.counters[0].found:
            before = server.counters[0].found
            for _ in range(20):
                assert await ask(other) == b"200 v\n"
            before += 20
        assert server.counters[0].found < requests
        writer.transport.resume_reading()
        async with asyncio.timeout(30):
            assert len(await reader.readexactly(4005 * requests)) == 4005 * requests


async def test_peers_from_elsewhere_are_closed_at_once(
    map: HeldMap, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    allow = (ipaddress.ip_network("192.0.2.0/24"),)
    async with serving(map, clock=clock, allow=allow) as server:
        for _ in range(3):
            async with connected(server) as (reader, _):
                assert await reader.read() == b""
        counters = server.counters[0]
        assert (counters.connections_refused, counters.connections) == (3, 0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "127.0.0.1" in caplog.text


async def test_a_loopback_listener_needs_no_networks(map: HeldMap, clock: FakeClock) -> None:
    async with serving(map, clock=clock, host="127.0.0.1") as server, connected(server) as streams:
        assert await ask(streams) == b"200 v\n"


@pytest.mark.parametrize(
    ("host", "networks", "allowed"),
    [
        ("192.0.2.7", ["192.0.2.0/24"], True),
        ("192.0.3.7", ["192.0.2.0/24"], False),
        ("::ffff:192.0.2.7", ["192.0.2.0/24"], True),
        ("::ffff:192.0.3.7", ["192.0.2.0/24"], False),
        ("192.0.2.7", ["2001:db8::/32", "192.0.2.7/32"], True),
        ("2001:db8::1", ["192.0.2.0/24", "2001:db8::/32"], True),
        ("2001:db9::1", ["2001:db8::/32"], False),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("127.0.0.1", [], False),
    ],
)
def test_who_is_allowed(host: str, networks: list[str], allowed: bool) -> None:
    assert is_allowed(host, [ipaddress.ip_network(network) for network in networks]) is allowed


async def test_sockets_are_kept_alive_and_do_not_delay(map: HeldMap, clock: FakeClock) -> None:
    async with serving(map, clock=clock) as server, connected(server) as streams:
        assert await ask(streams) == b"200 v\n"
        [connection] = server.connections
        served = connection._transport.get_extra_info("socket")
        assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert served.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 3600


async def test_connections_wait_between_bind_and_start(map: HeldMap, clock: FakeClock) -> None:
    server = make_server(map, clock=clock)
    server.bind()
    async with connected(server) as (reader, writer):
        writer.write(b"get k\n")
        await server.start()
        assert await reader.readline() == b"200 v\n"
    await server.stop()


async def test_an_address_in_use_is_one_line_that_names_it(map: HeldMap, clock: FakeClock) -> None:
    async with serving(map, clock=clock) as server:
        port = server.addresses[0][0][1]
        second = make_server(HeldMap(), map, clock=clock, ports=(0, port))
        with pytest.raises(
            StartError, match=rf"^cannot listen on inet:127\.0\.0\.1:{port}: Address already in use$"
        ):
            second.bind()
        assert second.addresses == [[], []]
        await second.stop()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
async def test_an_address_that_is_not_ours_is_refused(map: HeldMap, clock: FakeClock, host: str) -> None:
    server = make_server(map, clock=clock, host=host)
    with pytest.raises(StartError, match=rf"^cannot listen on inet:{host}:0: .+$"):
        server.bind()


async def test_a_name_with_several_addresses_listens_on_those_there_are(
    map: HeldMap, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("192.0.2.1", "127.0.0.1")
    ]
    monkeypatch.setattr(listener_module.socket, "getaddrinfo", lambda *_, **__: found)
    server = make_server(map, clock=clock, host="localhost")
    server.bind()
    assert [host for host, _ in server.addresses[0]] == ["127.0.0.1"]
    server.close()


# With a map of the real kind.


class HeldChain(WaitingChain):
    """A chain that waits until `go_on` is set, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(())
        self.asked = 0
        self.go_on = asyncio.Event()

    def begin(self, query: Query) -> Any:
        async def rest() -> Found:
            self.asked += 1
            await self.go_on.wait()
            return Found(query.key.upper())

        return rest


async def test_a_hundred_clients_that_ask_one_cold_key_are_one_lookup_whoever_hangs_up(
    clock: FakeClock,
) -> None:
    chain = HeldChain()
    cold = Map("cold", Generation(chain), cache=CacheOptions(), clock=clock)
    async with serving(cold, clock=clock) as server:
        first = resetting_client(server)
        first.sendall(b"get cold\n")
        await until(lambda: chain.asked == 1)
        clients = [await asyncio.open_connection(*server.addresses[0][0]) for _ in range(99)]
        for _, writer in clients:
            writer.write(b"get cold\nget other\n")
        first.close()
        await until(lambda: server.counters[0].connections_open == 99)
        chain.go_on.set()
        for reader, writer in clients:
            async with asyncio.timeout(10):
                assert await reader.readline() == b"200 COLD\n"
                assert await reader.readline() == b"200 OTHER\n"
            writer.write(b"get cold\n")
            assert await reader.readline() == b"200 COLD\n"
            writer.close()
        assert chain.asked == 2
        assert server.counters[0].ready >= 99
    await cold.stop()


# Room.


async def test_the_longest_idle_connection_makes_room(
    map: HeldMap, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(map, clock=clock, max_connections=2) as server,
        connected(server) as first,
        connected(server) as second,
    ):
        for streams in (first, second):
            assert await ask(streams) == b"200 v\n"
        clock.now += 1
        assert await ask(first) == b"200 v\n"
        clock.now += 10
        async with connected(server) as third:
            assert await ask(third) == b"200 v\n"
            assert await ask(first) == b"200 v\n"
            assert await second[0].read() == b""
    assert caplog.records == []  # accepting did not pause


async def test_a_client_that_reconnects_at_no_cost_makes_room_before_one_that_is_idle_for_longer(
    clock: FakeClock,
) -> None:
    answers = HeldMap(a=Found("v"))
    endpoint = Endpoint("inet", "127.0.0.1", 0)
    listeners = [
        (ListenerConfig("tcp_table", endpoint, answers.name), [answers]),
        (ListenerConfig("socketmap", endpoint), [answers]),
    ]
    server = Server(ServerConfig(max_connections=2), listeners, clock=clock)
    server.bind()
    await server.start()
    try:
        ports = [addresses[0][1] for addresses in server.addresses]
        table = await asyncio.open_connection("127.0.0.1", ports[0])
        assert await ask(table, b"get a\n") == b"200 v\n"
        clock.now += 5
        socketmap = await asyncio.open_connection("127.0.0.1", ports[1])
        socketmap[1].write(b"6:held a,")
        assert await socketmap[0].readexactly(7) == b"4:OK v,"
        clock.now += 20
        third = await asyncio.open_connection("127.0.0.1", ports[0])
        assert await ask(third, b"get a\n") == b"200 v\n"
        assert await socketmap[0].read() == b""
        assert await ask(table, b"get a\n") == b"200 v\n"
        for _, writer in (table, socketmap, third):
            writer.close()
            await writer.wait_closed()
    finally:
        await server.stop()


async def test_a_limit_that_is_lowered_closes_the_longest_idle_ones_at_once_and_those_that_become_idle_later(
    map: HeldMap, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmapkit.accepting.PAUSE", 0.0)
    monkeypatch.setattr("tcpmapkit.connections._CLOSED", 3)  # in one turn

    def lower(server: Server, limit: int) -> None:
        listeners = [(one.config, [map]) for one in server.listeners]
        server.take(server.prepare(ServerConfig(max_connections=limit), listeners))  # type: ignore[arg-type]

    async with serving(map, clock=clock) as server:
        clients = [await asyncio.open_connection(*server.addresses[0][0]) for _ in range(20)]
        for client in clients:
            assert await ask(client) == b"200 v\n"
        clock.now += 20
        for client in clients[:5]:
            assert await ask(client) == b"200 v\n"
        lower(server, 10)
        await until(lambda: len(server.connections) == 10)
        await until(lambda: server.counters[0].connections_open == 10)
        lower(server, 4)
        await until(lambda: len(server.connections) == 5)  # which are not idle
        async with connected(server) as late:
            late[1].write(b"get k\n")
            await until(lambda: not server.accepting)
            assert len(server.connections) == 5
            clock.now += 10
            assert await late[0].readline() == b"200 v\n"
            assert len(server.connections) == 4
        for _, writer in clients:
            writer.close()


async def test_a_server_that_is_given_its_connections_takes_another_limit(
    map: HeldMap, clock: FakeClock
) -> None:
    listener = ListenerConfig("tcp_table", Endpoint("inet", "127.0.0.1", 0), map.name)
    server = Server(ServerConfig(max_connections=2), [(listener, [map])], clock=clock, accepts=False)  # type: ignore[list-item]
    for limit in (50, 1):
        server.take(server.prepare(ServerConfig(max_connections=limit), [(listener, [map])]))  # type: ignore[list-item]
        assert server.max_connections == limit


async def test_a_connection_with_a_lookup_in_flight_makes_no_room(map: HeldMap, clock: FakeClock) -> None:
    async with (
        serving(map, clock=clock, max_connections=2) as server,
        connected(server) as busy,
        connected(server) as idle,
    ):
        busy[1].write(b"get slow\n")
        await until(lambda: "slow" in map.held)
        clock.now += 1
        assert await ask(idle) == b"200 v\n"
        clock.now += 20
        async with connected(server) as third:
            assert await ask(third) == b"200 v\n"
            assert await idle[0].read() == b""
            map.answer("slow")
            assert await busy[0].readline() == b"200 SLOW\n"


async def test_accepting_pauses_when_nobody_can_make_room_and_goes_on_when_one_closes(
    map: HeldMap, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmapkit.accepting.PAUSE", 600.0)
    async with serving(map, clock=clock, max_connections=1) as server, connected(server) as first:
        assert await ask(first) == b"200 v\n"
        async with connected(server) as second:
            second[1].write(b"get k\n")
            await until(lambda: not server.accepting)
            assert await ask(first) == b"200 v\n"
            assert server.counters[0].connections == 1
            first[1].close()
            assert await second[0].readline() == b"200 v\n"
    assert [record.getMessage() for record in caplog.records] == [
        "1 connections and none of them idle: accepting pauses"
    ]


async def test_accepting_goes_on_when_one_has_become_idle_meanwhile(
    map: HeldMap, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmapkit.accepting.PAUSE", 0.01)
    async with serving(map, clock=clock, max_connections=1) as server, connected(server) as first:
        assert await ask(first) == b"200 v\n"
        async with connected(server) as second:
            second[1].write(b"get k\n")
            await until(lambda: not server.accepting)
            clock.now += 10
            assert await second[0].readline() == b"200 v\n"
            assert await first[0].read() == b""


async def test_a_rush_of_connections_never_exceeds_the_limit(map: HeldMap, clock: FakeClock) -> None:
    async with serving(map, clock=clock, max_connections=5) as server:
        clients = [await asyncio.open_connection(*server.addresses[0][0]) for _ in range(30)]
        for reader, writer in clients:
            writer.write(b"get k\n")
            async with asyncio.timeout(10):
                assert await reader.readline() == b"200 v\n"
            assert server.counters[0].connections_open <= 5
            writer.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_a_lack_of_descriptors_pauses_accepting_with_one_line_of_log(
    map: HeldMap,
    clock: FakeClock,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tcpmapkit.accepting.PAUSE", 0.01)
    tries = 0
    async with serving(map, clock=clock) as server:
        accept = server.listeners[0].accept

        def exhausted(listening: socket.socket) -> socket.socket | None:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise OSError(number, "Too many open files")
            return accept(listening)

        monkeypatch.setattr(server.listeners[0], "accept", exhausted)
        async with connected(server) as streams:
            assert await ask(streams) == b"200 v\n"
    assert tries >= 4
    assert [record.getMessage() for record in caplog.records] == [
        "cannot accept connections: Too many open files"
    ]


def test_a_connection_that_went_before_it_was_accepted_is_passed_over(map: HeldMap, clock: FakeClock) -> None:
    class Listening:
        def __init__(self, *errors: int) -> None:
            self.errors = list(errors)

        def accept(self) -> None:
            raise OSError(self.errors.pop(0), "gone")  # OSError makes a BlockingIOError of EAGAIN itself

    [listener] = make_server(map, clock=clock).listeners
    assert listener.accept(Listening(errno.ECONNABORTED, errno.EPROTO, errno.EAGAIN)) is None  # type: ignore[arg-type]
    with pytest.raises(OSError, match="gone"):
        listener.accept(Listening(errno.ECONNABORTED, errno.EMFILE))  # type: ignore[arg-type]


# Time.


async def test_idle_connections_are_closed_after_an_hour_and_busy_ones_are_not(
    map: HeldMap, clock: FakeClock
) -> None:
    async with (
        serving(map, clock=clock) as server,
        connected(server) as idle,
        connected(server) as busy,
        connected(server) as recent,
    ):
        assert await ask(idle) == b"200 v\n"
        busy[1].write(b"get slow\n")
        await until(lambda: "slow" in map.held)
        clock.now += 3599
        server.sweep()
        for streams in (idle, recent):
            assert await ask(streams) == b"200 v\n"
        clock.now += 1
        assert await ask(recent) == b"200 v\n"
        clock.now += 3599
        server.sweep()
        assert await idle[0].read() == b""
        assert await ask(recent) == b"200 v\n"
        map.answer("slow")
        assert await busy[0].readline() == b"200 SLOW\n"


async def test_a_peer_that_has_read_nothing_for_an_hour_is_dropped(map: HeldMap, clock: FakeClock) -> None:
    async with serving(map, clock=clock) as server:
        with socket.create_connection(server.addresses[0][0]) as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, b"get long\n" * 4000)
            await until(lambda: any(connection.in_flight for connection in server.connections))
            counters, before = server.counters[0], -1
            while before != counters.found:
                before = counters.found
                for _ in range(100):
                    await asyncio.sleep(0)
            assert counters.found < 4000
            clock.now += 3600
            server.sweep()
            await until(lambda: counters.connections_open == 0)


async def test_a_connection_that_made_room_and_does_not_go_is_dropped(map: HeldMap, clock: FakeClock) -> None:
    service, _, _ = make_service(map, clock)
    connections = Connections(1, clock, lambda: None)
    transport = Transport()
    connection = Connection(service)
    connection.connection_made(transport)  # type: ignore[arg-type]
    connections.add(connection)
    clock.now += 10
    assert connections.make_room()
    assert (transport.closing, transport.aborted, len(connections)) == (True, False, 0)
    connections.sweep()
    assert transport.aborted


async def test_the_sweep_is_periodic(map: HeldMap, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpmapkit.server.SWEEP_INTERVAL", 0.005)
    async with serving(map, clock=clock) as server:
        for _ in range(2):
            async with connected(server) as streams:
                assert await ask(streams) == b"200 v\n"
                clock.now += 3600
                assert await streams[0].read() == b""


# The end.


async def test_stopping_finishes_what_is_in_flight_and_closes_the_idle(
    map: HeldMap, clock: FakeClock
) -> None:
    async with serving(map, clock=clock) as server, connected(server) as idle, connected(server) as busy:
        assert await ask(idle) == b"200 v\n"
        busy[1].write(b"get slow\nget k\n")
        await until(lambda: "slow" in map.held)
        address = server.addresses[0][0]
        stopping = asyncio.create_task(server.stop())
        assert await idle[0].read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        assert not stopping.done()
        map.answer("slow")
        assert await busy[0].read() == b"200 SLOW\n200 v\n"
        await stopping
        assert server.counters[0].connections_open == 0


async def test_stopping_ends_with_the_grace(
    map: HeldMap, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(map, clock=clock, grace=0.02) as server, connected(server) as busy:
        busy[1].write(b"get slow\n")
        await until(lambda: "slow" in map.held)
        await server.stop()
        assert server.counters[0].connections_open == 0
        with contextlib.suppress(ConnectionResetError):
            assert await busy[0].read() == b""
        map.answer("slow")
    assert [record.getMessage() for record in caplog.records] == [
        "1 connections did not finish within the grace and are dropped"
    ]


async def test_stopping_with_a_hundred_idle_clients_does_not_wait_for_the_grace(
    map: HeldMap, clock: FakeClock
) -> None:
    async with serving(map, clock=clock, grace=60.0) as server:
        clients = [await asyncio.open_connection(*server.addresses[0][0]) for _ in range(100)]
        async with asyncio.timeout(10):
            await server.stop()
            for reader, writer in clients:
                with contextlib.suppress(ConnectionResetError):  # it was still waiting to be accepted
                    assert await reader.read() == b""
                writer.close()


async def test_a_server_that_never_started_can_be_stopped(map: HeldMap, clock: FakeClock) -> None:
    server = make_server(map, clock=clock)
    await server.stop()
    server = make_server(map, clock=clock)
    server.bind()
    address = server.addresses[0][0]
    await server.stop()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_thousands_of_short_connections_leave_nothing_behind(map: HeldMap, clock: FakeClock) -> None:
    async with serving(map, clock=clock) as server:
        address = server.addresses[0][0]

        async def come_and_go(number: int) -> None:
            for _ in range(20):
                reader, writer = await asyncio.open_connection(*address)
                if number % 3:
                    writer.write(b"get k\n")
                    assert await reader.readline() == b"200 v\n"
                if number % 2:
                    writer.transport.abort()
                writer.close()

        async with asyncio.timeout(60):
            await asyncio.gather(*(come_and_go(number) for number in range(50)))
        await until(lambda: server.counters[0].connections == 1000)
        await until(lambda: server.counters[0].connections_open == 0)
        assert not server.connections

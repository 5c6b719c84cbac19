"""Connections that outlive a restart: what is left with systemd, what is taken back, what is closed."""

from __future__ import annotations

import array
import resource
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest

from tcpmapkit.handover import MOST_LEFT, _listener_of, hand_over, store
from tcpmapkit.inherited import STORED
from tcpmapkit.systemd import Notifier
from tests.running_tcpmapkit import lasting_port
from tests.test_service import ANSWER, CONFIGURATION, PATIENCE, Service, service

each_way = pytest.mark.parametrize("extra", ["", "[server]\nworkers = 2\n"], ids=["alone", "workers"])

REQUEST = b"get postmaster@example.org\n"


class DescriptorStore:
    """What systemd does for a service with ``FileDescriptorStoreMax=``, in the place of its notify socket."""

    def __init__(self, one: Service) -> None:
        self.stored: list[socket.socket] = []
        self.forgotten: list[str] = []
        self._service = one
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            message, ancillary, _, _ = self._service.notify.recvmsg(4096, 1024)
            fields = dict(line.split("=", 1) for line in message.decode().split("\n"))
            descriptors = array.array("i")
            for _, _, data in ancillary:
                descriptors.frombytes(data)
            if "FDSTORE" in fields:
                assert fields["FDNAME"] == STORED
                self.stored += [socket.socket(fileno=descriptor) for descriptor in descriptors]
            elif "FDSTOREREMOVE" in fields:
                self.forgotten.append(fields["FDNAME"])
            elif "BARRIER" in fields:
                assert fields == {"BARRIER": "1"}
                (descriptor,) = descriptors
                socket.close(descriptor)
            elif "END" in fields:
                return

    def end(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"END=1", self._service.notify.getsockname())
        self._thread.join()

    def close(self) -> None:
        for one in self.stored:
            one.close()


@contextmanager
def stopped(one: Service) -> Iterator[DescriptorStore]:
    """What the service leaves when it is told to stop; closed at the end."""
    store = DescriptorStore(one)
    try:
        one.tell(signal.SIGTERM)
        assert one.process.wait(PATIENCE) == 0
    finally:
        store.end()
    try:
        yield store
    finally:
        store.close()


def connected(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    client.sendall(REQUEST)
    assert client.recv(100) == ANSWER
    return client


@pytest.mark.parametrize(
    ("loop", "workers", "count"),
    # More than one message holds; and more than two workers can be sent at once.
    [("asyncio", 1, 300), ("uvloop", 1, 300), ("asyncio", 2, 300), ("uvloop", 2, 300), ("uvloop", 2, 1900)],
)
def test_a_connection_outlives_a_restart_and_what_is_asked_meanwhile_is_answered(
    tmp_path: Path, loop: str, workers: int, count: int
) -> None:
    port = lasting_port()
    extra = f'[server]\nloop = "{loop}"\nworkers = {workers}'
    configuration = CONFIGURATION.format(port=port, extra=extra, name="")
    with service(tmp_path, configuration) as one:
        one.told("READY")
        clients = [connected(port) for _ in range(count)]
        with stopped(one) as store:
            assert len(store.stored) == count
            for client in clients:
                client.sendall(REQUEST)
            names = ":".join([STORED] * count)
            with service(tmp_path, configuration, *store.stored, names=names) as again:
                store.close()
                assert again.told("FDSTOREREMOVE")["FDNAME"] == STORED
                again.told("READY")
                for client in clients:
                    assert client.recv(100) == ANSWER
                    client.sendall(REQUEST)
                    assert client.recv(100) == ANSWER
        for client in clients:
            client.close()


@each_way
def test_there_need_be_no_second_descriptor_for_each_connection(tmp_path: Path, extra: str) -> None:
    port = lasting_port()
    with service(tmp_path, CONFIGURATION.format(port=port, extra=extra, name="")) as one:
        one.told("READY")
        clients = [connected(port) for _ in range(700)]
        server = one.process.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for pid in [int(child) for child in children] or [server]:  # who serves them
            most = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
            hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (most + 150, hard))
        with stopped(one) as store:
            assert len(store.stored) == 700
        assert "Traceback" not in one.log.read_text()
        for client in clients:
            client.close()


@each_way
def test_one_in_the_midst_of_a_request_is_finished_as_ever(tmp_path: Path, extra: str) -> None:
    port = lasting_port()
    with service(tmp_path, CONFIGURATION.format(port=port, extra=extra, name="")) as one:
        one.told("READY")
        with connected(port) as half, connected(port) as whole:
            half.sendall(b"get postm")
            whole.sendall(REQUEST)
            assert whole.recv(100) == ANSWER  # so the other's part has been read, too
            with stopped(one) as store:
                assert [kept.getpeername() for kept in store.stored] == [whole.getsockname()]
                assert half.recv(100) == b""


@pytest.mark.parametrize(("answering", "left"), [(True, 300), (False, 0)])
async def test_a_manager_that_does_not_read_is_not_told_more(
    answering: bool, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    class Manager(Notifier):
        is_heard = True  # type: ignore[assignment]

        def store(self, name: str, descriptors: Sequence[int]) -> bool:
            assert name == STORED
            told.append(len(descriptors))
            return True

        async def settled(self) -> bool:
            return answering

    with socket.socket() as one:
        connections = [clear_connection(one) for _ in range(300)]
        assert await hand_over(connections, Manager()) == left  # type: ignore[arg-type]
    assert told == ([128, 128, 44] if answering else [128])
    assert ("does not read" in caplog.text) is not answering
    aborted = [call.abort() in connection.transport.method_calls for connection in connections]
    assert aborted.count(True) == sum(told)  # the others are closed as ever


def clear_connection(one: socket.socket) -> Mock:
    """A connection with nothing under way, on this socket."""
    connection = Mock(clear=True)
    connection.service.protocol = "tcp_table"
    connection.transport.is_closing.return_value = False
    connection.transport.get_write_buffer_size.return_value = 0
    connection.transport.get_extra_info.return_value = one
    return connection


@each_way
def test_without_a_manager_they_are_closed(tmp_path: Path, extra: str) -> None:
    port = lasting_port()
    configuration = CONFIGURATION.format(port=port, extra=extra, name="")
    with service(tmp_path, configuration) as one:
        one.told("READY")
        with connected(port) as client:
            one.notify.close()
            one.tell(signal.SIGTERM)
            assert client.recv(100) == b""
            assert one.process.wait(PATIENCE) == 0


@each_way
def test_one_that_nobody_would_serve_is_closed(tmp_path: Path, extra: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        client = socket.create_connection(elsewhere.getsockname(), timeout=PATIENCE)
        left, _ = elsewhere.accept()
    configuration = CONFIGURATION.format(port=lasting_port(), extra=extra, name="")
    with client, left, service(tmp_path, configuration, left, names=STORED) as one:
        left.close()
        assert one.told("FDSTOREREMOVE")["FDNAME"] == STORED
        assert client.recv(100) == b""


@each_way
def test_no_more_are_left_than_systemd_can_take(
    tmp_path: Path, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = lasting_port()
    with service(tmp_path, CONFIGURATION.format(port=port, extra=extra, name="")) as one:
        one.told("READY")
        clients = [connected(port) for _ in range(MOST_LEFT + 200)]
        with stopped(one) as store:
            assert MOST_LEFT - 128 <= len(store.stored) <= MOST_LEFT
        for client in clients:
            client.close()


async def test_what_systemd_was_not_told_is_not_left_with_it(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        notifier = Notifier("/nonexistent/notify")
        assert await store([ours.detach()], notifier) == 0
        notifier.close()
        assert theirs.recv(1) == b"", "it is closed"
    assert "is not told FDSTORE" in caplog.text
    assert "left with systemd" not in caplog.text


@contextmanager
def listeners_at(*places: tuple[socket.AddressFamily, str]) -> Iterator[list[Any]]:
    """Listeners on one port."""
    sockets: list[socket.socket] = []
    port = lasting_port()
    with ExitStack() as stack:
        for family, host in places:
            one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((host, port))
            one.listen()
            sockets.append(one)
        yield [
            Mock(
                addresses=[one.getsockname()[:2]], sockets=[one], config=Mock(protocol="tcp_table", allow=())
            )
            for one in sockets
        ]


@pytest.mark.parametrize(
    ("places", "host", "expected"),
    [
        ([(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")], "::1", 1),
        ([(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")], "127.0.0.1", 1),
        ([(socket.AF_INET6, "::"), (socket.AF_INET, "127.0.0.1")], "::1", 0),
        ([(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")], "127.0.0.1", 0),
    ],
)
def test_a_connection_goes_back_to_the_listener_that_accepted_it(
    places: list[tuple[socket.AddressFamily, str]], host: str, expected: int
) -> None:
    with listeners_at(*places) as listeners:
        port = listeners[0].addresses[0][1]
        with socket.create_connection((host, port)) as client:
            accepted, _ = listeners[expected].sockets[0].accept()
            with accepted:
                assert _listener_of(accepted, listeners) == expected
            client.close()

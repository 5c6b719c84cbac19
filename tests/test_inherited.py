"""Sockets that systemd passes: which listener takes them, and what it leaves as it is."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpmapkit import listener
from tcpmapkit.config import Endpoint, ListenerConfig
from tcpmapkit.inherited import InheritedSocket, InheritedSockets
from tcpmapkit.listener import Listener
from tcpmapkit.process import StartError


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        made.listen()
        yield made


def inet(port: int, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint("inet", host=host, port=port)


def environment(number: int, names: str | None = None, pid: int | None = None) -> dict[str, str]:
    said = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(number), "HOME": "/"}
    return said if names is None else {**said, "LISTEN_FDNAMES": names}


def passed(said: dict[str, str], *sockets: socket.socket) -> InheritedSockets:
    """What is made of these sockets, which take the place of the descriptors that systemd passes."""
    place = os.open("/dev/null", os.O_RDONLY)
    first = place + 20  # so many that nobody has them
    os.close(place)
    for offset, one in enumerate(sockets):
        os.dup2(one.fileno(), first + offset, inheritable=True)
    return InheritedSockets.from_environment(said, first)


def test_the_sockets_are_read_once_and_no_child_gets_them(tcp: socket.socket, unix: socket.socket) -> None:
    said = environment(2, "aliases:routes")
    inherited = passed(said, tcp, unix)
    assert said == {"HOME": "/"}
    assert len(inherited) == 2
    assert [one.name for one in inherited.left] == ["aliases", "routes"]
    for one in inherited.left:
        assert not one.listening.get_inheritable()
        assert not one.listening.getblocking()
    inherited.close()


@pytest.mark.parametrize(
    "said",
    [
        {},
        environment(1, pid=1),
        environment(1) | {"LISTEN_FDS": "-1"},
        environment(1) | {"LISTEN_FDS": "many"},
        {"LISTEN_FDS": "1"},
    ],
)
def test_sockets_for_another_process_are_left_alone(said: dict[str, str], tcp: socket.socket) -> None:
    assert len(passed(dict(said))) == 0


def test_what_does_not_listen_is_warned_about(
    tcp: socket.socket, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with socket.socket() as silent, (tmp_path / "file").open("wb") as file:
        inherited = passed(environment(3, "silent:file:good"), silent, file, tcp)  # type: ignore[arg-type]
        assert [one.name for one in inherited.left] == ["good"]
        inherited.close()
    assert "socket silent of systemd's does not listen: Accept=yes?" in caplog.text
    assert "descriptor file of systemd's is no socket" in caplog.text


def test_sockets_without_names_are_found_by_their_address(tcp: socket.socket, unix: socket.socket) -> None:
    inherited = passed(environment(2), tcp, unix)
    port = tcp.getsockname()[1]
    assert not inherited.take(None, inet(port + 1))
    assert not inherited.take(None, inet(0))
    assert not inherited.take(None, inet(port, "127.0.0.2"))
    assert not inherited.take(None, Endpoint("unix", path="/nowhere"))
    assert len(inherited.left) == 2
    for endpoint in (inet(port), inet(port, "localhost"), Endpoint("unix", path=unix.getsockname())):
        (taken,) = inherited.take(None, endpoint)
        taken.close()
    assert not inherited.left
    inherited.close()


def test_a_unix_socket_is_found_by_another_way_to_its_path(unix: socket.socket, tmp_path: Path) -> None:
    inherited = passed(environment(1), unix)
    (tmp_path / "link").symlink_to(tmp_path)
    (taken,) = inherited.take(None, Endpoint("unix", path=str(tmp_path / "link" / "socket")))
    taken.close()
    inherited.close()


def test_a_name_counts_for_more_than_an_address(tcp: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        inherited = passed(environment(2, "aliases:aliases"), tcp, other)
        taken = inherited.take("aliases", inet(1))
        assert [one.getsockname() for one in taken] == [tcp.getsockname(), other.getsockname()]
        for one in taken:
            one.close()
        inherited.close()


def test_no_two_listeners_take_one_socket(tcp: socket.socket) -> None:
    inherited = passed(environment(1, "aliases"), tcp)
    port = tcp.getsockname()[1]
    (taken,) = inherited.take("aliases", inet(1))
    (again,) = inherited.take("aliases", inet(2))  # the same listener's, whose endpoint is another now
    for name, endpoint in (("others", inet(port)), (None, inet(port, "localhost"))):
        with pytest.raises(StartError, match="and aliases take the same socket of systemd's"):
            inherited.take(name, endpoint)
    taken.close()
    again.close()
    (later,) = inherited.take("others", inet(port))  # the other has gone with a reload
    later.close()
    inherited.close()


def test_a_socket_of_packets_is_warned_about(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets:
        packets.bind(str(tmp_path / "packets"))
        packets.listen()
        assert len(passed(environment(1, "packets"), packets)) == 0
    assert "socket packets of systemd's is not of ListenStream" in caplog.text


def test_a_socket_that_no_listener_takes_is_warned_about(
    tcp: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    inherited = passed(environment(1, "alaises"), tcp)
    inherited.warn_of_left()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    port = tcp.getsockname()[1]
    assert f"inet:127.0.0.1:{port} that systemd passes (FileDescriptorName alaises)" in record.getMessage()
    inherited.close()


# Listeners.


def listening_at(endpoint: Endpoint, name: str | None = None) -> Listener:
    protocol = "tcp_table" if endpoint.kind == "inet" else "socketmap"
    return Listener(ListenerConfig(protocol=protocol, endpoint=endpoint, name=name, map="m", mode=0o600))


@pytest.fixture
def inherited(
    tcp: socket.socket, unix: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InheritedSockets]:
    made = InheritedSockets([InheritedSocket("tcp", tcp.dup()), InheritedSocket("unix", unix.dup())])
    monkeypatch.setattr(listener, "inherited_sockets", lambda: made)
    yield made
    made.close()


def test_a_listener_accepts_on_an_inherited_socket_again_and_again(
    inherited: InheritedSockets, tcp: socket.socket
) -> None:
    for _ in range(2):  # it may go with a reload and come back with another
        one = listening_at(inet(tcp.getsockname()[1]))
        one.bind()
        assert one.addresses == [tcp.getsockname()]
        with socket.create_connection(tcp.getsockname()):
            one.sockets[0].setblocking(True)
            accepted = one.accept(one.sockets[0])
            assert accepted is not None
            accepted.close()
        one.close()


def test_an_inherited_unix_socket_keeps_its_file_and_its_mode(
    inherited: InheritedSockets, unix: socket.socket
) -> None:
    path = Path(unix.getsockname())
    mode = path.stat().st_mode
    one = listening_at(Endpoint("unix", path="/nowhere/at/all"), "unix")
    one.bind()
    assert one.addresses == [(str(path),)]
    assert path.stat().st_mode == mode
    one.close()
    assert path.is_socket()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_listener_binds_itself_where_no_socket_is_passed_for_it(inherited: InheritedSockets) -> None:
    one = listening_at(inet(0), "other")
    one.bind()
    assert len(one.sockets) == 1
    assert len(inherited.left) == 2
    one.close()


@pytest.mark.parametrize(
    ("endpoint", "name"), [(inet(1), "unix"), (Endpoint("unix", path="/nowhere"), "tcp")], ids=str
)
def test_a_socket_of_another_kind_than_its_listener_is_refused(
    inherited: InheritedSockets, endpoint: Endpoint, name: str
) -> None:
    one = listening_at(endpoint, name)
    with pytest.raises(StartError, match=f"the socket {name} that systemd passes is not"):
        one.bind()
    assert one.sockets == []


def test_a_child_process_inherits_none_of_them(tcp: socket.socket) -> None:
    inherited = passed(environment(1), tcp)
    inode = os.fstat(inherited.left[0].listening.fileno()).st_ino
    shown = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
    )
    assert f"socket:[{inode}]" not in shown.stdout
    inherited.close()

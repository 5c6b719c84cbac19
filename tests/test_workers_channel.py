"""Messages between the parent and a worker: cut anywhere, with connections, until the other end is gone."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
from collections.abc import Iterator

import pytest

from tcpmapkit.workers.channel import LONGEST, Channel, ChannelError


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    """A socket to write anything to, and the channel at its other end."""
    one, other = socket.socketpair()
    channel = Channel(other)
    yield one, channel
    channel.close()
    one.close()


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    one, other = Channel.pair()
    yield one, other
    one.close()
    other.close()


def encoded(*messages: dict[str, object]) -> bytes:
    texts = [json.dumps(message).encode() for message in messages]
    return b"".join(struct.pack("!I", len(text)) + text for text in texts)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 1000])
def test_messages_arrive_whole_however_they_are_cut(ends: tuple[socket.socket, Channel], size: int) -> None:
    writer, channel = ends
    messages = [{"ping": True}, {"text": "ä" * 20}, {}]
    data = encoded(*messages)
    came = []
    for at in range(0, len(data), size):
        writer.send(data[at : at + size])
        came += channel.receive()
    assert came == [(message, None) for message in messages]


def test_a_message_longer_than_the_sockets_buffer_is_sent_as_it_is_received(
    pair: tuple[Channel, Channel],
) -> None:
    one, other = pair
    text = "x" * 3_000_000
    one.send({"text": text})
    one.send({"after": True})
    assert one.clogged
    came: list[object] = []
    for _ in range(1000):
        came += other.receive()
        one.flush()
        if len(came) == 2:
            break
    assert came == [({"text": text}, None), ({"after": True}, None)]
    assert not one.clogged


def test_each_connection_comes_with_its_own_message(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    sockets = [socket.socketpair() for _ in range(100)]
    for number, (mine, _) in enumerate(sockets):
        one.send({"before": "y" * (number % 7) * 1000})
        one.send({"deal": number}, mine)
    came = []
    for _ in range(1000):
        came += other.receive()
        one.flush()
        if len(came) == 200:
            break
    dealt = {message["deal"]: connection for message, connection in came if "deal" in message}
    assert list(dealt) == list(range(100))
    for number, (mine, peer) in enumerate(sockets):
        connection = dealt[number]
        assert connection is not None
        connection.send(b"%d" % number)
        assert peer.recv(10) == b"%d" % number
        for each in (connection, mine, peer):
            each.close()


def test_a_connection_that_no_descriptor_is_left_for_is_told_as_lost_and_the_next_is_the_next(
    pair: tuple[Channel, Channel],
) -> None:
    one, other = pair
    first, second = socket.socketpair()
    one.send({"deal": 0}, first)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        lost = other.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    one.send({"deal": 1}, second)
    ((message, connection),) = other.receive()
    assert lost == [({"deal": 0}, None)]
    assert message == {"deal": 1}
    assert connection is not None
    first.send(b"to the second")
    assert connection.recv(20) == b"to the second"
    for each in (connection, first, second):
        each.close()


def test_what_was_sent_before_the_end_is_received_before_it(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    one.send({"last": True})
    one.close()
    assert other.receive() == [({"last": True}, None)]
    with pytest.raises(EOFError):
        other.receive()


def test_nothing_is_sent_to_who_is_gone(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    other.close()
    one.send({"ping": True})
    one.send({"ping": True})
    assert (one.closed, one.clogged) == (True, False)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", LONGEST + 1),
        struct.pack("!I", 3) + b"abc",
        struct.pack("!I", 2) + b"[]",
        struct.pack("!I", 2) + b"\xff\xff",
        encoded({"deal": 0, "passed": True}),
    ],
    ids=["too long", "not JSON", "a list", "not UTF-8", "without its connection"],
)
def test_what_is_no_message_is_an_error(ends: tuple[socket.socket, Channel], data: bytes) -> None:
    writer, channel = ends
    writer.send(data)
    with pytest.raises(ChannelError):
        channel.receive()


def test_connections_that_nobody_took_are_closed_with_the_channel(
    ends: tuple[socket.socket, Channel],
) -> None:
    writer, channel = ends
    mine, peer = socket.socketpair()
    message = encoded({"deal": 0, "passed": True})
    socket.send_fds(writer, [message[:5]], [mine.fileno()])
    mine.close()
    assert channel.receive() == []
    channel.close()
    assert peer.recv(1) == b""
    peer.close()

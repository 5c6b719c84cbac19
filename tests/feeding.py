"""For the tests of the codecs: bytes into a codec, whole and in pieces."""

from __future__ import annotations

import random
from collections.abc import Callable

from tcpmapkit.protocols.framing import Codec, Lookup, Refused

Requests = list[Lookup | Refused]


def pull(codec: Codec) -> Requests:
    requests = []
    while (request := codec.next_request()) is not None:
        requests.append(request)
    return requests


def whole(new_codec: Callable[[], Codec], data: bytes) -> Requests:
    codec = new_codec()
    codec.receive_data(data)
    return pull(codec)


def feed_in_pieces(codec: Codec, data: bytes, size: int, requests: Requests) -> None:
    """Appends to `requests`, which has those before an error too."""
    for start in range(0, len(data), size):
        codec.receive_data(data[start : start + size])
        requests += pull(codec)


def in_pieces(new_codec: Callable[[], Codec], data: bytes, size: int) -> Requests:
    requests: Requests = []
    feed_in_pieces(new_codec(), data, size, requests)
    return requests


def the_request(new_codec: Callable[[], Codec], data: bytes, behind: Lookup) -> Lookup | Refused:
    """The one request in `data`, however it is fed and whether or not `behind` follows or precedes it."""
    [request] = whole(new_codec, data)
    size = 1 if len(data) < 50_000 else 997
    assert in_pieces(new_codec, data, size) == [request]
    both = data + behind.raw
    assert whole(new_codec, both) == in_pieces(new_codec, both, size) == [request, behind]
    assert whole(new_codec, behind.raw + data) == [behind, request]
    assert new_codec().whole_request(both) is new_codec().whole_request(behind.raw + data) is None
    check_alone(new_codec, data)
    return request


def check_alone(new_codec: Callable[[], Codec], data: bytes) -> bool:
    """Whether a codec sees that `data` is one whole request; then it is the one that feeding it gives."""
    request = new_codec().whole_request(data)
    if request is None:
        return False
    codec = new_codec()
    codec.receive_data(data)
    assert (pull(codec), codec.between_requests) == ([request], True)
    return True


def by_chance(codec: Codec, data: bytes, chance: random.Random, most: int, requests: Requests) -> None:
    """Appends the requests in `data`, cut up and pulled by chance; no more than `most` bytes are held."""
    rest = data
    while rest:
        cut = chance.choice((1, 2, 3, 100, 10_000, 40_000))
        codec.receive_data(rest[:cut])
        rest = rest[cut:]
        if chance.random() < 0.7:
            requests += pull(codec)
            assert codec.buffered_bytes < most
    requests += pull(codec)

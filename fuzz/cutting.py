"""What the fuzz targets of the codecs share: the same bytes fed whole and cut up."""

from __future__ import annotations

from collections.abc import Callable

from tcpmapkit.protocols.framing import Codec, Lookup, ProtocolError, Refused

Requests = list[Lookup | Refused]


def pull(codec: Codec, most: int, requests: Requests) -> None:
    """Append the requests there are; fewer than `most` bytes are held then."""
    while (request := codec.next_request()) is not None:
        requests.append(request)
    if codec.buffered_bytes >= most:
        raise AssertionError(f"{codec.buffered_bytes} bytes held")


def requests_in(
    new_codec: Callable[[], Codec], data: bytes, cuts: list[int], most: int
) -> tuple[Requests, str | bool]:
    """The requests in `data` and what came then: an error, or whether nothing is begun.

    The cuts must make no difference to either.
    """
    expected = _fed(new_codec(), [data], most)
    pieces = []
    rest = data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    if _fed(new_codec(), [*pieces, rest], most) != expected:
        raise AssertionError("the cuts made a difference")
    return expected


def _fed(codec: Codec, pieces: list[bytes], most: int) -> tuple[Requests, str | bool]:
    requests: Requests = []
    try:
        for piece in pieces:
            codec.receive_data(piece)
            pull(codec, most, requests)
    except ProtocolError as error:
        return requests, str(error)
    return requests, codec.between_requests


def check_that_it_ends(codec: Codec, start: bytes, more: bytes, most: int, limit: int) -> None:
    """A request begun with `start` and never ended is given up once `limit` bytes have come, or before."""
    codec.receive_data(start)
    for _ in range(limit // len(more) + 2):
        try:
            pull(codec, most, [])
        except ProtocolError:
            return
        codec.receive_data(more)
    raise AssertionError("no end to it")

"""socketmap_table(5) on the wire: tables of cases, each fed whole, byte by byte, with a request behind it."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmapkit.protocols import PROTOCOLS
from tcpmapkit.protocols.framing import Lookup, ProtocolError, Refused
from tcpmapkit.protocols.netstrings import NetstringBuffer, netstring, netstring_content
from tcpmapkit.protocols.socketmap import (
    MAX_REPLY,
    MAX_REQUEST,
    REPLY_TOO_LONG,
    SocketmapCodec,
    decode,
    encode,
    encode_request,
    parse,
)
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, TempFail
from tests import feeding
from tests.feeding import by_chance, feed_in_pieces, in_pieces, pull, whole

NOT_FOUND = b"9:NOTFOUND ,"
MIB = 1 << 20
BEHIND = Lookup("behind", b"12:later behind,", "later")

# What Postfix sends for a map and a key.
REQUESTS = [
    ("aliases", "alice@example.org", b"25:aliases alice@example.org,"),
    ("aliases", "", b"8:aliases ,"),
    ("aliases", "*", b"9:aliases *,"),
    ("aliases", "<>", b"10:aliases <>,"),
    ("aliases", '""', b'10:aliases "",'),
    ("aliases", " ", b"9:aliases  ,"),
    ("a", '"two  words" @example.org', b'27:a "two  words" @example.org,'),
    ("a", "100%,7:@example.org", b"21:a 100%,7:@example.org,"),
    ("a", "jürgen@exämple.org", b"22:a j\xc3\xbcrgen@ex\xc3\xa4mple.org,"),
    ("a", "nul\0tab\tcr\rlf\nend", b"19:a nul\0tab\tcr\rlf\nend,"),
    ("kärte", "k", b"8:k\xc3\xa4rte k,"),
    ("a:b,c", "k", b"7:a:b,c k,"),
    ("m" * 1000, "x" * 10_000, b"11001:" + b"m" * 1000 + b" " + b"x" * 10_000 + b","),
    ("m", "ä" * 5000, b"10002:m " + b"\xc3\xa4" * 5000 + b","),
]

MALFORMED = [b"", b"aliases", b"a\tb", b" ", b" key", b"  ", b"\0", b"\xff\xfe", b"x" * 11_001]

NO_SUCH_KEY = [
    b"m " + b"k" * 10_001,
    b"m " + b"\xc3\xa4" * 5000 + b"k",
    b"m" * 1000 + b" " + b"k" * 10_001,
    b"m " + b" " * 100_000,
    b"x" * (MIB - 1),
    b"m \xff",
    b"m \xc3",
    b"m \xed\xa0\x80",  # a surrogate
    b"m \xc0\x80",  # an overlong NUL
]

NO_NETSTRINGS = [
    b"x",
    b":",
    b",",
    b" 1:",
    b"\n",
    b"-1:",
    b"+1:",
    b"00",
    b"01",
    b"03:a b,",
    b"1 :",
    b"3 ",
    b"3\0",
    b"3;",
    b"3a",
    b"\xd9\xa3:a b,",  # three, in Arabic digits
    b"3:a b\n",
    b"3:a bc,",
    b"0:x",
    b"0:0:",
    b"12345678",
    b"0" * 100,
    b"9" * MIB,
    b"1048576:",
    b"9999999:",
    b"get alice@example.org\n",
    b"GET / HTTP/1.1\r\n\r\n",
]


def the_request(data: bytes) -> Lookup | Refused:
    return feeding.the_request(SocketmapCodec, data, BEHIND)


@pytest.mark.parametrize(("map", "key", "data"), REQUESTS)
def test_a_request_reads_as_postfix_meant_it_and_is_written_as_postfix_writes_it(
    map: str, key: str, data: bytes
) -> None:
    assert the_request(data) == Lookup(key, data, map)
    assert encode_request(map, key) == data


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_request_in_its_netstring_is_answered_as_a_permanent_failure(content: bytes) -> None:
    request = the_request(netstring(content))
    assert isinstance(request, Refused)
    answer = decode(request.reply)
    assert isinstance(answer, PermFail)
    assert answer.reason == f"malformed request: {request.reason}"


@pytest.mark.parametrize("content", NO_SUCH_KEY)
def test_a_key_that_cannot_exist_is_not_found(content: bytes) -> None:
    request = the_request(netstring(content))
    assert isinstance(request, Refused)
    assert request.reply == NOT_FOUND


@pytest.mark.parametrize(("more", "kind"), [(0, Lookup), (1, Refused)])
def test_a_key_has_room_for_ten_thousand_bytes(more: int, kind: type) -> None:
    assert type(the_request(netstring(b"aliases " + b"k" * (10_000 + more)))) is kind


@pytest.mark.parametrize("name", [b"\xff", b"k\xc3", b"\xed\xb3\xbf"])
def test_a_map_name_that_is_not_utf8_is_the_name_of_no_map(name: bytes) -> None:
    request = the_request(netstring(name + b" key"))
    assert isinstance(request, Lookup)
    with pytest.raises(UnicodeEncodeError):
        request.map.encode()
    assert request.key == "key"


def test_the_refusal_of_a_request_does_not_repeat_it() -> None:
    for content in (b"secret", b" secret", b"m secret\xff", b"m " + b"secret" * 2000):
        [request] = whole(SocketmapCodec, netstring(content))
        assert isinstance(request, Refused)
        assert "secret" not in request.reason
        assert b"secret" not in request.reply


@pytest.mark.parametrize("data", NO_NETSTRINGS)
def test_what_is_no_netstring_is_given_up_after_the_requests_before_it(data: bytes) -> None:
    requests: feeding.Requests = []
    with pytest.raises(ProtocolError):
        feed_in_pieces(SocketmapCodec(), BEHIND.raw + data[:100], 1, requests)
    assert requests == [BEHIND]
    codec = SocketmapCodec()
    codec.receive_data(BEHIND.raw + data)
    assert codec.next_request() == BEHIND
    with pytest.raises(ProtocolError):
        codec.next_request()
    assert codec.buffered_bytes == 0


@pytest.mark.parametrize("data", [b"1", b"104857", b"0", b"3:", b"3:a b", b"0:", b"20000:" + b"x" * 20_000])
def test_what_may_become_a_netstring_is_waited_for(data: bytes) -> None:
    for size in (1, len(data)):
        codec = SocketmapCodec()
        feed_in_pieces(codec, data, size, [])
        assert codec.next_request() is None
        assert not codec.between_requests


def test_a_request_of_a_mebibyte_is_given_up_as_soon_as_its_length_is_read() -> None:
    codec = SocketmapCodec()
    codec.receive_data(b"1048576")
    assert codec.next_request() is None
    codec.receive_data(b":")
    with pytest.raises(ProtocolError, match="no end of request within 1048576 bytes"):
        codec.next_request()


def test_a_request_that_is_too_long_is_never_held() -> None:
    codec = SocketmapCodec()
    codec.receive_data(b"1000000:")
    tracemalloc.start()
    try:
        for _ in range(1000):
            codec.receive_data(b"y" * 1000)
            assert codec.next_request() is None
            assert codec.buffered_bytes == 0
            assert not codec.between_requests
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    codec.receive_data(b",3:m k,")
    assert pull(codec) == [Refused(NOT_FOUND, "key too long"), Lookup("k", b"3:m k,", "m")]
    assert codec.between_requests
    assert codec.buffered_bytes == 0


def test_the_rest_of_a_request_that_is_too_long_is_no_request() -> None:
    for inner in (b"3:m k,", b",3:m k,", b"\n"):
        content = b"x" * 20_000 + inner * 10
        assert the_request(netstring(content)) == Refused(NOT_FOUND, "key too long")


def test_a_request_that_is_too_long_ends_with_a_comma_too() -> None:
    for size in (1, 997, 50_000):
        with pytest.raises(ProtocolError, match="comma"):
            in_pieces(SocketmapCodec, b"20000:" + b"x" * 20_000 + b"\n3:m k,", size)


def test_a_netstring_that_is_never_finished_is_looked_at_only_where_it_begins_and_ends() -> None:
    class Watched(bytearray):
        copied = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            if isinstance(index, slice):
                Watched.copied += len(range(*index.indices(len(self))))
            return super().__getitem__(index)

    netstrings = NetstringBuffer(11_001)
    netstrings._buffer = Watched()
    netstrings.receive(b"10000:")
    for _ in range(10_000):
        netstrings.receive(b"x")
        assert netstrings.next_netstring() is None
    assert Watched.copied == 0
    netstrings.receive(b",")
    assert netstrings.next_netstring() == netstring(b"x" * 10_000)
    assert Watched.copied == 10_007


def test_no_more_is_held_than_one_request() -> None:
    codec = SocketmapCodec()
    data = netstring(b"m" * 1000 + b" " + b"k" * 10_000)[:-1]
    assert in_pieces(SocketmapCodec, data, 1) == []
    codec.receive_data(data)
    assert codec.next_request() is None
    assert codec.buffered_bytes == len(data) < MAX_REQUEST + 9


# Replies.

REPLIES: list[tuple[Outcome, bytes]] = [
    (Found("alice@example.org"), b"20:OK alice@example.org,"),
    (Found("50% of\tcafé,%41"), b"19:OK 50% of\tcaf\xc3\xa9,%41,"),
    (Found("  spaces  "), b"13:OK   spaces  ,"),
    (Found("x" * 99_997), b"100000:OK " + b"x" * 99_997 + b","),
    (NotFound(), NOT_FOUND),
    (NotFound(30.0), NOT_FOUND),
    (TempFail("100% down"), b"14:TEMP 100% down,"),
    (PermFail("no such column"), b"19:PERM no such column,"),
    (PermFail("unknown map"), b"16:PERM unknown map,"),
    (TempFail("Zeitüberschreitung"), b"24:TEMP Zeit\xc3\xbcberschreitung,"),
    (TempFail(""), b"18:TEMP lookup failed,"),
]


@pytest.mark.parametrize(("outcome", "reply"), REPLIES)
def test_each_outcome_has_its_reply(outcome: Outcome, reply: bytes) -> None:
    assert encode(outcome) == reply
    assert type(decode(reply)) is type(outcome)


@pytest.mark.parametrize("value", ["x" * 99_998, "é" * 49_999, "x" * 5_000_000])
def test_a_value_that_does_not_fit_is_a_temporary_failure_and_no_truncation(value: str) -> None:
    assert encode(Found(value)) is REPLY_TOO_LONG
    assert decode(REPLY_TOO_LONG) == TempFail("value too long for a socketmap reply")


@pytest.mark.parametrize("value", ["x" * 99_997, "é" * 49_998])
def test_a_value_that_just_fits_arrives(value: str) -> None:
    assert decode(encode(Found(value))) == Found(value)


@pytest.mark.parametrize(
    "reason", ["é\n" * 5000, "\U0001f4a3" * 300, "\udcff\udcfe\ud800", "\0", " ", ",5:OK x,", "x" * 200_000]
)
def test_no_reason_makes_a_reply_that_postfix_cannot_read(reason: str) -> None:
    for kind in (TempFail, PermFail):
        reply = encode(kind(reason))
        assert len(reply) < MAX_REPLY
        assert type(decode(reply)) is kind


def test_what_is_no_outcome_has_no_reply() -> None:
    with pytest.raises(TypeError, match="not an outcome: str"):
        encode("value")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        (b"8:NOTFOUND,", NotFound()),
        (b"18:NOTFOUND no such k,", NotFound()),
        (b"4:TEMP,", TempFail("")),
        (b"12:TIMEOUT slow,", TempFail("slow")),
        (b"8:PERM   x,", PermFail("x")),
        (b"6:OK OK ,", Found("OK ")),
    ],
)
def test_a_reply_means_what_it_means_to_postfix(reply: bytes, meaning: Outcome) -> None:
    assert decode(reply) == meaning


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"4:OK x",
        b"4:OK xy,",
        b"5:OK x,",
        b"4:OK x,4:OK x,",
        b"04:OK x,",
        b"OK x\n",
        b"0:,",
        b"2:OK,",
        b"3:OK ,",
        b"4:ok x,",
        b"4:OKAY,",
        b"5:OK \xffx,",
        b"5:OK \nx,",
        b"100001:OK " + b"x" * 99_998 + b",",
    ],
)
def test_a_malformed_reply_is_told_as_postfix_tells_it(reply: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(reply)


def test_the_protocol_is_served_as_its_clients_are() -> None:
    served = PROTOCOLS["socketmap"]
    assert (served.idle_timeout, served.names_map, served.has_attributes) == (120.0, True, False)
    assert (served.unix_sockets, served.gives_way) == (True, True)


values = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1)
names = st.text(st.characters(codec="utf-8", exclude_characters=" "), min_size=1, max_size=100)


@given(values)
def test_a_value_comes_back_as_it_was(value: str) -> None:
    assert decode(encode(Found(value))) == Found(value)


@given(names, st.text(st.characters(codec="utf-8"), max_size=500))
def test_a_map_and_a_key_come_back_as_they_were(name: str, key: str) -> None:
    data = encode_request(name, key)
    assert whole(SocketmapCodec, data) == [Lookup(key, data, name)]
    assert parse(data) == Lookup(key, data, name)


@given(st.binary(max_size=200))
def test_what_is_in_a_netstring_comes_back_as_it_was(content: bytes) -> None:
    assert netstring_content(netstring(content)) == content


pieces = st.one_of(
    st.binary(max_size=100).map(netstring),
    st.sampled_from([data for _, _, data in REQUESTS]),
    st.sampled_from([netstring(content) for content in MALFORMED + NO_SUCH_KEY[:3]]),
)


@given(st.lists(pieces, max_size=20), st.binary(max_size=20), st.randoms(use_true_random=False))
def test_netstrings_however_cut_give_one_request_each(
    parts: list[bytes], behind: bytes, chance: random.Random
) -> None:
    requests: feeding.Requests = []
    by_chance(SocketmapCodec(), b"".join(parts), chance, MAX_REQUEST + 9, requests)
    assert requests == whole(SocketmapCodec, b"".join(parts))
    for part, request in zip(parts, requests, strict=True):
        if isinstance(request, Lookup):
            assert request.raw == part
        else:
            decode(request.reply)
    # What comes behind may be no netstring, which takes nothing of what came before.
    requests = []
    try:
        by_chance(SocketmapCodec(), b"".join(parts) + behind, chance, MAX_REQUEST + 9, requests)
    except ProtocolError:
        pass
    else:
        assert len(requests) >= len(parts)
    assert requests[: len(parts)] == [parse_whole(part) for part in parts][: len(requests)]


def parse_whole(part: bytes) -> Lookup | Refused:
    [request] = whole(SocketmapCodec, part)
    return request


@given(st.lists(st.sampled_from([b"m k", b"3:", b"3:m k", b",", b"m", b" ", b"0:", b"00", b"5", b"\xff"])))
def test_a_request_seen_whole_is_the_one_that_its_bytes_are(parts: list[bytes]) -> None:
    feeding.check_alone(SocketmapCodec, b"".join(parts))


@pytest.mark.parametrize(("size", "seen"), [(0, True), (10_000, True), (11_001, False)])
def test_a_request_within_the_limit_is_seen_whole(size: int, seen: bool) -> None:
    data = encode_request("m", "k" * size)
    assert feeding.check_alone(SocketmapCodec, data) is seen
    assert not feeding.check_alone(SocketmapCodec, data[:-1])
    assert not feeding.check_alone(SocketmapCodec, data + b"3:m k,")

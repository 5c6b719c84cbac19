"""tcp_table(5) on the wire: tables of cases, each fed whole, byte by byte and with a request behind it."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmapkit.protocols.framing import LineBuffer, Lookup, ProtocolError, Refused
from tcpmapkit.protocols.tcp_table import (
    MAX_REPLY,
    REPLY_TOO_LONG,
    TcpTableCodec,
    decode,
    encode,
    encode_request,
    quote,
    unquote,
)
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, TempFail
from tests import feeding
from tests.feeding import by_chance, feed_in_pieces, in_pieces, pull, whole

TOO_LONG = b"500 key%20too%20long\n"
NOT_FOUND = b"500 not%20found\n"
MIB = 1 << 20

# What Postfix sends for a key.
KEYS = [
    ("alice@example.org", b"get alice@example.org\n"),
    ("", b"get \n"),
    ("*", b"get *\n"),
    ("<>", b"get <>\n"),
    ('""', b'get ""\n'),
    ("user@[192.0.2.1]", b"get user@[192.0.2.1]\n"),
    ('"two words"@example.org', b'get "two%20words"@example.org\n'),
    ("100%@example.org", b"get 100%25@example.org\n"),
    ("jürgen@example.org", b"get j%C3%BCrgen@example.org\n"),
    ("a=b/c+d@example.org", b"get a=b/c+d@example.org\n"),
    ("nul\0tab\tcr\rlf\nend", b"get nul%00tab%09cr%0Dlf%0Aend\n"),
    ("del\x7f", b"get del%7F\n"),
    ("x" * 900, b"get " + b"x" * 900 + b"\n"),
    ("\n" * 10_000, b"get " + b"%0A" * 10_000 + b"\n"),  # the longest line there is: 30005 bytes
]

# More than Postfix sends, and understood all the same.
LENIENT = [
    ("k", b"get k\r\n"),
    ("k", b"get  k\n"),
    ("k", b" get\tk \n"),
    ("", b"get \r\n"),
    ("jürgen", "get jürgen\n".encode()),
    ("a b", b"get a%20b\n"),
    ("jk", b"get %6a%6B\n"),
    ("nul\0raw", b"get nul\0raw\n"),
]

MALFORMED = [
    b"\n",
    b" \n",
    b"\r\n",
    b"get\n",
    b"get\r\n",
    b"get  \n",
    b"get\t\n",
    b"get two words\n",
    b"get a\rb\n",
    b"put\n",
    b"put k\n",
    b"GET k\n",
    b"gets k\n",
    b"get%20k\n",
    b"delete k\n",
    b"caf\xc3\xa9 x\n",
    b"get %\n",
    b"get %0\n",
    b"get %g0\n",
    b"get %0g\n",
    b"get 100%\n",
    b"get %+1\n",
    b"get % 1\n",
    b"get %%41\n",
    b"\0\n",
    b"\xff\xfe\n",
]

NO_SUCH_KEY = [
    (b"get " + b"k" * 10_001 + b"\n", TOO_LONG),
    (b"get " + b"%6b" * 10_000 + b"k\n", TOO_LONG),
    (b"get " + b"k" * 30_001 + b"\n", TOO_LONG),
    (b"get " + b"%6b" * 100_000 + b"\n", TOO_LONG),
    (b"k" * (MIB - 1) + b"\n", TOO_LONG),
    (b"get \xff\n", NOT_FOUND),
    (b"get %C3\n", NOT_FOUND),
    (b"get %ED%A0%80\n", NOT_FOUND),  # a surrogate
    (b"get %C0%80\n", NOT_FOUND),  # an overlong NUL
]

PUT = [
    (b"put k v\n", b"500 put%20is%20not%20supported\n"),
    (b"put k v w\n", b"500 put%20is%20not%20supported\n"),
]


def the_request(line: bytes) -> Lookup | Refused:
    return feeding.the_request(TcpTableCodec, line, Lookup("behind", b"get behind\n"))


@pytest.mark.parametrize(("key", "line"), KEYS)
def test_a_key_reads_as_postfix_meant_it_and_is_written_as_postfix_writes_it(key: str, line: bytes) -> None:
    assert the_request(line) == Lookup(key, line)
    assert encode_request(key) == line


@pytest.mark.parametrize(("key", "line"), LENIENT)
def test_what_a_person_types_is_understood(key: str, line: bytes) -> None:
    assert the_request(line) == Lookup(key, line)


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_request_is_answered_as_a_temporary_failure(line: bytes) -> None:
    request = the_request(line)
    assert isinstance(request, Refused)
    answer = decode(request.reply)
    assert isinstance(answer, TempFail)
    assert answer.reason.startswith("malformed request: ")
    assert request.reason in answer.reason


@pytest.mark.parametrize(("line", "reply"), NO_SUCH_KEY)
def test_a_key_that_cannot_exist_is_not_found(line: bytes, reply: bytes) -> None:
    request = the_request(line)
    assert isinstance(request, Refused)
    assert request.reply == reply
    assert decode(request.reply) == NotFound()


@pytest.mark.parametrize(("line", "reply"), PUT)
def test_an_update_is_rejected(line: bytes, reply: bytes) -> None:
    request = the_request(line)
    assert isinstance(request, Refused)
    assert request.reply == reply


def test_the_refusal_of_a_key_does_not_repeat_the_key() -> None:
    for line in [*MALFORMED, b"get secret secret\n", b"get secret%\n", b"secret x\n"]:
        [request] = whole(TcpTableCodec, line)
        assert isinstance(request, Refused)
        assert "secret" not in request.reason
        assert b"secret" not in request.reply


@pytest.mark.parametrize("start", [b"", b"get ", b"get k\n"])
@pytest.mark.parametrize("size", [997, 65_536, 2 * MIB])
def test_a_request_without_an_end_is_given_up_after_a_mebibyte(start: bytes, size: int) -> None:
    codec = TcpTableCodec()
    requests: feeding.Requests = []
    data = start + b"x" * (MIB + 10)
    with pytest.raises(ProtocolError, match="no end of request within 1048576 bytes"):
        feed_in_pieces(codec, data, size, requests)
    if size < len(data):
        assert requests == ([Lookup("k", b"get k\n")] if start.endswith(b"\n") else [])


def test_a_good_request_before_the_endless_one_is_given_out_first() -> None:
    codec = TcpTableCodec()
    codec.receive_data(b"get k\n" + b"x" * MIB)
    assert codec.next_request() == Lookup("k", b"get k\n")
    with pytest.raises(ProtocolError):
        codec.next_request()


def test_the_limit_is_the_same_for_a_line_that_does_end() -> None:
    line = b"x" * MIB + b"\n"
    for size in (1009, 65_536, len(line)):
        with pytest.raises(ProtocolError):
            in_pieces(TcpTableCodec, line, size)
        assert len(in_pieces(TcpTableCodec, line[1:], size)) == 1


def test_a_line_that_is_too_long_is_never_held() -> None:
    codec = TcpTableCodec()
    tracemalloc.start()
    try:
        for _ in range(1000):
            codec.receive_data(b"y" * 1000)
            assert codec.next_request() is None
            assert codec.buffered_bytes <= 31_005
            assert not codec.between_requests
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    codec.receive_data(b"\nget k\n")
    assert pull(codec) == [Refused(TOO_LONG, "key too long"), Lookup("k", b"get k\n")]
    assert codec.between_requests
    assert codec.buffered_bytes == 0


def test_the_rest_of_a_line_that_is_too_long_is_no_request() -> None:
    codec = TcpTableCodec()
    codec.receive_data(b"get " + b"x" * 40_000)
    assert codec.next_request() is None
    assert (codec.buffered_bytes, codec.between_requests) == (0, False)
    codec.receive_data(b"get k\n")
    assert pull(codec) == [Refused(TOO_LONG, "key too long")]


def test_finding_the_end_of_a_line_looks_at_each_byte_once() -> None:
    class Watched(bytearray):
        looked_at = 0

        def find(self, sought: bytes, start: int = 0) -> int:  # type: ignore[override]
            Watched.looked_at += len(self) - start
            return super().find(sought, start)

    lines = LineBuffer(30_005)
    lines._buffer = Watched()
    for _ in range(30_000):
        lines.receive(b"x")
        assert lines.next_line() is None
    assert 29_000 <= Watched.looked_at <= 30_000


# Replies.

REPLIES: list[tuple[Outcome, bytes]] = [
    (Found("alice@example.org"), b"200 alice@example.org\n"),
    (Found("a@b=c/d"), b"200 a@b=c/d\n"),  # the 4096 bytes are not spent on what needs no quoting
    (Found("50% of\tcafé"), b"200 50%25%20of%09caf%C3%A9\n"),
    (Found("\x01\x1f\x7f"), b"200 %01%1F%7F\n"),
    (Found("x" * 4091), b"200 " + b"x" * 4091 + b"\n"),
    (NotFound(), b"500 not%20found\n"),
    (NotFound(30.0), b"500 not%20found\n"),
    (TempFail("100% down"), b"400 100%25%20down\n"),
    (PermFail("no such column"), b"400 no%20such%20column\n"),
    (TempFail("line one\nline two\0"), b"400 line%20one%0Aline%20two%00\n"),
    (TempFail(""), b"400 lookup%20failed\n"),
]


@pytest.mark.parametrize(("outcome", "reply"), REPLIES)
def test_each_outcome_has_its_reply(outcome: Outcome, reply: bytes) -> None:
    assert encode(outcome) == reply
    assert type(decode(reply)) is (TempFail if isinstance(outcome, PermFail) else type(outcome))


@pytest.mark.parametrize("value", ["x" * 4092, "é" * 683, "%" * 1364, "a b" * 1000])
def test_a_value_that_does_not_fit_is_a_temporary_failure_and_no_truncation(value: str) -> None:
    assert len(quote(value)) > MAX_REPLY - 5
    assert encode(Found(value)) is REPLY_TOO_LONG
    assert isinstance(decode(REPLY_TOO_LONG), TempFail)


@pytest.mark.parametrize("reason", ["%" * 10_000, "é\n" * 5000, "\U0001f4a3" * 300, "\udcff\udcfe\ud800"])
def test_no_reason_makes_a_reply_that_postfix_cannot_read(reason: str) -> None:
    for outcome in (TempFail(reason), PermFail(reason)):
        assert len(encode(outcome)) <= MAX_REPLY
        assert isinstance(decode(encode(outcome)), TempFail)


def test_what_is_no_outcome_has_no_reply() -> None:
    with pytest.raises(TypeError, match="not an outcome: str"):
        encode("value")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\n",
        b"500\n",
        b"500",
        b"200 x",
        b"2000\n",
        b"20 x\n",
        b"2x0 x\n",
        b"200-x\n",
        b"300 x\n",
        b"200 100%\n",
        b"400 50% off\n",
        b"200 \n",
        b"200 %0A\n",
        b"200 %FF\n",
        b"200 " + b"x" * 4092 + b"\n",
    ],
)
def test_a_malformed_reply_is_told_as_postfix_tells_it(reply: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(reply)


values = (
    st.text(min_size=1)
    .filter(lambda text: not set(text) & set("\0\r\n"))
    .filter(lambda text: text.encode(errors="replace").decode() == text)
)


@given(values)
def test_a_value_comes_back_as_it_was(value: str) -> None:
    reply = encode(Found(value))
    if reply is REPLY_TOO_LONG:
        assert len(value) > 340
    else:
        assert decode(reply) == Found(value)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_a_key_comes_back_as_it_was(key: str) -> None:
    line = encode_request(key)
    assert whole(TcpTableCodec, line) == [Lookup(key, line)]


@given(st.binary(max_size=50))
def test_quoting_leaves_exactly_the_printable_bytes_but_percent(data: bytes) -> None:
    text = data.decode("latin-1")
    quoted = quote(text)
    assert unquote(quoted) == text.encode()
    for character in text:
        plain = character.isascii() and character.isprintable() and character not in " %"
        assert (quote(character) == character.encode()) is plain


pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [line for _, line in [*KEYS, *LENIENT]] + MALFORMED + [line for line, _ in NO_SUCH_KEY[:4]]
    ),
    st.sampled_from([b"get ", b"\n", b"\r\n", b"%", b"put", b"x" * 30_004, b"get " + b"x" * 10_000]),
)


@given(st.lists(pieces, max_size=20).map(b"".join), st.randoms(use_true_random=False))
def test_any_bytes_however_cut_give_the_same_requests_one_for_each_line(
    data: bytes, chance: random.Random
) -> None:
    expected = whole(TcpTableCodec, data)
    assert len(expected) == data.count(b"\n")
    requests: feeding.Requests = []
    by_chance(TcpTableCodec(), data, chance, 30_005, requests)
    assert requests == expected
    for line, request in zip(data.split(b"\n"), expected, strict=False):
        if isinstance(request, Lookup):
            assert request.raw == line + b"\n"
        else:
            decode(request.reply)


@given(st.lists(st.sampled_from([b"get ", b"get", b"put", b" ", b"k", b"%", b"%41", b"\r", b"\n", b"\xff"])))
def test_a_request_seen_whole_is_the_one_that_its_bytes_are(parts: list[bytes]) -> None:
    data = b"".join(parts)
    ends = data.find(b"\n")
    assert feeding.check_alone(TcpTableCodec, data) == (0 <= ends == len(data) - 1)


def test_a_request_at_the_limit_is_seen_whole_and_none_over_it() -> None:
    for key, seen in ((b"%41" * 10_000, True), (b"%41" * 10_000 + b"x", False)):
        assert feeding.check_alone(TcpTableCodec, b"get " + key + b"\n") is seen

"""SMTPD_POLICY_README on the wire: tables of cases, each fed whole, in pieces, with a request behind it."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmapkit.protocols import PROTOCOLS
from tcpmapkit.protocols.framing import SILENCE, Lookup, ProtocolError
from tcpmapkit.protocols.policy import (
    ATTRIBUTES,
    MAX_REPLY,
    MAX_REQUEST,
    PolicyCodec,
    decode,
    encode,
    encode_request,
    parse,
)
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, TempFail
from tests import feeding
from tests.feeding import by_chance, feed_in_pieces, pull, whole

ASKED = b"request=smtpd_access_policy\n"
BEHIND = Lookup("", ASKED + b"sender=\n\n", attributes={"request": "smtpd_access_policy", "sender": ""})

FROM_POSTFIX = b"""\
request=smtpd_access_policy
protocol_state=RCPT
protocol_name=ESMTP
client_address=192.0.2.1
client_name=mail.example.net
client_port=45678
reverse_client_name=mail.example.net
server_address=198.51.100.25
server_port=25
helo_name=mail.example.net
sender=alice+tag=x@example.net
recipient="two words"@example.org
recipient_count=0
queue_id=
instance=1b2.65f.0
size=0
etrn_domain=
stress=
sasl_method=
sasl_username=
sasl_sender=
ccert_subject=J+C3+BCrgen+20+2B+20Co
ccert_issuer=Example+20CA
ccert_fingerprint=C2:9D:F4:87:71:73:73:D9
ccert_pubkey_fingerprint=68:B3:29:DA:98:93:E3:40
encryption_protocol=TLSv1.3
encryption_cipher=TLS_AES_256_GCM_SHA384
encryption_keysize=256
tls_sni=mx.example.org
policy_context=submission
compatibility_level=3.8
mail_version=3.12.0

"""


def the_request(data: bytes) -> dict[str, str]:
    """The attributes of the one request in `data`, however it is fed."""
    request = feeding.the_request(PolicyCodec, data, BEHIND)
    assert isinstance(request, Lookup)
    assert (request.key, request.map, request.raw) == ("", "", data)
    return dict(request.attributes)


def test_a_request_of_postfix_is_its_attributes() -> None:
    attributes = the_request(FROM_POSTFIX)
    assert set(attributes) == set(ATTRIBUTES)
    assert attributes["client_address"] == "192.0.2.1"
    assert attributes["sender"] == "alice+tag=x@example.net"
    assert attributes["recipient"] == '"two words"@example.org'
    assert attributes["queue_id"] == ""
    assert attributes["ccert_subject"] == "Jürgen + Co"
    assert attributes["ccert_issuer"] == "Example CA"
    assert attributes["ccert_fingerprint"] == "C2:9D:F4:87:71:73:73:D9"
    assert encode_request(attributes) == FROM_POSTFIX


@pytest.mark.parametrize(
    ("lines", "attributes"),
    [
        (b"sender=a=b=c\n", {"sender": "a=b=c"}),
        (b"sender==\n", {"sender": "="}),
        (b"of_a_later_postfix=1\n", {"of_a_later_postfix": "1"}),
        (b"sender=\xc3\xa4@example.org\n", {"sender": "ä@example.org"}),
        (b"sender= a \tb \n", {"sender": " a \tb "}),
        (b"sender=nul\0\n", {"sender": "nul\0"}),
        (b"sender=a\rb\n", {"sender": "a\rb"}),
        (b"sender=a\r\n", {"sender": "a\r"}),
        (
            b"sender=\xe2\x80\xa8\xc2\x85\x0b\x0c\x1c\n",
            {"sender": "\u2028\x85\x0b\x0c\x1c"},
        ),  # no ends of lines
        (b"request=smtpd_access_policy\n", {}),
        (b"Sender=A\nsender=b\n", {"Sender": "A", "sender": "b"}),
        (b"\xff=a\n", {"\ufffd": "a"}),
    ],
)
def test_an_attribute_is_kept_as_it_came(lines: bytes, attributes: dict[str, str]) -> None:
    assert the_request(ASKED + lines + b"\n") == {"request": "smtpd_access_policy"} | attributes
    assert the_request(lines + ASKED + b"\n") == {"request": "smtpd_access_policy"} | attributes


def test_of_a_repeated_attribute_one_is_kept() -> None:
    assert the_request(ASKED + b"sender=a\nsender=b\n\n")["sender"] in ("a", "b")


@pytest.mark.parametrize(
    "value", [b"\xff@example.org", b"j\xfcrgen@example.org", b"\xed\xb3\xbf@example.org", b"a@\xc3"]
)
def test_what_is_not_utf8_equals_nothing_and_takes_nothing_with_it(value: bytes) -> None:
    attributes = the_request(ASKED + b"sender=" + value + b"\nclient_address=192.0.2.1\n\n")
    assert "\ufffd" in attributes["sender"]
    assert attributes["sender"].encode() != value
    assert attributes["client_address"] == "192.0.2.1"


@pytest.mark.parametrize(
    ("xtext", "value"),
    [
        (b"plain", "plain"),
        (b"a+20b", "a b"),
        (b"+2B+3D", "+="),
        (b"+2b+3d", "+="),
        (b"+C3+A4", "ä"),
        (b"+2B20", "+20"),  # decoded once
        (b"a=b", "a=b"),
        (b"C2:9D:F4", "C2:9D:F4"),
        # What is no xtext stays as it is.
        (b"a+", "a+"),
        (b"a+2", "a+2"),
        (b"a+zz+20", "a+zz+20"),
        (b"+ 1", "+ 1"),
        (b"+20+FF", "+20+FF"),
        (b"+ED+A0+80", "+ED+A0+80"),
        ("+\u0661\u0662".encode(), "+\u0661\u0662"),
        (b"\xc3\xa4+20", "ä "),
    ],
)
@pytest.mark.parametrize("name", ["ccert_subject", "ccert_issuer", "ccert_fingerprint", "ccert_of_later"])
def test_certificates_are_decoded_from_xtext(name: str, xtext: bytes, value: str) -> None:
    attributes = the_request(ASKED + name.encode() + b"=" + xtext + b"\nsender=" + xtext + b"\n\n")
    assert (attributes[name], attributes["sender"]) == (value, xtext.decode())


def test_lines_of_a_person_with_telnet_end_in_cr_lf() -> None:
    attributes = {"request": "smtpd_access_policy", "sender": "a\rb", "queue_id": ""}
    data = ASKED.replace(b"\n", b"\r\n") + b"sender=a\rb\r\nqueue_id=\r\n\r\n"
    assert the_request(data) == attributes
    assert the_request(ASKED + b"sender=a\rb\r\nqueue_id=\n\r\n") == attributes


NO_REQUESTS = [
    b"\n",
    b"\r\n",
    b"\n" + ASKED + b"\n",
    b"sender=a\n\n",
    b"request=\n\n",
    b"request=smtpd_access_policy \n\n",
    b"request=SMTPD_ACCESS_POLICY\n\n",
    b"request=junk\n\n",
    b"request=smtpd_access_policy\nrequest=junk\n\n",
    ASKED + b"sender\n\n",
    ASKED + b"=\n\n",
    ASKED + b"=a\n\n",
    ASKED + b" \n\n",
    ASKED + b"\r\r\n\n",
    b"\r" + ASKED + b"\r\n\n",
    b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"get alice@example.org\n\n",
    b"x" * 70_000,
    b"=" * 70_000,
    b"a=b\n" * 1_000_000,
    b"\n=\r" * 30_000,
    b"\r" * 70_000,
    ASKED + b"a=" + b"x" * (MAX_REQUEST - len(ASKED) - 3) + b"\n\n",
    ASKED + b"a=b\n" * 20_000 + b"\n",
]


@pytest.mark.parametrize("data", NO_REQUESTS)
def test_what_is_no_request_is_given_up_after_the_requests_before_it(data: bytes) -> None:
    requests: feeding.Requests = []
    with pytest.raises(ProtocolError):
        feed_in_pieces(PolicyCodec(), BEHIND.raw + data, 1 if len(data) < 1000 else 37, requests)
    assert requests == [BEHIND]
    codec = PolicyCodec()
    codec.receive_data(BEHIND.raw + data)
    assert codec.next_request() == BEHIND
    with pytest.raises(ProtocolError) as refused:
        codec.next_request()
    assert len(str(refused.value)) < 100


def test_the_refusal_of_a_request_does_not_repeat_it() -> None:
    for data in (b"secret\n\n", b"request=secret\n\n", b"secret" * 20_000, ASKED + b"secret\n\n"):
        with pytest.raises(ProtocolError) as refused:
            whole(PolicyCodec, data)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("more", [0, 1])
def test_a_request_may_have_sixty_four_kibibytes(more: int) -> None:
    data = ASKED + b"a=" + b"x" * (MAX_REQUEST - len(ASKED) - 4 + more) + b"\n\n"
    assert len(data) == 65_536 + more
    for size in (997, 65_535, len(data)):
        requests: feeding.Requests = []
        if more:
            with pytest.raises(ProtocolError, match="no end of request within 65536 bytes"):
                feed_in_pieces(PolicyCodec(), data, size, requests)
        else:
            feed_in_pieces(PolicyCodec(), data, size, requests)
            assert len(requests) == 1


def test_a_request_is_given_up_once_its_end_would_come_too_late() -> None:
    codec = PolicyCodec()
    codec.receive_data(b"x" * (MAX_REQUEST - 1))
    assert codec.next_request() is None
    codec.receive_data(b"\n")
    with pytest.raises(ProtocolError):
        codec.next_request()


def test_as_many_attributes_as_fit_are_kept() -> None:
    lines = b"".join(b"%x=\n" % number for number in range(10_000))
    assert len(the_request(ASKED + lines + b"\n")) == 10_001


def test_no_more_is_held_than_one_request() -> None:
    codec = PolicyCodec()
    data = b"a=b\n" * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            feed_in_pieces(codec, data, 1000, [])
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()
    assert codec.buffered_bytes == 0


def test_finding_the_end_of_a_request_looks_at_each_byte_a_few_times_at_most() -> None:
    class Watched:
        looked_at = 0

        def search(self, buffer: bytearray, start: int) -> None:
            self.looked_at += len(buffer) - start

    watched = Watched()
    codec = PolicyCodec()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tcpmapkit.protocols.policy._END", watched)
        for _ in range(60_000):
            codec.receive_data(b"x")
            assert codec.next_request() is None
    assert 60_000 <= watched.looked_at <= 180_000


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_many_requests_at_once_are_given_out_one_by_one(count: int) -> None:
    codec = PolicyCodec()
    codec.receive_data(BEHIND.raw * count)
    for left in range(count, 0, -1):
        assert codec.buffered_bytes == left * len(BEHIND.raw)
        assert not codec.between_requests
        assert codec.next_request() == BEHIND
    assert codec.next_request() is None
    assert codec.between_requests


def test_half_a_request_is_waited_for() -> None:
    for end in range(1, len(FROM_POSTFIX)):
        codec = PolicyCodec()
        codec.receive_data(FROM_POSTFIX[:end])
        assert codec.next_request() is None
        assert not codec.between_requests
        codec.receive_data(FROM_POSTFIX[end:])
        assert len(pull(codec)) == 1


# Replies.

REPLIES: list[tuple[Outcome, bytes]] = [
    (Found("OK"), b"action=OK\n\n"),
    (Found("DEFER_IF_PERMIT Try again later"), b"action=DEFER_IF_PERMIT Try again later\n\n"),
    (Found("PREPEND X-Example: a=b"), b"action=PREPEND X-Example: a=b\n\n"),
    (Found("REJECT geschützt"), b"action=REJECT gesch\xc3\xbctzt\n\n"),
    (NotFound(), b"action=DUNNO\n\n"),
    (NotFound(30.0), b"action=DUNNO\n\n"),
]


@pytest.mark.parametrize(("outcome", "reply"), REPLIES)
def test_an_outcome_that_is_no_failure_has_its_reply(outcome: Outcome, reply: bytes) -> None:
    assert encode(outcome) == reply
    assert decode(reply) == (NotFound() if isinstance(outcome, NotFound) else outcome)


@pytest.mark.parametrize("reason", ["", "down", "action=OK\n\n"])
def test_of_a_failure_nothing_is_said(reason: str) -> None:
    assert encode(TempFail(reason)) is SILENCE
    assert encode(PermFail(reason)) is SILENCE


def test_an_action_that_does_not_fit_is_not_said_at_all() -> None:
    fits = "x" * (MAX_REPLY - len("action=\n\n"))
    assert decode(encode(Found(fits))) == Found(fits)
    assert encode(Found(fits + "x")) is SILENCE
    assert PolicyCodec().reply_too_long is SILENCE


def test_what_is_no_outcome_has_no_reply() -> None:
    with pytest.raises(TypeError, match="not an outcome: str"):
        encode("value")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        (b"action=dunno\n\n", NotFound()),
        (b"action=Dunno and more\n\n", NotFound()),
        (b"action=DUNNO\t\n\n", NotFound()),
        (b"action= DUNNO\n\n", Found(" DUNNO")),
        (b"action=DUNNOT\n\n", Found("DUNNOT")),
        (b"other=x\naction=OK\nmore=y\n\n", Found("OK")),
        (b"no attribute\naction=OK\n\n", Found("OK")),
        (b"action=a\naction=b\n\n", Found("a")),
    ],
)
def test_a_reply_means_what_it_means_to_postfix(reply: bytes, meaning: Outcome) -> None:
    assert decode(reply) == meaning


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\n",
        b"\n\n",
        b"action=OK",
        b"action=OK\n",
        b"action=OK\r\n\r\n",
        b"action\naction=OK\n\n",
        b"\naction=OK\n\n",
        b"other=x\n\n",
        b"Action=OK\n\n",
        b"action=\n\n",
        b"action=\xff\n\n",
        b"action=a\0\n\n",
        b"action=OK\n\naction=OK\n\n",
    ],
)
def test_a_malformed_reply_is_told(reply: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(reply)


@pytest.mark.parametrize(
    "attributes", [{"": "x"}, {"a=b": "x"}, {"a\n": "x"}, {"a": "x\ny"}, {"a": "\0"}, {"a": "\udcff"}]
)
def test_what_no_request_can_hold_is_not_written(attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"attribute|surrogates"):
        encode_request(attributes)


def test_the_protocol_is_served_as_its_clients_are() -> None:
    served = PROTOCOLS["policy"]
    assert (served.idle_timeout, served.names_map, served.has_attributes) == (1100.0, False, True)
    assert (served.unix_sockets, served.gives_way) == (True, False)


values = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=50)
attributes = st.dictionaries(
    st.sampled_from(ATTRIBUTES[1:]) | texts.filter(lambda name: name and "=" not in name), texts
)


@given(values)
def test_an_action_comes_back_as_it_was(value: str) -> None:
    if not value.upper().startswith("DUNNO"):
        assert decode(encode(Found(value))) == Found(value)


@given(attributes)
def test_attributes_come_back_as_they_were(sent: dict[str, str]) -> None:
    sent = {"request": "smtpd_access_policy"} | sent | {"request": "smtpd_access_policy"}
    data = encode_request(sent)
    # A name of one CR and so on may look like the end of a CR LF request; Postfix has no such names.
    if b"\n\r\n" not in data:
        assert whole(PolicyCodec, data) == [parse(data)] == [Lookup("", data, attributes=sent)]


pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([ASKED, b"\n", b"\r\n", b"a=b\n", b"=", BEHIND.raw, FROM_POSTFIX, b"x" * 60_000]),
    attributes.map(encode_request),
)


@given(st.lists(pieces, max_size=20).map(b"".join), st.randoms(use_true_random=False))
def test_any_bytes_however_cut_give_the_same_requests_and_the_same_end(
    data: bytes, chance: random.Random
) -> None:
    def fed(codec: PolicyCodec, cut: bool) -> tuple[feeding.Requests, str | bool]:
        requests: feeding.Requests = []
        try:
            if cut:
                by_chance(codec, data, chance, MAX_REQUEST, requests)
            else:
                feed_in_pieces(codec, data, len(data) + 1, requests)
        except ProtocolError as error:
            return requests, str(error)
        return requests, codec.between_requests

    whole_requests, whole_end = fed(PolicyCodec(), cut=False)
    requests, end = fed(PolicyCodec(), cut=True)
    assert end == whole_end
    if not isinstance(end, str):
        assert requests == whole_requests
    raw = b"".join(request.raw for request in requests if isinstance(request, Lookup))
    assert data.startswith(raw)

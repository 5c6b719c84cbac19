"""What twisted.protocols.postfix answers on the wire is answered at least as well; its defects are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tcpmapkit.protocols.framing import Lookup, ProtocolError
from tcpmapkit.protocols.tcp_table import TcpTableCodec, decode, encode
from tcpmapkit.query import Found, NotFound, TempFail

postfix = pytest.importorskip("twisted.protocols.postfix", reason="Twisted is not installed")
testing = pytest.importorskip("twisted.internet.testing")
defer = pytest.importorskip("twisted.internet.defer")

TABLE = {
    "k": "v",
    "alice@example.org": "a@b=c/d",
    "percent": "50% of café",
    "x" * 900: "long",
    '"q"': "quoted",
}
WITHOUT_DEFECTS = [
    b"get k\n",
    b"get alice@example.org\n",
    b"get percent\n",
    b"get " + b"x" * 900 + b"\n",
    b'get "q"\n',
    b"get missing\n",
    b"get  k\n",
    b" get k\n",
    b"get\tk\n",
    b"get %zz\n",
    b"get\n",
    b"put\n",
    b"put k\n",
    b"put k v\n",
    b"put k v w\n",
    b"get two words\n",
    b"unknown\n",
    b"unknown k\n",
    b"GET k\n",
    b"\n",
    b" \n",
    b"get k\nget missing\nput k v\nget percent\n",
]


def connect(factory: Any) -> tuple[Any, Any]:
    """A server of Twisted's and its transport, which is memory."""
    server = factory.buildProtocol(None)
    server.timeout = None  # a timer would need a reactor
    transport = testing.StringTransport()
    server.makeConnection(transport)
    return server, transport


def theirs(data: bytes, table: dict[str, str] = TABLE) -> tuple[bytes, bool]:
    """What Twisted's server writes, and whether it hangs up."""
    encoded = {key.encode(): value for key, value in table.items()}
    server, transport = connect(postfix.PostfixTCPMapDictServerFactory(encoded))
    server.dataReceived(data)
    return transport.value(), transport.disconnecting


def asking(answer: Callable[[bytes], Any]) -> tuple[Any, Any]:
    """As `connect`, for a table that answers by Deferreds."""
    factory = postfix.PostfixTCPMapDeferringDictServerFactory({})
    factory.get = answer
    return connect(factory)


def ours(data: bytes, table: dict[str, str] = TABLE) -> bytes:
    """What tcpmapkit writes to the same table's clients."""
    codec = TcpTableCodec()
    codec.receive_data(data)
    replies = []
    while (request := codec.next_request()) is not None:
        if isinstance(request, Lookup):
            value = table.get(request.key)
            replies.append(encode(NotFound() if value is None else Found(value)))
        else:
            replies.append(request.reply)
    return b"".join(replies)


def digits(replies: bytes) -> list[bytes]:
    return [line[:3] for line in replies.splitlines()]


@pytest.mark.parametrize("data", WITHOUT_DEFECTS)
def test_the_same_bytes_get_replies_of_the_same_meaning(data: bytes) -> None:
    reference, hangs_up = theirs(data)
    assert not hangs_up
    for theirs_, ours_ in zip(
        reference.splitlines(keepends=True), ours(data).splitlines(keepends=True), strict=True
    ):
        assert isinstance(decode(ours_), Found | NotFound | TempFail)
        if theirs_[:3] == ours_[:3]:
            if theirs_.startswith(b"200"):
                assert decode(ours_) == decode(theirs_)
        else:
            # What is no proper request is never answered with "no such key": mail would bounce.
            assert (theirs_[:3], ours_[:3]) == (b"500", b"400")
            assert data in (b"get two words\n", b"get %zz\n")


def test_a_quoted_key_is_decoded() -> None:
    # Twisted looks up the key as it is on the wire.
    for key in ('"two words"@example.org', "100%", "café"):
        line = b"get " + b"".join(b"%%%02X" % byte for byte in key.encode()) + b"\n"
        assert digits(theirs(line, {key: "found"})[0]) == [b"500"]
        assert ours(line, {key: "found"}) == b"200 found\n"


def test_a_verb_that_is_not_ascii_is_answered() -> None:
    # In Twisted it raises out of dataReceived, which costs the connection.
    with pytest.raises(UnicodeDecodeError):
        theirs(b"caf\xc3\xa9 x\n")
    assert digits(ours(b"caf\xc3\xa9 x\nget k\n")) == [b"400", b"200"]


def test_a_long_line_does_not_cost_the_connection() -> None:
    line = b"get " + b"%6B" * 9000 + b"\n"
    assert theirs(line) == (b"", True)
    assert digits(ours(line + b"get k\n")) == [b"500", b"200"]


@pytest.mark.parametrize("text", ["100% down", "no route: 50%", "line\nbreak"])
def test_an_error_text_does_not_spoil_the_reply(text: str) -> None:
    # Twisted sends it as it is, which Postfix refuses as a malformed reply.
    server, transport = asking(lambda key: defer.fail(ValueError(text)))
    server.dataReceived(b"get k\n")
    with pytest.raises(ProtocolError):
        decode(transport.value())
    assert decode(encode(TempFail(text))) == TempFail(text)


def test_an_error_text_that_is_not_ascii_gets_a_reply() -> None:
    # In Twisted the encoding of it fails, and Postfix waits for 100 seconds.
    failures: list[object] = []
    server, transport = asking(lambda key: defer.fail(ValueError("Zeitüberschreitung")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postfix.log, "err", failures.append)
        server.dataReceived(b"get k\n")
    assert (transport.value(), len(failures)) == (b"", 1)
    assert decode(encode(TempFail("Zeitüberschreitung"))) == TempFail("Zeitüberschreitung")


def test_replies_of_twisted_overtake_one_another() -> None:
    # Ours do not: see "in the order of the requests" in test_connection.py.
    slow = defer.Deferred()
    server, transport = asking(lambda key: slow if key == b"slow" else defer.succeed(b"fast"))
    server.dataReceived(b"get slow\nget k\n")
    slow.callback(b"slow")
    assert transport.value() == b"200 fast\n200 slow\n"

"""Policy requests and replies beside the code of Postfix's own policy client."""

from __future__ import annotations

import random

from tcpmapkit.protocols.framing import ProtocolError
from tcpmapkit.protocols.policy import (
    ATTRIBUTES,
    MAX_REPLY,
    PolicyCodec,
    decode,
    encode,
    encode_request,
    parse,
)
from tcpmapkit.query import Found, NotFound
from tests.feeding import whole
from tests.postfix_attributes import ask
from tests.real_postfix import Postfix

ACTIONS = [
    "OK",
    "DUNNO",
    "DEFER_IF_PERMIT Service temporarily unavailable",
    "PREPEND X-Example: a=b",
    "REJECT geschützt \U0001f4ec",
    " leading and trailing ",
    "=",
    "action=OK",
    "\x01\x1b[0m\x7f\t\v\f",
    "x" * (MAX_REPLY - len("action=\n\n")),  # there is no limit of Postfix's
]

REPLIES = [
    b"",
    b"\n",
    b"\n\n",
    b"action=OK",
    b"action=OK\n",
    b"action\n\n",
    b"action\naction=OK\n\n",
    b"\naction=OK\n\n",
    b"other=x\n\n",
    b"Action=OK\n\n",
    b" action=OK\n\n",
    b"action =OK\n\n",
    b"other=x\naction=OK\nmore=y\n\n",
    b"no attribute\naction=OK\nno attribute\n\n",
    b"action=a\naction=b\n\n",
    b"=\naction=a\n\n",
    b"action=a\r\n\n",
    b"action=a\r\n\r\n",
]


def test_every_action_arrives_as_it_was(postfix: Postfix) -> None:
    replies = [encode(Found(action)) for action in ACTIONS]
    assert ask(postfix, "action", [reply.hex() for reply in replies]) == [
        action.encode().hex() for action in ACTIONS
    ]
    assert ask(postfix, "action", [encode(NotFound()).hex()]) == [b"DUNNO".hex()]


def test_a_reply_is_read_as_postfix_reads_it(postfix: Postfix) -> None:
    for reply, read in zip(REPLIES, ask(postfix, "action", [reply.hex() for reply in REPLIES]), strict=True):
        try:
            ours = decode(reply)
        except ProtocolError:
            # Also a value that Postfix reads here, to refuse it or trip over it later on.
            assert read is None or b"\r" in bytes.fromhex(read), reply
        else:
            assert isinstance(ours, Found)
            assert read == ours.value.encode().hex(), reply


def test_a_request_is_written_as_postfix_writes_it_and_read_as_it_was_meant(postfix: Postfix) -> None:
    chance = random.Random(1)
    requests = [
        {"request": "smtpd_access_policy"}
        | {
            name: "".join(chance.choices("a=Ä+ \t\r\U0001f4ec@", k=chance.randrange(20)))
            for name in ATTRIBUTES[1:]
            if not name.startswith("ccert_")
        }
        for _ in range(100)
    ]
    questions = [
        [(name.encode().hex(), value.encode().hex()) for name, value in attributes.items()]
        for attributes in requests
    ]
    for attributes, written in zip(requests, ask(postfix, "request", questions), strict=True):
        assert written is not None
        data = bytes.fromhex(written)
        assert encode_request(attributes) == data
        [request] = whole(PolicyCodec, data)
        assert request == parse(data)
        assert request.attributes == attributes


def test_certificates_are_quoted_and_unquoted_as_postfix_does_it(postfix: Postfix) -> None:
    chance = random.Random(2)
    values = ["".join(chance.choices("aZ09+= ~!\x01\x7fÄ€\U0001f4ec", k=10)) for _ in range(300)]
    for value, quoted in zip(values, ask(postfix, "quote", [v.encode().hex() for v in values]), strict=True):
        assert quoted is not None
        request = encode_request({"ccert_subject": value})
        assert request.split(b"ccert_subject=")[1].rstrip(b"\n") == bytes.fromhex(quoted)
        assert parse(request).attributes["ccert_subject"] == value


def test_what_is_xtext_is_what_postfix_takes_for_it(postfix: Postfix) -> None:
    chance = random.Random(3)
    texts = ["".join(chance.choices("+++ 0123abCDg=\u0661", k=chance.randrange(1, 8))) for _ in range(2000)]
    texts = [text for text in texts if "+00" not in text]  # in C a text ends there
    answers = ask(postfix, "unquote", [text.encode().hex() for text in texts])
    assert 100 < answers.count(None) < 1900
    for text, unquoted in zip(texts, answers, strict=True):
        data = f"request=smtpd_access_policy\nccert_issuer={text}\n\n".encode()
        ours = parse(data).attributes["ccert_issuer"]
        if unquoted is None:
            assert ours == text
            continue
        try:
            expected = bytes.fromhex(unquoted).decode()
        except UnicodeDecodeError:
            expected = text
        assert ours == expected

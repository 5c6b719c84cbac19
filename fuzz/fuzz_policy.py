"""Fuzzes the policy codec. It runs until stopped, or as libFuzzer's options say:

    python fuzz/fuzz_policy.py -max_total_time=3600 fuzz/corpus/policy

Whatever the bytes are and however they are cut:

* the requests are the same, in order, as when all come at once, and what is none is a `ProtocolError` at
  the same place;
* nothing else is raised, and no more is held than one request;
* no attribute is a text that UTF-8 cannot hold, and what was sent comes back as it was;
* the reply to each outcome is one that Postfix can read, or silence.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from cutting import check_that_it_ends, requests_in

    from tcpmapkit.protocols.framing import SILENCE, Lookup
    from tcpmapkit.protocols.policy import (
        ATTRIBUTES,
        MAX_REQUEST,
        PolicyCodec,
        decode,
        encode,
        encode_request,
        parse,
    )
    from tcpmapkit.query import Found, NotFound, TempFail


def check_requests(data: bytes, cuts: list[int]) -> None:
    requests, _ = requests_in(PolicyCodec, data, cuts, MAX_REQUEST)
    at = 0
    for request in requests:
        if not isinstance(request, Lookup) or data[at : at + len(request.raw)] != request.raw:
            raise AssertionError("a request is not the bytes that came")
        if request.attributes["request"] != "smtpd_access_policy":
            raise AssertionError("a request for something else")
        for text in (*request.attributes, *request.attributes.values()):
            text.encode()
        at += len(request.raw)


def check_attributes(given: atheris.FuzzedDataProvider) -> None:
    attributes = {"request": "smtpd_access_policy"}
    for _ in range(given.ConsumeIntInRange(0, 40)):
        name = (
            given.PickValueInList(list(ATTRIBUTES[1:])) if given.ConsumeBool() else given.ConsumeUnicode(20)
        )
        attributes[name] = given.ConsumeUnicode(200)
    try:
        whole = encode_request(attributes)
    except ValueError:
        return
    if len(whole) <= MAX_REQUEST and parse(whole) != Lookup("", whole, attributes=attributes):
        raise AssertionError("an attribute did not come back as it was")


def check_outcome(text: str) -> None:
    if encode(TempFail(text)) is not SILENCE:
        raise AssertionError("a failure was told")
    try:
        found = Found(text)
    except ValueError:
        return
    reply = encode(found)
    dunno = text[:5].upper() == "DUNNO" and text[5:6] in ("", " ", "\t")
    if reply and decode(reply) != (NotFound() if dunno else found):
        raise AssertionError("an action did not come back as it was")


def check(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    kind = given.ConsumeIntInRange(0, 15)
    if kind == 0:
        more = given.PickValueInList([b"x", b"=", b"\r", b"a=b\n", b"\n=\r"]) * given.ConsumeIntInRange(
            1000, 1 << 15
        )
        start = given.ConsumeBytes(1 << 12).replace(b"\n\n", b"").replace(b"\n\r\n", b"")
        check_that_it_ends(PolicyCodec(), start.rstrip(b"\r\n"), more, MAX_REQUEST, MAX_REQUEST)
    elif kind < 4:
        check_outcome(given.ConsumeUnicode(5000))
    elif kind < 7:
        check_attributes(given)
    else:
        cuts = [given.ConsumeIntInRange(0, 300) for _ in range(given.ConsumeIntInRange(0, 30))]
        stretch = given.ConsumeIntInRange(1, 400) if kind == 15 else 1
        # A fuzzer seldom guesses the line that each request must have.
        data = given.ConsumeBytes(1 << 16).replace(b"~", b"~" * stretch)
        check_requests(data.replace(b"!", b"request=smtpd_access_policy\n"), cuts)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()

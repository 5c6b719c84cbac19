"""Fuzzes the socketmap codec. It runs until stopped, or as libFuzzer's options say:

    python fuzz/fuzz_socketmap.py -max_total_time=3600 fuzz/corpus/socketmap

Whatever the bytes are and however they are cut:

* each netstring has one request, in order, the same as when all come at once, and what is no netstring
  is a `ProtocolError` at the same place;
* nothing else is raised, and no more is held than one request;
* the reply to each is one that Postfix can read, and a value or key comes back as it was.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from cutting import check_that_it_ends, requests_in

    from tcpmapkit.protocols.framing import MAX_UNENDED, Lookup
    from tcpmapkit.protocols.netstrings import netstring, netstring_content
    from tcpmapkit.protocols.socketmap import (
        MAX_REQUEST,
        REPLY_TOO_LONG,
        SocketmapCodec,
        decode,
        encode,
        encode_request,
        parse,
    )
    from tcpmapkit.query import Found, PermFail, TempFail

#: A request as it is held: seven digits, a colon, the content, but never the comma.
MOST = MAX_REQUEST + 9


def check_requests(data: bytes, cuts: list[int]) -> None:
    requests, _ = requests_in(SocketmapCodec, data, cuts, MOST)
    at = 0
    for request in requests:
        length, _, _ = data[at:].partition(b":")
        end = at + len(length) + 1 + int(length) + 1
        if not isinstance(request, Lookup):
            decode(request.reply)
        elif request.raw != data[at:end] or not request.map or " " in request.map:
            raise AssertionError("a request is not the bytes that came")
        elif request.raw != netstring(
            request.map.encode(errors="surrogateescape") + b" " + request.key.encode()
        ):
            raise AssertionError("a request did not come back as it was")
        at = end
    if len(data) - at >= MAX_UNENDED:
        raise AssertionError("no end to it")


def check_request(content: bytes) -> None:
    requests, end = requests_in(SocketmapCodec, netstring(content) * 2, [len(content)], MOST)
    if end is not True or requests != [parse(netstring(content))] * 2:
        raise AssertionError("a netstring is not one request")
    if netstring_content(netstring(content)) != content:
        raise AssertionError("a netstring did not come back as it was")


def check_outcome(text: str) -> None:
    for kind in (TempFail, PermFail):
        if type(decode(encode(kind(text)))) is not kind:
            raise AssertionError("a failure became another")
    try:
        found = Found(text)
    except ValueError:
        return
    reply = encode(found)
    if reply is not REPLY_TOO_LONG and decode(reply) != found:
        raise AssertionError("a value did not come back as it was")
    whole = encode_request("map", text)
    if len(text) < 2000 and parse(whole) != Lookup(text, whole, "map"):
        raise AssertionError("a key did not come back as it was")


def check(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    kind = given.ConsumeIntInRange(0, 15)
    if kind == 0:
        more = b"9" * given.ConsumeIntInRange(4096, 1 << 17)
        check_that_it_ends(SocketmapCodec(), given.ConsumeBytes(1 << 12), more, MOST, MAX_UNENDED)
    elif kind < 4:
        check_outcome(given.ConsumeUnicode(5000))
    elif kind < 6:
        check_request(given.ConsumeBytes(1 << 14))
    else:
        cuts = [given.ConsumeIntInRange(0, 300) for _ in range(given.ConsumeIntInRange(0, 30))]
        stretch = given.ConsumeIntInRange(1, 400) if kind == 15 else 1
        # A fuzzer seldom guesses a length: what stands between two tildes is made a netstring.
        parts = given.ConsumeBytes(1 << 16).split(b"~")
        parts[1::2] = [netstring(part * stretch) for part in parts[1::2]]
        check_requests(b"".join(parts), cuts)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()

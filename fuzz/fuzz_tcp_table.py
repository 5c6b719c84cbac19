"""Fuzzes the tcp_table codec. It runs until stopped, or as libFuzzer's options say:

    python fuzz/fuzz_tcp_table.py -max_total_time=3600 fuzz/corpus/tcp_table

Whatever the bytes are and however they are cut:

* each line has one request, in order, the same as when all come at once; or there is a `ProtocolError`;
* nothing else is raised, and no more is held than one request line;
* the reply to each is one that Postfix can read, and a value or key comes back as it was.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from cutting import check_that_it_ends, requests_in

    from tcpmapkit.protocols.framing import MAX_UNENDED, Lookup, Refused
    from tcpmapkit.protocols.tcp_table import (
        MAX_REPLY,
        MAX_REQUEST,
        REPLY_TOO_LONG,
        TcpTableCodec,
        decode,
        encode,
        encode_request,
        parse,
    )
    from tcpmapkit.query import Found, TempFail


def check_requests(data: bytes, cuts: list[int]) -> None:
    requests, end = requests_in(TcpTableCodec, data, cuts, MAX_REQUEST)
    if not isinstance(end, str) and len(requests) != data.count(b"\n"):
        raise AssertionError("not one request a line")
    for line, request in zip(data.split(b"\n"), requests, strict=False):
        if isinstance(request, Refused):
            decode(request.reply)
        elif request.raw != line + b"\n" or parse(encode_request(request.key)) != Lookup(
            request.key, encode_request(request.key)
        ):
            raise AssertionError("a key did not come back as it was")


def check_outcome(text: str) -> None:
    decode(encode(TempFail(text)))
    try:
        found = Found(text)
    except ValueError:
        return
    reply = encode(found)
    if len(reply) > MAX_REPLY or (reply is not REPLY_TOO_LONG and decode(reply) != found):
        raise AssertionError("a value did not come back as it was")


def check(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    kind = given.ConsumeIntInRange(0, 15)
    if kind == 0:
        size = given.ConsumeIntInRange(4096, 1 << 17)
        start = given.ConsumeBytes(1 << 12).replace(b"\n", b"")
        check_that_it_ends(TcpTableCodec(), start, b"x" * size, MAX_REQUEST, MAX_UNENDED)
    elif kind < 4:
        check_outcome(given.ConsumeUnicode(5000))
    else:
        cuts = [given.ConsumeIntInRange(0, 300) for _ in range(given.ConsumeIntInRange(0, 30))]
        stretch = given.ConsumeIntInRange(1, 400) if kind == 15 else 1
        check_requests(given.ConsumeBytes(1 << 16).replace(b"~", b"~" * stretch), cuts)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()

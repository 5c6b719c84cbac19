"""Codecs: a request out of its bytes, whole and by way of the buffer, and an outcome into its reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tcpmapkit.protocols import socketmap, tcp_table
from tcpmapkit.protocols.framing import Codec
from tcpmapkit.query import Found, NotFound, TempFail

KEY = "first.last@example.org"
OUTCOMES = [Found("user@example.net"), NotFound(), TempFail("timed out")]
CODECS: dict[str, tuple[Callable[[], Codec], bytes]] = {
    "tcp_table": (tcp_table.TcpTableCodec, tcp_table.encode_request(KEY)),
    "tcp_table, quoted": (tcp_table.TcpTableCodec, tcp_table.encode_request("näme with space@example.org")),
    "socketmap": (socketmap.SocketmapCodec, socketmap.encode_request("aliases", KEY)),
}


@pytest.mark.parametrize("name", CODECS)
def bench_whole_request(benchmark: Any, name: str) -> None:
    new_codec, data = CODECS[name]
    assert benchmark(new_codec().whole_request, data)


@pytest.mark.parametrize("name", CODECS)
def bench_buffered_request(benchmark: Any, name: str) -> None:
    new_codec, data = CODECS[name]
    codec = new_codec()

    def feed() -> Any:
        codec.receive_data(data)
        return codec.next_request()

    assert benchmark(feed)


@pytest.mark.parametrize("encode", [tcp_table.encode, socketmap.encode], ids=["tcp_table", "socketmap"])
@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda one: type(one).__name__)
def bench_encode(benchmark: Any, encode: Any, outcome: Any) -> None:
    assert benchmark(encode, outcome)

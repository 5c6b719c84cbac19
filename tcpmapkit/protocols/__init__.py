"""The wire: bytes in, requests out, outcomes to bytes. Digits and status words live here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from tcpmapkit.protocols import tcp_table
from tcpmapkit.protocols.framing import Codec
from tcpmapkit.query import Outcome

__all__ = ["PROTOCOLS", "ServedProtocol"]


@attrs.frozen
class ServedProtocol:
    """How a protocol is served: a codec for each connection, and its reply to an outcome.

    `idle_timeout`, in seconds, is longer than its client's own: whoever hangs up first on a tcp_table
    client costs it a second.
    """

    new_codec: Callable[[], Codec]
    encode: Callable[[Outcome], bytes]
    idle_timeout: float


#: The protocols by the name that a listener says.
PROTOCOLS: Mapping[str, ServedProtocol] = MappingProxyType(
    {"tcp_table": ServedProtocol(tcp_table.TcpTableCodec, tcp_table.encode, idle_timeout=3600.0)}
)

"""The wire: bytes in, requests out, outcomes to bytes. Digits and status words live here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from tcpmapkit.protocols import policy, socketmap, tcp_table
from tcpmapkit.protocols.framing import Codec
from tcpmapkit.query import Outcome

__all__ = ["PROTOCOLS", "ServedProtocol"]


@attrs.frozen
class ServedProtocol:
    """How a protocol is served: a codec for each connection, and its reply to an outcome.

    `idle_timeout`, in seconds, is longer than its client's own: whoever hangs up first on a tcp_table
    client costs it a second. `names_map`: a request says which map it asks, so that one endpoint serves
    many. `has_attributes`: a request is attributes, of which the listener makes the key.
    `unix_sockets`: Postfix connects to those too. `gives_way`: its clients reconnect unasked and at no
    cost, so theirs are the first idle connections to be closed when there is no room.
    """

    new_codec: Callable[[], Codec]
    encode: Callable[[Outcome], bytes]
    idle_timeout: float
    names_map: bool = False
    has_attributes: bool = False
    unix_sockets: bool = False
    gives_way: bool = False


#: The protocols by the name that a listener says.
PROTOCOLS: Mapping[str, ServedProtocol] = MappingProxyType(
    {
        "tcp_table": ServedProtocol(tcp_table.TcpTableCodec, tcp_table.encode, idle_timeout=3600.0),
        "socketmap": ServedProtocol(
            socketmap.SocketmapCodec,
            socketmap.encode,
            idle_timeout=120.0,
            names_map=True,
            unix_sockets=True,
            gives_way=True,
        ),
        "policy": ServedProtocol(
            policy.PolicyCodec, policy.encode, idle_timeout=1100.0, has_attributes=True, unix_sockets=True
        ),
    }
)

"""The wire: bytes in, requests out, outcomes to bytes. Digits and status words live here and nowhere else."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tcpmapkit.protocols import tcp_table
from tcpmapkit.query import Outcome

__all__ = ["ENCODERS"]

#: Each protocol's reply to an outcome.
ENCODERS: Mapping[str, Callable[[Outcome], bytes]] = MappingProxyType({"tcp_table": tcp_table.encode})

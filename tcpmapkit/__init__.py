"""tcpmapkit answers Postfix: tcp_table(5), socketmap_table(5) and policy lookups from a chain of resolvers.

These names are what a resolver plugin needs, and all that is promised to it.
"""

from tcpmapkit.errors import ConfigError
from tcpmapkit.hookspecs import hookimpl
from tcpmapkit.query import (
    Found,
    LookupPermFail,
    LookupTempFail,
    Miss,
    NotFound,
    PermFail,
    Query,
    TempFail,
)
from tcpmapkit.resolver import Chain, Map, blocking

__all__ = [
    "Chain",
    "ConfigError",
    "Found",
    "LookupPermFail",
    "LookupTempFail",
    "Map",
    "Miss",
    "NotFound",
    "PermFail",
    "Query",
    "TempFail",
    "blocking",
    "hookimpl",
]

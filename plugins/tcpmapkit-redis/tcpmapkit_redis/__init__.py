"""``redis``: strings, hashes and sets of a Redis or Valkey server.

A lookup is one command on one connection of a small pool. Nothing is retried and nothing is waited
for but the answer: a dead server is a temporary failure at once, a silent one when the step's time
is up. Which errors are which: connection trouble and a server that is not ready (LOADING, BUSY,
CLUSTERDOWN, MASTERDOWN and whatever is not known) are temporary; a refused login or command, a key
of another type, a database that does not exist and a redirection to another node are permanent.

BUGS: no cluster, no sentinel. A set is read whole, whatever its size.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import attrs

from tcpmapkit import ConfigError, Found, LookupPermFail, LookupTempFail, NotFound, hookimpl

__all__ = ["Redis"]

Template = Annotated[Any, "template"]

#: What the kernel does about a peer that is gone, on a connection that waits in the pool: probe it
#: after 30 seconds, then every 5, three times.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

#: Another node has the key: of redis-py 6 and later an AskError (MovedError is one too).
_ELSEWHERE: Final = ("MOVED ", "ASK ")

#: How the servers begin to say that SELECT asks for a database that they have not.
_NO_DATABASE: Final = ("DB index", "invalid DB index")


@attrs.define(eq=False)
class Redis:
    """One server, and one kind of thing to ask it for."""

    url: str = attrs.field(
        default="redis://127.0.0.1:6379/0",
        metadata={"help": "redis://, rediss:// (TLS) or unix:///path?db=0"},
    )
    get: Template = attrs.field(default=None, metadata={"help": "the name of a string (GET)"})
    hget: Template = attrs.field(default=None, metadata={"help": "the name of a hash (HGET)"})
    field: Template = attrs.field(
        default=None, metadata={"help": "the field of the hash, the key by default"}
    )
    members: Template = attrs.field(
        default=None, metadata={"help": "the name of a set; its members are joined (SMEMBERS)"}
    )
    separator: str = attrs.field(default=",", metadata={"help": "what stands between two members"})
    username: str | None = attrs.field(default=None, metadata={"help": "whom to log in as (an ACL user)"})
    password_file: Path | None = attrs.field(
        default=None, metadata={"help": "a file with the password on its first line"}
    )
    ca_file: Path | None = attrs.field(
        default=None, metadata={"help": "certificates to trust with rediss://, beside the system's"}
    )
    connections: int = attrs.field(
        default=16,
        validator=[attrs.validators.ge(1), attrs.validators.le(1000)],
        metadata={"help": "connections at once; a lookup beyond waits for one"},
    )
    _server: dict[str, Any] = attrs.field(init=False, repr=False)
    _pool: Any = attrs.field(init=False, default=None)
    _client: Any = attrs.field(init=False, default=None)
    _free: Any = attrs.field(init=False, default=None)
    _context: Any = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        asked = [name for name in ("get", "hget", "members") if getattr(self, name) is not None]
        if len(asked) != 1:
            raise ConfigError(
                "takes exactly one of get, hget and members",
                hint=f"here are {' and '.join(asked)}" if asked else 'for example get = "virtual:{key}"',
            )
        if self.field is not None and self.hget is None:
            raise ConfigError("goes with hget only", path=("field",))
        if not {"\0", "\r", "\n"}.isdisjoint(self.separator):
            raise ConfigError("has NUL, CR or LF, which no reply can carry", path=("separator",))
        self._server = _server(self.url)
        if self.ca_file is not None and "ssl_cert_reqs" not in self._server:
            raise ConfigError("goes with a rediss:// url only", path=("ca_file",))
        if self.username is not None and self.password_file is None:
            raise ConfigError("goes with password_file only", path=("username",))

    async def start(self, context: Any) -> None:
        """Read the password and make the pool; the first lookup connects."""
        # Imported here: redis-py takes longer to import than all of tcpmapkit.
        from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
        from redis.asyncio import Redis as Client
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options: dict[str, Any] = dict(self._server)
        if "path" in options:
            options["connection_class"] = UnixDomainSocketConnection
        else:
            options["connection_class"] = SSLConnection if "ssl_cert_reqs" in options else Connection
            options["socket_keepalive"] = True
            options["socket_keepalive_options"] = {
                getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
            }
        if self.ca_file is not None:
            await asyncio.to_thread(_check_certificates, self.ca_file)
            options["ssl_ca_certs"] = str(self.ca_file)
        if self.password_file is not None:
            options["username"] = self.username
            options["password"] = await asyncio.to_thread(_password, self.password_file)
        # No timers of its own: the step's time-out cancels a lookup, which closes its connection.
        # RESP2, so that servers before Redis 6 and proxies that do not know HELLO work as well.
        self._pool = ConnectionPool(
            max_connections=self.connections,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
            **options,
        )
        self._client = Client(connection_pool=self._pool)
        # Why not redis-py's BlockingConnectionPool: a lookup that is cancelled while it gives its
        # connection back waits for a lock there, and the connection is lost to the pool for good.
        self._free = asyncio.Semaphore(self.connections)
        self._context = context

    async def stop(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.disconnect()

    async def resolve(self, query: Any) -> Found | NotFound | None:
        """The string, the field, or the members in the order of their text; None when there is none.

        Raises `LookupTempFail` and `LookupPermFail`.
        """
        command = self._command(query)
        if command is None:
            return None
        try:
            async with self._free:
                reply = await self._client.execute_command(*command)
        except Exception as error:
            raise _meaning(error) from error
        try:
            if command[0] != "SMEMBERS":
                return Found(reply.decode()) if reply else None
            values = sorted(member.decode() for member in reply if member)
            return Found.joined(values, self.separator) if values else None
        except ValueError as error:
            why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            detail = f"{command[0]} for {self._context.show_key(query.key)}: {why}"
            raise LookupTempFail("Redis holds what is no value for Postfix", detail=detail) from error

    def _command(self, query: Any) -> tuple[str | bytes, ...] | None:
        """The command with its arguments as bytes; None when a variable is empty or no UTF-8."""
        if self.hget is not None:
            name, arguments = "HGET", [self.hget(query), self.field(query) if self.field else query.key]
        elif self.members is not None:
            name, arguments = "SMEMBERS", [self.members(query)]
        else:
            name, arguments = "GET", [self.get(query)]
        if None in arguments:
            return None
        try:
            return (name, *(argument.encode() for argument in arguments))
        except UnicodeEncodeError:
            return None


def _server(url: str) -> dict[str, Any]:
    """What redis-py's connection is told of the server. Raises `ConfigError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("is not a redis://, rediss:// or unix:// URL", path=("url",))
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "holds a user name or password", path=("url",), hint="give username and password_file"
        )
    if parts.scheme == "unix":
        if parts.netloc or not parts.path:
            raise ConfigError("names no absolute path", path=("url",), hint="unix:///run/redis/redis.sock")
        return {"path": unquote(parts.path), "db": _database(parts, "")}
    try:
        port = parts.port or 6379
    except ValueError:
        raise ConfigError("has a bad port", path=("url",)) from None
    server = {"host": parts.hostname or "127.0.0.1", "port": port, "db": _database(parts, parts.path[1:])}
    if parts.scheme == "rediss":
        server |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return server


def _database(parts: SplitResult, text: str) -> int:
    options = parse_qs(parts.query, keep_blank_values=True)
    unknown = sorted(options.keys() - {"db"})
    if unknown:
        raise ConfigError(f"has an unknown option {unknown[0]!r}", path=("url",), hint="only db is known")
    text = options.get("db", [text or "0"])[-1]
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError("names a database that is no number", path=("url",))
    return int(text)


def _read(file: Path, option: str) -> str:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a FIFO that nobody writes to would be waited for
            raise ConfigError(f"{file} is not a regular file", path=(option,))
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", path=(option,)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8", path=(option,)) from None


def _password(file: Path) -> str:
    lines = _read(file, "password_file").splitlines()
    if not lines or not lines[0]:
        raise ConfigError(f"{file} has no password on its first line", path=("password_file",))
    return lines[0]


def _check_certificates(file: Path) -> None:
    _read(file, "ca_file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        raise ConfigError(f"{file} holds no certificates in PEM form", path=("ca_file",)) from None


def _meaning(error: Exception) -> LookupTempFail | LookupPermFail:
    """The failure that an exception of redis-py means; the step logs trouble when it begins."""
    from redis import exceptions as theirs

    text = str(error)
    match error:
        case theirs.AuthenticationError() | theirs.AuthenticationWrongNumberOfArgsError():
            return LookupPermFail("Redis refuses the login")
        case theirs.NoPermissionError() | theirs.AuthorizationError():
            return LookupPermFail("Redis refuses the command")
        case theirs.ResponseError() if isinstance(error, theirs.AskError) or text.startswith(_ELSEWHERE):
            return LookupPermFail("Redis is a cluster, which is not supported")
        case theirs.ResponseError() if text.startswith("WRONGTYPE"):
            return LookupPermFail("Redis holds another type under this name")
        case theirs.ResponseError() if text.startswith(_NO_DATABASE):
            return LookupPermFail("Redis has no such database")
        case theirs.ResponseError() | theirs.BusyLoadingError():
            return LookupTempFail("Redis is not ready", detail=text)
        case theirs.RedisError() | OSError():
            return LookupTempFail("Redis cannot be reached", detail=text)
    raise error


@hookimpl
def register_resolvers(register: Any) -> None:
    register("redis", Redis)

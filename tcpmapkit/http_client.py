"""The HTTP client that all resolvers share: one pool of connections, opened when first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiohttp import ClientSession

__all__ = ["SharedHttpClient"]

#: Connections at once, to all servers together; a lookup beyond waits for one within its deadline.
_CONNECTIONS: Final = 1000

#: Seconds for which an idle connection is kept.
_KEEPALIVE: Final = 30.0


class SharedHttpClient:
    """An `aiohttp.ClientSession` that nobody has to pay for who does not use it (the import of
    aiohttp costs more than the rest of the program)."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None

    def session(self) -> ClientSession:
        """The session, opened now if need be; call it from the event loop.

        It keeps no cookies, follows no proxy of the environment and sets no time limit: the step's
        own ends a request.
        """
        if self._session is None:
            from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

            self._session = ClientSession(
                connector=TCPConnector(limit=_CONNECTIONS, limit_per_host=0, keepalive_timeout=_KEEPALIVE),
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=None),
                trust_env=False,
                requote_redirect_url=False,
            )
        return self._session

    async def close(self) -> None:
        """Close the session with its connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

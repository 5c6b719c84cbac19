"""The endpoint of ``[admin]``: HTTP over a unix socket, or over loopback with a token.

One request a connection, few connections, and a time for each part of it: whoever is slow, or holds
connections open, takes nothing from the lookups. The routes are in `tcpmapkit.admin.guard`, what is
answered in `tcpmapkit.control`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from tcpmapkit.accepting import Accepting
from tcpmapkit.admin.guard import Refused, asks_here, bearer, command_of, route_of
from tcpmapkit.admin.messages import json_response, metrics_response, read_body
from tcpmapkit.admin.token import Token
from tcpmapkit.listener import Address, Listener, is_waiting
from tcpmapkit.merging import merged
from tcpmapkit.seldom import Seldom

if TYPE_CHECKING:
    from aiohttp import web

    from tcpmapkit.config import AdminConfig
    from tcpmapkit.control import AskAll

__all__ = ["MOST_CONNECTIONS", "READING_TIME", "SENDING_TIME", "AdminEndpoint"]

MOST_CONNECTIONS: Final = 32
"""At once. One that has not sent its request makes room, the oldest first."""

#: With those that came a moment ago, whose request may be on its way.
_MOST_WITH_NEW: Final = 256

#: Seconds for which a connection is new. One that makes room sooner may be the operator's, come in the midst
#: of others that never ask anything.
_NEW: Final = 0.02

READING_TIME: Final = 10.0
"""Seconds for a request to come in, from when it was connected."""

SENDING_TIME: Final = 30.0
"""Seconds for a response to be taken."""

#: Seconds that requests under way have left when the endpoint stops.
_LAST_ANSWERS: Final = 2.0

#: The status of a response for each kind of trouble that `tcpmapkit.control` tells of.
_STATUS: Final = {"request": 400, "unknown": 404, "unavailable": 503}

_HEADERS: Final = {
    "Server": "tcpmapkit",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}

_log = logging.getLogger(__name__)


class AdminEndpoint:
    """Serves what `ask_all` answers, which gives a command to every worker and returns their answers.

    `ask_one` asks one worker, for what needs no more: by default the first of all answers counts. Raises
    `ConfigError` when `token_file` holds no token that is good for one.
    """

    def __init__(
        self,
        config: AdminConfig,
        ask_all: AskAll,
        ask_one: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] | None = None,
        *,
        token: Token | None = None,
    ) -> None:
        self._config = config
        self._ask_all = ask_all
        self._ask_one = ask_one
        self._token = token or (Token(config.token_file) if config.token_file is not None else None)
        self._listener = Listener(config)
        self._accepting = Accepting[None](lambda: 0, self._welcome, time.monotonic)
        self._said = Seldom()
        self._server: Any = None
        self._arriving: set[asyncio.Task[None]] = set()
        #: The connections, oldest first, with what ends each; None while a command is being answered.
        self._open: dict[Any, asyncio.TimerHandle | None] = {}

    @property
    def config(self) -> AdminConfig:
        """What it was made of."""
        return self._config

    @property
    def addresses(self) -> list[Address]:
        """As `Listener.addresses`."""
        return self._listener.addresses

    def bind(self) -> None:
        """Listen: whoever connects waits. Raises what `Listener.bind` does."""
        self._listener.bind()

    async def start(self) -> None:
        """Serve what was bound, and what `serve_connection` is given."""
        self._server = await asyncio.to_thread(self._new_server, asyncio.get_running_loop())
        if self._listener.addresses:
            self._accepting.add(self._listener, None)
            self._accepting.start()

    async def stop(self) -> None:
        """Accept nothing more, end what is under way."""
        self._accepting.stop()
        self._listener.close()
        if self._arriving:
            await asyncio.wait(self._arriving, timeout=_LAST_ANSWERS)
        for connection, ends in [*self._open.items()]:
            if ends is not None and not connection.answered:
                self._abort(connection)
        if self._server is not None:
            await self._server.shutdown(_LAST_ANSWERS)
        for connection in [*self._open]:
            self._abort(connection)

    def serve_connection(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere."""
        connection.setblocking(False)
        self._welcome(None, connection)

    # Connections.

    def _welcome(self, _: None, connection: socket.socket) -> None:
        while len(self._open) + len(self._arriving) >= MOST_CONNECTIONS and self._make_room():
            pass
        asked = sum(ends is None for ends in self._open.values())
        if asked >= MOST_CONNECTIONS or len(self._open) + len(self._arriving) >= _MOST_WITH_NEW:
            text = "%d connections to the admin endpoint: one more is closed"
            self._said.log(_log, logging.WARNING, "full", time.monotonic(), text, len(self._open))
            connection.close()
            return
        arriving = asyncio.get_running_loop().create_task(self._serve(connection))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)

    def _make_room(self) -> bool:
        """End the oldest connection that is not new and has sent nothing; whether there is one."""
        now = time.monotonic()
        for connection, ends in self._open.items():
            if ends is not None and now - connection.since >= _NEW and not connection.has_unread:
                self._abort(connection)
                return True
        return False

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._server, connection)
        except OSError:
            connection.close()

    def _opened(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        self._open[connection] = loop.call_later(READING_TIME, self._abort, connection)

    def _closed(self, connection: Any) -> None:
        ends = self._open.pop(connection, None)
        if ends is not None:
            ends.cancel()

    def _abort(self, connection: Any) -> None:
        transport = connection.transport
        self._closed(connection)
        if transport is not None:
            transport.abort()

    def _new_server(self, loop: asyncio.AbstractEventLoop) -> web.Server:
        """What makes the connections. Called in a thread: the imports take almost half a second."""
        from aiohttp import web

        from tcpmapkit.metrics.snapshot import prepare

        prepare()
        endpoint = self

        class Connection(web.RequestHandler):
            #: Whether its command has been answered; what is left is to send that.
            answered = False
            #: When it was connected, or began to send.
            since = 0.0
            _begun = False

            @property
            def has_unread(self) -> bool:
                """Whether something has come that is not read yet: the loop has not had its turn since."""
                return self.transport is not None and is_waiting(self.transport.get_extra_info("socket"))

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.since = time.monotonic()
                endpoint._opened(self)
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                if not self._begun:
                    self._begun, self.since = True, time.monotonic()
                super().data_received(data)

            def connection_lost(self, error: BaseException | None) -> None:
                endpoint._closed(self)
                super().connection_lost(error)

            def handle_error(
                self,
                request: web.BaseRequest,
                status: int = 500,
                exc: BaseException | None = None,
                message: str | None = None,
            ) -> web.StreamResponse:
                """What is not HTTP; nothing of it is shown or logged."""
                _log.info("admin: a request that is not HTTP: %s", type(exc).__name__)
                return json_response(400, {"error": "that is not HTTP"}, _HEADERS)

        class Server(web.Server):
            def __call__(self) -> web.RequestHandler:
                return Connection(
                    self,
                    loop=loop,
                    access_log=None,  # type: ignore[arg-type]
                    keepalive_timeout=READING_TIME,
                    lingering_time=1.0,
                    auto_decompress=False,
                    tcp_keepalive=False,
                )

        return Server(self._respond, loop=loop)

    # Requests.

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        try:
            async with asyncio.timeout(READING_TIME):
                command = await self._command(request)
            ends = self._open.get(connection)
            if ends is not None:
                ends.cancel()
                self._open[connection] = None
            response = await self._answer(command)
        except Refused as refused:
            response = json_response(refused.status, {"error": refused.reason}, refused.headers)
        except TimeoutError:
            response = json_response(408, {"error": "the request did not come in"})
        except Exception as error:
            # Without its message, which may hold a key.
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("admin: a request raised %s, which is a bug of ours:\n%s", type(error).__name__, where)
            response = json_response(500, {"error": "internal error: see the log"})
        if connection in self._open:
            loop = asyncio.get_running_loop()
            connection.answered = True  # type: ignore[attr-defined]
            self._open[connection] = loop.call_later(SENDING_TIME, self._abort, connection)
        response.headers.update(_HEADERS)
        response.force_close()
        return response

    async def _command(self, request: web.BaseRequest) -> dict[str, Any]:
        """What a request asks for. Raises `Refused`."""
        if not asks_here(request.headers.getall("Host", ()), self._config.endpoint.host):
            self._say("for a foreign Host")
            raise Refused(403, "the Host is none of this host's own names")
        if self._token is not None:
            given = bearer(request.headers.getall("Authorization", ()))
            if given is None or not self._token.is_right(given):
                self._say("without the token" if given is None else "with a wrong token")
                raise Refused(401, "a token is needed", {"WWW-Authenticate": "Bearer"})
        # As it came: aiohttp itself decodes and normalizes a path.
        route, query = route_of(request.method, request.raw_path)
        return command_of(route, query, await read_body(request) if request.method == "POST" else b"")

    def _say(self, what: str) -> None:
        now = time.monotonic()
        self._said.log(_log, logging.WARNING, what, now, "admin: a request %s was refused", what)

    async def _answer(self, command: dict[str, Any]) -> web.Response:
        name = command["command"]
        if name == "live":
            return json_response(200, {"live": True})
        if name == "lookup" and self._ask_one is not None:
            answer = await self._ask_one(command)
        else:
            answer = await asyncio.to_thread(merged, command, await self._ask_all(command))
        if "error" in answer:
            return json_response(_STATUS.get(answer.get("kind", ""), 500), answer)
        if name == "metrics":
            return await metrics_response(answer)
        refused = (name == "ready" and not answer["ready"], name == "reload" and not answer["ok"])
        return json_response(503 if refused[0] else 422 if refused[1] else 200, answer)

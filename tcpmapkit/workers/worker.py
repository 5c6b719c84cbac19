"""A worker: one process's server, for connections that its parent has accepted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import tomli

from tcpmapkit.config import Document
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.handover import leave
from tcpmapkit.process import StartError
from tcpmapkit.serve import before
from tcpmapkit.workers.admission import ADMIN
from tcpmapkit.workers.channel import Channel, ChannelError, Message
from tcpmapkit.workers.known_tables import TablesServed
from tcpmapkit.workers.mistakes import as_data

if TYPE_CHECKING:
    from tcpmapkit.reloaded import Prepared
    from tcpmapkit.serving import Serving

__all__ = ["Worker"]

_REPORT_AFTER: Final = 0.02
"""Seconds after which the parent is told of connections that have closed: in a rush, of many at once."""

#: Seconds for the parent to take the connections that are left to the next start.
_LEFT_WITHIN: Final = 2.0

_log = logging.getLogger(__name__)


class Worker:
    """Serves what comes over `channel` until it is told to stop, or the parent is gone. `begin` does what
    comes before the first connection; `answer` answers a request of the control, `serve_admin` serves a
    connection of the operator's."""

    def __init__(
        self, channel: Channel, serving: Serving, begin: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._channel = channel
        self._serving = serving
        self._begin = begin
        self.tables = TablesServed(serving)
        self.answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] | None = None
        self.serve_admin: Callable[[socket.socket], Awaitable[None]] | None = None
        self._stopping = asyncio.Event()
        self._sent = asyncio.Event()  # all that waited for the parent to take it
        self._leaves = False  # the next start takes over what connections it can
        self._left: list[socket.socket] = []  # on their way to the parent
        self._taken = 0  # connections, ever
        self._reporting = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._prepared: Prepared | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._taking = False
        #: What came while a configuration was being taken.
        self._waiting: list[tuple[int, socket.socket | None]] = []
        self._questions: dict[int, asyncio.Future[list[dict[str, Any]]]] = {}
        self._numbers = itertools.count(1)

    async def run(self) -> int:
        """Serve; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told_to_leave)
        loop.add_reader(self._channel.fileno(), self._readable)
        try:
            if not await before(self._stopping, self._begin()):
                return 0
            self._serving.server.connections.forgotten = self._report_soon
            self._tell({"ready": True, **self.tables.message()})
            await self._stopping.wait()
        except ConfigError as error:
            self._tell({"failed": str(error), "errors": as_data(error)})
            return 78
        except StartError as error:
            self._tell({"failed": str(error), "errors": []})
            return 1
        finally:
            await self._end()
        return 0

    async def _end(self) -> None:
        async with contextlib.AsyncExitStack() as end:  # nothing of it is skipped, whatever raises
            end.callback(self._close)
            end.push_async_callback(self._serving.stop)
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            if self._prepared is not None:
                await self._serving.discard(self._prepared)
            if self._leaves:
                await self._leave()

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel.fileno())
        loop.remove_writer(self._channel.fileno())
        self._channel.close()
        for connection in self._left:
            connection.close()

    async def _leave(self) -> None:
        """Give the parent, for the next start, the connections that have nothing in flight."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEFT_WITHIN):
                waiting = iter(self._serving.server.connections)
                while batch := await leave(waiting):
                    self._left = [socket.socket(fileno=one) for one in batch]
                    for connection in self._left:
                        self._channel.send({"left": True}, connection)
                    self._send_the_rest_later()
                    if self._channel.clogged:
                        await self._sent.wait()
                    for connection in self._left:
                        connection.close()

    # Talking.

    def _tell(self, message: Message) -> None:
        self._channel.send(message)
        self._send_the_rest_later()

    def _send_the_rest_later(self) -> None:
        if self._channel.clogged:
            self._sent.clear()
            asyncio.get_running_loop().add_writer(self._channel.fileno(), self._writable)

    def _writable(self) -> None:
        self._channel.flush()
        if not self._channel.clogged:
            self._sent.set()
            asyncio.get_running_loop().remove_writer(self._channel.fileno())

    def _readable(self) -> None:
        try:
            messages = self._channel.receive()
        except (EOFError, ChannelError) as error:
            if isinstance(error, ChannelError):
                _log.error("the parent sends what it should not: %s", error)
            elif not self._stopping.is_set():
                _log.error("the parent is gone: stopping")
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._stopping.set()
            return
        taken = self._taken
        for message, connection in messages:
            try:
                self._told(message, connection)
            except Exception:
                _log.critical("a message of the parent's raised, which is a bug of ours", exc_info=True)
        if self._taken != taken:
            # Before anything is read of them: until it is told this, the parent would give them to another
            # worker should this one die.
            self._report()

    def _told(self, message: Message, connection: socket.socket | None) -> None:
        if "deal" in message:
            if self._stopping.is_set():  # the parent has it too, and gives it to another
                if connection is not None:
                    connection.close()
            elif self._taking:
                self._waiting.append((message["deal"], connection))
            else:
                self._serve(message["deal"], connection)
        elif "ping" in message:
            self._tell({"pong": True, **self.tables.news()})
        elif "idle" in message:
            self._tell({"idle": self._serving.server.connections.longest_idle})
        elif "room" in message:
            made = self._serving.server.connections.make_room()
            self._report()
            self._tell({"room": made})
        elif "stop" in message:
            self._leaves = message["leave"]
            self._stopping.set()
        elif "request" in message:
            self._do(self._answer(message["request"], message["id"]))
        elif "answers" in message:
            question = self._questions.pop(message["id"], None)
            if question is not None and not question.done():
                question.set_result(message["answers"])
        elif "prepare" in message:
            self._preparing = self._do(self._prepare(message["prepare"], message["text"], message["force"]))
        elif "take" in message:
            self._taking = True
            self._do(self._take(message["take"]))
        elif "refused" in message:
            self._do(self._discard(self._preparing))
        elif "turned_away" in message:
            for counters, times in zip(self._serving.server.counters, message["turned_away"], strict=False):
                counters.connections_refused += times

    def _do(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _told_to_leave(self) -> None:
        """SIGTERM: whoever sends it to the parent too has it end, else another takes this one's place."""
        self._tell({"leaving": True})
        self._stopping.set()

    # Connections.

    def _serve(self, listener: int, connection: socket.socket | None) -> None:
        self._taken += 1
        if connection is None:
            _log.error("a connection is lost: there is no descriptor left for it")
        elif listener == ADMIN:
            self._do(self.serve_admin(connection)) if self.serve_admin else connection.close()
        else:
            self._serving.serve_connection(listener, connection)

    def _report_soon(self) -> None:
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_later(_REPORT_AFTER, self._report)

    def _report(self) -> None:
        self._reporting = False
        if not self._channel.closed:
            self._tell({"taken": self._taken, "open": len(self._serving.server.connections)})

    # Another configuration.

    async def _prepare(self, attempt: int, text: str, force: bool) -> None:
        errors: list[str] = []
        try:
            document = Document(self._serving.site.document.path, text, tomli.loads(text))
            self._prepared = await self._serving.prepare(document, force=force)
        except ConfigError as error:
            errors = [str(one) for one in ConfigErrors([error]).errors]
        except Exception as error:
            _log.error("a new configuration cannot be prepared, which is a bug of ours", exc_info=error)
            errors = [f"internal error: {type(error).__name__}: {error}"]
        self._tell({"prepared": attempt, "errors": errors})

    async def _take(self, attempt: int) -> None:
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        try:
            reloaded = await self._serving.take(prepared)
        except Exception:
            _log.critical("a configuration cannot be taken, which is a bug of ours", exc_info=True)
            self._told_to_leave()  # the next one starts from it
            return
        self._taking = False
        waiting, self._waiting = self._waiting, []
        for listener, connection in waiting:
            if not self._stopping.is_set():
                self._serve(listener, connection)
            elif connection is not None:
                connection.close()
        self._report()
        warnings = [str(warning) for warning in reloaded.warnings]
        took = {"took": attempt, "warnings": warnings, "changed": sorted(reloaded.changed)}
        self._tell({**took, **self.tables.message()})

    async def _discard(self, preparing: asyncio.Task[None] | None) -> None:
        self._serving.reloads.bad += 1
        if preparing is not None:
            preparing.cancel()
            await asyncio.wait([preparing])
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self._serving.discard(prepared)

    # Requests.

    async def _answer(self, request: dict[str, Any], number: int) -> None:
        try:
            answer = await self.answer(request) if self.answer is not None else {"error": "no control"}
        except Exception as error:
            _log.error("a request of the control raised, which is a bug of ours", exc_info=error)
            answer = {"error": f"internal error: {type(error).__name__}"}
        self._tell({"answer": answer, "id": number})

    async def ask_all(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The answers of every worker that serves, this one included; a reload is done by the parent, and
        has one."""
        number = next(self._numbers)
        question: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._questions[number] = question
        self._tell({"ask": request, "id": number})
        try:
            return await question
        finally:
            self._questions.pop(number, None)

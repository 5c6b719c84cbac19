"""How a worker ends: what it gives up, what is never skipped. In this process, beside a pretended parent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import attrs
import pytest

from tcpmapkit.config import AdminConfig
from tcpmapkit.serving import Serving
from tcpmapkit.workers.channel import Channel
from tcpmapkit.workers.process import _Admin
from tcpmapkit.workers.worker import Worker
from tests.running_workers import PATIENCE


async def nothing() -> None:
    pass


@attrs.define(eq=False)
class Parented:
    """A worker at work, and its parent's end."""

    channel: Channel
    serving: Mock
    running: asyncio.Task[int]

    async def told(self, kind: str) -> dict[str, Any]:
        """The next message of that kind."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for message, _ in self.channel.receive():
                    if kind in message:
                        return message
                await asyncio.sleep(0)


@pytest.fixture
async def worker() -> AsyncIterator[Parented]:
    ours, theirs = Channel.pair()
    serving = Mock()
    serving.site.maps.steps = []
    serving.site.document.path = Path("tcpmapkit.toml")
    serving.server.connections = MagicMock()
    serving.prepare, serving.discard, serving.stop = AsyncMock(), AsyncMock(), AsyncMock()
    one = Parented(ours, serving, asyncio.create_task(Worker(theirs, serving, nothing).run()))
    await one.told("ready")
    yield one
    ours.close()


async def test_what_was_prepared_and_not_taken_is_given_up_at_the_end(worker: Parented) -> None:
    worker.channel.send({"prepare": 1, "text": "", "force": False})
    assert (await worker.told("prepared"))["errors"] == []
    worker.channel.send({"stop": True, "leave": False})
    assert await asyncio.wait_for(worker.running, PATIENCE) == 0
    worker.serving.discard.assert_awaited_once_with(worker.serving.prepare.return_value)
    worker.serving.stop.assert_awaited_once_with()


async def test_the_server_is_stopped_whatever_becomes_of_the_connections_to_be_left(worker: Parented) -> None:
    worker.serving.server.connections.__iter__.side_effect = RuntimeError
    worker.channel.send({"stop": True, "leave": True})
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(worker.running, PATIENCE)
    worker.serving.stop.assert_awaited_once_with()
    with pytest.raises(EOFError):
        await worker.told("nothing more")


# The endpoint of [admin].


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Mock:
    one = Mock()
    one.start, one.stop = AsyncMock(), AsyncMock()
    monkeypatch.setattr("tcpmapkit.admin.endpoint.AdminEndpoint", Mock(return_value=one))
    return one


def admin() -> _Admin:
    return _Admin(Mock(spec=AdminConfig), Mock(spec=Worker), Mock(spec=Serving), 0)


async def test_an_admin_endpoint_that_cannot_start_closes_the_connection_and_is_tried_again(
    endpoint: Mock, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.start.side_effect = [OSError("not now"), None]
    one = admin()
    first, second = Mock(spec=socket.socket), Mock(spec=socket.socket)
    await one._serve(first)
    first.close.assert_called_once_with()
    assert "not now" in caplog.text
    await one._serve(second)
    endpoint.serve_connection.assert_called_once_with(second)
    await one.stop()
    endpoint.stop.assert_awaited_once_with()


async def test_an_admin_endpoint_that_fails_while_the_worker_ends_is_no_trouble(endpoint: Mock) -> None:
    started = asyncio.Event()

    async def start() -> None:
        await started.wait()
        raise OSError

    endpoint.start.side_effect = start
    one = admin()
    connection = Mock(spec=socket.socket)
    serving = asyncio.create_task(one._serve(connection))
    await asyncio.sleep(0)
    serving.cancel()  # as a worker does at its end
    await asyncio.wait([serving])
    connection.close.assert_called_once_with()
    stopping = asyncio.create_task(one.stop())
    started.set()
    await asyncio.wait_for(stopping, PATIENCE)

"""The map asked without a server, by the calls that a connection makes: ready replies, codec, map, codec."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from tcpmapkit.bench.passes import Pass
from tcpmapkit.cache import Answer
from tcpmapkit.config import Endpoint, ListenerConfig
from tcpmapkit.listener_service import new_service
from tcpmapkit.protocols.framing import Lookup

if TYPE_CHECKING:
    from tcpmapkit.maps import Map
    from tcpmapkit.service import Service

__all__ = ["ask_in_process", "service_of"]

#: Seconds after which the event loop has its turn: signals, and entries renewed in the background.
_TURN: Final = 0.005


def service_of(map: Map, protocol: str) -> Service:
    """A listener's service for this map alone."""
    nowhere = Endpoint("inet", "127.0.0.1", 0)
    listener = ListenerConfig(cast(Any, protocol), nowhere, map.name)
    return new_service(listener, [map], map.clock, lambda _: None, lambda _: None)


async def ask_in_process(service: Service, run: Pass, at_once: int) -> None:
    """Ask what the pass has to ask, so many keys at once where lookups wait."""
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(_ask(service, run))


async def _ask(service: Service, run: Pass) -> None:
    find, requests = service.find, run.requests
    codec = service.new_codec()
    loop = asyncio.get_running_loop()
    turn = run.begin() + _TURN
    while (number := run.next()) is not None:
        raw = requests[number]
        began = run.begin()
        reply = find(raw)
        source = "ready"
        if reply is None:
            request = codec.whole_request(raw)
            if request is None:
                codec.receive_data(raw)
                request = codec.next_request()
                assert request is not None, "a whole request was given"
            if isinstance(request, Lookup):
                came: asyncio.Future[Answer] = loop.create_future()
                answer = service.ask(request, came.set_result)
                if answer is None:
                    answer = await asyncio.shield(came)  # the map has it when this is cancelled
                reply = service.reply_to(answer, request, codec)
                source = "stale" if answer.stale else "cache" if answer.resolver == "cache" else "chain"
            else:
                reply, source = request.reply, "refused"
        run.take(number, began, reply, source)
        if began >= turn:
            turn = run.begin() + _TURN
            await asyncio.sleep(0)

"""Reading a request's body, and making a response. aiohttp is imported by whoever has a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tcpmapkit.admin.guard import LONGEST_BODY, Refused

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["json_response", "metrics_response", "read_body"]


async def read_body(request: web.BaseRequest) -> bytes:
    """The request's body. Raises `Refused` for one that is long, or not JSON."""
    too_long = Refused(413, f"the body has more than {LONGEST_BODY} bytes")
    if (request.content_length or 0) > LONGEST_BODY:
        raise too_long
    body = bytearray()
    while chunk := await request.content.readany():
        body += chunk
        if len(body) > LONGEST_BODY:
            raise too_long
    if body and request.content_type != "application/json":
        raise Refused(415, "the body is not application/json")
    return bytes(body)


async def metrics_response(answer: Mapping[str, Any]) -> web.Response:
    """The metrics of a snapshot, as Prometheus reads them."""
    from aiohttp import web

    from tcpmapkit.metrics.text import CONTENT_TYPE, exposition

    # In a thread: a site with many maps has many series.
    text = await asyncio.to_thread(exposition, answer["snapshot"])
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def json_response(
    status: int, answer: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON object."""
    from aiohttp import web

    body = json.dumps(answer).encode() + b"\n"
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)

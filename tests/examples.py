"""For the tests of examples/: an example served as it stands, its sources on the loopback, asked by Postfix.

What is changed in the copy that is served: the addresses of the API and of the name servers, and the
port, here and in main.cf.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

import attrs
import dns.message
from aiohttp import web

from tcpmapkit.maps import Map
from tcpmapkit.protocols.policy import encode_request
from tcpmapkit.query import Found, NotFound
from tcpmapkit.server import Server
from tcpmapkit.site import open_site
from tcpmapkit.testing import FakeClock
from tests.documents import TOP
from tests.loopback_dns import SOA, Reply, loopback_dns, reply
from tests.loopback_http import loopback_api
from tests.real_postfix import Postfix, settle

EXAMPLES = sorted(file.parent for file in TOP.glob("examples/*/main.cf"))

_ENDPOINT = "127.0.0.1:4242"
_API = re.compile(r"https://\w+\.example\.com\b")

#: What `Example.ask` gives for a lookup that fails.
FAILED = object()


@attrs.define(eq=False)
class Sources:
    """What the sources of an example know: JSON by request target, A records by name.

    `down`: the API says 503 and the DNS SERVFAIL to everything. `asked` is what arrived.
    """

    api: Mapping[str, str] = attrs.Factory(dict)
    zone: Mapping[str, str] = attrs.Factory(dict)
    down: bool = False
    asked: list[str] = attrs.Factory(list)

    def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.raw_path)
        if self.down:
            return web.Response(status=503)
        body = self.api.get(request.raw_path)
        if body is None:
            return web.Response(status=404)
        return web.Response(text=body, content_type="application/json")

    def resolve(self, request: dns.message.Message, tcp: bool) -> Reply:
        name = request.question[0].name.to_text(omit_final_dot=True)
        self.asked.append(name)
        if self.down:
            return reply(request, rcode="SERVFAIL")
        if name in self.zone:
            return reply(request, [f"{name}. 300 IN A {self.zone[name]}"])
        return reply(request, authority=[SOA], rcode="NXDOMAIN")


@asynccontextmanager
async def with_sources(name: str, directory: Path, sources: Sources) -> AsyncIterator[Path]:
    """A copy of an example, its configuration pointed to `sources`; the copy's directory."""
    place = directory / name
    shutil.copytree(TOP / "examples" / name, place)
    for script in place.glob("*.sql"):
        with closing(sqlite3.connect(script.with_suffix(".sqlite"))) as database:
            database.executescript(script.read_text())
    file = place / "tcpmapkit.toml"
    text = file.read_text()
    async with loopback_api(sources.answer) as api, loopback_dns(sources.resolve) as name_server:
        text = _API.sub(api.url, text)
        text = re.sub(r'(?m)^type = "dns".*$', rf'\g<0>\nnameservers = ["{name_server.nameserver}"]', text)
        file.write_text(text.replace(_ENDPOINT, "127.0.0.1:0"))
        yield place


@attrs.define(eq=False)
class Example:
    """An example that is served. `parameters` are those of its main.cf, as postconf(1) understands it."""

    directory: Path
    maps: Mapping[str, Map]
    sources: Sources
    clock: FakeClock | None
    server: Server
    parameters: Mapping[str, str] = attrs.Factory(dict)
    postfix: Postfix | None = None

    async def ask(self, parameter: str, *keys: str) -> list[object]:
        """What Postfix gets for each key from the table of a parameter: a value, None, or `FAILED`."""
        assert self.postfix is not None
        table = self.parameters[parameter]
        # At the same time, because postmap(1) sleeps for a second before it dies of a failure.
        done = await asyncio.gather(*(self.postfix.apostmap("-q", key, table) for key in keys))
        return [
            one.stdout.decode().removesuffix("\n") if one.returncode == 0 else FAILED if one.stderr else None
            for one in done
        ]

    async def ask_all(self, parameter: str, keys: Iterable[str]) -> dict[str, str | None]:
        """What Postfix gets for many keys, none of which may fail."""
        assert self.postfix is not None
        return await self.postfix.aask(self.parameters[parameter], keys)

    @property
    def port(self) -> int:
        return int(self.server.addresses[0][0][1])

    async def stop_serving(self) -> None:
        """From now on connections are refused."""
        await self.server.stop()

    async def request(self, **attributes: str) -> str:
        """The reply to a policy request, "" when the connection is closed instead."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            asked = {"request": "smtpd_access_policy", "protocol_state": "RCPT", **attributes}
            writer.write(encode_request(asked))
            async with asyncio.timeout(10):
                return (await reader.readuntil(b"\n\n")).decode().strip()
        except asyncio.IncompleteReadError as error:
            return error.partial.decode()
        finally:
            writer.close()

    async def outcomes(self, name: str, *keys: str) -> list[object]:
        """As `ask`, of a map that nobody but the other maps asks."""
        found = [await self.maps[name].lookup(self.maps[name].query(key)) for key in keys]
        return [
            one.value if isinstance(one, Found) else None if isinstance(one, NotFound) else FAILED
            for one in found
        ]

    def fail_after(self, seconds: float) -> None:
        """So many seconds later, with all sources down."""
        assert self.clock is not None
        self.clock.advance(seconds)
        self.sources.down = True


@asynccontextmanager
async def served(
    name: str, directory: Path, sources: Sources, postfix: Postfix, clock: FakeClock | None = None
) -> AsyncIterator[Example]:
    """Serve an example in this loop; `clock` is the real one by default."""
    now: Callable[[], float] = clock or time.monotonic
    async with with_sources(name, directory, sources) as place:
        site = open_site(place / "tcpmapkit.toml", clock=now)
        listeners = [(one, site.served_by(one)) for one in site.config.listeners]
        server = Server(site.config.server, listeners, clock=now)
        server.bind()
        try:
            await site.start()
            await server.start()
            example = Example(place, site.maps.maps, sources, clock, server)
            read_main_cf(example, postfix)
            yield example
        finally:
            await server.stop()
            await site.maps.stop()


def read_main_cf(example: Example, postfix: Postfix) -> None:
    """Put the example's lines below the private main.cf, and take what the real postconf reads there."""
    lines = (example.directory / "main.cf").read_text().replace(_ENDPOINT, f"127.0.0.1:{example.port}")
    configuration = example.directory / "postfix"
    shutil.copytree(postfix.configuration, configuration)
    main_cf = configuration / "main.cf"
    with main_cf.open("a") as file:
        file.write(lines)
    settle(main_cf)
    (configuration / "master.cf").touch()  # postconf looks there for who uses an unknown parameter
    example.postfix = attrs.evolve(postfix, configuration=configuration)
    names = re.findall(r"(?m)^(\w+) =", lines)
    told = example.postfix.run("postconf", *names)
    assert not told.stderr, told.stderr.decode()
    example.parameters = dict(line.split(" = ", 1) for line in told.stdout.decode().splitlines())
    assert list(example.parameters) == names

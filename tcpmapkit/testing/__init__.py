"""For the tests of plugins: ask a resolver as the server would, with fakes, a clock and a client.

This is public API. Nothing here needs a test framework; the examples assume an ``async def`` test:

    async def test_shouting():
        assert await ask(Shout(), "Joe@example.org") == Found("JOE@EXAMPLE.ORG!")

Wherever *steps* are taken, one is a resolver object, the text of one ``[[maps.X.resolvers]]`` table
as an administrator writes it, or either with options of the step (`step`). They are structured,
built and started by the server's own code, so folding, special keys, templates, time-outs and
exceptions behave as they do there.
"""

from tcpmapkit.testing.asking import ask, ask_now, query, serve, started, started_file, toml_blocks
from tcpmapkit.testing.building import Step, step
from tcpmapkit.testing.client import Client, PlainClient
from tcpmapkit.testing.fakes import FakeClock, FakeResolver, FakeWaitingResolver

__all__ = [
    "Client",
    "FakeClock",
    "FakeResolver",
    "FakeWaitingResolver",
    "PlainClient",
    "Step",
    "ask",
    "ask_now",
    "query",
    "serve",
    "started",
    "started_file",
    "step",
    "toml_blocks",
]

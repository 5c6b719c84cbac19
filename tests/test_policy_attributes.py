"""What a chain reads of a policy request, and the cache that goes by it: nobody gets another's verdict."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import attrs
import pytest
from aiohttp import web

from tcpmapkit import Chain, ConfigError, Found, Map, hookimpl
from tcpmapkit.build import build_maps
from tcpmapkit.built_maps import BuiltMaps
from tcpmapkit.config import read_document, structure
from tcpmapkit.maps import Map as AskedMap
from tcpmapkit.plugin_sources import Origin
from tcpmapkit.plugins import load_plugins
from tcpmapkit.testing import ask_now, started_file
from tests.loopback_http import loopback_api

TemplateText = Annotated[Any, "template"]


@attrs.define(eq=False)
class Source:
    """Answers its key and one attribute, and counts how often it is asked."""

    name: str = ""
    asked: list[str] = attrs.Factory(list)

    def resolve(self, query: Any) -> Any:
        self.asked.append(query.key)
        return Found(f"<{query.key}>{query.attributes.get(self.name, '')}")


class SlowSource(Source):
    async def resolve(self, query: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().resolve(query)


@attrs.define(eq=False)
class Inner:
    text: TemplateText = "{key}"
    name: Annotated[str, "attribute"] = "size"
    map: Annotated[Map | None, "negatable"] = None


@attrs.define(eq=False)
class Outer:
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    listed: list[Inner] = attrs.Factory(list)
    named: Mapping[str, Inner] = attrs.Factory(dict)
    names: Annotated[tuple[str, ...], "attribute"] = ()
    json: Annotated[Any, "template-json"] = None
    chain: Chain | None = None
    made: Annotated[tuple[str, ...], "attribute"] = attrs.Factory(tuple)

    def resolve(self, query: Any) -> Any:
        texts = [
            one.text(query) for one in (self.inner, *self.many, *self.listed, *self.named.values()) if one
        ]
        return Found(",".join(map(str, texts)) or "nothing")


@attrs.define(eq=False)
class Reads:
    names: Annotated[tuple[str, ...], "attribute"] = attrs.Factory(lambda: ("helo_name",))

    def resolve(self, query: Any) -> Any:
        return None


class Plugin(ModuleType):
    """Offers the types of this file; `sources` are those that were made."""

    def __init__(self) -> None:
        super().__init__("sources_of_attributes")
        self.sources: list[Source] = []

        def made(source: Source) -> Source:
            self.sources.append(source)
            return source

        @hookimpl
        def register_resolvers(register: Any) -> None:
            register("source", lambda: made(Source()))
            register("slow_source", lambda: made(SlowSource()))
            register("reads_x", lambda: made(Source("x")), attributes=("x",))
            register("slowly_reads_x", lambda: made(SlowSource("x")), attributes="x")
            register("reads_any", lambda: made(Source("sender")), attributes="*")
            register("outer", Outer)
            register("outer_of_x", Outer, attributes=["x"])
            register("outer_of_any", Outer, attributes="*")
            register("reads", Reads)

        self.register_resolvers = register_resolvers

    @property
    def asked(self) -> int:
        return sum(len(source.asked) for source in self.sources)


def build(tmp_path: Path, text: str) -> tuple[BuiltMaps, list[ConfigError]]:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(text)
    loaded = load_plugins()
    loaded.load(Origin("sources", "sources", "1", "sources"), Plugin)
    assert not loaded.broken
    config, errors = structure(read_document(file), loaded.types)
    built, more = build_maps(config, loaded)
    return built, [*errors, *more]


OTHERS = """
[maps.sizes]
resolvers = [{ type = "source", key = "{size}" }]
[maps.plain]
resolvers = [{ type = "source" }]
[maps.unread]
resolvers = [{ type = "reads_any" }]
"""


@pytest.mark.parametrize(
    ("step", "attributes"),
    [
        ('type = "source"', ""),
        ('type = "source", key = "{sender}/{recipient}/{user}"', "recipient sender"),
        ('type = "source", result = "{value} {helo_name}"', "helo_name"),
        ('type = "source", key = "{{sender}}"', ""),
        ('type = "http", url = "http://192.0.2.1/{sender}/{key}"', "sender"),
        (
            'type = "http", url = "http://192.0.2.1/", params = { a = "{sender}", b = "{size}" }',
            "sender size",
        ),
        ('type = "http", url = "http://192.0.2.1/", headers = { a = "{instance}" }', "instance"),
        ('type = "http", url = "http://192.0.2.1/", json = { a = [{ b = "{stress}" }] }', "stress"),
        ('type = "dns", query = "{client_name}"', "client_name"),
        ('type = "reads_x"', "x"),
        ('type = "reads_x", key = "{sender}"', "sender x"),
        ('type = "reads"', "helo_name"),
        ('type = "reads", names = ["sender", "of_the_future"]', "of_the_future sender"),
        ('type = "reads_any", key = "{sender}"', None),
        ('type = "map", map = "sizes"', "size"),
        ('type = "map", map = "sizes", result = "{value}{stress}"', "size stress"),
        ('type = "map", map = "unread"', None),
        ('type = "chain", resolvers = [{ type = "reads_x" }, { type = "map", map = "sizes" }]', "size x"),
        ('type = "pipe", resolvers = [{ type = "source" }, { type = "source", key = "{sender}" }]', "sender"),
        ('type = "union", key = "{stress}", resolvers = [{ type = "reads_x" }]', "stress x"),
        ('type = "union", resolvers = [{ type = "reads_any" }]', None),
        ('type = "rules", rules = [{ action = "OK" }]', ""),
        (
            'type = "rules", rules = [{ action = "OK", when = [{ attribute = "sender", equals = "x" }] },'
            ' { action = "NO", when = [{ attribute = "future", compare = "> 1" },'
            ' { attribute = "recipient", map = "!sizes" }] }]',
            "future recipient sender size",
        ),
        (
            'type = "rules", rules = [{ action = "OK", when = [{ attribute = "sender", map = "unread" }] }]',
            None,
        ),
        ('type = "outer"', ""),
        ('type = "outer", inner = { text = "{sender}" }', "sender size"),
        ('type = "outer", many = [{ name = "a" }, { name = "b", text = "{stress}" }]', "a b stress"),
        ('type = "outer", listed = [{ name = "a" }, { name = "b", map = "sizes" }]', "a b size"),
        ('type = "outer", named = { one = { name = "a" }, two = { text = "{stress}" } }', "a size stress"),
        ('type = "outer", names = ["a", "b"], json = ["{sender}"], made = ["c"]', "a b c sender"),
        ('type = "outer", inner = { name = "a" }, chain = [{ type = "reads_x" }]', "a x"),
        ('type = "outer_of_x", chain = [{ type = "source", key = "{sender}" }]', "sender x"),
        ('type = "outer_of_any", inner = { name = "a", map = "plain" }', None),
        ('type = "outer", inner = { name = "a", map = "!unread" }', None),
    ],
)
def test_a_chain_reads_what_its_steps_templates_and_options_name(
    tmp_path: Path, step: str, attributes: str | None
) -> None:
    built, errors = build(tmp_path, f"[maps.m]\nresolvers = [{{ {step} }}]\n{OTHERS}")
    assert errors == []
    assert built.maps["m"].current.attributes == (None if attributes is None else tuple(attributes.split()))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ('key = "{client_address}"', "192.0.2.1"),
        ('key = "{client_address}/{sender}"', "192.0.2.1/s"),
        ('key = "{client_address}", special_keys = false', None),
        ('key = "{key}{client_address}"', None),
        ("", None),
        ("special_keys = true", None),
    ],
)
async def test_an_empty_key_keeps_no_step_from_asking_for_an_attribute(
    options: str, found: str | None
) -> None:
    text = f"""[maps.m]
resolvers = [{{ type = "python", callable = "builtins:str", inline = true, {options} }}]
"""
    async with started_file(text) as maps:
        question = maps["m"].query("", "policy", {"client_address": "192.0.2.1", "sender": "s"})
        outcome = await maps["m"].lookup(question)
        assert (outcome.value if isinstance(outcome, Found) else None) == found


def test_the_tables_of_an_option_are_handed_over_finished(tmp_path: Path) -> None:
    text = """
[maps.m]
[[maps.m.resolvers]]
type = "outer"
inner = { text = "in {key}" }
many = [{ name = "a" }, { text = "{domain}", map = "plain" }, { map = "!plain" }]
listed = [{ text = "{sender}" }]
named = { x = { text = "{user}" } }
"""
    built, errors = build(tmp_path, text + OTHERS)
    assert errors == []
    (resolver,) = [one.resolver for one in built.steps if isinstance(one.resolver, Outer)]
    answer = ask_now(built.maps["m"], "Joe@example.org", attributes={"sender": "S"})
    assert answer == Found("in joe@example.org,joe@example.org,example.org,joe@example.org,S,joe")
    maps: list[Any] = [one.map for one in resolver.many]
    assert maps[0] is None
    assert [type(one).__name__ for one in maps[1:]] == ["InlineMap", "InlineComplement"]
    assert type(resolver.listed) is list


@pytest.mark.parametrize(
    ("step", "paths"),
    [
        (
            'inner = { map = "no" }, many = [{}, { map = "!none" }], named = { a = { map = "gone" } }',
            [("inner", "map"), ("many", 1, "map"), ("named", "a", "map")],
        ),
        ('listed = [{ map = "m" }]', [("listed", 0, "map")]),
    ],
)
def test_a_wrong_map_within_the_tables_of_an_option_is_told_with_its_whole_path(
    tmp_path: Path, step: str, paths: list[tuple[Any, ...]]
) -> None:
    _, errors = build(tmp_path, f'[maps.m]\nresolvers = [{{ type = "outer", {step} }}]\n')
    assert [error.path for error in errors] == [("maps", "m", "resolvers", 0, *path) for path in paths]


# The cache.

LISTENER = '[[listeners]]\nprotocol = "policy"\nendpoint = "inet:127.0.0.1:0"\nmap = "m"\n'


def config(resolvers: str, cache: str, more: str = "") -> str:
    return f"{LISTENER}[maps.m]\n{cache}\nresolvers = [{resolvers}]\n{more.replace('CACHE', cache)}"


#: Chains that read a second attribute, and the maps that they refer to; the sources answer slowly or at once.
CHAINS = {
    "key template": (
        '{ type = "SOURCE", key = "{key}/{sender}" }, { type = "SOURCE", key = "{recipient}" }',
        "",
    ),
    "result template": ('{ type = "SOURCE", result = "{value} {sender} {recipient}" }', ""),
    "http params": ('{ type = "http", url = "API/v", params = { s = "{sender}", r = "{recipient}" } }', ""),
    "rules before a source": (
        '{ type = "rules", rules = [{ action = "REJECT", when = ['
        '{ attribute = "sender", regex = "a" }, { attribute = "recipient", regex = "^[^a]?$" }] }] },'
        '{ type = "SOURCE" }',
        "",
    ),
    "rules that ask a map": (
        '{ type = "rules", rules = ['
        '{ action = "REJECT", when = [{ attribute = "sender", map = "inner" }] },'
        '{ action = "OK", when = [{ attribute = "recipient", map = "!inner" }] }] }',
        '[maps.inner]\nCACHE\nresolvers = [{ type = "SOURCE", domains = ["example.org"] }]\n',
    ),
    "map step": (
        '{ type = "map", map = "inner" }',
        "[maps.inner]\nCACHE\n"
        'resolvers = [{ type = "SOURCE", key = "{sender}", result = "{value} {recipient}" }]\n',
    ),
    "map step through another": (
        '{ type = "chain", resolvers = [{ type = "map", map = "middle" }] }',
        "[maps.middle]\nCACHE\n"
        'resolvers = [{ type = "union", resolvers = [{ type = "map", map = "inner" }] }]\n'
        '[maps.inner]\nCACHE\nresolvers = [{ type = "READS_X" }]\n',
    ),
    "type with attributes": ('{ type = "READS_X" }', ""),
    "inner step": ('{ type = "pipe", resolvers = [{ type = "READS_X" }, { type = "SOURCE" }] }', ""),
}

#: Values that a key made by joining, folding or cutting would take for one another.
VALUES = ("", "a", "A", "b", "a/b", "a b", "a@example.org", "A@EXAMPLE.org", "('a',)", "{key}", "ß", "ss")


def requests(seed: int, count: int = 150) -> list[tuple[str, dict[str, str]]]:
    """Keys and attributes, many of them alike."""
    chosen = random.Random(seed)
    keys = ("192.0.2.1", "client.example.org", "Client.example.ORG", "192.0.2.1/a")
    made = []
    for _ in range(count):
        attributes = {
            name: chosen.choice(VALUES)
            for name in ("sender", "recipient", "x", "instance")
            if chosen.random() < 0.8
        }
        made.append((chosen.choice(keys), attributes))
    return made


def echo(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response(f"verdict on {request.raw_path}")


@asynccontextmanager
async def policy_map(name: str, cache: str, slow: bool, api: str) -> AsyncIterator[tuple[AskedMap, Plugin]]:
    resolvers, more = CHAINS[name]
    text = config(resolvers, cache, more).replace("API", api)
    text = text.replace("SOURCE", "slow_source" if slow else "source")
    text = text.replace("READS_X", "slowly_reads_x" if slow else "reads_x")
    plugin = Plugin()
    async with started_file(text, plugins=[plugin]) as maps:
        yield maps["m"], plugin


async def answers(asked: AskedMap, questions: list[tuple[str, dict[str, str]]], at_once: int) -> list[Any]:
    """The values, several asked at the same time; None for a key that is not there."""
    outcomes: list[Any] = []
    for begin in range(0, len(questions), at_once):
        some = questions[begin : begin + at_once]
        queries = [asked.query(key, "policy", attributes) for key, attributes in some]
        outcomes += await asyncio.gather(*(asked.lookup(query) for query in queries))
    return [getattr(one, "value", one if hasattr(one, "reason") else None) for one in outcomes]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("slow", [False, True], ids=["inline", "waiting"])
async def test_a_cached_policy_map_gives_nobody_anothers_verdict(name: str, slow: bool) -> None:
    questions = requests(seed=len(name) * 2 + slow)
    async with loopback_api(echo) as api:
        async with policy_map(name, "cache = false", slow, api.url) as (asked, _):
            expected = await answers(asked, questions, 1)
        async with policy_map(name, 'cache = { ttl = "5m", negative_ttl = "5m" }', slow, api.url) as (
            asked,
            plugin,
        ):
            before = len(api.received)
            assert asked.options is not None
            for at_once in (len(questions), 1, 10):
                assert await answers(asked, questions, at_once) == expected
            times_asked = plugin.asked + len(api.received) - before
    # It was a cache, and one that a key without the attributes would have shown.
    assert 0 < times_asked < len(questions)
    verdicts: dict[str, set[Any]] = {}
    for (key, _), answer in zip(questions, expected, strict=True):
        verdicts.setdefault(key, set()).add(answer)
    assert all(len(each) > 1 for each in verdicts.values())


@pytest.mark.parametrize("cache", ["cache = {}", 'cache = { ttl = "1s" }'])
@pytest.mark.parametrize(
    "resolvers",
    [
        '{ type = "reads_any" }',
        '{ type = "source" }, { type = "reads_any" }',
        '{ type = "union", resolvers = [{ type = "reads_any" }] }',
        '{ type = "map", map = "unread" }',
        '{ type = "rules", rules = [{ action = "OK", when = [{ attribute = "sender", map = "!unread" }] }] }',
    ],
)
def test_a_map_that_may_read_any_attribute_cannot_be_cached(
    tmp_path: Path, cache: str, resolvers: str
) -> None:
    (error,) = build(tmp_path, config(resolvers, cache, OTHERS))[1]
    assert error.path == ("maps", "m", "cache")
    assert "may read any attribute" in error.message


@pytest.mark.parametrize("cache", ["", "cache = false"])
async def test_a_map_that_may_read_any_attribute_is_served_without_a_cache(cache: str) -> None:
    plugin = Plugin()
    async with started_file(config('{ type = "reads_any" }', cache), plugins=[plugin]) as maps:
        asked = maps["m"]
        assert asked.options is None
        questions = [("k", {"sender": sender}) for sender in ("a", "b", "a")]
        assert await answers(asked, questions, 3) == ["<k>a", "<k>b", "<k>a"]
        assert plugin.asked == 3


async def test_an_attribute_in_a_key_template_is_folded_as_a_key_is() -> None:
    steps = '{ type = "static", key = "{sender}", entries = { "Joe@example.org" = "OK" } }'
    async with started_file(config(steps, "")) as maps:
        questions = [("k", {"sender": sender}) for sender in ("JOE@example.org", "joe@example.net")]
        assert await answers(maps["m"], questions, 1) == ["OK", None]

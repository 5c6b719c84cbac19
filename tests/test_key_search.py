"""A map with a search order: which keys its chain is asked, what ends the search, what the cache keeps."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tcpmapkit import Found, Miss, NotFound, PermFail, TempFail
from tcpmapkit.cache import Answer, CacheOptions
from tcpmapkit.chain import compile_chain
from tcpmapkit.generation import Generation
from tcpmapkit.key_search import KeyTrace, search_with
from tcpmapkit.keys import fold
from tcpmapkit.maps import Map
from tcpmapkit.query import Query
from tcpmapkit.search import Search, SearchOrder
from tcpmapkit.step import Step
from tcpmapkit.testing import FakeClock, started_file
from tests.chains import Says, SaysLater, inline, turns, waiting

CACHE = CacheOptions(jitter=0.0)
DOWN = TempFail("down")
KEY = "joe+x@example.org"
WITHOUT = "joe@example.org"
AT = "@example.org"


def table(**entries: Any) -> Any:
    return lambda query: entries.get(query.key)


def searching(
    *steps: Step,
    clock: FakeClock,
    search: Search = "virtual",
    cache: CacheOptions | None = None,
    in_memory: bool = False,
) -> Map:
    order = SearchOrder(search)
    generation = Generation(
        search_with(compile_chain(steps), order.keys),
        rewriting=order if order.rewrites else None,
        in_memory=in_memory,
    )
    return Map("test", generation, clock=clock, cache=cache)


async def answer(map: Map, key: str = KEY, **about: Any) -> Any:
    return await map.lookup(map.query(key, **about))


@pytest.fixture(params=[inline, waiting])
def step(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_the_whole_chain_is_walked_for_one_key_before_the_next_key(step: Any) -> None:
    asked: list[tuple[str, str]] = []

    def note(name: str) -> Any:
        def resolve(query: Query) -> None:
            asked.append((name, query.key))

        return step(resolve, name=name)

    assert await answer(searching(note("one"), note("two"), clock=FakeClock())) == NotFound()
    assert asked == [(name, key) for key in (KEY, WITHOUT, AT) for name in ("one", "two")]


@pytest.mark.parametrize("unknown", [None, Miss(), NotFound(), Miss(9.0)])
async def test_a_key_that_is_not_found_leads_to_the_next(step: Any, unknown: Any) -> None:
    source = step(lambda query: Found("a@example.net") if query.key == AT else unknown)
    assert (await answer(searching(source, clock=FakeClock()))).value == "a@example.net"


@pytest.mark.parametrize("failure", [DOWN, PermFail("broken")])
@pytest.mark.parametrize("at", [KEY, WITHOUT, AT])
async def test_a_failure_ends_the_search(step: Any, failure: Any, at: str) -> None:
    source = step(lambda query: failure if query.key == at else None)
    assert await answer(searching(source, clock=FakeClock())) == failure
    assert source.resolver.keys == [KEY, WITHOUT, AT][: [KEY, WITHOUT, AT].index(at) + 1]


async def test_an_outage_for_the_full_key_is_not_answered_by_the_catch_all(step: Any) -> None:
    steps = [
        step(lambda query: DOWN if query.key == KEY else None, name="api", on_error="next"),
        step(lambda query: Found("all@example.net") if query.key == AT else None, name="table"),
    ]
    assert await answer(searching(*steps, clock=FakeClock())) == DOWN


async def test_an_answer_lives_as_long_as_the_shortest_lived_of_its_keys(step: Any) -> None:
    lives = {KEY: Miss(30.0), WITHOUT: NotFound(10.0), AT: Found("a@example.net", 20.0)}
    source = step(lambda query: lives[query.key])
    assert (await answer(searching(source, clock=FakeClock()))).ttl == 10.0


async def test_what_is_found_nowhere_is_kept_for_the_shortest_time_given(step: Any) -> None:
    lives = {KEY: Miss(30.0), WITHOUT: None, AT: NotFound(20.0)}
    assert await answer(searching(step(lambda query: lives[query.key]), clock=FakeClock())) == NotFound(20.0)


async def test_every_key_but_the_first_is_partial(step: Any) -> None:
    every, full = step(name="every"), step(name="full", partial_keys=False)
    await answer(searching(every, full, clock=FakeClock()))
    assert [query.partial for query in every.resolver.queries] == [False, True, True]
    assert full.resolver.keys == [KEY]


async def test_a_partial_query_of_another_map_stays_partial_for_every_key(step: Any) -> None:
    source = step(partial_keys=False)
    map = searching(source, clock=FakeClock())
    question = map.query(KEY)
    question.partial = True
    assert await map.lookup(question) == NotFound()
    assert source.resolver.keys == []


async def test_a_partial_and_a_full_query_for_one_key_do_not_share_an_answer() -> None:
    source = waiting(lambda query: Found("full"), partial_keys=False)
    map = searching(source, clock=FakeClock(), search="access", cache=CACHE)
    question = map.query("example.org")
    question.partial = True
    assert await map.lookup(question) == NotFound(30.0)
    assert (await answer(map, "example.org")).value == "full"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("Joe+Lists@Example.org", "JOE+Lists@example.net"),
        ("joe+lists@example.org", "JOE+lists@example.net"),
        ("Ann+B@sub.example.org", "Ann+B@example.com"),
        ("ANN+b@SUB.example.org", "ANN+b@example.com"),
        ("joe@example.org", "JOE@example.net"),
    ],
)
async def test_nobody_gets_the_capitals_of_another(step: Any, asked: str, expected: str) -> None:
    entries = {WITHOUT: Found("JOE@example.net"), "@sub.example.org": Found("@example.com")}
    source = step(lambda query: entries.get(query.key), fold=fold)
    map = searching(source, clock=FakeClock(), cache=CACHE)
    for other in ("JOE+LISTS@EXAMPLE.ORG", "aNN+B@sub.example.org", "JOE@EXAMPLE.ORG"):
        await answer(map, other)
    before = len(source.resolver.keys)
    assert (await answer(map, asked)).value == expected
    assert len(source.resolver.keys) == before, "the cache has it, by the folded key"


async def test_those_who_wait_for_one_lookup_each_get_their_own_capitals() -> None:
    later = SaysLater(lambda query: Found("@example.com") if query.key == AT else None)
    later.gate.clear()
    map = searching(waiting(later, fold=fold), clock=FakeClock(), cache=CACHE)
    told: dict[str, Any] = {}

    def listen(key: str) -> Any:
        return lambda answer: told.setdefault(key, answer.outcome.value)

    for key in ("Joe@example.org", "JOE@example.org", "joe@Example.Org"):
        assert map.ask(map.query(key), listen(key)) is None
    later.gate.set()
    await turns(60)
    assert told == {key: f"{key.partition('@')[0]}@example.com" for key in told}
    assert len(told) == 3
    assert len(later.keys) == 2, "one search for all of them"


async def test_a_stale_answer_is_rewritten_for_who_asks() -> None:
    clock = FakeClock()
    source = waiting(lambda query: Found("@example.com") if query.key == AT else None, fold=fold)
    map = searching(source, clock=clock, cache=attrs.evolve(CACHE, stale=3600.0))
    assert (await answer(map, "joe@example.org")).value == "joe@example.com"
    clock.now += 600
    source.resolver.answer = DOWN
    assert await answer(map, "JOE@example.org") == Found("JOE@example.com", 0.0)


def test_ready_replies_hold_the_rewritten_text_and_its_lifetime() -> None:
    clock = FakeClock()
    source = inline(lambda query: Found("@example.com") if query.key == AT else None, fold=fold)
    for in_memory in (False, True):
        map = searching(source, clock=clock, cache=CACHE, in_memory=in_memory)
        for key in ("Joe@example.org", "joe@example.org"):
            got = map.ask(map.query(key), lambda answer: None)
            assert isinstance(got, Answer)
            assert isinstance(got.outcome, Found)
            assert got.outcome.value == key.replace("org", "com")
            assert got.expires == (float("inf") if in_memory else clock.now + 300)


async def test_what_would_be_too_long_when_rewritten_is_a_failure_and_not_kept_ready(step: Any) -> None:
    many = ",".join(f"u{number}@example.net" for number in range(3000))
    source = step(lambda query: Found(many) if query.key == "joe@example.org" else None)
    map = searching(source, clock=FakeClock(), cache=CACHE)
    assert isinstance(await answer(map, f"joe+{'x' * 5000}@example.org"), TempFail)
    assert isinstance(await answer(map, "joe+x@example.org"), Found)


async def test_a_search_with_steps_in_memory_in_front_needs_no_task_for_what_they_have() -> None:
    front = inline(lambda query: Found("here") if query.key == WITHOUT else None)
    behind = waiting(SaysLater())
    map = searching(front, behind, clock=FakeClock(), search="address")
    got = map.ask(map.query(WITHOUT), lambda answer: None)
    assert got is not None
    assert got.outcome == Found("here")
    assert behind.resolver.keys == []


async def test_the_trace_has_every_key_before_the_steps_that_saw_it(step: Any) -> None:
    map = searching(step(table(**{AT: Found("a@example.net")})), clock=FakeClock())
    question = map.query(KEY)
    question.trace = []
    await map.lookup(question)
    shown = [
        (one.key.key, one.key.partial) if isinstance(one, KeyTrace) else one.key for one in question.trace
    ]
    assert shown == [(KEY, False), KEY, (WITHOUT, True), WITHOUT, (AT, True), AT]


async def test_special_keys_are_not_taken_apart() -> None:
    source = Says()
    map = searching(inline(source), clock=FakeClock(), search="transport")
    for key in ("*", "<>", '""', ""):
        assert await answer(map, key) == NotFound()
    assert source.keys == ["*", "<>", '""', ""]


CONFIGURATION = """
[maps.inner]
search = "virtual"
[[maps.inner.resolvers]]
type = "static"
entries = { "@example.com" = "@example.net", "joe@example.org" = "joe@example.net" }

[maps.outer]
[[maps.outer.resolvers]]
type = "map"
map = "inner"

[maps.domains]
search = "transport"
[[maps.domains.resolvers]]
type = "static"
value = "relay:[192.0.2.1]"
domains = ["example.org"]
[[maps.domains.resolvers]]
type = "regex"
rules = [{ pattern = "^example.com$", result = "never for a partial key" }]

[maps.idna]
idna = "alabel"
search = "domain"
[[maps.idna.resolvers]]
type = "static"
entries = { "xn--strae-oqa.example" = "OK", "strasse.example" = "other" }

[maps.for_domains]
idna = "alabel"
[[maps.for_domains.resolvers]]
type = "static"
value = "for it"
domains = ["b\u00fccher.example", "Stra\u00dfe.example"]

[maps.for_subdomains]
search = "transport"
[[maps.for_subdomains.resolvers]]
type = "static"
entries = { ".example.org" = "smtp:x", "example.org" = "no" }
domains = [".example.org"]

[maps.local]
idna = "alabel"
search = "address"
local_domains = ["b\u00fccher.example"]
[[maps.local.resolvers]]
type = "static"
entries = { joe = "found" }
"""


@pytest.mark.parametrize(
    ("map", "key", "expected"),
    [
        ("outer", "Joe+x@example.org", "joe+x@example.net"),
        ("outer", "Any+X@example.com", "Any+X@example.net"),
        ("domains", "joe@sub.example.org", "relay:[192.0.2.1]"),
        ("domains", "joe@example.org", "relay:[192.0.2.1]"),
        ("domains", "example.org", "relay:[192.0.2.1]"),
        ("domains", "joe@example.com", None),
        ("domains", "example.com", "never for a partial key"),
        ("idna", "stra\u00dfe.example", "OK"),
        ("idna", "a.STRA\u00dfE.example", "OK"),
        ("idna", "strasse.example", "other"),
        ("local", "joe@B\u00dccher.example", "found"),
        ("for_domains", "joe@B\u00dccher.example", "for it"),
        ("for_domains", "joe@a.xn--bcher-kva.example", None),
        ("for_domains", "joe@STRA\u00dfE.example", "for it"),
        ("for_domains", "joe@strasse.example", None),
        ("for_subdomains", "joe@a.example.org", "smtp:x"),
        ("for_subdomains", "joe@example.org", None),
    ],
)
async def test_a_configuration_searches_as_it_says(map: str, key: str, expected: str | None) -> None:
    async with started_file(CONFIGURATION) as maps:
        for _ in range(2):
            outcome = await maps[map].lookup(maps[map].query(key))
            assert outcome == (NotFound() if expected is None else Found(expected))

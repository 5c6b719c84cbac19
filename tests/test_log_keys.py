"""Whom a lookup is about is not in the log, whatever goes wrong, unless the operator wants it there."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit import Found, LookupPermFail, LookupTempFail, PermFail, TempFail, blocking, hookimpl
from tcpmapkit.cache import CacheOptions
from tcpmapkit.log import set_up_log
from tcpmapkit.query import Query
from tcpmapkit.shown import show_keys, shown_key
from tcpmapkit.testing import FakeClock, step
from tcpmapkit.testing.building import build_steps
from tests.chains import a_map, waiting

KEY = "Geheim.Person+x@Verborgen.example.org"
LINE = re.compile("geheim|person|verborgen|192\\.0\\.2\\.77|unerkannt", re.IGNORECASE)
ATTRIBUTES = {
    "sender": "Geheim.Person@verborgen.example.org",
    "client_address": "192.0.2.77",
    "client_name": "unerkannt.example.net",
}


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    show_keys("hash")  # a command that some other test ran may have wanted them whole
    yield
    root.handlers[:], root.level = handlers, level
    show_keys("hash")


class Answers:
    """Answers what a function of the query gives, at once."""

    def __init__(self, answer: Callable[[Query], Any]) -> None:
        self.answer = answer

    def resolve(self, query: Query) -> Any:
        return self.answer(query)


class AnswersLater(Answers):
    async def resolve(self, query: Query) -> Any:
        return self.answer(query)


class AnswersInThread(Answers):
    @blocking
    def resolve(self, query: Query) -> Any:
        return self.answer(query)


class Logs(Answers):
    """Logs by itself what it is asked, as a plugin may."""

    context: Any = None

    async def start(self, context: Any) -> None:
        self.context = context

    def resolve(self, query: Query) -> Any:
        self.context.logger.warning("asked for %s", query.key)
        self.context.logger.warning("asked for %s", self.context.show_key(query.local))
        self.context.warn_seldom("asked", "asked by <%s>", query.attributes.get("sender"))


def raises(error: Callable[[str], Exception]) -> Callable[[Query], Any]:
    def resolve(query: Query) -> Any:
        raise error(f"{query.key} of {query.domain}, {query.attributes.get('client_address')}")

    return resolve


def out_of(table: dict[str, str]) -> Callable[[Query], Any]:
    return lambda query: table[query.attributes["client_name"]]


KINDS: dict[str, Callable[[Query], Any]] = {
    "temporary": lambda query: TempFail(f"no route for {query.key}", detail=query.domain or ""),
    "permanent": lambda query: PermFail(f"no such {query.local}"),
    "raised": raises(LookupTempFail),
    "raised permanent": raises(LookupPermFail),
    "bug": raises(RuntimeError),
    "missing": out_of({}),
    "chained": raises(lambda text: ExceptionGroup(text, [ValueError(text)])),
    "timed out": raises(TimeoutError),
    "rubbish": lambda query: query,
}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resolver", [Answers, AnswersLater, AnswersInThread])
async def test_a_lookup_that_fails_names_nobody(
    resolver: type[Answers], kind: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await fail(resolver(KINDS[kind]), form)
    logged = capsys.readouterr().err
    assert logged
    assert not LINE.search(logged), logged


async def test_what_a_plugin_logs_by_itself_has_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    await fail(Logs(KINDS["temporary"]), "text")
    logged = capsys.readouterr().err
    assert logged.count("asked for ") == 50
    assert logged.count("asked by ") == 1
    assert shown_key(KEY) in logged
    assert not LINE.search(logged), logged


async def fail(resolver: Any, form: str) -> None:
    built = build_steps([step(resolver, name="odd")])
    set_up_log("stderr", "info", form)
    await built.start()
    try:
        map = built.maps["test"]
        for _ in range(25):  # enough for the breaker to open
            await map.lookup(map.query(KEY, "policy", ATTRIBUTES))
    finally:
        await built.stop()


@pytest.mark.parametrize(
    "options",
    [
        'type = "http"\nurl = "http://127.0.0.1:1/{key}?name={local}"',
        'type = "dns"\nquery = "{domain}"\nnameservers = ["127.0.0.1:1"]\ntimeout = "50ms"',
        'type = "sqlite"\npath = "gone.db"\nquery = "SELECT v FROM t WHERE k = :key"',
        'type = "regex"\nrules = [{ pattern = "^(([a-z.+]+)+)+[0-9]$", result = "x" }]\nmatch_limit = 1000',
        'type = "static"\nvalue = "x"\nresult = "{local}\\n{value}"',
        'type = "python"\ncallable = "tests.test_log_keys:no_such_key"',
    ],
    ids=lambda options: options.split('"')[1],
)
async def test_a_resolver_that_fails_names_nobody(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(tmp_path / "gone.db") as database:
        database.execute("CREATE TABLE t (k, v)")
    database.close()
    built = build_steps([step(options)], directory=tmp_path)
    set_up_log("stderr", "info", "text")
    await built.start()
    try:
        (tmp_path / "gone.db").write_bytes(b"no database at all" * 100)
        map = built.maps["test"]
        for _ in range(25):
            await map.lookup(map.query(KEY))
            await map.lookup(map.query("geheim.person.verborgen.unerkannt." * 5))
    finally:
        await built.stop()
    logged = capsys.readouterr().err
    assert logged
    assert not LINE.search(logged), logged


def no_such_key(key: str) -> str:
    return {"other": "x"}[key]


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_slow_lookup_is_logged_with_the_hash_of_its_key_and_what_took_long(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock()

    def slow(query: Query) -> Found:
        clock.advance(1.5)
        return Found("x")

    set_up_log("stderr", "info", form)
    map = a_map(waiting(slow, name="api"), clock=clock, name="routes")
    for _ in range(45):
        await map.lookup(map.query(KEY))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert not LINE.search("".join(lines))
    told = f"map routes: the lookup of {shown_key(KEY)} took 1.50 s and ended with Found of api (api 1.50 s)"
    assert told in lines[0]
    assert f"{told} (and 39 more since the last such line)" in lines[1]
    if form == "json":
        fields = {"map": "routes", "step": "api", "key": shown_key(KEY), "outcome": "Found", "elapsed": 1.5}
        assert json.loads(lines[0]).items() >= fields.items()


async def test_a_slow_lookup_that_fails_behind_a_stale_answer_is_logged_as_such(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = FakeClock()
    set_up_log("stderr", "info", "json")
    step = waiting(Found("x"), name="api")
    map = a_map(step, clock=clock, cache=CacheOptions(jitter=0.0, stale=3600), name="routes")
    await map.lookup(map.query(KEY))

    def hang(query: Query) -> TempFail:
        clock.advance(1.5)
        return TempFail("timed out")

    step.resolver.answer = hang
    clock.advance(300)
    assert await map.lookup(map.query(KEY)) == Found("x", 0)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "the lookup of" in line]
    assert "took 1.50 s and ended with a stale answer, after a failure of api (api 1.50 s)" in line
    assert json.loads(line).items() >= {"step": "cache", "outcome": "Found"}.items()


@pytest.mark.parametrize(
    ("slow", "took", "logged"), [(1.0, 1.0, 0), (1.0, 1.1, 1), (0.0, 90.0, 0), (3.0, 2.0, 0)]
)
async def test_a_lookup_is_slow_when_the_operator_says_so(
    slow: float, took: float, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()

    def resolve(query: Query) -> None:
        clock.advance(took)

    map = a_map(waiting(resolve), clock=clock, slow=slow, deadline=90.0)
    await map.lookup(map.query(KEY))
    assert len([line for line in caplog.records if "the lookup of" in line.getMessage()]) == logged


async def test_an_operator_who_wants_the_keys_gets_them(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("stderr", "info", "text", "full")
    built = build_steps([step(Answers(KINDS["temporary"]), name="odd")])
    map = built.maps["test"]
    await map.lookup(map.query(KEY))
    assert f"odd: a lookup failed: no route for {KEY.lower()}" in capsys.readouterr().err


@hookimpl
def query_resolved(query: Query) -> None:
    raise RuntimeError(f"cannot count {query.key} of {query.domain}")


async def test_an_observer_that_fails_names_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    built = build_steps([step('type = "static"\nvalue = "x"')], plugins=[sys.modules[__name__]])
    set_up_log("stderr", "info", "text")
    map = built.maps["test"]
    await map.lookup(map.query(KEY))
    logged = capsys.readouterr().err
    assert "query_resolved failed" in logged
    assert not LINE.search(logged), logged

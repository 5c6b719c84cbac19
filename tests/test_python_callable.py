"""The `python` resolver."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit import ConfigError, Found, LookupTempFail, Query
from tcpmapkit.resolvers.python import python

TABLE = {"a": "1", "empty": ""}


def lookup(key: str) -> str | None:
    return TABLE.get(key)


async def alookup(key: str) -> str | None:
    return TABLE.get(key)


class Called:
    def __call__(self, key: str) -> str | None:
        return TABLE.get(key)


class AwaitedWhenCalled:
    async def __call__(self, key: str) -> str | None:
        return TABLE.get(key)


class WithGet:
    def get(self, key: str) -> str | None:
        return TABLE.get(key)


class WithAsyncGet:
    async def get(self, key: str) -> str | None:
        return TABLE.get(key)


def failing(key: str) -> str:
    raise LookupTempFail("away")


def wrongly_typed(key: str) -> Any:
    return 5


def forgetful(key: str) -> Any:
    return alookup(key)


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("accounts")
    vars(module).update(
        lookup=lookup,
        alookup=alookup,
        called=Called(),
        awaited=AwaitedWhenCalled(),
        with_get=WithGet(),
        with_async_get=WithAsyncGet(),
        table=TABLE,
        bound=WithGet().get,
        partial=functools.partial(lambda _, key: lookup(key), 0),
        async_partial=functools.partial(alookup),
        failing=failing,
        wrongly_typed=wrongly_typed,
        forgetful=forgetful,
        WithGet=WithGet,
        number=5,
    )
    monkeypatch.setitem(sys.modules, "accounts", module)


async def ask(resolver: Any, key: str) -> Any:
    outcome = resolver.resolve(Query(key))
    return await outcome if inspect.isawaitable(outcome) else outcome


@pytest.mark.parametrize(
    "name",
    [
        *(
            "lookup",
            "alookup",
            "called",
            "awaited",
            "with_get",
            "with_async_get",
            "table",
            "bound",
            "partial",
        ),
        *("async_partial", "table.get"),
    ],
)
async def test_whatever_can_be_asked_for_a_key_is_asked(name: str) -> None:
    resolver = python(f"accounts:{name}")
    assert [await ask(resolver, key) for key in ("a", "b", "empty")] == [Found("1"), None, None]


@pytest.mark.parametrize(
    ("name", "inline", "waits", "blocks"),
    [
        ("lookup", False, False, True),
        ("lookup", True, False, False),
        ("table", False, False, True),
        ("alookup", False, True, False),
        ("awaited", False, True, False),
        ("with_async_get", False, True, False),
    ],
)
def test_how_it_is_asked_is_decided_when_it_is_made(
    name: str, inline: bool, waits: bool, blocks: bool
) -> None:
    resolve = python(f"accounts:{name}", inline).resolve
    assert inspect.iscoroutinefunction(resolve) is waits
    assert getattr(resolve, "tcpmapkit_blocking", False) is blocks


def test_a_lookup_of_the_callables_own_that_fails_is_passed_on() -> None:
    with pytest.raises(LookupTempFail, match="away"):
        python("accounts:failing").resolve(Query("a"))


def test_rubbish_goes_back_for_the_core_to_refuse() -> None:
    assert python("accounts:wrongly_typed").resolve(Query("a")) == 5


def test_a_def_that_returns_a_coroutine_says_what_is_wrong() -> None:
    with pytest.raises(TypeError, match="write it as async def"):
        python("accounts:forgetful").resolve(Query("a"))


@pytest.mark.parametrize(
    ("place", "message", "hint"),
    [
        ("accounts", "not a place in a module", 'write "package.module:name"'),
        ("accounts:", "not a place in a module", 'write "package.module:name"'),
        (":lookup", "not a place in a module", 'write "package.module:name"'),
        ("accounts:lookup()", "not a place in a module", 'write "package.module:name"'),
        ("accounts:lokup", "'accounts' has no 'lokup'", "did you mean 'lookup'?"),
        ("acounts.module:lookup", "cannot import 'acounts.module': ModuleNotFoundError", None),
        ("..accounts:lookup", "cannot import", None),
        ("accounts:number", "is of type int, neither", None),
        ("accounts:WithGet", "is a class, neither", None),
    ],
)
def test_what_cannot_be_asked_is_the_operators_mistake(place: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        python(place)
    assert (caught.value.path, caught.value.hint) == (("callable",), hint)


@pytest.mark.parametrize("text", ["1 / 0", "raise SystemExit(3)", "def"])
def test_a_module_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "broken_accounts.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot import 'broken_accounts'"):
        python("broken_accounts:lookup")


def test_an_async_def_is_never_inline() -> None:
    with pytest.raises(ConfigError, match="never asked inline") as caught:
        python("accounts:alookup", inline=True)
    assert caught.value.path == ("inline",)


@pytest.mark.parametrize("key", ["..", "a/../b", "' OR 1=1", "{key}", "${HOME}", "a\0b", "a\r\nb", "%s"])
def test_a_hostile_key_reaches_the_callable_as_it_is(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(
        sys.modules["accounts"], "lookup", lambda key: asked.append((key, threading.get_ident()))
    )
    assert python("accounts:lookup", inline=True).resolve(Query(key)) is None
    assert asked == [(key, threading.get_ident())]

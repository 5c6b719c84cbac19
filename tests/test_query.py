"""Outcomes and queries: what can be said, and what cannot even be constructed."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

import tcpmapkit
from tcpmapkit import Found, LookupTempFail, Miss, NotFound, PermFail, TempFail
from tcpmapkit.keys import split_address
from tcpmapkit.query import Query


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("", ValueError),
        ("a\nb", ValueError),
        ("a\rb", ValueError),
        ("a\0b", ValueError),
        ("\udcff", ValueError),
        (b"bytes", TypeError),
        (None, TypeError),
        (7, TypeError),
    ],
)
def test_what_cannot_be_a_value_cannot_be_found(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Found(value)


@pytest.mark.parametrize("value", ["x", " ", "%", "ü@example.org", "a, b", "x" * 100_000, "\t"])
def test_any_other_text_can_be_found(value: str) -> None:
    assert Found(value).value == value


@pytest.mark.parametrize("kind", [Found, NotFound, Miss, TempFail, PermFail])
@pytest.mark.parametrize(
    ("ttl", "error"), [("60", TypeError), (object(), TypeError), (float("nan"), ValueError)]
)
def test_a_ttl_that_is_no_number_is_refused_where_it_is_said(
    kind: Any, ttl: Any, error: type[Exception]
) -> None:
    text = () if kind in (NotFound, Miss) else ("text",)
    with pytest.raises(error):
        kind(*text, ttl=ttl)


def test_the_four_outcomes_and_a_miss_are_never_equal() -> None:
    said = [Found("x"), NotFound(), TempFail("x"), PermFail("x"), Miss()]
    assert len({repr(one) for one in said}) == 5
    assert all(one != other for one in said for other in said if one is not other)


@pytest.mark.parametrize("outcome", [Found("x"), NotFound(), TempFail("x"), PermFail("x"), Miss()])
def test_an_outcome_cannot_be_changed(outcome: Any) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        outcome.ttl = 1.0


def test_a_reason_that_is_an_exception_becomes_its_text() -> None:
    assert TempFail(OSError("gone")).reason == "gone"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "value", "kept"),
    [
        (["a"], "a", ()),
        (["a", "b"], "a, b", ("a", "b")),
        (["b", "a", "b"], "b, a", ("b", "a")),
        (["a", "a"], "a", ()),
    ],
)
def test_values_are_joined_once_each_and_the_first_is_kept(
    values: list[str], value: str, kept: tuple[str, ...]
) -> None:
    assert Found.joined(values, ", ", 7) == Found(value, 7, values=kept, separator=", ")


def test_no_values_joined_are_not_found() -> None:
    assert Found.joined([], ",", 5) == NotFound(5)


@pytest.mark.parametrize(
    ("key", "local", "user", "extension", "domain"),
    [
        ("joe+x@example.org", "joe+x", "joe", "x", "example.org"),
        ("joe@example.org", "joe", "joe", None, "example.org"),
        ("example.org", "example.org", "example.org", None, None),
        ("", "", "", None, None),
        ('"john doe"@example.org', "john doe", "john doe", None, "example.org"),
        ('"a@b"@example.org', "a@b", "a@b", None, "example.org"),
        ("user@[192.0.2.1]", "user", "user", None, "[192.0.2.1]"),
        ("@example.org", "", "", None, "example.org"),
        ("joe@", "joe", "joe", None, ""),
    ],
)
def test_a_query_gives_the_parts_of_its_key(
    key: str, local: str, user: str, extension: str | None, domain: str | None
) -> None:
    query = Query(key, split=split_address)
    assert (query.local, query.user, query.extension, query.domain) == (local, user, extension, domain)


def test_time_left_goes_by_the_querys_own_clock() -> None:
    now = [10.0]
    query = Query("k", deadline=12.5, clock=lambda: now[0])
    assert query.time_left() == 2.5
    now[0] = 13.0
    assert query.time_left() == -0.5


def test_another_key_keeps_all_but_the_parts_of_the_first() -> None:
    trace: list[Any] = []
    query = Query(
        "a@example.org", "m", "policy", {"sender": "x"}, 9.0, lambda: 1.0, split_address, True, trace
    )
    assert query.domain == "example.org"
    other = query.with_key("b@example.net")
    assert (other.domain, other.map, other.protocol, other.attributes) == (
        "example.net",
        "m",
        "policy",
        {"sender": "x"},
    )
    assert (other.deadline, other.partial, other.trace) == (9.0, True, trace)
    shorter = query.with_deadline(3.0)
    assert (shorter.key, shorter.time_left(), query.time_left()) == ("a@example.org", 2.0, 8.0)


def test_a_lookup_failure_that_forgets_its_parent_still_has_a_reason() -> None:
    class Forgetful(LookupTempFail):
        def __init__(self) -> None:
            pass

    assert (Forgetful().reason, Forgetful().ttl) == ("lookup failed", None)


def test_the_package_promises_these_names_and_no_others() -> None:
    promised = "Query Found NotFound TempFail PermFail Miss LookupTempFail LookupPermFail"
    promised += " ConfigError hookimpl blocking Chain Map"
    assert set(tcpmapkit.__all__) == set(promised.split())
    assert all(hasattr(tcpmapkit, name) for name in tcpmapkit.__all__)

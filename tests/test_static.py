"""The `static` resolver."""

from __future__ import annotations

import pytest

from tcpmapkit import ConfigError
from tcpmapkit.resolvers.static import Static
from tests.loading import load, value
from tests.real_postfix import Postfix

KEYS = ["user@example.org", "*", "<>", '""', "", "a b", "%", "\u00e9@example.org"]


def test_one_value_answers_every_key_as_the_real_static_does(postfix: Postfix) -> None:
    resolver = Static(value="REJECT not here")
    load(resolver)
    assert {key: value(resolver, key) for key in KEYS} == postfix.ask("static:{REJECT not here}", KEYS)


def test_entries_are_found_whatever_the_case_of_the_key() -> None:
    resolver = Static({"User@Example.org": "Box", "*": "relay:", "STRA\u00dfE": "x"})
    assert load(resolver) == []
    assert value(resolver, "uSER@example.ORG") == "Box"
    assert value(resolver, "strasse") == "x"
    assert value(resolver, "*") == "relay:"
    assert value(resolver, "other@example.org") is None


def test_without_folding_entries_are_compared_as_they_are() -> None:
    resolver = Static({"A": "1", "a": "2"})
    load(resolver, fold=str)
    assert [value(resolver, key, fold=str) for key in ("A", "a")] == ["1", "2"]


def test_two_entries_that_folding_makes_one_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="'a' is there already") as caught:
        load(Static({"A": "1", "a": "2"}))
    assert caught.value.path == ("entries", "a")


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, ()),
        ({"value": "x", "entries": {"a": "b"}}, ()),
        ({"value": ""}, ("value",)),
        ({"value": "a\nb"}, ("value",)),
        ({"entries": {"a": "b", "c": ""}}, ("entries", "c")),
        ({"entries": {"a": "b\0"}}, ("entries", "a")),
    ],
)
def test_what_can_never_be_an_answer_is_refused_at_once(options: dict, path: tuple) -> None:
    with pytest.raises(ConfigError) as caught:
        Static(**options)
    assert caught.value.path == path

"""What ``authoritative`` makes final, and what it does not."""

from __future__ import annotations

import pytest

from tcpmapkit.query import Found, Miss, NotFound, TempFail
from tcpmapkit.testing import FakeResolver, ask_now, step

BEHIND = FakeResolver({"*": "behind", "a@example.com": "behind", "a@example.org": "behind", "down": "behind"})


@pytest.mark.parametrize(
    ("options", "key", "answer"),
    [
        ({}, "a@example.org", NotFound()),
        ({}, "*", Found("behind")),
        ({"special_keys": True}, "*", NotFound()),
        ({"domains": ["example.org"]}, "a@example.org", NotFound()),
        ({"domains": ["example.org"]}, "a@example.com", Found("behind")),
        ({}, "down", TempFail("down")),
        ({"on_error": "ignore"}, "down", Found("behind")),
        ({"on_error": "next"}, "down", Found("behind")),
    ],
)
def test_only_the_miss_of_a_step_that_was_asked_is_final(
    options: dict[str, object], key: str, answer: object
) -> None:
    first = step(FakeResolver({"down": TempFail("down")}), authoritative=True, **options)
    assert ask_now([first, step(BEHIND, special_keys=True)], key) == answer


def test_a_union_none_of_whose_members_finds_the_key_misses_authoritative_or_not() -> None:
    union = """
type = "union"
resolvers = [
    { type = "static", entries = { other = "x" }, authoritative = true },
    { type = "static", entries = { other = "y" }, authoritative = true },
]
"""
    assert ask_now([union], "key") == Miss()
    assert ask_now([union, BEHIND], "a@example.org") == Found("behind")

"""Keys: folding, quoting and splitting as Postfix does it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmapkit.keys import (
    SPECIAL_KEYS,
    fold,
    host_or_domain,
    quote_address,
    quote_localpart,
    split_address,
    split_extension,
    unquote_address,
    unquote_localpart,
)


@pytest.mark.parametrize(
    ("key", "folded"),
    [
        ("Joe@Example.ORG", "joe@example.org"),
        ("JÖRG@example.org", "jörg@example.org"),
        ("STRAẞE", "strasse"),
        ("Ελλάς", "ελλάσ"),
        ("", ""),
        ("*", "*"),
    ],
)
def test_keys_are_folded_as_postfix_folds_them(key: str, folded: str) -> None:
    assert fold(key) == folded


@given(st.text())
def test_folding_twice_is_folding_once(key: str) -> None:
    assert fold(fold(key)) == fold(key)


@pytest.mark.parametrize(
    ("local", "unquoted"),
    [
        ("joe", "joe"),
        ('"john doe"', "john doe"),
        ('"a\\"b"', 'a"b'),
        ('"a\\\\b"', "a\\b"),
        ('""', ""),
        ('"open', "open"),
        ("ends\\", "ends"),
    ],
)
def test_quotes_and_backslashes_are_not_part_of_a_localpart(local: str, unquoted: str) -> None:
    assert unquote_localpart(local) == unquoted


@pytest.mark.parametrize(
    ("local", "quoted"),
    [
        ("joe", "joe"),
        ("joe.doe", "joe.doe"),
        ("joe+x", "joe+x"),
        ("jörg", "jörg"),
        ("john doe", '"john doe"'),
        ("a@b", '"a@b"'),
        ("joe.", '"joe."'),
        (".joe", '".joe"'),
        ("a..b", '"a..b"'),
        ('a"b', '"a\\"b"'),
        ("a\\b", '"a\\\\b"'),
        ("", '""'),
        ("a,b", '"a,b"'),
    ],
)
def test_a_localpart_that_is_no_dot_atom_is_quoted(local: str, quoted: str) -> None:
    assert quote_localpart(local) == quoted


@given(st.text())
def test_what_was_quoted_is_unquoted_to_the_same(local: str) -> None:
    assert unquote_localpart(quote_localpart(local)) == local


@pytest.mark.parametrize(
    ("local", "delimiters", "user", "extension"),
    [
        ("joe+x", "+", "joe", "x"),
        ("joe+x+y", "+", "joe", "x+y"),
        ("joe-x+y", "+-", "joe", "x+y"),
        ("joe+x-y", "+-", "joe", "x-y"),
        ("joe+", "+", "joe", ""),
        ("joe", "+", "joe", None),
        ("joe+x", "", "joe+x", None),
        ("+x", "+", "+x", None),
        ("Postmaster", "o", "Postmaster", None),
        ("mailer-daemon", "-", "mailer-daemon", None),
        ("double-bounce", "-", "double-bounce", None),
        ("owner-list", "-", "owner-list", None),
        ("list-Request", "-", "list-Request", None),
        ("owner-list+x", "+", "owner-list", "x"),
        ("owner-list+x", "+-", "owner-list+x", None),
        ("-request", "-", "-request", None),
        ("x-requests", "-", "x", "requests"),
    ],
)
def test_an_extension_is_split_where_postfix_splits_it(
    local: str, delimiters: str, user: str, extension: str | None
) -> None:
    assert split_extension(local, delimiters) == (user, extension)


@pytest.mark.parametrize(
    ("unquoted", "quoted"),
    [
        ("joe@example.org", "joe@example.org"),
        ("a b@example.org", '"a b"@example.org'),
        ("a@b@example.org", '"a@b"@example.org'),
        ('joe"@example.org', '"joe\\""@example.org'),
        ("@example.org", '""@example.org'),
        ("a b", '"a b"'),
        ("", '""'),
        ("@a:b c@example.org", '@a:"b c"@example.org'),
    ],
)
def test_an_address_has_two_forms(unquoted: str, quoted: str) -> None:
    assert quote_address(unquoted) == quoted
    assert unquote_address(quoted) == unquoted
    assert unquote_address(unquoted) == unquoted


def test_quotes_that_postfix_would_not_write_are_text() -> None:
    """Postfix asks for ``joe"@example.org`` too, unquoted: that is somebody else than joe."""
    assert split_address('joe"@example.org').user == 'joe"'
    assert split_address('"joe"@example.org').user == '"joe"'
    assert split_address('"joe+a b"@example.org').user == "joe"


def test_an_address_is_split_at_its_last_at_sign() -> None:
    parts = split_address('"a@b+x"@example.org')
    assert (parts.local, parts.user, parts.extension, parts.domain) == ("a@b+x", "a@b", "x", "example.org")


@pytest.mark.parametrize(
    ("key", "bare_is_domain", "domain"),
    [
        ("joe@Example.ORG", False, "example.org"),
        ("example.org", False, None),
        ("Example.org", True, "example.org"),
        (".example.org", True, "example.org"),
        ("", False, None),
        ("joe@", False, ""),
    ],
)
def test_domains_are_compared_with_the_domain_of_the_key(
    key: str, bare_is_domain: bool, domain: str | None
) -> None:
    assert host_or_domain(key, bare_is_domain) == domain


def test_the_special_keys_are_those_four() -> None:
    assert frozenset({"*", "<>", '""', ""}) == SPECIAL_KEYS

"""The keys of each search order, written out from Postfix's manual pages and its source."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmapkit.keys import SPECIAL_KEYS, convert_domain, fold, quote_address
from tcpmapkit.search import SEARCHES, Kind, SearchOrder

LOCAL = frozenset({"example.org", "[192.0.2.1]", "[ipv6:2001:db8::1]"})


def asked(name: Any, key: str, **options: Any) -> list[str]:
    return [found.key for found in SearchOrder(name, **options).keys(key)]


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("joe@example.net", ["joe@example.net", "@example.net"]),
        ("joe+x@example.net", ["joe+x@example.net", "joe@example.net", "@example.net"]),
        (
            "joe+x@example.org",
            ["joe+x@example.org", "joe@example.org", "joe+x", "joe", "@example.org"],
        ),
        ("joe@EXAMPLE.org", ["joe@EXAMPLE.org", "joe", "@EXAMPLE.org"]),
        ("joe@example.org.", ["joe@example.org.", "joe", "@example.org."]),
        ("joe@example.org..", ["joe@example.org..", "@example.org.."]),
        ("joe@a.example.org", ["joe@a.example.org", "@a.example.org"]),
        ("joe@[192.0.2.1]", ["joe@[192.0.2.1]", "joe", "@[192.0.2.1]"]),
        (
            "joe@[IPv6:2001:DB8:0::1]",
            ["joe@[IPv6:2001:DB8:0::1]", "joe", "@[IPv6:2001:DB8:0::1]"],
        ),
        ("joe@[192.0.2.2]", ["joe@[192.0.2.2]", "@[192.0.2.2]"]),
        ("joe+@example.net", ["joe+@example.net", "joe@example.net", "@example.net"]),
        ("joe+x+y@example.net", ["joe+x+y@example.net", "joe@example.net", "@example.net"]),
        ("+x@example.net", ["+x@example.net", "@example.net"]),
        ("joe+x", ["joe+x", "joe"]),
        ("joe", ["joe"]),
        ("joe@", ["joe@", "@"]),
    ],
)
@pytest.mark.parametrize("name", ["address", "virtual", "canonical", "generic"])
def test_an_address_is_asked_then_without_its_extension_then_its_catch_all(
    name: str, key: str, keys: list[str]
) -> None:
    assert asked(name, key, local_domains=LOCAL) == keys


@pytest.mark.parametrize("key", ['"a b+x"@example.org', "a b+x@example.org"])
def test_address_asks_for_the_quoted_form_and_then_the_unquoted_one(key: str) -> None:
    assert asked("address", key, local_domains=LOCAL) == [
        *('"a b+x"@example.org', "a b+x@example.org", '"a b"@example.org', "a b@example.org"),
        *('"a b+x"', "a b+x", '"a b"', "a b", "@example.org"),
    ]


@pytest.mark.parametrize("key", ['"a b+x"@example.org', "a b+x@example.org"])
@pytest.mark.parametrize("name", ["virtual", "canonical", "generic"])
def test_the_orders_that_rewrite_ask_for_the_quoted_form_only(name: str, key: str) -> None:
    assert asked(name, key, local_domains=LOCAL) == [
        *('"a b+x"@example.org', '"a b"@example.org', '"a b+x"', '"a b"', "@example.org"),
    ]


def test_an_unquoted_localpart_with_a_quote_in_it_is_nobody_elses() -> None:
    """Postfix asks for the quoted form, then for the unquoted one, which must not find joe."""
    assert asked("address", '"joe\\""@example.net') == [
        '"joe\\""@example.net',
        'joe"@example.net',
        "@example.net",
    ]
    assert asked("address", 'joe"@example.net') == asked("address", '"joe\\""@example.net')
    assert "joe@example.net" not in asked("address", '"joe"@example.net')


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        (
            "user@a.b.example.net",
            ["user@a.b.example.net", "a.b.example.net", ".b.example.net", ".example.net", ".net"],
        ),
        ("user+x@example.net", ["user+x@example.net", "user@example.net", "example.net", ".net"]),
        ('"a b"@example', ['"a b"@example', "a b@example", "example"]),
        ("a.example.net", ["a.example.net", ".example.net", ".net"]),
        ("user@[192.0.2.1]", ["user@[192.0.2.1]", "[192.0.2.1]", ".0.2.1]", ".2.1]", ".1]"]),
        ("user@example.net.", ["user@example.net.", "example.net.", ".net.", "."]),
        ("user@", ["user@"]),
    ],
)
def test_transport_asks_for_the_domain_and_its_dot_parents(key: str, keys: list[str]) -> None:
    assert asked("transport", key) == keys


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        (
            "joe+x@a.example.net",
            [
                *("joe+x@a.example.net", "joe@a.example.net", "a.example.net", "example.net", "net"),
                *("joe+x@", "joe@"),
            ],
        ),
        ("joe@example", ["joe@example", "example", "joe@"]),
        ('"a b"@example', ['"a b"@example', "a b@example", "example", '"a b"@', "a b@"]),
        ("joe@[192.0.2.1]", ["joe@[192.0.2.1]", "[192.0.2.1]", "0.2.1]", "2.1]", "1]", "joe@"]),
        ("mail.example.net", ["mail.example.net", "example.net", "net"]),
        ("mail.example.net.", ["mail.example.net.", "example.net.", "net."]),
        (".example.net", [".example.net", "net"]),
        ("a..b", ["a..b", ".b"]),
        ("unknown", ["unknown"]),
        ("192.0.2.1", ["192.0.2.1", "192.0.2", "192.0", "192"]),
        ("0.0.0.0", ["0.0.0.0", "0.0.0", "0.0", "0"]),
        ("0.1.2.3", ["0.1.2.3", "1.2.3", "2.3", "3"]),
        ("192.0.2.256", ["192.0.2.256", "0.2.256", "2.256", "256"]),
        ("192.0.2", ["192.0.2", "0.2", "2"]),
        ("2001:db8::1", ["2001:db8::1", "2001:db8:", "2001:db8", "2001"]),
        ("::1", ["::1", ":"]),
        ("::ffff:192.0.2.1", ["::ffff:192.0.2.1", "::ffff", ":"]),
        ("[192.0.2.1]", ["[192.0.2.1]", "0.2.1]", "2.1]", "1]"]),
        ("a:b.example", ["a:b.example", "example"]),
    ],
)
def test_access_asks_for_parents_of_names_and_networks_of_addresses(key: str, keys: list[str]) -> None:
    assert asked("access", key) == keys


@pytest.mark.parametrize(
    ("name", "match_subdomains", "keys"),
    [
        ("domain", None, ["a.example.net", "example.net", "net"]),
        ("domain", "dot", ["a.example.net", ".example.net", ".net"]),
        ("access", "dot", ["a.example.net", ".example.net", ".net"]),
        ("transport", "parent", ["a.example.net", "example.net", "net"]),
    ],
)
def test_parents_are_asked_in_the_style_of_the_map(name: str, match_subdomains: Any, keys: list[str]) -> None:
    assert asked(name, "a.example.net", match_subdomains=match_subdomains) == keys


@pytest.mark.parametrize(
    ("delimiters", "key", "keys"),
    [
        ("", "joe+x@example.net", ["joe+x@example.net", "@example.net"]),
        ("+-", "joe-x+y@example.net", ["joe-x+y@example.net", "joe@example.net", "@example.net"]),
        ("+-", "joe+x-y@example.net", ["joe+x-y@example.net", "joe@example.net", "@example.net"]),
        (".", "joe.x@example.net", ["joe.x@example.net", "joe@example.net", "@example.net"]),
        ("-", "owner-list@example.net", ["owner-list@example.net", "@example.net"]),
        ("-", "List-Request@example.net", ["List-Request@example.net", "@example.net"]),
        ("-", "MAILER-DAEMON@example.net", ["MAILER-DAEMON@example.net", "@example.net"]),
        ("-", "double-bounce@example.net", ["double-bounce@example.net", "@example.net"]),
        ("o", "postmaster@example.net", ["postmaster@example.net", "@example.net"]),
        (
            "+",
            "owner-list+x@example.net",
            ["owner-list+x@example.net", "owner-list@example.net", "@example.net"],
        ),
    ],
)
def test_an_extension_begins_at_any_of_the_delimiters(delimiters: str, key: str, keys: list[str]) -> None:
    assert asked("virtual", key, recipient_delimiter=delimiters) == keys


@pytest.mark.parametrize(
    "next_hop",
    ["[mail.example.net]:587", "[mail.example.net]", "mail.example.net:submission", "[IPv6:2001:db8::1]:25"],
)
def test_a_next_hop_is_asked_as_it_is(next_hop: str) -> None:
    """smtp_sasl_password_maps asks for addresses, hosts and next hops (smtp_sasl_glue.c)."""
    assert asked("address", next_hop) == [next_hop]


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("key", sorted(SPECIAL_KEYS))
def test_a_special_key_is_only_itself(name: Any, key: str) -> None:
    [found] = SearchOrder(name).keys(key)
    assert (found.key, found.kind, found.partial) == (key, Kind.FULL, False)
    assert SearchOrder(name).rewritten("@example.net", key, found.kind) == "@example.net"


def test_every_key_but_the_full_one_is_partial() -> None:
    """Postfix asks a regexp_table(5) for both forms of the full address, and for nothing else."""
    found = SearchOrder("address", local_domains=LOCAL).keys("a b+x@example.org")
    assert [key.key for key in found if not key.partial] == ['"a b+x"@example.org', "a b+x@example.org"]
    for name, key in (("access", "192.0.2.1"), ("access", "a.b"), ("domain", "a.b"), ("transport", "a@b.c")):
        first, *more = SearchOrder(name).keys(key)  # type: ignore[arg-type]
        assert not first.partial
        assert more
        assert all(key.partial for key in more)


def test_each_key_says_which_kind_it_is() -> None:
    kinds = {
        key.key: key.kind for key in SearchOrder("address", local_domains=LOCAL).keys("joe+x@example.org")
    } | {key.key: key.kind for key in SearchOrder("access").keys("joe+x@a.example")}
    assert kinds == {
        "joe+x@example.org": Kind.FULL,
        "joe@example.org": Kind.WITHOUT_EXTENSION,
        "joe+x": Kind.LOCALPART,
        "joe": Kind.USER,
        "@example.org": Kind.AT_DOMAIN,
        "joe+x@a.example": Kind.FULL,
        "joe@a.example": Kind.WITHOUT_EXTENSION,
        "a.example": Kind.DOMAIN,
        "example": Kind.DOMAIN,
        "joe+x@": Kind.LOCALPART_AT,
        "joe@": Kind.USER_AT,
    }


# Generated keys.

PIECES = st.sampled_from(
    [
        *'@.+-:"\\[] <>(),;%!*/\t\r\n\0',
        *(
            "joe",
            "Postmaster",
            "owner-",
            "-request",
            "Example.ORG",
            "192.0.2.1",
            "2001:db8::1",
            "[192.0.2.1]",
        ),
        *("jörg", "Σ", "ß", "İ", "xn--", "xn--mnchen-3ya", "münchen", "。"),
    ]
)
KEYS = st.one_of(st.lists(PIECES, max_size=8).map("".join), st.text(max_size=30))
ORDERS = st.builds(
    SearchOrder,
    st.sampled_from(SEARCHES),
    st.sampled_from(["", "+", "+-", "."]),
    st.just(LOCAL),
    st.sampled_from([None, "dot", "parent"]),
    st.sampled_from([None, True, False]),
)


@given(ORDERS, KEYS)
def test_there_is_at_least_one_key_none_twice_and_none_empty(order: SearchOrder, key: str) -> None:
    keys = [found.key for found in order.keys(key)]
    assert keys
    assert len(set(keys)) == len(keys)
    assert "" not in keys or keys == [key]


@given(ORDERS, KEYS, st.booleans())
def test_both_forms_of_an_address_are_asked_the_same(order: SearchOrder, local: str, named: bool) -> None:
    address = local.replace('"', "").replace("@", "") + "@example.org" * named
    quoted = quote_address(address)
    if (
        address not in SPECIAL_KEYS
        and ("@" in address or not order.bare_is_domain)
        and order.name != "domain"
    ):
        by_form = [
            [(found.key, found.kind) for found in order.keys(form)]
            for form in (address, quoted)
            if not (order.name == "address" and not named)  # a next hop may look like a localpart
        ]
        assert all(found == by_form[0] for found in by_form)


@given(ORDERS, KEYS.filter(str.isascii))
def test_capitals_make_no_difference_to_the_kinds(order: SearchOrder, key: str) -> None:
    kinds: dict[str, int] = {}
    for found in order.keys(key):
        kinds.setdefault(fold(found.key), found.kind)
    assert kinds == {found.key: found.kind for found in order.keys(fold(key))}


@given(ORDERS, KEYS, st.text(min_size=1, max_size=40).filter(lambda text: not set(text) & set("\r\n\0")))
def test_what_is_rewritten_can_be_an_answer(order: SearchOrder, key: str, value: str) -> None:
    for kind in Kind:
        rewritten = order.rewritten(value, key, kind)
        assert rewritten
        assert not set(rewritten) & set("\r\n\0")
        if not order.rewrites:
            assert rewritten == value


HOSTILE = [
    *("." * 10_000, "@" * 10_000, '"' * 10_000, "+" * 10_000, ":" * 10_000, "a." * 5000, "a:" * 5000),
    *(
        "0" * 10_000,
        "0." * 5000,
        "1.1.1." + "0" * 9990,
        "\\" * 10_000,
        '"\\' * 5000,
        "[" * 10_000,
        "a" * 10_000,
    ),
    *(
        "x@" + "a." * 4999,
        "x@" + "." * 9998,
        '"' + "\\\\" * 4990 + '"@a.b',
        "a+" * 4990 + "@a.b",
        "é." * 3333,
    ),
    *("x@[" + "1." * 4990 + "]", "@" + ":" * 9000 + "@a.b", "[" + "a" * 9000 + "]:", "xn--" + "9" * 9990),
]


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("key", HOSTILE, ids=lambda key: f"{key[:6]}x{len(key)}")
def test_a_hostile_key_costs_little_and_is_asked_for_in_few_ways(name: Any, key: str) -> None:
    began = time.process_time()
    order = SearchOrder(name, "+-.", LOCAL)
    keys = list(order.keys(key))
    for found in keys[:20]:
        order.rewritten("@example.net", key, found.kind)
    for form in ("alabel", "ulabel"):
        convert_domain(key, form)  # type: ignore[arg-type]
    assert time.process_time() - began < 0.5
    assert len(keys) <= 270
    assert sum(len(found.key) for found in keys) < 300_000


def test_a_parent_that_can_be_a_host_name_is_asked_for_below_any_name() -> None:
    """A name too long to be one has the parents that a table can hold, so that nothing slips past it."""
    keys = asked("access", "a." * 500 + "example.org")
    assert keys[0] == "a." * 500 + "example.org"
    assert keys[-2:] == ["example.org", "org"]
    assert all(len(key) <= 255 for key in keys[1:])


@pytest.mark.parametrize(
    ("key", "form", "converted"),
    [
        ("jörg@münchen.example", "alabel", "jörg@xn--mnchen-3ya.example"),
        ("jörg@xn--mnchen-3ya.example", "ulabel", "jörg@münchen.example"),
        ("XN--MNCHEN-3YA.example", "ulabel", "münchen.example"),
        (".münchen.example", "alabel", ".xn--mnchen-3ya.example"),
        ("@münchen.example", "alabel", "@xn--mnchen-3ya.example"),
        ("mail.münchen.example.", "alabel", "mail.xn--mnchen-3ya.example."),
        ("_x.MÜNCHEN.Example", "alabel", "_x.xn--mnchen-3ya.Example"),
        ("straße.example", "alabel", "xn--strae-oqa.example"),
        ("a。münchen.example", "alabel", "a.xn--mnchen-3ya.example"),
        ("Joe@Example.ORG", "alabel", "Joe@Example.ORG"),
        ("Joe@Example.ORG", "ulabel", "Joe@Example.ORG"),
        ("münchen.example", "ulabel", "münchen.example"),
        ("a@xn--9.example", "ulabel", "a@xn--9.example"),
        ("a@xn--.example", "ulabel", "a@xn--.example"),
        ("a@☃\u0301\ufffd.example", "alabel", "a@☃\u0301\ufffd.example"),
        (f"a@{'ü' * 70}.example", "alabel", f"a@{'ü' * 70}.example"),
        ("a@[192.0.2.1]", "alabel", "a@[192.0.2.1]"),
        ("192.0.2.1", "ulabel", "192.0.2.1"),
        ("2001:db8::1", "alabel", "2001:db8::1"),
        ("*", "alabel", "*"),
        ("<>", "ulabel", "<>"),
        ('""', "alabel", '""'),
        ("", "alabel", ""),
    ],
)
def test_a_domain_is_converted_when_it_can_be(key: str, form: Any, converted: str) -> None:
    assert convert_domain(key, form) == converted


def test_a_key_without_a_domain_is_converted_only_where_it_is_one() -> None:
    assert convert_domain("jörg", "alabel") == "xn--jrg-sna"
    assert convert_domain("jörg", "alabel", bare_is_domain=False) == "jörg"


@given(KEYS, st.sampled_from(["alabel", "ulabel"]))
def test_converting_never_fails_and_leaves_the_localpart(key: str, form: Any) -> None:
    assert convert_domain(key, form).rpartition("@")[:2] == key.rpartition("@")[:2]

"""What is done with a value found under `virtual`, `canonical` and `generic`."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from tcpmapkit.query import LookupTempFail
from tcpmapkit.rewriting import MAX_VALUE, addresses, prepend_localpart, propagate
from tcpmapkit.search import SEARCHES, Kind, SearchOrder

VIRTUAL = SearchOrder("virtual")


@pytest.mark.parametrize(
    ("value", "key", "kind", "rewritten"),
    [
        # user@domain and user: the extension had been stripped
        ("root@example.net", "joe+x@example.org", Kind.WITHOUT_EXTENSION, "root+x@example.net"),
        ("root", "joe+x@example.org", Kind.USER, "root+x"),
        ("a@example.net, b", "joe+x@example.org", Kind.WITHOUT_EXTENSION, "a+x@example.net, b+x"),
        ("root@example.net", "joe+@example.org", Kind.WITHOUT_EXTENSION, "root+@example.net"),
        ("root@example.net", "joe+X+y@example.org", Kind.WITHOUT_EXTENSION, "root+X+y@example.net"),
        ("root@example.net", '"joe+a b"@example.org', Kind.WITHOUT_EXTENSION, '"root+a b"@example.net'),
        ("root@example.net", "joe+a b@example.org", Kind.WITHOUT_EXTENSION, '"root+a b"@example.net'),
        ("root", "joe+x", Kind.WITHOUT_EXTENSION, "root+x"),
        # the full key, @domain and user+extension: it had not
        ("root@example.net", "joe+x@example.org", Kind.FULL, "root@example.net"),
        ("root@example.net", "joe+x@example.org", Kind.AT_DOMAIN, "root@example.net"),
        ("root@example.net", "joe+x@example.org", Kind.LOCALPART, "root@example.net"),
        # @other
        ("@example.net", "joe+x@example.org", Kind.AT_DOMAIN, "joe+x@example.net"),
        ("@example.net", "joe+x@example.org", Kind.FULL, "joe+x@example.net"),
        ("@example.net", "joe+x@example.org", Kind.LOCALPART, "joe+x@example.net"),
        ("@example.net", "Joe+X@example.org", Kind.WITHOUT_EXTENSION, "Joe+X@example.net"),
        ("@example.net", "joe+x@example.org", Kind.USER, "joe+x@example.net"),
        ("@example.net", '"a b"@example.org', Kind.AT_DOMAIN, '"a b"@example.net'),
        ("@example.net", "a b@example.org", Kind.AT_DOMAIN, '"a b"@example.net'),
        ("@example.net", '"a@b"@example.org', Kind.AT_DOMAIN, '"a@b"@example.net'),
        ("@example.net", '"a\\"b"@example.org', Kind.AT_DOMAIN, '"a\\"b"@example.net'),
        ("@example.net", "@example.org", Kind.AT_DOMAIN, '""@example.net'),
        ("@example.net", "jörg@example.org", Kind.AT_DOMAIN, "jörg@example.net"),
        ("@example.net", "joe", Kind.FULL, "joe@example.net"),
        # Postfix puts the localpart in front of the value, of its first address and nothing else.
        ("@example.net, b@example.com", "joe@example.org", Kind.FULL, '"joe@example.net, b"@example.com'),
        # a kind that another spelling of the key matched
        ("root@example.net", "joe@example.org", Kind.WITHOUT_EXTENSION, "root@example.net"),
    ],
)
def test_a_value_takes_over_what_the_key_that_matched_left(
    value: str, key: str, kind: Kind, rewritten: str
) -> None:
    assert VIRTUAL.rewritten(value, key, kind) == rewritten


@pytest.mark.parametrize(
    ("value", "propagated"),
    [
        ("Joe <joe@example.net>", "joe+x@example.net"),
        ("joe@example.net (Joe, at work)", "joe+x@example.net"),
        ("joe@example.net(a (b\\)) c)", "joe+x@example.net"),
        ('"a, b"@example.net, c@example.net', '"a, b+x"@example.net, c+x@example.net'),
        ("a@example.net b@example.net", "a+x@example.net, b+x@example.net"),
        ("a@example.net,b@example.net", "a+x@example.net, b+x@example.net"),
        ("friends: a@example.net, b@example.net;", "a+x@example.net, b+x@example.net"),
        ("<@a.example,@b.example:joe@example.net>", "joe+x@example.net"),
        ("joe @ example . net", "joe+x@example.net"),
        ("joe@[192.0.2.1]", "joe+x@[192.0.2.1]"),
        ("joe@[IPv6:2001:db8::1]", "joe+x@[IPv6:2001:db8::1]"),
        ('"joe"@example.net', "joe+x@example.net"),
        ('"a b"', '"a b+x"'),
        ("joe@example.net,", "joe+x@example.net"),
        ("joe@", "joe+x@"),
        # allow_percent_hack and swap_bangpath
        ("joe%example.net", "joe+x@example.net"),
        ("joe%a.example%b.example", "joe%a.example+x@b.example"),
        ("a.example!joe", "joe+x@a.example"),
        ("a!b!joe", "b!joe+x@a"),
        ("joe%a@b", "joe%a+x@b"),
        ('"joe%a"', '"joe%a+x"'),
        # no address
        (",", ","),
        ("(nobody)", "(nobody)"),
        ("Nobody <>", "Nobody <>"),
        ("unterminated <", '"unterminated<+x"'),
    ],
)
def test_an_extension_is_put_into_each_address_of_a_list(value: str, propagated: str) -> None:
    assert propagate("+x", value) == propagated


@pytest.mark.parametrize(
    ("name", "propagate_extension", "propagated"),
    [
        ("virtual", None, True),
        ("canonical", None, True),
        ("generic", None, False),
        ("virtual", False, False),
        ("generic", True, True),
    ],
)
def test_extensions_are_propagated_where_postfix_does_it(
    name: Any, propagate_extension: bool | None, propagated: bool
) -> None:
    order = SearchOrder(name, propagate_extension=propagate_extension)
    kept = "+x" * propagated
    for value, rewritten in (("a@b, c@d", f"a{kept}@b, c{kept}@d"), ("@b", f"joe{kept}@b")):
        assert order.rewritten(value, "joe+x@example.org", Kind.WITHOUT_EXTENSION) == rewritten
    assert order.rewritten("@b", "joe+x@example.org", Kind.AT_DOMAIN) == "joe+x@b"


@pytest.mark.parametrize("name", [name for name in SEARCHES if not SearchOrder(name).rewrites])
def test_the_other_orders_answer_the_value_as_it_was_found(name: Any) -> None:
    for kind in Kind:
        assert SearchOrder(name).rewritten("@example.net, x", "joe+x@example.org", kind) == "@example.net, x"


@pytest.mark.parametrize("character", ["\r", "\n", "\0"])
def test_what_no_reply_can_carry_is_not_taken_over(character: str) -> None:
    assert prepend_localpart(f"a{character}b", "@example.net") == "@example.net"
    assert propagate(f"+a{character}b", "joe@example.net") == "joe@example.net"


def test_a_list_that_grows_beyond_every_reply_is_a_failure() -> None:
    with pytest.raises(LookupTempFail, match="too long"):
        propagate("+" + "x" * 9000, "a," * 50_000)
    assert len(propagate("+x", "a, " * 10_000)) <= MAX_VALUE


@pytest.mark.parametrize(
    "piece", ["a,", "a ", "a:;", "<a>", '"\\', "(\\", "joe@example.net,", *'()"\\<>:;[]@!%.']
)
def test_a_hostile_value_costs_little(piece: str) -> None:
    value = (piece * 100_000)[:90_000]
    began = time.process_time()
    addresses(value)
    with contextlib.suppress(LookupTempFail):
        propagate("+", value)
    assert time.process_time() - began < 2

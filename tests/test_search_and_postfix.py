"""The keys of every search order, quoting and lists of addresses, beside Postfix's own libraries."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit.keys import quote_address
from tcpmapkit.rewriting import addresses
from tcpmapkit.search import Kind, SearchOrder
from tests import postfix_library as library
from tests.postfix_library import ask
from tests.real_postfix import Postfix, find_program, missing_server, settle

DELIMITERS = "+-"
LOCAL = frozenset({"example.org", "host", "[192.0.2.1]", "[127.0.0.1]"})
MAIN_CF = f"""
recipient_delimiter = {DELIMITERS}
mydestination = example.org, host, [192.0.2.1]
myorigin = example.org
inet_interfaces = 127.0.0.1
"""

LOCALPARTS = [
    *("joe", "Joe+X", "joe+", "joe+x+y", "joe-x+y", "+x", "", "postmaster", "Mailer-Daemon", "owner-list"),
    *("list-request", "-request", "owner-list+x", "double-bounce", "a b+x", "a@b+x", 'a"b', "a\\b-c", "a,b"),
    *(".joe", "joe.", "a..b", "jörg+ä", "@a:b", "@a", "a:b", "(c)", "[x]", "a%b", "a!b", '"a b"', "Σίσυφος"),
]
DOMAINS = [
    *("example.org", "Example.ORG", "example.org.", "example.org..", "a.b.example.net", "host", "HOST", ""),
    *("[192.0.2.1]", "[127.0.0.1]", "[192.0.2.9]", "[IPv6:2001:db8::1]", "192.0.2.1", ".example.net", "."),
    *("a..b", "münchen.example", "x." * 60 + "example", "..", "a.b."),
]
INTERNAL = [
    *(f"{local}@{domain}" for local, domain in itertools.product(LOCALPARTS, DOMAINS)),
    *filter(None, LOCALPARTS),
]

STRATEGY_DEFAULT = library.FULL | library.NOEXT | library.LOCALPART_IF_LOCAL | library.AT_DOMAIN
STRATEGY_TRANSPORT = library.FULL | library.NOEXT | library.DOMAIN
STRATEGY_ACCESS = STRATEGY_TRANSPORT | library.LOCALPART_AT
ORDERS: dict[str, tuple[SearchOrder, int, int]] = {
    "address": (SearchOrder("address"), library.EXTERNAL_FIRST, STRATEGY_DEFAULT),
    "virtual": (SearchOrder("virtual"), library.EXTERNAL, STRATEGY_DEFAULT),
    "canonical": (SearchOrder("canonical"), library.EXTERNAL, STRATEGY_DEFAULT),
    "generic": (SearchOrder("generic"), library.EXTERNAL, STRATEGY_DEFAULT),
    "transport": (SearchOrder("transport"), library.EXTERNAL_FIRST, STRATEGY_TRANSPORT | library.PDDMDS),
    "transport, parent": (
        SearchOrder("transport", match_subdomains="parent"),
        library.EXTERNAL_FIRST,
        STRATEGY_TRANSPORT | library.PDMS,
    ),
    "access": (SearchOrder("access"), library.EXTERNAL_FIRST, STRATEGY_ACCESS | library.PDMS),
    "access, dot": (
        SearchOrder("access", match_subdomains="dot"),
        library.EXTERNAL_FIRST,
        STRATEGY_ACCESS | library.PDDMDS,
    ),
}


@pytest.fixture(scope="module")
def postfix(tmp_path_factory: pytest.TempPathFactory) -> Postfix:
    """A Postfix with delimiters and local domains of this module's own."""
    postmap = find_program("postmap")
    if postmap is None:
        missing_server("Postfix is not installed: no postmap")
    prepared = Postfix.prepare(postmap, tmp_path_factory.mktemp("library"))
    main_cf = prepared.configuration / "main.cf"
    main_cf.write_text(main_cf.read_text() + MAIN_CF)
    settle(main_cf)
    return prepared


def once(keys: list[str]) -> list[str]:
    """Postfix asks some keys twice, which finds nothing new."""
    return list(dict.fromkeys(keys))


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_asks_what_postfix_asks_of_its_own_tables(name: str, postfix: Postfix) -> None:
    order, query_form, strategy = ORDERS[name]
    order = SearchOrder(order.name, DELIMITERS, LOCAL, order.match_subdomains)
    # transport(5) panics without a domain, access(5) with an address has one, and a key without is
    # a domain to both.
    asked = [address for address in INTERNAL if "@" in address or not order.bare_is_domain]
    if order.name == "address":  # smtp_sasl_password_maps asks for these as they are
        asked = [address for address in asked if address not in ("a:b", "[x]")]
    questions: list[list[Any]] = [
        ["find", address, library.INTERNAL, query_form, strategy] for address in asked
    ]
    for address, keys in zip(asked, ask(postfix, questions), strict=True):
        first, *_ = keys
        # In either form that Postfix sends; an unquoted one that looks quoted is taken for quoted.
        for sent in {first, address} if quote_address(address) == first and '"' not in address else {first}:
            assert [found.key for found in order.keys(sent)] == once(list(keys)), (address, sent)


@pytest.mark.parametrize("style", ["parent", "dot"])
def test_a_list_of_domains_asks_what_postfix_asks(style: Any, postfix: Postfix) -> None:
    names = [domain.lower() for domain in DOMAINS if domain]
    flags = library.MATCH_PARENT if style == "parent" else 0
    order = SearchOrder("domain", match_subdomains=style)
    for name, keys in zip(names, ask(postfix, [["match_list", name, flags] for name in names]), strict=True):
        assert [found.key for found in order.keys(name)] == list(keys), name


def test_an_address_is_quoted_as_postfix_quotes_it(postfix: Postfix) -> None:
    questions = [["quote", address, flags] for address in INTERNAL for flags in (1, 9)]
    for (_, address, flags), quoted in zip(questions, ask(postfix, questions), strict=True):
        assert quote_address(address, bare=flags == 9) == quoted


def test_a_list_of_addresses_is_read_as_postfix_reads_it(postfix: Postfix) -> None:
    dice = random.Random(822)
    pieces = [
        *("joe", "a+b", '"a, b"', '"', '"c\\"d"', "[192.0.2.1]", "[", "]", "(c (d) \\) e)", "(", ")"),
        *("<", ">", "@", "@example.org", ",", ";", ":", ".", " ", "\t", "\\", "\\,", "%", "!", "|"),
        *("jörg", "Joe <j@x>"),
    ]
    values = [
        "a@example.org, b@example.net",
        "a@example.org b@example.net",
        "Joe User <joe@example.org> (comment), list: a, b c; d",
        "<@a,@b:joe@example.org>, @a:b@c",
        '"a, b"@example.org, "c',
        *("".join(dice.choices(pieces, k=dice.randint(1, 12))) for _ in range(3000)),
    ]
    for value, found in zip(values, ask(postfix, [["parse", value] for value in values]), strict=True):
        ours = ["".join(text for text, _ in tokens) for tokens in addresses(value)]
        assert ours == list(found), value


VALUES = [
    *("root", "root@example.net", "a@b, c", "a b, Joe User <j@x> (c)", "g: a@b, c@d;", '"a, b"@c, "d e"'),
    *("a%b", "a!b", "a%b%c", "a!b!c", "a%b@c", '"a%b"', '"a!b"', '"a@b"', '"a b"@c', "@", "a@", ",", "(x)"),
    *("<@a,@b:c@d>", "@a:b@c", "a@[192.0.2.1]", "a@b.", "a@b.example.", "jörg@x", "root+y@x", "<a b>"),
    *("@x", "@x, b@y"),
]


@pytest.mark.parametrize(
    ("propagate", "extension"),
    [(True, "-x+y"), (True, "+"), (True, "+a%b"), (True, "+a!bä"), (True, ""), (False, "+x")],
)
def test_what_is_rewritten_means_to_postfix_what_its_own_rewriting_does(
    propagate: bool, extension: str, postfix: Postfix, tmp_path: Path
) -> None:
    order = SearchOrder("virtual", DELIMITERS, LOCAL, propagate_extension=propagate)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    keys = [f"joe.{at}{extension}@example.net" for at in range(len(VALUES))]
    kind = Kind.WITHOUT_EXTENSION if extension else Kind.FULL
    theirs.write_text("".join(f"joe.{at}@example.net {value}\n" for at, value in enumerate(VALUES)))
    ours.write_text(
        "".join(
            f"{key} {order.rewritten(value, key, kind)}\n" for key, value in zip(keys, VALUES, strict=True)
        )
    )
    settle(theirs)
    settle(ours)
    answers = ask(
        postfix, [["map", str(table), key, int(propagate)] for key in keys for table in (theirs, ours)]
    )
    for at, value in enumerate(VALUES):
        assert answers[2 * at] == answers[2 * at + 1], (keys[at], value)
    assert answers[2] == answers[3] == [f"root{extension * propagate}@example.net"]

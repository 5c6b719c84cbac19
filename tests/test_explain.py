"""What `--explain` shows: every key tried, partial or not, which step saw it, which one matched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import attrs
import pytest

from tcpmapkit import Found, LookupTempFail, hookimpl
from tcpmapkit.explain import explanation
from tcpmapkit.testing import started_file


@attrs.define(eq=False)
class Later:
    """Answers after a while."""

    entries: dict[str, str]

    async def resolve(self, query: Any) -> Any:
        await asyncio.sleep(0)
        if query.key.startswith("down"):
            raise LookupTempFail("source is down")
        value = self.entries.get(query.key)
        return Found(value) if value else None


@pytest.fixture
def later() -> ModuleType:
    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("later", Later)

    plugin = ModuleType("later")
    plugin.register_resolvers = register_resolvers  # type: ignore[attr-defined]
    return plugin


Ask = Any


@asynccontextmanager
async def asking(configuration: str, later: ModuleType) -> AsyncIterator[Ask]:
    """Gives what asks a map for a key: the rows of the explanation, less the times in them."""
    async with started_file(configuration, plugins=[later]) as maps:

        async def ask(name: str, key: str) -> list[str]:
            asked = maps[name]
            query = asked.query(key)
            query.trace = []
            outcome = await asked.lookup(query)
            rows = explanation(asked, query, outcome, 0.0)
            shown = ("|".join(field for field in row if not re.fullmatch(r"\S+ ms", field)) for row in rows)
            return [re.sub(r" for \S+ s$", "", row) for row in shown]

        yield ask


def between(rows: list[str], *, after: str = "cache", before: str = "reply") -> list[str]:
    """The rows about the lookup."""
    start = next(at for at, row in enumerate(rows) if row.startswith(after))
    end = next(at for at, row in enumerate(rows) if row.startswith(before))
    return rows[start + 1 : end]


VIRTUAL = """
[maps.aliases]
search = "virtual"
local_domains = ["example.org"]
[[maps.aliases.resolvers]]
type = "regex"
name = "patterns"
rules = [{ pattern = "^pattern", result = "p@example.net" }]
[[maps.aliases.resolvers]]
type = "TYPE"
name = "table"

[maps.aliases.resolvers.entries]
"joe@example.org" = "joe@example.net"
"full+x@example.org" = "full"
"@example.com" = "@example.net"
ann = "Ann"
"""

#: Key -> what is told of the lookup, of a chain that answers at once and of one that waits alike.
SEARCHED = {
    "Joe+Lists@Example.org": [
        "key 1|'Joe+Lists@Example.org'|full",
        "step 1|patterns|asked 'Joe+Lists@Example.org'|miss",
        "step 2|table|asked 'joe+lists@example.org'|miss",
        "key 2|'Joe@Example.org'|partial",
        "step 1|patterns|not asked|partial key",
        "step 2|table|asked 'joe@example.org'|found 'joe@example.net'",
        "matched|'Joe@Example.org'",
        "rewritten|from 'joe@example.net'|to 'joe+Lists@example.net'",
        "outcome|found 'joe+Lists@example.net'",
    ],
    "ann@example.org": [
        "key 1|'ann@example.org'|full",
        "step 1|patterns|asked 'ann@example.org'|miss",
        "step 2|table|asked 'ann@example.org'|miss",
        "key 2|'ann'|partial",
        "step 1|patterns|not asked|partial key",
        "step 2|table|asked 'ann'|found 'Ann'",
        "matched|'ann'",
        "outcome|found 'Ann'",
    ],
    "full+x@example.org": [
        "key 1|'full+x@example.org'|full",
        "step 1|patterns|asked 'full+x@example.org'|miss",
        "step 2|table|asked 'full+x@example.org'|found 'full'",
        "matched|'full+x@example.org'",
        "outcome|found 'full'",
    ],
    "Any@example.com": [
        "key 1|'Any@example.com'|full",
        "step 1|patterns|asked 'Any@example.com'|miss",
        "step 2|table|asked 'any@example.com'|miss",
        "key 2|'@example.com'|partial",
        "step 1|patterns|not asked|partial key",
        "step 2|table|asked '@example.com'|found '@example.net'",
        "matched|'@example.com'",
        "rewritten|from '@example.net'|to 'Any@example.net'",
        "outcome|found 'Any@example.net'",
    ],
    "pattern@example.net": [
        "key 1|'pattern@example.net'|full",
        "step 1|patterns|asked 'pattern@example.net'|found 'p@example.net'",
        "matched|'pattern@example.net'",
        "outcome|found 'p@example.net'",
    ],
    "no+one@example.net": [
        "key 1|'no+one@example.net'|full",
        "step 1|patterns|asked 'no+one@example.net'|miss",
        "step 2|table|asked 'no+one@example.net'|miss",
        "key 2|'no@example.net'|partial",
        "step 1|patterns|not asked|partial key",
        "step 2|table|asked 'no@example.net'|miss",
        "key 3|'@example.net'|partial",
        "step 1|patterns|not asked|partial key",
        "step 2|table|asked '@example.net'|miss",
        "outcome|not found",
    ],
}


@pytest.mark.parametrize("kind", ["static", "later"])
@pytest.mark.parametrize("key", SEARCHED)
async def test_every_key_is_shown_in_its_order_with_the_steps_that_saw_it(
    later: ModuleType, kind: str, key: str
) -> None:
    async with asking(VIRTUAL.replace("TYPE", kind), later) as ask:
        assert between(await ask("aliases", key)) == SEARCHED[key]


async def test_a_failure_ends_the_search_at_its_key_and_nothing_matched(later: ModuleType) -> None:
    async with asking(VIRTUAL.replace("TYPE", "later"), later) as ask:
        rows = await ask("aliases", "down+x@example.org")
    assert between(rows) == [
        "key 1|'down+x@example.org'|full",
        "step 1|patterns|asked 'down+x@example.org'|miss",
        "step 2|table|asked 'down+x@example.org'|temporary failure: source is down",
        "outcome|temporary failure: source is down",
    ]
    assert "reply|policy|nothing: the connection is closed" in rows
    assert rows[-1].startswith("Postfix|defers the mail")


async def test_a_value_whose_rewriting_fails_matched_all_the_same(later: ModuleType) -> None:
    configuration = """
    [maps.aliases]
    search = "virtual"
    [[maps.aliases.resolvers]]
    type = "later"
    entries = { "joe@example.org" = "VALUE" }
    """.replace("VALUE", ",".join(["a"] * 30_000))
    async with asking(configuration, later) as ask:
        rows = await ask("aliases", "joe+abcdefgh@example.org")
    assert "matched|'joe@example.org'" in rows
    assert not any(row.startswith("rewritten") for row in rows)
    assert any(row.startswith("outcome|temporary failure: the addresses found are too long") for row in rows)


QUOTED = """
[maps.owners]
search = "SEARCH"
[[maps.owners.resolvers]]
type = "regex"
rules = [{ pattern = "^nobody$", result = "x" }]
[[maps.owners.resolvers]]
type = "static"
entries = { "@example.org" = "root" }
"""


@pytest.mark.parametrize("key", ['"john doe+x"@example.org', "john doe+x@example.org"])
@pytest.mark.parametrize(
    ("search", "keys"),
    [
        (
            "address",
            [
                ('"john doe+x"@example.org', "full"),
                ("john doe+x@example.org", "full"),
                ('"john doe"@example.org', "partial"),
                ("john doe@example.org", "partial"),
                ("@example.org", "partial"),
            ],
        ),
        (
            "virtual",
            [
                ('"john doe+x"@example.org', "full"),
                ('"john doe"@example.org', "partial"),
                ("@example.org", "partial"),
            ],
        ),
    ],
)
async def test_the_quoted_and_the_unquoted_form_are_keys_of_their_own(
    later: ModuleType, key: str, search: str, keys: list[tuple[str, str]]
) -> None:
    async with asking(QUOTED.replace("SEARCH", search), later) as ask:
        rows = await ask("owners", key)
    assert f"key|{key!r}" in rows
    shown = [row.split("|")[1:] for row in rows if re.match(r"key \d", row)]
    assert shown == [[repr(one), kind] for one, kind in keys]
    assert "matched|'@example.org'" in rows
    # Postfix asks a regexp_table(5) for both forms of the full key.
    asked = [row for row in rows if row.startswith("step 1|regex")]
    assert ["not asked" not in row for row in asked] == [kind == "full" for _, kind in keys]


async def test_an_address_of_a_client_is_cut_shorter_key_by_key(later: ModuleType) -> None:
    configuration = """
    [maps.clients]
    search = "access"
    [[maps.clients.resolvers]]
    type = "cidr"
    rules = [{ network = "198.51.100.0/24", result = "OK" }]
    [[maps.clients.resolvers]]
    type = "static"
    entries = { "192.0" = "REJECT" }
    """
    async with asking(configuration, later) as ask:
        rows = between(await ask("clients", "192.0.2.7"))
    assert [row for row in rows if not row.startswith("step")] == [
        "key 1|'192.0.2.7'|full",
        "key 2|'192.0.2'|partial",
        "key 3|'192.0'|partial",
        "matched|'192.0'",
        "outcome|found 'REJECT'",
    ]
    asked = [row for row in rows if row.startswith("step 1")]
    assert [row.endswith("not asked|partial key") for row in asked] == [False, True, True]


REFERRING = """
[maps.outer]
OPTIONS
[[maps.outer.resolvers]]
type = "static"
entries = { only = "outer" }
[[maps.outer.resolvers]]
type = "map"
name = "reference"
map = "inner"
[[maps.outer.resolvers]]
type = "static"
name = "last"
entries = { "last@example.org" = "here" }

[maps.inner]
search = "address"
[[maps.inner.resolvers]]
type = "TYPE"
name = "table"
entries = { "joe@example.org" = "joe" }
"""


@pytest.mark.parametrize("kind", ["static", "later"])
async def test_the_keys_and_steps_of_another_map_stand_above_the_step_that_asks_it_under_its_name(
    later: ModuleType, kind: str
) -> None:
    async with asking(REFERRING.replace("TYPE", kind).replace("OPTIONS", ""), later) as ask:
        found = between(await ask("outer", "joe+x@example.org"))
        last = between(await ask("outer", "last@example.org"))
    assert found == [
        "step 1|static|asked 'joe+x@example.org'|miss",
        "map inner|key|'joe+x@example.org'|full",
        "map inner|step|table|asked 'joe+x@example.org'|miss",
        "map inner|key|'joe@example.org'|partial",
        "map inner|step|table|asked 'joe@example.org'|found 'joe'",
        "step 2|reference|asked 'joe+x@example.org'|found 'joe'",
        "outcome|found 'joe'",  # the asked map has no search order: no key of its own matched
    ]
    assert last == [
        "step 1|static|asked 'last@example.org'|miss",
        "map inner|key|'last@example.org'|full",
        "map inner|step|table|asked 'last@example.org'|miss",
        "map inner|key|'@example.org'|partial",
        "map inner|step|table|asked '@example.org'|miss",
        "step 2|reference|asked 'last@example.org'|miss",
        "step 3|last|asked 'last@example.org'|found 'here'",
        "outcome|found 'here'",
    ]


@pytest.mark.parametrize("kind", ["static", "later"])
async def test_what_matched_is_the_asked_maps_own_key(later: ModuleType, kind: str) -> None:
    configuration = REFERRING.replace("TYPE", kind).replace("OPTIONS", 'search = "virtual"')
    async with asking(configuration, later) as ask:
        rows = between(await ask("outer", "joe+x@example.org"))
    own = [row for row in rows if not row.startswith("map inner")]
    assert own == [
        "key 1|'joe+x@example.org'|full",
        "step 1|static|asked 'joe+x@example.org'|miss",
        "step 2|reference|asked 'joe+x@example.org'|found 'joe'",
        "matched|'joe+x@example.org'",
        "outcome|found 'joe'",
    ]


async def test_a_group_of_steps_is_shown_below_the_key_that_it_saw(later: ModuleType) -> None:
    configuration = """
    [maps.aliases]
    search = "address"
    [[maps.aliases.resolvers]]
    type = "union"
    resolvers = [
      { type = "static", name = "one", entries = { "joe@example.org" = "a" } },
      { type = "later", name = "two", entries = { "joe@example.org" = "b" } },
    ]
    """
    async with asking(configuration, later) as ask:
        rows = between(await ask("aliases", "joe+x@example.org"))
    assert rows[-6:] == [
        "key 2|'joe@example.org'|partial",
        "step 1|one|asked 'joe@example.org'|found 'a'",
        "step 2|two|asked 'joe@example.org'|found 'b'",
        "step 3|union|asked 'joe@example.org'|found 'a,b'",
        "matched|'joe@example.org'",
        "outcome|found 'a,b'",
    ]


async def test_an_answer_from_the_cache_says_that_no_step_was_asked(later: ModuleType) -> None:
    async with asking(VIRTUAL.replace("TYPE", "later"), later) as ask:
        first = await ask("aliases", "joe@example.org")
        again = await ask("aliases", "joe@example.org")
    assert "steps|none asked: the cache has the answer" not in first
    assert between(again)[0] == "steps|none asked: the cache has the answer"
    assert not any(re.match(r"key \d|step \d", row) for row in again)

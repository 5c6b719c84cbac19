"""The `cidr` resolver beside the real ``cidr:``."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmapkit import ConfigError, PermFail, Query, TempFail
from tcpmapkit.resolvers.cidr import Cidr, Rule, first_match, results
from tcpmapkit.resolvers.cidr.table import arrange, read_rules
from tests.loading import load, value
from tests.real_postfix import Postfix


def loaded(path: Path) -> tuple[Cidr, list[str]]:
    resolver = Cidr(path=path)
    return resolver, load(resolver)


def same(key: str) -> str:
    return key


ADDRESSES = [
    *("0.0.0.0", "192.0.2.0", "192.0.2.1", "192.0.2.128", "192.0.0.0", "198.51.100.0", "255.255.255.255"),
    *("::", "::1", "2001:db8::", "2001:DB8::1", "2001:db8:0:0:8000::", "::ffff:192.0.2.1", "::ffff:0:0"),
    *(
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "8000::",
        "192.00.2.0",
        "192.0.2",
        "fe80::1%lo",
        "example.org",
    ),
]
MASKS = [
    "0",
    "1",
    "8",
    "16",
    "24",
    "25",
    "31",
    "32",
    "33",
    "64",
    "80",
    "96",
    "127",
    "128",
    "129",
    "",
    "x",
    "-1",
]
ODD_MASKS = ["08", "+8", "264", "256", "4294967320", "9" * 30, "0" * 30 + "24", "24/8", "\u0662"]
networks = st.one_of(
    st.sampled_from(ADDRESSES),
    st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(MASKS + MASKS + ODD_MASKS)).map("/".join),
)
# Networks without host bits, so that many rules hold.
right_networks = st.sampled_from(
    [
        *("0.0.0.0/0", "192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "192.0.0.0/16", "192.0.2.1", "::/0"),
        *(
            "2001:db8::/32",
            "2001:db8::/64",
            "2001:db8::1",
            "::ffff:0:0/96",
            "8000::/1",
            "[::1]",
            "[192.0.2.0]/24",
        ),
    ]
)
patterns = st.one_of(
    right_networks,
    right_networks,
    networks,
    networks.map(lambda network: f"[{network}]"),
    st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(MASKS)).map(lambda pair: "[{}]/{}".format(*pair)),
    st.sampled_from(["[::1", "[::1]x", "[]", "", "[192.0.2.0/24]/24", "/8", "0.0.0.0 /0"]),
)
signs = st.sampled_from(["", "", "", "!", "!!", "! ", " ! !"])
space = st.sampled_from([" ", "\t", " \v", "\n  ", "\r", "\u00a0"])
lines = st.one_of(
    st.tuples(signs, patterns, space, st.sampled_from(["one", "two  words ", "", "\u00e9"])).map("".join),
    st.tuples(
        st.sampled_from(["if ", "IF ", "if!", "If\t!", "if"]),
        signs,
        patterns,
        st.sampled_from(["", " ", " x"]),
    ).map("".join),
    st.sampled_from(
        ["endif", "EndIf ", "endif x", "endif!", "endifx", "ifx y", "# 192.0.2.1 no", "  lost", ""]
    ),
    st.just("endif"),
)
# Numbered, so that the answers tell the rules apart.
tables = st.lists(lines, max_size=12).map(
    lambda rows: "\n".join(
        f"{row}{number}" if row.endswith("one") else row for number, row in enumerate(rows)
    )
)

KEYS = [
    *ADDRESSES,
    *("0.0.0.1", "192.0.2.2", "192.0.2.127", "192.0.2.255", "192.0.3.0", "192.1.0.0", "127.255.255.255"),
    *(
        "2001:db8::2",
        "2001:db8:0:1::",
        "2001:db9::",
        "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "::ffff:c000:201",
    ),
    *(
        "",
        "*",
        "[192.0.2.1]",
        "192.0.2.1/32",
        " 192.0.2.1",
        "192.0.2.1 ",
        "3221225985",
        "0xc0000201",
        ":",
        "\u0661.1.1.1",
    ),
]


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(content=tables)
def test_every_table_answers_and_warns_as_postfix_does(
    postfix: Postfix, tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.cidr"
    path.write_text(content, newline="")
    resolver, warnings = loaded(path)
    done = postfix.postmap("-q", "-", f"cidr:{path}", input="".join(f"{key}\n" for key in KEYS).encode())
    real = dict(line.split("\t", 1) for line in done.stdout.decode().removesuffix("\n").split("\n") if line)
    for key in KEYS:
        if "\r" in real.get(key, ""):
            assert isinstance(resolver.resolve(Query(key)), PermFail), key
        else:
            assert value(resolver, key, same) == real.get(key), key
    told = [line for line in done.stderr.decode().split("\n") if line]
    assert list(map(what_is_skipped, warnings)) == list(map(what_is_skipped, told))


def what_is_skipped(warning: str) -> str:
    """A warning from the number of the line on, control characters as Postfix logs them."""
    if "must not start with whitespace" in warning:  # Postfix does not say in which line
        return "white space"
    return re.sub(r"[\x00-\x1f]", "?", warning[warning.index(", line ") :])


def test_a_hundred_nested_networks_answer_as_postfix_does(postfix: Postfix, tmp_path: Path) -> None:
    path = tmp_path / "nested.cidr"
    rows = [f"2001:db8:{n:x}::/{48 - n % 4}" for n in range(0, 400, 8)] + [
        f"192.0.{n}.0/{24 - n % 3}" for n in range(0, 200, 4)
    ]
    path.write_text("".join(f"{network} {network}\n" for network in rows))
    resolver, warnings = loaded(path)
    assert warnings == []
    keys = [f"2001:db8:{n:x}::1" for n in range(410)] + [f"192.0.{n}.9" for n in range(210)]
    assert {key: value(resolver, key, same) for key in keys} == postfix.ask(f"cidr:{path}", keys)


@pytest.mark.parametrize(
    "key",
    ["user@example.org", "192.0.2.1\0", "192.0.2.1\n", "fe80::1%eth0", "' OR 1=1", "\udcff", "1" * 9000],
)
def test_a_key_that_is_no_address_is_a_miss(key: str) -> None:
    resolver = Cidr(rules=(Rule("0.0.0.0/0", "x"), Rule("::/0", "y")))
    load(resolver)
    assert resolver.resolve(Query(key)) is None


def test_of_inline_rules_the_first_that_holds_counts() -> None:
    resolver = Cidr(
        rules=(
            Rule("192.0.2.1", "one"),
            Rule("! 192.0.2.0/24", "outside"),
            Rule("[2001:db8::]/32", "six"),
            Rule("192.0.2.0/24", "net"),
        )
    )
    load(resolver)
    answers = {
        "192.0.2.1": "one",
        "192.0.2.2": "net",
        "198.51.100.1": "outside",
        "2001:db8::9": "six",
        "2001:db9::": None,
    }
    assert {key: value(resolver, key, same) for key in answers} == answers


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        (Rule("192.0.2.1/24", "x"), ("rules", 1, "network"), 'perhaps you should use "192.0.2.0/24" instead'),
        (Rule("", "x"), ("rules", 1, "network"), "no address pattern"),
        (Rule("!", "x"), ("rules", 1, "network"), "no address pattern"),
        (Rule("localhost", "x"), ("rules", 1, "network"), 'bad address pattern: "localhost"'),
        (Rule("192.0.2.0/33", "x"), ("rules", 1, "network"), "bad mask length"),
        (Rule("192.0.2.0/24", ""), ("rules", 1, "result"), "empty value"),
        (Rule("192.0.2.0/24", "a\rb"), ("rules", 1, "result"), "CR"),
    ],
)
def test_a_mistake_in_an_inline_rule_is_refused_with_its_place(rule: Rule, path: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Cidr(rules=(Rule("192.0.2.0/24", "x"), rule))
    assert caught.value.path == path


@pytest.mark.parametrize("options", [{}, {"rules": (), "path": Path("x")}])
def test_rules_are_written_inline_or_in_a_file(options: dict) -> None:
    with pytest.raises(ConfigError, match="either"):
        Cidr(**options)


def test_a_result_that_no_reply_can_carry_fails_for_its_addresses_alone(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"192.0.2.1 a\xffb\n192.0.2.2 a\rb\n192.0.2.0/24 ok\n")
    resolver, _ = loaded(path)
    assert isinstance(resolver.resolve(Query("192.0.2.1")), TempFail)
    assert isinstance(resolver.resolve(Query("192.0.2.2")), PermFail)
    assert value(resolver, "192.0.2.3") == "ok"


def test_a_missing_table_is_the_operators_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        loaded(tmp_path / "missing")


def test_nested_conditions_answer_as_for_postfix(postfix: Postfix, tmp_path: Path) -> None:
    random = Random(2)

    def network(shortest: int) -> str:
        length = random.randrange(shortest, 33)
        return f"192.0.2.{random.getrandbits(8) >> (32 - length) << (32 - length)}/{length}"

    lines: list[str] = []
    depth = 0
    for number in range(600):
        sign = random.choice(["", "!"])
        kind = random.random()
        if kind < 0.25 and depth < 40:
            lines.append(f"if {random.choice(['!', '!', ''])}{network(24)}")
            depth += 1
        elif kind < 0.45 and depth:
            lines.append("endif")
            depth -= 1
        elif kind < 0.5:
            lines.append(f"2001:db8::{random.randrange(9)} {number}")
        else:
            lines.append(f"{sign if depth > 2 else ''}{network(24 if depth > 2 else 28)} {number}")
    path = tmp_path / "table"
    path.write_text("\n".join([*lines, *["endif"] * depth, "0.0.0.0/0 last", ""]))
    resolver, warnings = loaded(path)
    assert warnings == []
    keys = [f"192.0.2.{last}" for last in range(256)] + [f"2001:db8::{last}" for last in range(12)]
    answers = {key: value(resolver, key, same) for key in keys}
    assert answers == postfix.ask(f"cidr:{path}", keys)
    assert len(set(answers.values())) >= 20


@pytest.mark.parametrize(
    "lines",
    [
        [f"if !192.0.{n >> 8}.{n & 255}" for n in range(2000)]
        + [f"!198.51.100.{n % 256} {n}" for n in range(2000)],
        [f"{sign}192.0.{n >> 8}.{n & 255} {n}" for n in range(2000) for sign in ("", "!")],
        [line for n in range(2000) for line in (f"if !192.0.{n >> 8}.{n & 255}", f"!192.0.2.0/24 {n}")],
    ],
    ids=["rules in a deep nest", "negations", "a rule at each depth"],
)
def test_no_table_takes_more_than_a_few_changes_a_line(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = 0

    def counted(sorted_changes: Any) -> Any:
        nonlocal changes
        for change in first_match_in_order(sorted_changes):
            changes += 1
            yield change

    first_match_in_order = first_match._in_order
    monkeypatch.setattr(first_match, "_in_order", counted)
    rules, blocks = read_rules("\n".join(lines), lambda line, message: None)
    found = arrange([addresses for addresses, _ in rules], range(len(rules)), blocks)
    assert changes <= 4 * len(lines)
    assert all(len(family.answers) <= changes + 1 for family in found.values())


@pytest.mark.parametrize("few", [0, 1, 2, 4096])
def test_results_are_told_apart_however_many_there_are(
    few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_FEW", few)
    path = tmp_path / "table"
    path.write_bytes(b"192.0.2.0/28 a\n192.0.2.16/28 \xc3\xb6\n2001:db8::/32 a\n192.0.2.32/28 \xff\n::/0 c\n")
    resolver, _ = loaded(path)
    answers = {key: value(resolver, key, same) for key in ("192.0.2.1", "192.0.2.17", "2001:db8::1", "::1")}
    assert answers == {"192.0.2.1": "a", "192.0.2.17": "\u00f6", "2001:db8::1": "a", "::1": "c"}
    assert isinstance(resolver.resolve(Query("192.0.2.33")), TempFail), "not UTF-8"
    assert resolver.resolve(Query("192.0.2.48")) is None
    assert resolver.rows == 5

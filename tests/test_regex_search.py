"""How a table of rules is searched: the texts that patterns require, and the same answers as without."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest

from tcpmapkit import Found, Query
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.resolvers.regex import InlineRule, Regex
from tcpmapkit.resolvers.regex.effort import Effort, MatchFailed, TooMuchEffort
from tcpmapkit.resolvers.regex.engine import best_engine
from tcpmapkit.resolvers.regex.outline import outline
from tcpmapkit.resolvers.regex.perl import CASELESS, DOTALL, EXTENDED
from tcpmapkit.resolvers.regex.posix import parse
from tcpmapkit.resolvers.regex.required import required
from tcpmapkit.resolvers.regex.search import Table
from tcpmapkit.resolvers.regex.table import TableReader
from tests import generated_rules
from tests.loading import load
from tests.real_postfix import Postfix, missing_server


def texts(pattern: str, flags: int = 0) -> list[set[str]]:
    tree = outline(pattern.encode().decode("latin-1"), CASELESS | DOTALL | flags)
    return [] if tree is None else [{text.decode() for text in one} for one in required(tree)]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (r"^bounce-(\d+)@Lists\.example\.org$", [{"bounce-"}, {"@lists.example.org"}]),
        ("^(info|sales)@", [{"info@", "sales@"}]),
        ("colou?r", [{"color", "colour"}]),
        ("a{3}b", [{"aaab"}]),
        ("(?:ab)+c", [{"ab"}]),
        ("[ab]x[1-3]y", [{f"{a}x{n}y" for a in "ab" for n in "123"}]),
        ("x[^a]yy", [{"yy"}]),
        (r"(?!foo)bar(?=baz)", [{"bar"}]),
        (r"(?<name>ab)cd\d++ef", [{"abcd"}, {"ef"}]),
        ("(?i)AB(?-i:Cd)", [{"abcd"}]),
        ("foo|b.r.?|quux", []),
        ("foo|b.rr|quux", [{"foo", "rr", "quux"}]),
        ("é@", [{"é@"}]),
        (r"^\QInfo+x@(example)\E\.(org|net)$", [{"info+x@(example).org", "info+x@(example).net"}]),
        (r"x\Qfo\E{2}bar\Q.org", [{"xfoobar.org"}]),
        (r"\Qab\E+cd", [{"cd"}]),
        (r"ab\E\Q\E?cd", [{"acd", "abcd"}]),
        ("ab(?#c+)?cd", [{"acd", "abcd"}]),
        ("(?x) f o o \\Q a#\\E # b\n+\\ n [ ] ", [{"foo a"}, {" n "}]),
        ("(?x: a b + c d ) e f", [{"cd"}, {" e f"}]),
        ("(ab (?x) c d | e f) g", [{"ab cd g", "ef g"}]),
        ("(?x)ab(?-x) c(?x-x) d", [{"ab c d"}]),
        # Nothing is required, or nobody can say what.
        ("", []),
        (".*", []),
        ("(abc)?", []),
        ("(abc)*", []),
        ("(abc){0}", []),
        ("a", []),
        ("foo|", []),
        ("(?!foobar)", []),
        ("(*UTF)kk", []),
        (r"(?xx)foo[ ]", []),
        (r"[\Qab\E]cd", []),
        ("(?:(a)|b)(?(1)cc|dd)", []),
        (r"(?R)?foo\g{1}", []),
        ("(" * 250 + "ab" + ")" * 250, []),
    ],
)
def test_the_texts_that_a_pattern_requires(pattern: str, wanted: list[set[str]]) -> None:
    assert texts(pattern) == wanted


def test_blanks_and_comments_may_count_for_nothing() -> None:
    assert texts("f o o # bar", EXTENDED) == [{"foo"}]
    assert texts("f o o # bar\r\nbaz", EXTENDED) == []
    assert texts("(?-x)f o o # bar", EXTENDED) == [{"f o o # bar"}]


def test_a_regexp_requires_texts_in_either_case_of_either_kind() -> None:
    for icase in (True, False):
        tree = parse("^(Foo|BAR)@", extended=True, icase=icase, newline=False).tree
        assert required(tree) == ({b"foo@", b"bar@"},)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("(*UTF)mark@", "mar\u212a@"),  # the sign of the kelvin is a k in Unicode
        ("(*UTF)(*UCP)miss", "mi\u017f\u017f"),
        ("(*UCP)é@", "é@"),
        ("(?i)ÉCOLE", "École"),
    ],
)
def test_a_rule_that_matches_other_cases_of_its_letters_is_not_lost(pattern: str, key: str) -> None:
    rules = tuple(InlineRule(f"^other{number}$", "other") for number in range(20))
    resolver = Regex(rules=(*rules, InlineRule(pattern, "found")))
    assert resolver.resolve(Query(key)) == Found("found")


def read(text: str, syntax: str, effort: Effort) -> Any:
    reader = TableReader(Path("table"), syntax, best_engine(effort), lambda line, message: None)
    return reader.read(text.encode().decode("latin-1"))


@pytest.mark.parametrize("syntax", ["pcre", "regexp"])
def test_a_rule_that_is_not_tried_would_not_have_matched(syntax: str) -> None:
    random = Random(4)
    effort = Effort(20_000)
    left_out = found = 0
    for _ in range(150):
        text = generated_rules.table(random, syntax, 20)
        rules = read(text, syntax, effort)
        chosen = Table.of(rules, effort, prefilter=True)
        every = attrs.evolve(Table.of(rules, effort, prefilter=False), parts=())
        for _ in range(25):
            key = generated_rules.key(random).encode()
            answer = every.find(key, Query(""), lambda condition, error: None)
            assert chosen.find(key, Query(""), lambda condition, error: None) == answer, (text, key)
            found += answer is not None
            tried = set(chosen.candidates(key))
            for number, leaf in enumerate(chosen.leaves):
                if number not in tried:
                    left_out += 1
                    conditions = [around.condition for around in leaf.around]
                    assert not met([*conditions, leaf.rule.condition], key, effort), (text, key, number)
    assert found > 1000
    assert left_out > 5000


@pytest.mark.parametrize("syntax", ["pcre", "regexp"])
@pytest.mark.parametrize("begins", ["^", "[0-9a]", "^.?", "", "(^)", "(?x)^ "])
def test_rules_tried_at_once_answer_as_each_by_itself(syntax: str, begins: str) -> None:
    if syntax == "regexp":
        begins = begins.replace("(?x)", "")
    random = Random(begins)
    effort = Effort(20_000)
    found = left_out = 0
    for _ in range(40):
        text = "".join(
            f"{random.choice(['', '', '', '', '', '!'])}/{begins}{generated_rules.pattern(random, syntax)}/"
            f"{random.choice(['', '', '', '', '', 'i', 'x'])} answer{number}\n"
            for number in range(40)
        )
        rules = read(text, syntax, effort)
        together = Table.of(rules, effort, prefilter=False)
        alone = attrs.evolve(together, parts=())
        both = Table.of(rules, effort, prefilter=True)
        for _ in range(20):
            key = generated_rules.key(random).encode()
            answer = alone.find(key, Query(""), lambda condition, error: None)
            assert together.find(key, Query(""), lambda condition, error: None) == answer, (text, key)
            assert both.find(key, Query(""), lambda condition, error: None) == answer, (text, key)
            found += answer is not None
            left_out += sum(len(part.numbers) - len(part.left(key)) for part in together.parts)
    assert found > 100
    assert left_out > (500 if begins in ("^", "[0-9a]") else -1)


def test_long_tables_of_rules_without_a_text_answer_as_postfix_does(postfix: Postfix, tmp_path: Path) -> None:
    if "pcre" not in postfix.map_types:
        missing_server("this Postfix has no pcre tables")
    random = Random(5)
    lines = []
    for number in range(300):
        lines.append(f"/^[a-z]{{{random.randint(1, 9)}}}[0-9]{{{number % 3}}}@/ letters{number}")
        if number % 50 == 49:
            lines += [f"if /^[{'acf'[number % 3]}x]/", "/^.(.).*@[a-z]$/ $1", "!/[a-y]/ none", "endif"]
        if number % 40 == 39:
            lines.append(f"/[{number % 10}]-[0-9]+/ digits{number}")
    path = tmp_path / "table"
    path.write_text("\n".join(random.sample(lines[:300], 300)) + "\n")
    keys = {
        "".join(random.choice("acxyz01-9") for _ in range(random.randint(1, 11)))
        + "@"
        + random.choice("ab-1")
        for _ in range(500)
    }
    resolver = Regex(path=path)
    load(resolver)
    ours = {key: resolver.resolve(Query(key)) for key in keys}
    answers = {key: outcome.value if isinstance(outcome, Found) else None for key, outcome in ours.items()}
    assert answers == postfix.ask(f"pcre:{path}", list(answers))
    assert len([part for part in resolver._table.parts if part.search is not None]) > 10


@pytest.mark.parametrize(
    ("patterns", "searches"),
    [
        (["^.", "^..", "^...", "^a?b?"], 1),
        (["^.", "^..", "^..."], 0),
        (["^.", "^..", "^...", "^(.)\\1"], 0),
        (["^(?<n>.)", "^(?<n>.).", "^(?<n>.)..", "^(?<n>.)..."], 0),
        (["[0-9]", "[0-9]2", "(1|2)", "[a-c]+"], 0),
        (["[0-9]", "[0-9]2", "1[12]", "[a-c]+"], 1),
        (["^.(*PRUNE)"] * 9, 0),
        (["^.(?#"] + ["^."] * 3, 0),
        (["^(?x). # x"] + ["^."] * 3, 0),
        (["^.\\Q|"] + ["^."] * 4, 1),
    ],
)
def test_which_rules_are_tried_at_once(patterns: list[str], searches: int) -> None:
    effort = Effort()
    table = Table.of(read("".join(f"/{pattern}/ x\n" for pattern in patterns), "pcre", effort), effort, False)
    assert len([part for part in table.parts if part.search is not None]) == searches


def test_a_search_for_several_rules_that_needs_too_many_steps_leaves_them_to_be_tried_one_by_one() -> None:
    rules = [InlineRule(f"^[^@]*[^@]*[^@]{{{number}}}[0-9]$", "slow") for number in range(8)]
    resolver = Regex(rules=(*rules, InlineRule("^[^@]*[!?]$", "found"), *rules))
    key = "a" * 45 + "!"
    assert resolver.resolve(Query(key)) == Found("found")
    assert [len(part.left(key.encode())) for part in resolver._table.parts] == [9, 8]
    assert [len(part.left(b"a@!")) for part in resolver._table.parts] == [0, 0]


def met(conditions: list[Any], key: bytes, effort: Effort) -> bool:
    effort.begin(Query(""))
    try:
        return all(condition.holds(key) for condition in conditions)
    except (MatchFailed, TooMuchEffort):
        return False


@pytest.mark.parametrize("syntax", ["pcre", "regexp"])
def test_long_tables_answer_as_postfix_does(postfix: Postfix, tmp_path: Path, syntax: Any) -> None:
    if syntax not in postfix.map_types:
        missing_server(f"this Postfix has no {syntax} tables")
    rows = []
    for n in range(400):
        rows += [
            rf"/^user{n}-([0-9]+)@lists{n % 7}\.example\.org$/ list{n}-$1",
            rf"/^(info|Sales)@customer{n}\.example\.com$/ $1-{n}",
            rf"if /@mx{n}\.example\.org$/",
            f"if !/^(postmaster|u{n})@/",
            rf"/^(.+)@/ $1@{n}",
            "endif",
            rf"/^p/ post{n}",
            "endif",
            rf"/\.{n}$|^{n}\./ dot{n}",
        ]
    rows.insert(2000, "/^nobody@/ nobody")
    path = tmp_path / "table"
    path.write_text("\n".join([*rows, "!/@/ no address", "/x.*@customer39/ late", ""]))
    random = Random(1)
    keys = ["", "u7@mx7.example.org", "Nobody@mx3.example.org", "nobody@mx399.example.org", "xx@customer39"]
    for _ in range(400):
        n = random.randrange(410)
        keys += [
            f"USER{n}-{n}@lists{random.randrange(7)}.example.org",
            f"{random.choice(['info', 'sales', 'x'])}@Customer{n}.example.com",
            f"{random.choice(['postmaster', 'joe', f'u{n}'])}@mx{n}.example.org",
            f"a@b.{n}" if n % 2 else f"{n}.x",
        ]
    resolver = Regex(path=path, syntax=syntax)
    assert load(resolver) == []
    ours = {}
    for key in dict.fromkeys(keys):
        outcome = resolver.resolve(Query(key))
        ours[key] = outcome.value if isinstance(outcome, Found) else None
    assert ours == postfix.ask(f"{syntax}:{path}", list(ours))
    assert len(resolver._table.always) == 1


def numbers(table: Table, key: str) -> list[int]:
    return list(table.candidates(key.encode()))


def test_only_rules_whose_text_is_in_the_key_are_tried_those_that_require_nothing_always() -> None:
    text = "".join(f"/^user{n}@/ {n}\n" for n in range(10))
    text += "/^.$/ a\n!/user1/ b\nif /@shop$/\n/^u.*/ c\nendif\n"
    effort = Effort()
    table = Table.of(read(text, "pcre", effort), effort)
    assert table.always == (10, 11)
    assert numbers(table, "x@y") == [10, 11]
    assert numbers(table, "user3@y") == [3, 10, 11]
    assert numbers(table, "User7@SHOP") == [7, 10, 11, 12]


def test_a_rule_goes_by_the_text_that_the_fewest_rules_share() -> None:
    text = "".join(rf"/^user{n:03}-.*-for@a-long-name\.example\.org$/ {n}" + "\n" for n in range(300))
    effort = Effort()
    table = Table.of(read(text, "pcre", effort), effort)
    assert numbers(table, "user042-x-for@a-long-name.example.org") == [42]


def test_no_key_finds_more_texts_than_a_few_for_each_of_its_bytes() -> None:
    text = "".join(f"/{'a' * n}/ {n}\n" for n in range(60, 2, -1))
    effort = Effort()
    table = Table.of(read(text, "pcre", effort), effort)
    key = b"a" * 1000
    assert sum(len(scan(key, overlapping=True)) for scan, _ in table.scans) <= 3 * len(key)
    assert table.find(b"a" * 20, Query(""), lambda condition, error: None) == Found("20")


def test_what_is_nested_too_deeply_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "table.regexp"
    path.write_text("/a/ x\n/" + "(" * 5000 + "a" + ")" * 5000 + "/ x\n" + "if /a/\n" * 101 + "/a/ deep\n")
    with pytest.raises(ConfigErrors) as caught:
        load(Regex(path=path))
    assert [error.line for error in caught.value.errors] == [2, 103]
    path.write_text("if /a/\n" * 100 + "/a/ deep\n" + "endif\n" * 100 + "/b/ flat\n")
    resolver = Regex(path=path)
    load(resolver)
    assert [resolver.resolve(Query(key)) for key in ("ab", "b")] == [Found("deep"), Found("flat")]


def test_a_single_rule_is_just_tried() -> None:
    effort = Effort()
    assert Table.of(read("/^aaa/ 1\n", "pcre", effort), effort).scans == ()


def test_without_the_automaton_every_rule_is_tried_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ahocorasick_rs", None)
    resolver = Regex(rules=tuple(InlineRule(f"^user{number}@", f"{number}") for number in range(200)))
    assert load(resolver) == [
        "ahocorasick-rs cannot be used: each of the 200 rules is tried for every key",
    ]
    assert resolver.resolve(Query("user199@example.org")) == Found("199")


def test_many_rules_that_require_nothing_are_told(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("".join(f"/^{'.' * number}$/ {number}\n" for number in range(1, 202)) + "/^user@/ x\n")
    assert load(Regex(path=path)) == [
        f"{path}: 201 of the 202 rules require no text of a key, and are tried for every one"
    ]
    path.write_text("".join(f"/^user{number}@/ {number}\n" for number in range(300)))
    assert load(Regex(path=path)) == []


@pytest.mark.parametrize(
    ("always", "note"),
    [
        (0, []),
        (1, ["1 of the 6 rules requires no text of a key, and is tried for every one"]),
        (2, ["2 of the 7 rules require no text of a key, and are tried for every one"]),
        (101, []),  # of which the start warns
    ],
)
def test_check_is_told_how_many_rules_are_always_tried(always: int, note: list[str]) -> None:
    rules = [InlineRule(f"^user{number}@", "x") for number in range(5)]
    resolver = Regex(rules=(*rules, *[InlineRule("^.@", "y")] * always))
    assert len(load(resolver)) == (always > 100)
    assert list(resolver.notes) == note
    assert Regex(rules=(InlineRule("^.@", "y"),)).notes == ()


def test_a_block_whose_condition_is_not_met_is_left_at_once_and_the_condition_tried_once() -> None:
    effort = Effort()
    text = "if /^a/\n" + "/^.b$/ x\n" * 50 + "endif\n/^..$/ y\n"
    table = Table.of(read(text, "pcre", effort), effort)
    asked: list[bytes] = []

    class Once:
        groups = 0
        required = ()

        def search(self, key: bytes) -> None:
            asked.append(key)

    (around,) = table.leaves[0].around
    object.__setattr__(around.condition, "pattern", Once())
    assert table.find(b"bb", Query(""), lambda condition, error: None) == Found("y")
    assert asked == [b"bb"]

"""The `regex` resolver by itself: inline rules, limits, what is refused."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit import ConfigError, Found, PermFail, Query, TempFail
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.resolver import Context
from tcpmapkit.resolvers.regex import InlineRule, Regex
from tests.loading import context, load, value


def same(key: str) -> str:
    return key


def inline(*rules: tuple[Any, ...], **options: Any) -> Regex:
    resolver = Regex(rules=tuple(InlineRule(*rule) for rule in rules), **options)
    assert len(load(resolver)) == (options.get("engine") == "re")  # which gives up the guarantee
    return resolver


def ask(resolver: Regex, key: str) -> str | None:
    return value(resolver, key, same)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("engine", ["pcre2", "re"])
@pytest.mark.parametrize(
    ("pattern", "flags", "result", "answers"),
    [
        (
            r"^(.*)@example\.org$",
            "",
            "$1@example.com",
            {"A@EXAMPLE.org": "A@example.com", "a@example.net": None},
        ),
        (r"^(.*)@example\.org$", "i", "$1", {"A@EXAMPLE.org": None, "A@example.org": "A"}),
        (r"^(.*)\+(.*)@(.*)$", "", "${1}@$(3) $$2 ${2}", {"u+x@example.org": "u@example.org $2 x"}),
        (r"^(a)?(b)$", "", "<$1>", {"b": "<>", "ab": "<a>", "cb": None}),
        (r"^a.c$", "", "x", {"a\nc": "x"}),
        (r"^a.c$", "s", "x", {"a\nc": None, "abc": "x"}),
        (r"b", "A", "x", {"abc": None, "bcd": "x"}),
        (r"b$", "", "x", {"ab\n": "x"}),
        (r"b$", "E", "x", {"ab\n": None, "ab": "x"}),
        (r"^.$", "", "x", {"a": "x", "é": None}),  # a byte, not a character
        (r"^..$", "", "x", {"é": "x"}),
        (r"é", "", "x", {"é": "x", "É": None}),  # only ASCII letters have a case
        (r"^[^@[:space:]]{2,3}$", "", "x", {"ab": "x", "abcd": None, "a b": None}),
        (r"^(?:info|sales)@|^postmaster$", "", "x", {"sales@example.org": "x", "xinfo@": None}),
        (r"^\d+\s\w\b\.\x41$", "", "x", {"12 a.A": "x", "12 a.B": None}),
        (r"^$", "", "x", {"": "x", "a": None}),
    ],
)
def test_an_inline_pcre_rule(
    engine: str, pattern: str, flags: str, result: str, answers: dict[str, str | None]
) -> None:
    resolver = inline((pattern, result, flags), engine=engine)
    assert {key: ask(resolver, key) for key in answers} == answers


@pytest.mark.parametrize("engine", ["pcre2", "re"])
@pytest.mark.parametrize(
    ("pattern", "flags", "answers"),
    [
        (r"^(user|info)@example\.org$", "", {"INFO@example.org": "x", "in@example.org": None}),
        (r"A", "i", {"a": None, "A": "x"}),
        (r"^a{,2}$", "", {"": "x", "aa": "x", "aaa": None}),
        (r"a{0}b{1\,2}$", "", {"b": "x", "a": None}),
        (r"^a)$", "", {"a)": "x"}),
        (r"\<an\>", "", {"an apple": "x", "anapple": None}),
        (r"^[[:upper:]]$", "", {"a": "x", "1": None}),
        (r"^[]a-]+$", "", {"]-a": "x", "b": None}),
        (r"^[a\]+$", "", {"a\\": "x"}),
        (r"\d", "", {"d": None, "1": None, "D": None}),  # the library forgets the case of an escaped letter
        (r"\D", "", {"d": "x", "D": "x"}),
        (r"\`\w\W\s\S\'", "", {"a- b": "x", "a-- b": None}),
        (r"a**", "", {"": "x"}),
        (r"a\|b\+", "x", {"a": "x", "bb": "x", "": None}),
        (r"^\(a\)\{2\}$", "x", {"aa": "x", "a": None}),
        (r"*a+^b", "x", {"*a+^b": "x", "ab": None}),
        (r"^b", "m", {"a\nb": "x", "ab": None}),
        (r"a.b|a[^c]d", "m", {"a\nb": None, "a\nd": None, "aad": "x"}),
    ],
)
def test_an_inline_regexp_rule(engine: str, pattern: str, flags: str, answers: dict[str, str | None]) -> None:
    resolver = inline((pattern, "x", flags), engine=engine, syntax="regexp")
    assert {key: ask(resolver, key) for key in answers} == answers


def test_a_back_reference_to_a_group_matched_once() -> None:
    resolver = inline((r"^(..)@\1{2}$", "x"), syntax="regexp")
    assert {key: ask(resolver, key) for key in ("ab@abAB", "ab@abba")} == {"ab@abAB": "x", "ab@abba": None}


def test_the_first_rule_that_matches_counts_and_a_negated_one_matches_what_its_pattern_does_not() -> None:
    resolver = inline(("^b", "one"), ("[@.]", "no address", "", True), ("", "rest"))
    assert [ask(resolver, key) for key in ("b@", "name", "a@b")] == ["one", "no address", "rest"]


@pytest.mark.parametrize(
    "key", ["*", "<>", '""', "", "..", "a/../b", "${HOME}", "{key}", "' OR 1=1", "x" * 10000]
)
def test_any_key_is_data(key: str) -> None:
    assert ask(inline(("^(.*)$", "<$1>")), key) == f"<{key}>"


@pytest.mark.parametrize("key", ["a\udcff", "\ud800"])
def test_a_key_that_is_not_valid_unicode_is_a_miss(key: str) -> None:
    assert inline(("", "x")).resolve(Query(key)) is None


@pytest.mark.parametrize("syntax", ["pcre", "regexp"])
@pytest.mark.parametrize(
    ("rule", "option"),
    [
        (("(", "x"), "pattern"),
        (("[[:foo:]]", "x"), "pattern"),
        (("\0", "x"), "pattern"),
        (("a", ""), "result"),
        (("a", "$1"), "result"),
        (("(a)", "$2"), "result"),
        (("(a)", "$0"), "result"),
        (("(a)", "${1"), "result"),
        (("(a)", "$"), "result"),
        (("(a)", "$name"), "result"),
        (("(a)", "$1", "", True), "result"),
        (("a", "b\nc"), "result"),
        (("a", "x", "z"), "flags"),
    ],
)
def test_what_postfix_would_skip_in_a_file_is_an_error_in_an_inline_rule(
    syntax: Any, rule: tuple[Any, ...], option: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Regex(rules=(InlineRule("a", "x"), InlineRule(*rule)), syntax=syntax)
    assert caught.value.path == ("rules", 1, option)


def test_all_mistakes_of_inline_rules_are_told_at_once() -> None:
    with pytest.raises(ConfigErrors) as caught:
        Regex(rules=(InlineRule("(", "x"), InlineRule("a", "x"), InlineRule("a", "$1")))
    assert [error.path for error in caught.value.errors] == [("rules", 0, "pattern"), ("rules", 2, "result")]


@pytest.mark.parametrize("options", [{}, {"rules": (InlineRule("a", "b"),), "path": Path("x")}])
def test_rules_are_written_inline_or_in_a_file(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="either"):
        Regex(**options)


@pytest.mark.parametrize("match_limit", [0, 999, 10_000_001])
def test_a_match_limit_out_of_bounds_is_refused(match_limit: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Regex(path=Path("x"), match_limit=match_limit)
    assert caught.value.path == ("match_limit",)


@pytest.mark.parametrize(
    ("syntax", "pattern", "flags"),
    [
        # PCRE2 10.43 changed these.
        ("pcre", "a{,3}", ""),
        ("pcre", "a{ 1, 2 }", ""),
        ("pcre", r"\p{Lu}", ""),
        ("pcre", r"[\p{^ll}]", ""),
        ("pcre", r"a\xg", ""),
        ("pcre", "(?<=ab?)c", ""),
        ("pcre", "x(?<![a-z]{1,3}-)e", ""),
        ("pcre", "(?<=(?:a|b+))e", ""),
        ("pcre", "(?[[a]&[a]])z", ""),
        ("pcre", "(?aD)b", ""),
        ("pcre", "(?(VERSION>=10.43)v|w)", ""),
        ("pcre", r"a\Cb", ""),
        # The GNU C library is wrong, or a backtracking engine would be.
        ("regexp", r"(a)*\1", ""),
        ("regexp", r"((a)|b)\2", ""),
        ("regexp", "(^a|b){2}", ""),
        ("regexp", ".^a", ""),
        ("regexp", "a$.", ""),
    ],
)
def test_a_rule_that_postfix_runs_and_we_may_not_run_alike_is_refused(
    tmp_path: Path, syntax: Any, pattern: str, flags: str
) -> None:
    with pytest.raises(ConfigError, match="Postfix runs it") as caught:
        Regex(rules=(InlineRule(pattern, "x", flags),), syntax=syntax)
    assert caught.value.path == ("rules", 0, "pattern")
    path = write(tmp_path / "table", f"/ok/ x\n/{pattern}/{flags} x\n\n/{pattern}/{flags} y\n")
    with pytest.raises(ConfigErrors) as all_caught:
        load(Regex(path=path, syntax=syntax))
    assert [(error.file, error.line) for error in all_caught.value.errors] == [(path, 2), (path, 4)]


@pytest.mark.parametrize(
    "pattern", [r"a\{,3}", "[{,3}]", r"\Q{,3}\E", "a{1,3}", "a{2,}", "(?#{,3})a", r"\\x", r"\x41", r"\X"]
)
def test_what_only_looks_like_that_is_not_refused(pattern: str) -> None:
    Regex(rules=(InlineRule(pattern, "x"),))


@pytest.mark.parametrize(
    ("syntax", "pattern", "result"),
    [
        ("pcre", "(a*)+b", "x"),
        ("pcre", "(a|b?)*", "x"),
        ("pcre", "(a)+", "$1"),
        ("pcre", "(?i)a", "x"),
        ("pcre", "a++", "x"),
        ("pcre", r"(a)\1", "x"),
        ("pcre", "(?<=a)b", "x"),
        ("pcre", "^*", "x"),
        ("pcre", "(", "x"),
        ("pcre", "[", "x"),
        ("pcre", r"[[:^alpha:]]", "x"),
        ("regexp", "(a*)*b", "x"),
        ("regexp", r"(a)\1", "x"),
    ],
)
def test_python_s_re_is_not_trusted_with_every_rule(syntax: Any, pattern: str, result: str) -> None:
    with pytest.raises(ConfigError, match='engine is "re"') as caught:
        Regex(rules=(InlineRule(pattern, result),), syntax=syntax, engine="re")
    assert caught.value.path == ("rules", 0, "pattern")


def test_without_pcre2_re_takes_its_place_and_says_so_where_it_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pcre2", None)
    resolver = inline(("^(.*)@example$", "$1"))
    assert ask(resolver, "user@example") == "user"
    with pytest.raises(ConfigError, match="PCRE2 cannot be used"):
        Regex(rules=(InlineRule("(a+)+", "x"),))
    with pytest.raises(ConfigError, match="PCRE2 cannot be used") as caught:
        Regex(path=Path("x"), engine="pcre2")
    assert caught.value.path == ("engine",)


CATASTROPHES = [
    ("pcre", "(a+)+$", "a" * 40 + "b"),
    ("pcre", "(a|aa)+$", "a" * 60 + "b"),
    ("pcre", r"^(\w+\s?)*$", "a" * 60 + "!"),
    ("pcre", "a*a*a*a*[cd]", "a" * 2000),  # every place where it may begin is cheap, all together are not
    ("pcre", "(?x) a*a*a*a*[cd] # all", "a" * 2000),
    ("regexp", "(a|a)*[bc]", "a" * 60),
]


@pytest.mark.parametrize(("syntax", "pattern", "key"), CATASTROPHES)
def test_a_rule_at_its_match_limit_does_not_match_and_is_counted(syntax: Any, pattern: str, key: str) -> None:
    resolver = Regex(
        rules=(
            InlineRule(pattern, "one"),
            InlineRule(pattern, "not even negated", "", True),
            InlineRule("a", "two"),
        ),
        syntax=syntax,
        match_limit=20_000,
    )
    load(resolver)
    assert ask(resolver, key) == "two"
    assert resolver.gave_up == 2


def test_the_match_limit_is_logged_once_a_minute() -> None:
    made, messages = context()
    now = 0.0
    clocked = Context(made.directory, made.name, made.map, made.logger, clock=lambda: now)
    resolver = Regex(rules=(InlineRule("(a+)+$", "x"),), match_limit=1000)
    asyncio.run(resolver.start(clocked))
    counts = []
    for now in (0.0, 30.0, 59.9, 60.0, 61.0, 120.0):  # noqa: B007
        resolver.resolve(Query("a" * 40 + "b"))
        counts.append(len(messages))
    assert counts == [1, 1, 1, 2, 2, 3]
    assert resolver.gave_up == 6
    assert "rule 1" in messages[0]


def test_many_cheap_steps_reach_no_limit() -> None:
    resolver = inline(("(?:a?b?)*x(.*)$", "<$1>"))
    assert ask(resolver, "ab" * 2000 + "xyz") == "<yz>"
    assert resolver.gave_up == 0


def test_an_empty_result_fails_for_its_keys_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "table", "/^a/\n/^b(x*)/ $1\n/./ ok\n")
    resolver = Regex(path=path)
    assert load(resolver) == [f"{path}, line 1: no replacement text: using empty string"]
    assert isinstance(resolver.resolve(Query("a")), PermFail)
    assert isinstance(resolver.resolve(Query("b")), PermFail)
    assert [ask(resolver, key) for key in ("bx", "c")] == ["x", "ok"]


def test_a_result_that_no_reply_can_carry_is_a_failure(tmp_path: Path) -> None:
    path = write(tmp_path / "table", b"/^a/ \xe9\n/^(.)/ $1\n")
    resolver = Regex(path=path)
    load(resolver)
    assert isinstance(resolver.resolve(Query("a")), TempFail)
    assert isinstance(resolver.resolve(Query("é")), TempFail)  # half a character
    assert resolver.resolve(Query("b")) == Found("b")
    assert isinstance(inline(("(.)", "x$1")).resolve(Query("\r")), PermFail)


def test_a_table_that_cannot_be_read_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"cannot read {tmp_path / 'missing'}: ")) as caught:
        load(Regex(path=tmp_path / "missing"))
    assert caught.value.path == ("path",)


@pytest.mark.parametrize(
    ("name", "syntax", "kind"),
    [
        ("x.regexp", None, "regexp"),
        ("x", None, "pcre"),
        ("x.regexp", "pcre", "pcre"),
        ("x", "regexp", "regexp"),
    ],
)
def test_the_syntax_goes_by_the_name_of_the_file_unless_it_is_said(
    tmp_path: Path, name: str, syntax: Any, kind: str
) -> None:
    resolver = Regex(path=write(tmp_path / name, r"/^\d$/ digit" + "\n"), syntax=syntax)
    load(resolver)
    assert ask(resolver, "1") == ("digit" if kind == "pcre" else None)

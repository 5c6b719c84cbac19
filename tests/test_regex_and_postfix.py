"""The `regex` resolver beside the real ``pcre:`` and ``regexp:``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmapkit import ConfigError, Found, PermFail, Query, TempFail
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.resolvers.regex import Regex
from tests.loading import load
from tests.real_postfix import Postfix, missing_server

SYNTAXES = ["pcre", "regexp"]

differential = settings(deadline=None, derandomize=True, database=None)


def needs(postfix: Postfix, syntax: str) -> None:
    if syntax not in postfix.map_types:
        missing_server(f"this Postfix has no {syntax} tables")


# Of a result's syntax Postfix says what is wrong without saying where; NUL it mentions since 3.9.
UNCOMPARED = re.compile(r": (empty macro name|truncated macro reference|text after null byte)")


def what_is_skipped(warning: str) -> tuple[str, str]:
    """The line of a warning and what it says, as far as every version of the engines says it alike."""
    if "must not start with whitespace" in warning:  # Postfix does not say in which line
        return "", "white space"
    line, text = re.findall(r", line (\d+): (.*)", warning, re.DOTALL)[0]
    text = re.sub(r"error in regex at offset.*|out.of.range.*", "", text)
    return line, re.sub(r"[^\x20-\x7e]", "?", text)


def compare(postfix: Postfix, path: Path, syntax: Any, keys: list[str]) -> int:
    """Fails where the answers for `keys` or the warnings differ; how many keys were found."""
    resolver = Regex(path=path, syntax=syntax)
    warnings = load(resolver)
    ours = {key: resolver.resolve(Query(key)) for key in dict.fromkeys(keys)}
    # Invalid UTF-8 in a value ends the run of postmap.
    asked = [key for key, outcome in ours.items() if not isinstance(outcome, TempFail)]
    done = postfix.postmap(
        "-q", "-", f"{syntax}:{path}", input="".join(f"{key}\n" for key in asked).encode(), timeout=60
    )
    assert b"fatal:" not in done.stderr, done.stderr
    lines = done.stdout.decode().removesuffix("\n").split("\n")
    real = dict(line.split("\t", 1) for line in lines if line)
    for key in asked:
        outcome = ours[key]
        if isinstance(outcome, PermFail):
            assert real[key] == "" or "\r" in real[key], (key, outcome)
        else:
            assert (outcome.value if isinstance(outcome, Found) else None) == real.get(key), key
    for key in ours.keys() - asked:
        failed = postfix.postmap("-q", "-", f"{syntax}:{path}", input=f"{key}\n".encode())
        assert b"non-UTF-8 value" in failed.stderr
    if asked:
        told = [line for line in done.stderr.decode(errors="replace").split("\n") if ", line " in line]
        told += [line for line in done.stderr.decode(errors="replace").split("\n") if "whitespace: " in line]
        warnings = [warning for warning in warnings if not UNCOMPARED.search(warning)]
        assert sorted(map(what_is_skipped, warnings)) == sorted(map(what_is_skipped, told))
    return len(real)


PLAIN = [
    *("", "a", "b", "A", "ab", "abc", "abcd", "xy", "y", "a@", "aab@bb", "é", "if", "endif", "a/b", "x y"),
    *("user@example.org", "USER+x@Example.ORG", '"a b"@example.org', "ab\\", "n\rx", "a.b", "+", "192.0.2.1"),
]
PATTERNS = [
    *(
        "^a",
        "b$",
        "a.*b",
        "(a+)@(b*)",
        "(x)?y",
        "[ab]+",
        ".",
        "^$",
        "a|b",
        "a/b",
        r"a\/b",
        "(",
        "[",
        "*",
        "a**",
    ),
    *("é", "[[:alpha:]]", "\\", "(a)(b)(c)(d)", "^(.*)@(.*)$", r"(.)\1", "user", r"\.org$", "if", ""),
]
RESULTS = [
    *(
        "ok",
        "$1",
        "${1}x",
        "$(1)y",
        "a$$b",
        "$2$1",
        "$3",
        "$0",
        "$x",
        "${1",
        "$",
        "",
        "x ${2} y",
        "$01",
        "$1a",
    ),
    *(
        "${}",
        "é",
        "$${1}",
        "a  b",
        "text # none",
        "$$",
        "${ab}",
        "$(1}",
        "$1-$1",
        "!x",
        "É $1",
        "${{1}}",
        "\xff",
    ),
]
FLAGS = ["", "", "", "", "i", "x", "m", "im", "s", "A", "E", "U", "X", "z", "ii"]


@st.composite
def patterns_in_a_table(draw: st.DrawFn) -> str:
    delimiter = draw(st.sampled_from("////#|@!,%x"))
    negation = draw(st.sampled_from(["", "", "", "!", "!!", "! "]))
    end = draw(st.sampled_from([delimiter] * 9 + [""]))
    return f"{negation}{delimiter}{draw(st.sampled_from(PATTERNS))}{end}{draw(st.sampled_from(FLAGS))}"


space = st.sampled_from(["", " ", " ", "\t", "  ", "\v"])
results = st.sampled_from(RESULTS)
rules = st.tuples(patterns_in_a_table(), space, results).map("".join)
lines = st.one_of(
    rules,
    rules,
    rules,
    st.tuples(patterns_in_a_table(), st.just("!"), patterns_in_a_table(), space, results).map("".join),
    st.tuples(
        st.sampled_from(["if", "IF", "If"]), space, patterns_in_a_table(), st.sampled_from(["", "", "", " x"])
    ).map("".join),
    st.sampled_from(
        ["endif", "endif", "endif", "ENDIF", "endif x", "endifx", "endif/", "if", "iffy", "word"]
    ),
    st.sampled_from(
        ["# no", "", "  ", "\t#c", " \r", "/", "!!", "if ! /a/", "//", "// x", "/a/\0 b", "  lost"]
    ),
    st.tuples(rules, st.sampled_from(["\r", " ", "\n  more", "\n#c\n  more"])).map("".join),
)
tables = st.lists(lines, min_size=1, max_size=9).map("\n".join)

# POSIX takes the longest of several alternatives: the known difference, in what $n holds.
assert "(a|ab)(c|bcd)?" not in PATTERNS


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_table_answers_and_warns_as_postfix_does(
    postfix: Postfix, tmp_path_factory: pytest.TempPathFactory, syntax: str
) -> None:
    needs(postfix, syntax)
    path = tmp_path_factory.mktemp("tables") / "table"
    found = 0

    @settings(differential, max_examples=90)
    @given(content=tables)
    def each(content: str) -> None:
        nonlocal found
        path.write_bytes(content.encode("utf-8").replace("\xff".encode(), b"\xff"))
        found += compare(postfix, path, syntax, PLAIN)

    each()
    assert found > 300


# Many patterns in one table: each counts for the keys with its own tag only.

_COMMON_ATOMS = [
    *(
        "a",
        "b",
        "A",
        "B",
        ".",
        "x",
        "@",
        "-",
        "1",
        "_",
        "é",
        "[ab]",
        "[^a]",
        "[a-c]",
        "[A-z]",
        "[Z-a]",
        "[]a]",
    ),
    *("[^]b]", "[a-]", "[[:alpha:]]", "[[:digit:]_]", "[[:upper:]]", "[^[:space:]]", "[a\\]", "[à-ÿ]"),
    *("\\w", "\\W", "\\s", "\\S", "\\.", "\\*", "[+--]", "[_-z]"),
]
_POSIX_ATOMS = [*_COMMON_ATOMS, "\\a", "\\D", "[[.a.]]", "[[=b=]]", "[[:foo:]]"]
_PERL_ATOMS = [
    *_COMMON_ATOMS,
    "\\d",
    "\\x41",
    "\\xa",
    "\\x{62}",
    "\\Qa.b\\E",
    "\\h",
    "\\N",
    "\\u0041",
    "\\101",
]
_POSIX_ANCHORS = ["^", "$", "\\<", "\\>", "\\b", "\\B", "\\`", "\\'"]
_PERL_ANCHORS = [
    "^",
    "$",
    "\\b",
    "\\B",
    "\\A",
    "\\z",
    "(?=a)",
    "(?!b)",
    "(?<=a)",
    "(?i)",
    "(?-i)",
    "(*COMMIT)",
]
_POSIX_JUNK = [
    "{",
    "}",
    ")",
    "(",
    "|",
    "*",
    "+",
    "{1",
    "{,2}",
    "{0}",
    "{1\\,2}",
    "\\{1,2\\}",
    "\\(",
    "\\)",
    "\\|",
]
_PERL_JUNK = [")", "(", "|", "*", "+", "{1", "{,2}", "{0}", "(?>a|b)", "(?|a|(b))", "\\1", "(?<n>a)"]
_ERE_REPEATS = ["*", "+", "?", "{2}", "{1,2}", "{,2}", "{0}", "{2,}"]
_BRE_REPEATS = ["*", "\\+", "\\?", "\\{2\\}", "\\{1,2\\}"]
_PERL_REPEATS = ["*", "+", "?", "{2}", "{1,2}", "{2,}", "*?", "+?", "*+", "{0}"]


def expressions(
    atoms: list[str], anchors: list[str], junk: list[str], repeats: list[str], basic: bool
) -> Any:
    opening, closing, bar = ("\\(", "\\)", "\\|") if basic else ("(", ")", "|")
    often, seldom = st.sampled_from([""] * 2 * len(repeats) + repeats), st.sampled_from(anchors)
    atom = st.tuples(st.sampled_from(atoms), often).map("".join)

    def larger(inner: Any) -> Any:
        several = st.lists(inner, max_size=3).map("".join)
        group = st.tuples(st.just(opening), several, st.just(closing), often).map("".join)
        choice = st.tuples(st.just(opening), several, st.just(bar), several, st.just(closing), often)
        return st.one_of(several, group, choice.map("".join))

    leaf = st.one_of(atom, atom, atom, atom, seldom, st.sampled_from(junk))
    return st.recursive(leaf, larger, max_leaves=8)


def flagged(expression: Any, flags: str) -> Any:
    return st.tuples(expression, st.lists(st.sampled_from(flags), max_size=2, unique=True).map("".join))


PERL = flagged(expressions(_PERL_ATOMS, _PERL_ANCHORS, _PERL_JUNK, _PERL_REPEATS, False), "imsxAEU")
EXTENDED = flagged(expressions(_POSIX_ATOMS, _POSIX_ANCHORS, _POSIX_JUNK, _ERE_REPEATS, False), "im")
BASIC = expressions(_POSIX_ATOMS, _POSIX_ANCHORS, _POSIX_JUNK, _BRE_REPEATS, True).map(
    lambda text: (text, "x")
)
WRITTEN = {"pcre": PERL, "regexp": st.one_of(EXTENDED, EXTENDED, EXTENDED, BASIC)}
TEXTS = [
    *(
        "",
        "a",
        "b",
        "ab",
        "ba",
        "aa",
        "B",
        "A",
        "x",
        "a b",
        "ab1",
        "a.b",
        "@",
        "-",
        "é",
        "aéb",
        "_a",
        "a-b@x",
    ),
    *("*", "(a)", "abab", "{1", "bbb", "a{", "1", "d", "\\", "]", "axb", "A1_"),
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_pattern_matches_the_keys_that_it_matches_for_postfix(
    postfix: Postfix, tmp_path_factory: pytest.TempPathFactory, syntax: str
) -> None:
    needs(postfix, syntax)
    path = tmp_path_factory.mktemp("patterns") / "table"
    counts = {"found": 0, "patterns": 0, "refused": 0}
    result = "<$1>" if syntax == "pcre" else "yes"

    @settings(differential, max_examples=35)
    @given(written=st.lists(WRITTEN[syntax], min_size=12, max_size=20), before=st.booleans())
    def each(written: list[tuple[str, str]], before: bool) -> None:
        # A tag in front leaves $ to be tried, one behind leaves ^.
        tags = [f"{number}#" if before else f"#{number}" for number in range(len(written))]
        blocks = [
            f"if /{'^' if before else ''}{tag}{'' if before else '$'}/i\n"
            f"/{pattern}/{flags} {result}\n/{pattern}/{flags} plain\nendif\n"
            for tag, (pattern, flags) in zip(tags, written, strict=True)
        ]
        counts["patterns"] += len(blocks)
        path.write_text("".join(blocks))
        try:
            load(Regex(path=path, syntax=syntax))
        except ConfigError as error:
            wrong = error.errors if isinstance(error, ConfigErrors) else (error,)
            for line in {wrongness.line for wrongness in wrong if wrongness.line}:
                blocks[(line - 1) // 4] = "\n\n\n\n"
            counts["refused"] += blocks.count("\n\n\n\n")
            path.write_text("".join(blocks))
        keys = [f"{tag}{text}" if before else f"{text}{tag}" for tag in tags for text in TEXTS]
        counts["found"] += compare(postfix, path, syntax, keys)

    each()
    assert counts["found"] > 3000
    assert counts["refused"] < counts["patterns"] / 5, counts


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_rules_of_the_manual_answer_as_for_postfix(postfix: Postfix, tmp_path: Path, syntax: str) -> None:
    needs(postfix, syntax)
    path = tmp_path / "table"
    path.write_text(
        "# comment\n"
        "/^(postmaster|abuse)@/  DUNNO\n"
        "/[%!@].*[%!@]/\n"
        "   550 Sender-specified routing\n"
        "   rejected\n"
        "if !/^owner-/\n"
        "/^(.*)-outgoing@(.*)$/ 550 Use ${1}@$2 instead, costs $$0\n"
        "if /example\\.org$/\n"
        "!/^user/ not a user\n"
        "endif\n"
        "endif\n"
        "/^ftp\\./ OK\n"
    )
    keys = [
        *("postmaster@x", "a%b@c", "list-outgoing@example.com", "owner-list-outgoing@example.com"),
        *("user@example.org", "other@example.org", "OTHER@EXAMPLE.ORG", "owner-x@example.org", "ftp.x", "x"),
    ]
    assert compare(postfix, path, syntax, keys) == 6

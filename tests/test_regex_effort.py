"""No key stalls the server: the steps that a lookup may take are counted, not timed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from tcpmapkit import ConfigError, Found, Query, TempFail
from tcpmapkit.resolvers.regex import InlineRule, Regex, pcre2_engine, python_re
from tcpmapkit.resolvers.regex.effort import Effort, TooMuchEffort
from tcpmapkit.resolvers.rules import Rule, rules
from tcpmapkit.resolvers.rules.conditions import Condition
from tests.loading import load

LIMIT = 1_000_000


@attrs.define(eq=False)
class Counting:
    """The library, and the most steps that the matches made with it can have taken: the limit compiled
    into each pattern, for each place from which PCRE2 counts anew."""

    library: Any
    steps: int = 0
    _compiled: dict[int, tuple[Any, int, bool]] = attrs.field(factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)

    def compile(self, pattern: bytes, options: int, extra: int) -> Any:
        code = self.library.compile(pattern, options, extra)
        limit = int(re.findall(rb"\(\*LIMIT_MATCH=(\d+)\)", pattern)[0])
        once = re.match(rb"(\(\*\w+(=\d+)?\))+(\\A|\^)", pattern) is not None
        self._compiled[id(code)] = code, limit, once
        return code

    def match(self, code: Any, key: bytes, *rest: Any) -> Any:
        _, limit, once = self._compiled[id(code)]
        # What a step may read grows with the key, beyond its ordinary length.
        self.steps += limit * (1 if once else len(key) + 1) * max(len(key), 256) // 256
        return self.library.match(code, key, *rest)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting(pcre2_engine.load_pcre2())
    monkeypatch.setattr(pcre2_engine, "load_pcre2", lambda: counting)
    return counting


EVIL = [
    ("pcre", "(a+)+$", "a" * 40 + "b"),
    ("pcre", "^(a+)+$", "a" * 9000 + "b"),
    ("pcre", "(a|aa)+$", "a" * 60 + "b"),
    ("pcre", "(a|a?)+$", "a" * 200 + "b"),
    ("pcre", r"^(\w+\s?)*$", "a" * 60 + "!"),
    (
        "pcre",
        r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+[.]{1}(([a-z]{2,3}))$",
        "a" * 90 + "!",
    ),
    ("pcre", r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 90 + "!"),
    ("pcre", r"(.*)(.*)(.*)(.*)(.*)[^x]{5}\1\2\3y", "x" * 9000),
    ("pcre", "a*a*a*a*[cd]", "a" * 9000),
    ("pcre", "a{0,50}a{0,30}[cd]", "a" * 9000),
    ("pcre", r"\d+[yz]", "1" * 9000),
    ("pcre", r"(?:\d++y|\d++z|\d++x|\d++w)", "1" * 9000),
    ("pcre", "(?=a+b)a", "a" * 9000),
    ("pcre", r"^(.+)(.*)\1[yz]", "a" * 9000),
    ("pcre", "(?x) a*a*a*a*[cd] # all", "a" * 2000),
    ("pcre", "(*PRUNE)(a+)+$", "a" * 9000 + "b"),
    ("pcre", "(a(?1)?a|aa)+$", "a" * 9000 + "b"),
    ("regexp", "(a|a)*[bc]", "a" * 60),
    ("regexp", "(a*b*c*)*[de]", "abc" * 3000),
]


@pytest.mark.parametrize(("syntax", "pattern", "key"), EVIL)
def test_one_rule_takes_no_more_steps_than_its_limit_allows(
    counted: Counting, syntax: Any, pattern: str, key: str
) -> None:
    resolver = Regex(rules=(InlineRule(pattern, "one"), InlineRule("^", "two")), syntax=syntax)
    load(resolver)
    assert resolver.resolve(Query(key)) == Found("two")
    # Beside the limit: the first, short try of each rule.
    assert counted.steps <= 2 * LIMIT


@pytest.mark.parametrize("count", [3, 10_000])
@pytest.mark.parametrize(("pattern", "key"), [("(a+)+$", "a" * 40 + "b"), ("^(a+)+$", "a" * 5000 + "b")])
def test_many_rules_at_their_limit_do_not_add_up_the_lookup_fails(
    counted: Counting, tmp_path: Path, count: int, pattern: str, key: str
) -> None:
    path = tmp_path / "table"
    path.write_text(f"/{pattern}/ x\n" * count + "/b/ late\n")
    resolver = Regex(path=path)
    load(resolver)
    assert resolver.resolve(Query(key)) == TempFail("the rules take too long over this key")
    assert counted.steps <= 2.6 * LIMIT
    assert (resolver.gave_up, resolver.too_much) == (2, 1)
    assert resolver.resolve(Query("xb")) == Found("late")


def test_conditions_at_their_limit_count_too(counted: Counting, tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("if /(a+)+$/\n/./ in\nendif\n" * 3 + "/b/ late\n")
    resolver = Regex(path=path)
    messages = load(resolver)
    assert isinstance(resolver.resolve(Query("a" * 40 + "b")), TempFail)
    assert counted.steps <= 2.6 * LIMIT
    assert len(messages) == 1
    assert "line 1: match limit exceeded" in messages[0]


def test_rules_within_their_limits_may_not_take_long_together_either() -> None:
    now = 0.0
    effort = Effort(1000, clock=lambda: now)
    effort.begin_many()
    for tried, now in ((8, 0.01), (16, 0.03), (1000, 0.039)):  # noqa: B007
        effort.tried(tried)
    now = 0.041
    effort.tried(1100 + 8)
    with pytest.raises(TooMuchEffort):
        effort.tried(1000)
    effort.begin_many()
    effort.tried(8)


def test_the_rules_of_a_policy_do_not_add_up_either(counted: Counting) -> None:
    slow = tuple(Rule("DUNNO", (Condition("it", regex="(a+)+$"),)) for _ in range(50))
    resolver: Any = rules((*slow, Rule("OK")))
    load(resolver)
    assert resolver.resolve(Query("", attributes={"it": "a" * 40})) == Found("DUNNO")
    evil = Query("", attributes={"it": "a" * 40 + "b"})
    assert resolver.resolve(evil) == TempFail("the rules take too long over this request")
    assert (resolver.gave_up, resolver.too_much) == (3, 1)
    assert counted.steps <= 4 * LIMIT


# Without PCRE2.


@pytest.fixture
def without_pcre2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pcre2", None)


@pytest.mark.usefixtures("without_pcre2")
@pytest.mark.parametrize("syntax", ["pcre", "regexp"])
@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+b", "(a|a)*b", "(a|ab)*c", "(a?)*b", "(a*b*)+c", "(x+x+)+y"),
        *("a*a*b", "a*(a*)b", "(a*|b)c?d*e", "a?b?", "a+b{0,2}", ".*(x?).*"),
        *(r"(a)\1", "((a+)b)*c"),
    ],
)
def test_python_s_re_never_sees_what_could_take_it_for_ever(
    monkeypatch: pytest.MonkeyPatch, syntax: Any, pattern: str
) -> None:
    def compile_(*arguments: Any) -> Any:
        raise AssertionError(f"re was given {arguments}")

    monkeypatch.setattr(python_re, "re", SimpleNamespace(compile=compile_, DOTALL=0, IGNORECASE=0))
    with pytest.raises(ConfigError, match="PCRE2 cannot be used"):
        Regex(rules=(InlineRule(pattern, "x"),), syntax=syntax)


@pytest.mark.usefixtures("without_pcre2")
@pytest.mark.parametrize("pattern", ["(?=a)b", "(?<!a)b", "(?>a+)b", "a*+b", "(?:a+)+"])
def test_nor_look_around(pattern: str) -> None:
    with pytest.raises(ConfigError, match="PCRE2 cannot be used"):
        Regex(rules=(InlineRule(pattern, "x"),))


@attrs.define(eq=False)
class _Steps:
    """Counts the steps of a backtracking match, as `re` makes it, without making any of its shortcuts."""

    taken: int = 0

    def match(self, node: Any, key: bytes, at: int, then: Any) -> bool:
        self.taken += 1
        match type(node).__name__:
            case "Bytes":
                return at < len(key) and bool(node.allowed >> key[at] & 1) and then(at + 1)
            case "Sequence":
                if not node.items:
                    return bool(then(at))
                rest = type(node)(node.items[1:])
                return self.match(node.items[0], key, at, lambda place: self.match(rest, key, place, then))
            case "Choice":
                return any(self.match(option, key, at, then) for option in node.options)
            case "Group":
                return self.match(node.item, key, at, then)
            case "Assertion":
                holds = at == 0 if node.kind == "begin" else at == len(key)
                return holds and bool(then(at))
            case "Repeat":
                return self.repeat(node, key, at, then, 0)
        raise AssertionError(node)

    def repeat(self, node: Any, key: bytes, at: int, then: Any, done: int) -> bool:
        # Of single bytes: as far as it goes, then back.
        ends = [at]
        while (node.most is None or done < node.most) and self.match(
            node.item, key, ends[-1], lambda _: True
        ):
            ends.append(ends[-1] + 1)
            done += 1
        return any(then(end) for end in reversed(ends[node.least :]))


@pytest.mark.usefixtures("without_pcre2")
@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("^(.*)@(.*)$", ["user@example.org", "@" * 60, "a@" * 30 + "\n\n", "a" * 60]),
        (r"^(.*)\+(.*)@(.*)x$", ["u+x@example.org", "+@" * 30, "+" * 30 + "@" * 30]),
        ("[a-z]+@[a-z]+[.]org", ["a" * 80, "a@" * 40, "a@a." * 20]),
        (r"\d+[yz]", ["1" * 80, "1y" * 3]),
        ("(a|a)(a|a)(a|a)(a|a)b", ["a" * 40]),
        ("x.{0,9}y.{0,9}z", ["xy" * 40, "x" * 20 + "y" * 20]),
    ],
)
def test_the_steps_that_python_s_re_can_take_are_bounded_before_it_runs(
    pattern: str, keys: list[str]
) -> None:
    from tcpmapkit.resolvers.regex.perl import CASELESS, DOLLAR_ENDONLY, DOTALL, parse

    tree = parse(pattern, CASELESS | DOTALL | DOLLAR_ENDONLY).tree
    bound = python_re.Bound.of(tree)
    for key in map(str.encode, keys):
        counter = _Steps()
        for start in range(1 if pattern.startswith("^") else len(key) + 1):
            if counter.match(tree, key, start, lambda _: True):
                break
        # A step of the bound is one byte of the key; each is looked at by a few nodes.
        assert counter.taken <= 12 * bound.steps(key), key


@pytest.mark.usefixtures("without_pcre2")
@pytest.mark.parametrize(
    ("pattern", "ordinary", "hostile"),
    [
        ("^(.*)@(.*)@(.*)@x$", "a@b@c@x", "@" * 3000),
        ("[a-z]+@example", "a" * 300 + "@example", "a" * 5000),
        (r"^(.*)\+(.*)@(.*)$", "user+ext@example.org" + "x" * 200, "+@" * 3000),
    ],
)
def test_a_key_that_could_take_python_s_re_too_many_steps_is_not_given_to_it(
    pattern: str, ordinary: str, hostile: str
) -> None:
    resolver = Regex(rules=(InlineRule(pattern, "x"), InlineRule("^", "rest")))
    load(resolver)
    assert resolver.resolve(Query(ordinary)) == Found("x")
    assert resolver.resolve(Query(hostile)) == Found("rest")
    assert resolver.gave_up == 1


def test_whoever_asks_for_re_gets_it_without_a_limit_and_is_told() -> None:
    resolver = Regex(rules=(InlineRule(r"^(\w+\.)+example", "x"), InlineRule("a*a*b", "y")), engine="re")
    assert load(resolver) == ['engine = "re": nothing ends a pattern that takes too long over a key']
    assert resolver.resolve(Query("a.b.example")) == Found("x")

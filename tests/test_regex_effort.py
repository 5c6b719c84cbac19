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
from tcpmapkit.resolvers.regex import InlineRule, Regex, effort, pcre2_engine, python_re
from tcpmapkit.resolvers.rules import Rule, rules
from tcpmapkit.resolvers.rules.conditions import Condition
from tcpmapkit.testing import started_file
from tests.loading import context, load

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


@attrs.define
class Clocks:
    """Both clocks that patterns are timed by: no test goes by the time that it takes itself."""

    now: float = 0.0

    def read(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(effort, "_passing", clocks.read)
    monkeypatch.setattr(effort, "_of_thread", clocks.read)
    return clocks


async def asked(configuration: str, key: str, protocol: str = "", **attributes: str) -> Any:
    """What the map `m` answers."""
    async with started_file(configuration) as maps:
        return await maps["m"].lookup(maps["m"].query(key, protocol, attributes))


def regex(pattern: str, of: str = "maps.m.resolvers", **options: str) -> str:
    """A step with one rule, for a configuration."""
    lines = [f"{name} = {text!r}" for name, text in {"type": "regex", **options}.items()]
    return "\n".join([f"[[{of}]]", *lines, f"rules = [{{ pattern = {pattern!r}, result = 'x' }}]", ""])


MAP = "[maps.m]\ncache = false\n"
EVIL_STEP, INNER = regex("(a+)+$"), "maps.m.resolvers.resolvers"
OTHERS = "".join(f"[maps.o{number}]\n" + regex("(a+)+$", f"maps.o{number}.resolvers") for number in range(5))
ASKED = "".join(f"[[maps.m.resolvers]]\ntype = 'map'\nmap = 'o{number}'\n" for number in range(5))
COMPOSED = {
    "steps": MAP + EVIL_STEP * 5,
    "a chain": MAP + "[[maps.m.resolvers]]\ntype = 'chain'\n" + regex("(a+)+$", INNER) * 5,
    "a union": MAP + "[[maps.m.resolvers]]\ntype = 'union'\n" + regex("(a+)+$", INNER) * 5,
    "other keys": MAP + regex("(a+)+$", key="{key}", on_error="next") * 5,
    "a pipe": MAP
    + EVIL_STEP * 2
    + "[[maps.m.resolvers]]\ntype = 'pipe'\n"
    + regex("^(.)", INNER, result="{key}")
    + regex("(a+)+$", INNER) * 3,
    "maps": MAP + ASKED + OTHERS,
    "a search": MAP + "search = 'address'\n" + EVIL_STEP * 5,
    "a search with maps": MAP + "search = 'address'\n" + ASKED + OTHERS,
}


@pytest.mark.parametrize("configuration", COMPOSED.values(), ids=COMPOSED)
async def test_a_lookup_has_one_effort_whatever_it_is_made_of(counted: Counting, configuration: str) -> None:
    key = "a" * 40 + "b@" + "a" * 10 + ".example.org"
    assert await asked(configuration, key) == TempFail("the rules take too long over this key")
    assert counted.steps <= 2.8 * LIMIT


async def test_when_nothing_is_left_no_other_table_of_the_lookup_is_tried(counted: Counting) -> None:
    steps = regex("(a+)+$", on_error="ignore") * 5
    assert await asked(MAP + steps + regex("^", on_error="next") * 100, "a" * 40 + "b") == TempFail(
        "the rules take too long over this key"
    )
    assert counted.steps <= 2.8 * LIMIT


async def test_the_next_lookup_begins_anew(counted: Counting) -> None:
    async with started_file(MAP + EVIL_STEP * 5 + regex("^x")) as maps:
        map_ = maps["m"]
        for key, outcome in (("a" * 40 + "b", TempFail), ("xa", Found), ("a" * 40 + "b", TempFail)):
            assert isinstance(await map_.lookup(map_.query(key)), outcome)


async def test_the_rules_of_a_policy_and_the_maps_they_ask_have_one_effort(counted: Counting) -> None:
    rules = "[[maps.m.resolvers]]\ntype = 'rules'\nrules = ["
    rules += "{ action = 'REJECT', when = [{ attribute = 'helo_name', regex = '(a+)+$' }] },"
    for number in range(5):
        rules += f"{{ action = 'REJECT', when = [{{ attribute = 'helo_name', map = 'o{number}' }}] }},"
    configuration = MAP + rules + "]\n" + OTHERS
    outcome = await asked(configuration, "", "policy", helo_name="a" * 40 + "b")
    assert isinstance(outcome, TempFail)
    assert counted.steps <= 2.8 * LIMIT


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, clocks: Clocks) -> list[float]:
    """Every match takes a millisecond by the clocks, within its limit; when each was begun."""
    library, begun = pcre2_engine.load_pcre2(), []

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(library, name)

        def match(self, *arguments: Any) -> Any:
            begun.append(clocks.now)
            clocks.now += 0.001
            return library.match(*arguments)

    monkeypatch.setattr(pcre2_engine, "load_pcre2", Slow)
    return begun


SLOW = {
    "rules": "[[maps.m.resolvers]]\ntype = 'regex'\nrules = ["
    + "{ pattern = '^[xy]', result = 'x' }," * 1000  # of which several are tried at once
    + "]\n",
    "negated rules": "[[maps.m.resolvers]]\ntype = 'regex'\nrules = ["
    + "{ pattern = '^[^xy]', negate = true, result = 'x' }," * 200
    + "]\n",
    "steps": regex("^[xy]") * 200,
    "conditions": "[[maps.m.resolvers]]\ntype = 'regex'\npath = 'conditions'\n",
    "policy": "[[maps.m.resolvers]]\ntype = 'rules'\nrules = ["
    + "{ action = 'x', when = [{ attribute = 'it', regex = '^[xy]' }] }," * 200
    + "]\n",
}


@pytest.mark.parametrize("steps", SLOW.values(), ids=SLOW)
async def test_patterns_within_their_limits_may_not_take_long_together_either(
    tmp_path: Path, slow: list[float], steps: str
) -> None:
    (tmp_path / "conditions").write_text("if /^[xy]/\n/./ x\nendif\n" * 200)
    path = tmp_path / "tcpmapkit.toml"
    path.write_text(MAP + steps)
    async with started_file(path) as maps:
        map_ = maps["m"]
        for _ in range(2):
            slow.clear()
            outcome = await map_.lookup(map_.query("k", attributes={"it": "k"}))
            assert isinstance(outcome, TempFail)
            assert slow[-1] - slow[0] <= 0.040
        assert await map_.lookup(map_.query("x", attributes={"it": "x"})) == Found("x")


def test_the_time_for_which_a_lookup_waits_does_not_count(clocks: Clocks) -> None:
    table, query = effort.Effort(), Query("k")
    for _ in range(100):
        work = table.begin(query.with_key("other"))
        for _ in range(10):
            table.tried()
        clocks.now += 0.0001
        work.end()
        clocks.now += 1
    table.begin(query)
    clocks.now += 0.010
    table.look()
    clocks.now += 0.030
    with pytest.raises(effort.TooMuchEffort):
        table.look()


def test_a_table_of_very_many_rules_has_the_time_that_they_take(clocks: Clocks) -> None:
    table = effort.Effort()
    table.begin(Query("k"))
    for _ in range(100_000):
        table.tried()
        clocks.now += 2e-6


def test_time_that_others_had_the_processor_for_is_no_effort(
    monkeypatch: pytest.MonkeyPatch, clocks: Clocks
) -> None:
    monkeypatch.setattr(effort, "_of_thread", lambda: clocks.now / 1000)
    table = effort.Effort()
    table.begin(Query("k"))
    for _ in range(100):
        table.tried()
        clocks.now += 0.05


def test_whoever_allows_more_steps_allows_the_time_they_take(clocks: Clocks) -> None:
    table = effort.Effort(10_000_000)
    table.begin(Query("k"))
    for parts in (1, 15, 1, 15):
        table.spend(parts)
        clocks.now += parts * 0.009
    with pytest.raises(effort.TooMuchEffort):
        table.spend(1)


async def test_the_rules_of_a_policy_do_not_add_up_either(counted: Counting) -> None:
    slow = tuple(Rule("DUNNO", (Condition("it", regex="(a+)+$"),)) for _ in range(50))
    resolver: Any = rules((*slow, Rule("OK")))
    await resolver.start(context()[0])
    assert resolver.resolve(Query("", attributes={"it": "a" * 40})) == Found("DUNNO")
    evil = Query("", attributes={"it": "a" * 40 + "b"})
    assert resolver.resolve(evil) == TempFail("the rules take too long over this request")
    assert (resolver.gave_up, resolver.too_much) == (2, 1)
    assert counted.steps <= 2.6 * LIMIT


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
    resolver = Regex(rules=(InlineRule(pattern, "x"),))
    load(resolver)
    assert resolver.resolve(Query(ordinary)) == Found("x")
    assert resolver.resolve(Query(hostile)) is None
    assert resolver.gave_up == 1


def test_whoever_asks_for_re_gets_it_without_a_limit_and_is_told() -> None:
    resolver = Regex(rules=(InlineRule(r"^(\w+\.)+example", "x"), InlineRule("a*a*b", "y")), engine="re")
    assert load(resolver) == ['engine = "re": nothing ends a pattern that takes too long over a key']
    assert resolver.resolve(Query("a.b.example")) == Found("x")

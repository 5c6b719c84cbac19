"""The `rules` resolver: conditions on the attributes of a policy request."""

from __future__ import annotations

import asyncio
import inspect
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from tcpmapkit import ConfigError, Found, Miss, NotFound, PermFail, Query, TempFail, hookimpl
from tcpmapkit.build import build_maps
from tcpmapkit.config import read_document, structure
from tcpmapkit.map_reference import InlineComplement, WaitingComplement, complement_of
from tcpmapkit.maps import Map
from tcpmapkit.plugin_sources import Origin
from tcpmapkit.plugins import load_plugins
from tcpmapkit.resolver import Context
from tcpmapkit.resolvers.regex import pcre2_engine
from tcpmapkit.resolvers.rules import Rule, rules
from tcpmapkit.resolvers.rules.conditions import Condition
from tcpmapkit.testing import FakeClock, started_file
from tests.loading import context

DOWN, AWAY = TempFail("down"), PermFail("away")
LONG = "9" * 5000  # more digits than int() takes


@attrs.define(eq=False)
class Answers:
    """A map that gives these answers, the default for any other key."""

    answers: dict[str, Any]
    default: Any = None
    asked: list[Query] = attrs.field(factory=list)
    can_wait = False

    def resolve(self, query: Query) -> Any:
        self.asked.append(query)
        return self.answers.get(query.key, self.default)


class AnswersLater(Answers):
    can_wait = True

    async def resolve(self, query: Query) -> Any:  # type: ignore[override]
        return super().resolve(query)


kinds = pytest.mark.parametrize("kind", [Answers, AnswersLater])


async def ask(resolver: Any, attributes: dict[str, str], key: str = "", **about: Any) -> Any:
    answer = resolver.resolve(Query(key, protocol="policy", attributes=attributes, **about))
    return await answer if inspect.isawaitable(answer) else answer


def holds(value: str | None, **condition: Any) -> bool:
    """Whether a condition holds for an attribute of this value; None for one that is not there."""
    resolver = rules((Rule("HIT", (Condition("it", **condition),)),))
    answer = resolver.resolve(Query("", attributes={} if value is None else {"it": value}))  # type: ignore[attr-defined]
    assert answer in (Found("HIT"), Miss())
    return answer == Found("HIT")


# Each operator.


@pytest.mark.parametrize(
    ("condition", "true", "false"),
    [
        ({"equals": "Joe@Example.org"}, ["joe@example.org", "JOE@EXAMPLE.ORG"], ["joe", " joe@example.org"]),
        ({"equals": ""}, ["", None], [" ", "x", "\0"]),
        ({"equals": "STRASSE"}, ["strasse", "straße"], ["stra\udcdfe", "strase"]),
        ({"equals": "Ünï"}, ["üNÏ"], ["uni", "Ünï\n"]),
        (
            {"regex": r"^mail\d+\.example\.org$"},
            ["mail1.example.org", "MAIL22.Example.org"],
            ["mail.example.org", None],
        ),
        ({"regex": r"(?-i)^Joe$"}, ["Joe"], ["joe", "JOE"]),
        ({"regex": "a.b"}, ["xa\nbx"], ["ab", "\udcff"]),
        ({"regex": "é"}, ["café"], ["cafe", "\udcc3"]),
        ({"regex": "^$"}, ["", None], ["x"]),
        ({"regex": r"\!x"}, ["!x"], ["x", "y"]),
        (
            {"cidr": "192.0.2.0/24"},
            ["192.0.2.0", "192.0.2.255"],
            ["192.0.3.0", "::ffff:192.0.2.1", "192.0.2", "", None],
        ),
        ({"cidr": "192.0.2.7"}, ["192.0.2.7"], ["192.0.2.70", "192.0.2.7/32", " 192.0.2.7", "192.0.2.7\0"]),
        (
            {"cidr": "[2001:db8::]/32"},
            ["2001:db8::1", "2001:DB8:0::1"],
            ["2001:db9::1", "192.0.2.1", "2001:db8::1%eth0"],
        ),
        (
            {"cidr": ("198.51.100.0/24", "192.0.2.0/25", "2001:db8::/32")},
            ["198.51.100.1", "192.0.2.127", "2001:db8::"],
            ["192.0.2.128", "fe80::1", "mail.example.org", "\udcff"],
        ),
        (
            {"compare": "> 50"},
            ["51", "0051", "+51", "9" * 999],
            ["50", "-51", "5 1", "", None, "x", "5_1", "\u0665\u0665", "51\n"],
        ),
        ({"compare": ">=50"}, ["50"], ["49", "50.0", "1e3", "0x50", LONG]),
        ({"compare": "<  -1"}, ["-2"], ["-1", "", "--2"]),
        ({"compare": "<= 1 "}, ["1", "0"], ["2"]),
        ({"compare": "= 0"}, ["0", "00", "-0"], ["", None, "1"]),
        ({"compare": "== 7"}, ["7"], ["8"]),
        ({"compare": "= +7"}, ["7"], ["8"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_condition_holds_for_these_values_and_its_negation_for_the_others(
    condition: dict[str, Any], true: list[str | None], false: list[str | None]
) -> None:
    assert [value for value in true if not holds(value, **condition)] == []
    assert [value for value in false if holds(value, **condition)] == []
    ((name, text),) = condition.items()
    negated = {name: tuple(f"!{one}" for one in text) if isinstance(text, tuple) else f"!{text}"}
    assert [value for value in true if holds(value, **negated)] == []
    assert [value for value in false if not holds(value, **negated)] == []


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ({"equals": "!!joe"}, "joe"),
        ({"equals": "!"}, "anything"),
        ({"regex": "!!^joe$"}, "joe"),
        ({"cidr": " ! 192.0.2.0/24"}, "198.51.100.1"),
        ({"cidr": "!!192.0.2.0/24"}, "192.0.2.1"),
        ({"compare": "!= 0"}, "1"),
        ({"compare": "! > 50"}, "50"),
        ({"compare": "!!> 50"}, "51"),
    ],
)
def test_an_odd_number_of_exclamation_marks_negates(condition: dict[str, str], value: str) -> None:
    assert holds(value, **condition)


@pytest.mark.parametrize(
    "condition", [{"compare": "= 0"}, {"compare": "!= 0"}, {"equals": "x"}, {"regex": "(a+)+$"}]
)
@pytest.mark.parametrize("value", ["\0", "\udcff\ud800", "a" * 65_000, "💥", "%s{key}$1", "\u2028"])
def test_no_value_makes_a_condition_raise(condition: dict[str, str], value: str) -> None:
    assert holds(value, **condition) in (True, False)


@pytest.mark.parametrize("negation", ["", "!"])
def test_a_pattern_that_reaches_its_limit_is_neither_met_nor_not_and_is_told_once_a_minute(
    negation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmapkit.resolvers.rules.conditions.MATCH_LIMIT", 1000)
    resolver: Any = rules(
        (
            Rule("HIT", (Condition("it", regex=negation + "^(a+)+$"),)),
            Rule("NEXT", (Condition("it", equals="!"),)),
        )
    )
    clock = FakeClock()
    made, told = context()
    asyncio.run(resolver.start(Context(made.directory, made.name, made.map, made.logger, clock)))
    for _ in range(3):
        assert resolver.resolve(Query("", attributes={"it": "a" * 40 + "!"})) == Found("NEXT")
    clock.now += 61
    assert resolver.resolve(Query("", attributes={"it": "a" * 40 + "!"})) == Found("NEXT")
    assert resolver.gave_up == 4
    assert [one.split(": ")[0] for one in told] == ["rule 1", "rule 1"]


@pytest.mark.parametrize(
    ("slow_rules", "outcome"),
    [(2, Found("NEXT")), (3, TempFail("the rules take too long over this request"))],
)
@kinds
async def test_a_request_over_which_several_patterns_reach_their_limit_fails(
    kind: type[Answers], slow_rules: int, outcome: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmapkit.resolvers.rules.conditions.MATCH_LIMIT", 1000)
    slow = (Rule("HIT", (Condition("it", regex="^(a+)+$"),)),) * slow_rules
    found = Rule("NEXT", (Condition("it", map=kind({}, Found("x"))),))
    resolver: Any = rules((*slow, found))
    assert await ask(resolver, {"it": "a" * 40 + "!"}) == outcome
    assert (resolver.gave_up, resolver.too_much) == (2, slow_rules // 3)
    assert await ask(resolver, {"it": "!"}) == Found("NEXT")


def test_without_pcre2_a_pattern_that_cannot_be_run_alike_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Any:
        raise ImportError("no module named pcre2")

    monkeypatch.setattr(pcre2_engine, "load_pcre2", gone)
    assert holds("JOE", regex="^joe$")
    with pytest.raises(ConfigError, match="cannot be run as Postfix runs it"):
        Condition("it", regex=r"(?<=a)b")


# Rules.


async def test_the_first_rule_whose_conditions_all_hold_answers() -> None:
    resolver = rules(
        (
            Rule(
                "REJECT many",
                (Condition("sasl_username", equals=""), Condition("recipient_count", compare="> 50")),
            ),
            Rule("OK", (Condition("client_address", cidr="192.0.2.0/24"),)),
            Rule("DEFER"),
            Rule("never"),
        )
    )
    stranger = {"sasl_username": "", "recipient_count": "51", "client_address": "192.0.2.1"}
    assert await ask(resolver, stranger) == Found("REJECT many")
    assert await ask(resolver, stranger | {"sasl_username": "joe"}) == Found("OK")
    assert await ask(resolver, stranger | {"recipient_count": "50"}) == Found("OK")
    assert await ask(resolver, {"sasl_username": "joe"}) == Found("DEFER")
    assert await ask(resolver, {}) == Found("DEFER")


async def test_no_rule_that_holds_is_a_miss_whatever_the_key() -> None:
    resolver = rules((Rule("OK", (Condition("sender", equals="key"),)),))
    assert [await ask(resolver, {}, key) for key in ("", "key", "*", "<>")] == [Miss()] * 4


def test_rules_that_ask_no_map_that_waits_answer_at_once() -> None:
    for kind, waits in ((Answers, False), (AnswersLater, True)):
        made: Any = rules((Rule("OK", (Condition("it", map=kind({})),)), Rule("NO")))
        assert inspect.iscoroutinefunction(made.resolve) is waits


@kinds
@pytest.mark.parametrize(
    ("answer", "outcome", "negated"),
    [
        (Found("x"), Found("HIT"), Found("NEXT")),
        (Found("x", 9), Found("HIT", 9), Found("NEXT", 9)),
        (None, Found("NEXT"), Found("HIT")),
        (Miss(), Found("NEXT"), Found("HIT")),
        (Miss(7), Found("NEXT", 7), Found("HIT", 7)),
        (NotFound(5), Found("NEXT", 5), Found("HIT", 5)),
        (DOWN, DOWN, DOWN),
        (AWAY, AWAY, AWAY),
    ],
)
async def test_a_map_condition_holds_for_what_is_found_and_a_failure_ends_the_walk(
    kind: type[Answers], answer: Any, outcome: Any, negated: Any
) -> None:
    for made, expected in (
        (lambda: kind({}, answer), outcome),
        (lambda: complement_of(kind({}, answer), "m"), negated),
    ):
        resolver = rules((Rule("HIT", (Condition("it", map=made()),)), Rule("NEXT")))
        assert await ask(resolver, {"it": "x"}) == expected


@kinds
async def test_the_ttl_is_the_smallest_of_every_map_that_was_asked(kind: type[Answers]) -> None:
    slow, fast, other = kind({}, Found("x", 60)), kind({}, Miss(7)), kind({}, Found("x", 1))
    resolver = rules(
        (
            Rule("A", (Condition("it", map=slow), Condition("it", map=fast))),
            Rule("B", (Condition("that", equals="x"), Condition("it", map=other))),
            Rule("C", (Condition("that", equals=""),)),
        )
    )
    assert await ask(resolver, {}) == Found("C", 7)
    assert await ask(resolver, {"that": "x"}) == Found("B", 1)
    assert await ask(resolver, {"that": "y"}) == Miss(7)


@kinds
async def test_a_map_is_not_asked_for_a_rule_that_cannot_hold(kind: type[Answers]) -> None:
    down = kind({}, DOWN)
    resolver = rules(
        (Rule("A", (Condition("sender", map=down), Condition("sasl_username", equals=""))), Rule("B"))
    )
    assert await ask(resolver, {"sasl_username": "joe"}) == Found("B")
    assert down.asked == []
    assert await ask(resolver, {}) == DOWN


@kinds
async def test_a_map_is_asked_for_the_whole_value_of_the_attribute(kind: type[Answers]) -> None:
    asked = kind({"a@example.org": Found("x")})
    resolver = rules((Rule("A", (Condition("sender", map=asked),)),))
    attributes = {"sender": "a@example.org"}
    assert await ask(resolver, attributes, "192.0", partial=True, deadline=12.0) == Found("A")
    assert await ask(resolver, {}) == Miss()
    first, second = asked.asked
    assert (first.key, first.partial, first.deadline, first.attributes) == (
        "a@example.org",
        False,
        12.0,
        attributes,
    )
    assert second.key == ""


def test_a_complement_waits_when_its_map_does() -> None:
    assert type(complement_of(Answers({}), "m")) is InlineComplement
    assert type(complement_of(AnswersLater({}), "m")) is WaitingComplement
    assert InlineComplement("m", Answers({})).resolve(Query("x")) == Found("not in m")


# From the configuration.

MAPS = """
[maps.blocked]
resolvers = [{ type = "static", entries = { "Spam@example.net" = "x" } }]
[maps.later]
resolvers = [{ type = "later" }]
"""


def plugin() -> ModuleType:
    @hookimpl
    def register_resolvers(register: Any) -> None:
        register("later", lambda: AnswersLater({"spam@example.net": Found("x"), "bad@example.net": DOWN}))

    module = ModuleType("answers_later")
    module.register_resolvers = register_resolvers  # type: ignore[attr-defined]
    return module


def configuration(*rules: str) -> str:
    joined = ",\n  ".join(rules)
    return f'[maps.m]\n[[maps.m.resolvers]]\ntype = "rules"\nrules = [\n  {joined}\n]\n{MAPS}'


async def lookup(asked: Map, **attributes: str) -> Any:
    outcome = await asked.lookup(asked.query("key", "policy", attributes))
    return outcome.value if isinstance(outcome, Found) else outcome


@pytest.mark.parametrize("name", ["blocked", "later"])
@pytest.mark.parametrize("negation", ["", "!", "! ", "!!"])
async def test_a_map_is_named_in_a_condition_and_asked_with_its_folding(name: str, negation: str) -> None:
    text = configuration(
        f'{{ action = "HIT", when = [{{ attribute = "sender", map = "{negation}{name}" }}] }}',
        '{ action = "OTHER" }',
    )
    async with started_file(text, plugins=[plugin()]) as maps:
        inside, outside = ("OTHER", "HIT") if negation.count("!") % 2 else ("HIT", "OTHER")
        assert maps["m"].current.attributes == ("sender",)
        assert maps["m"].current.in_memory is (name == "blocked")
        assert await lookup(maps["m"], sender="SPAM@Example.net") == inside
        assert await lookup(maps["m"], sender="joe@example.net") == outside
        assert await lookup(maps["m"]) == outside
        if name == "later":
            assert await lookup(maps["m"], sender="bad@example.net") == DOWN


def errors_of(tmp_path: Path, text: str) -> list[ConfigError]:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(text)
    loaded = load_plugins()
    loaded.load(Origin("later", "later", "1", "later"), plugin)
    config, errors = structure(read_document(file), loaded.types)
    return [*errors, *build_maps(config, loaded)[1]]


def told(tmp_path: Path, *rules: str) -> list[tuple[tuple[Any, ...], str]]:
    """The mistakes of some rules: path below the step, message."""
    errors = errors_of(tmp_path, configuration(*rules))
    assert all(error.path[:4] == ("maps", "m", "resolvers", 0) for error in errors)
    return [(error.path[4:], error.message) for error in errors]


def of_a_condition(tmp_path: Path, condition: str) -> list[tuple[tuple[Any, ...], str]]:
    mistakes = told(tmp_path, f'{{ action = "A", when = [{{ {condition} }}] }}')
    assert all(path[:4] == ("rules", 0, "when", 0) for path, _ in mistakes)
    return [(path[4:], message) for path, message in mistakes]


ONE = "a condition has exactly one of equals, regex, cidr, compare and map"


@pytest.mark.parametrize(
    ("condition", "path", "message"),
    [
        ('attribute = "sender"', (), ONE),
        ('attribute = "sender", equals = "", regex = "x"', (), ONE),
        ('attribute = "sender", equals = "", map = "blocked"', (), ONE),
        ('equals = "x"', ("attribute",), "it is missing"),
        ('attribute = "", equals = ""', ("attribute",), "one word without ="),
        ('attribute = "a=b", equals = ""', ("attribute",), "one word without ="),
        ('attribute = "a b", equals = ""', ("attribute",), "one word without ="),
        ('attribute = "a", is = ""', ("is",), "unknown key"),
        ('attribute = "a", equals = 5', ("equals",), "expected a string, not an integer"),
        ('attribute = "a", regex = "("', ("regex",), "error in regex at offset 1"),
        ('attribute = "a", regex = "!"', ("regex",), "there is no regular expression in it"),
        (
            'attribute = "a", regex = "/^dsl-/i"',
            ("regex",),
            "it stands here without slashes; a slash at both ends is written [/]...[/]",
        ),
        ('attribute = "a", regex = "a\\u0000"', ("regex",), "NUL in a pattern"),
        ('attribute = "a", cidr = "192.0.2.1/24"', ("cidr",), "non-null host address bits"),
        ('attribute = "a", cidr = "mail.example.org"', ("cidr",), "bad address pattern"),
        ('attribute = "a", cidr = ["!192.0.2.0/24", "192.0.2.1"]', ("cidr",), "some of the networks"),
        ('attribute = "a", cidr = []', ("cidr",), "there is no network in it"),
        ('attribute = "a", compare = "50"', ("compare",), "not a comparison with a whole number"),
        ('attribute = "a", compare = "> 5.5"', ("compare",), "not a comparison"),
        ('attribute = "a", compare = "> 50 5"', ("compare",), "not a comparison"),
        ('attribute = "a", compare = ">"', ("compare",), "not a comparison"),
        ('attribute = "a", map = "nobody"', ("map",), "unknown map 'nobody'"),
        ('attribute = "a", map = "!nobody"', ("map",), "unknown map 'nobody'"),
        ('attribute = "a", map = "!"', ("map",), "unknown map ''"),
        ('attribute = "a", map = "m"', ("map",), "maps refer to one another in a circle: m -> m"),
    ],
)
def test_a_mistake_in_a_condition_is_told_with_its_place(
    tmp_path: Path, condition: str, path: tuple[Any, ...], message: str
) -> None:
    ((its_path, text),) = of_a_condition(tmp_path, condition)
    assert its_path == path
    assert message in text


def test_every_mistake_of_every_rule_is_told_at_once(tmp_path: Path) -> None:
    mistakes = told(
        tmp_path,
        '{ action = "", when = [{ attribute = "a", regex = "(" }, { attribute = "a", cidr = ["x", "y"] }] }',
        '{ action = " ", when = [] }',
        '{ action = "a\\nb" }',
        '{ action = "OK", when = [{ attribute = "a", compare = "5" }, { attribute = "a" }] }',
        "{ when = [] }",
    )
    assert [path for path, _ in mistakes] == [
        ("rules", 0, "action"),
        ("rules", 0, "when", 0, "regex"),
        ("rules", 0, "when", 1, "cidr", 0),
        ("rules", 0, "when", 1, "cidr", 1),
        ("rules", 1, "action"),
        ("rules", 2, "action"),
        ("rules", 3, "when", 0, "compare"),
        ("rules", 3, "when", 1),
        ("rules", 4, "action"),
    ]


def test_every_unknown_map_is_told_at_once(tmp_path: Path) -> None:
    mistakes = told(
        tmp_path,
        '{ action = "A", when = [{ attribute = "a", map = "x" }, { attribute = "a", map = "!y" }] }',
        '{ action = "A", when = [{ attribute = "a", map = "z" }] }',
    )
    assert mistakes == [
        (("rules", 0, "when", 0, "map"), "unknown map 'x'"),
        (("rules", 0, "when", 1, "map"), "unknown map 'y'"),
        (("rules", 1, "when", 0, "map"), "unknown map 'z'"),
    ]


def test_a_circle_through_conditions_is_found(tmp_path: Path) -> None:
    text = "".join(
        f'[maps.{one}]\nresolvers = [{{ type = "rules", rules = [{{ action = "A", when = ['
        f'{{ attribute = "sender", equals = "x" }}, {{ attribute = "sender", map = "!{other}" }}] }}] }}]\n'
        for one, other in (("a", "b"), ("b", "a"))
    )
    (error,) = errors_of(tmp_path, text)
    assert error.path == ("maps", "b", "resolvers", 0, "rules", 0, "when", 1, "map")
    assert error.message == "maps refer to one another in a circle: a -> b -> a"


@pytest.mark.parametrize("text", ["rules = []", ""])
def test_a_step_without_rules_is_refused(tmp_path: Path, text: str) -> None:
    (error,) = errors_of(tmp_path, f'[maps.m]\n[[maps.m.resolvers]]\ntype = "rules"\n{text}\n')
    assert error.path == ("maps", "m", "resolvers", 0, "rules")


async def test_an_attribute_that_postfix_does_not_send_is_a_warning_with_a_hint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = configuration(
        '{ action = "A", when = [{ attribute = "sender", equals = "x" }] }',
        '{ action = "B", when = [{ attribute = "x", equals = "1" }, '
        '{ attribute = "sasl_usrname", equals = "" }] }',
    )
    async with started_file(text, plugins=[plugin()]) as maps:
        assert await lookup(maps["m"], x="1") == "B"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    where = "maps.m.resolvers[0].rules[1].when"
    assert told == [
        f"{where}[0].attribute: Postfix sends no attribute 'x'",
        f"{where}[1].attribute: Postfix sends no attribute 'sasl_usrname' (did you mean 'sasl_username'?)",
    ]
    assert {record.name for record in caplog.records} == {"tcpmapkit.map.m.rules"}


def test_rules_are_folded_in_memory_and_asked_special_keys() -> None:
    kind = load_plugins().types["rules"]
    assert (kind.folded, kind.in_memory, kind.special_keys, kind.attributes) == (
        True,
        True,
        True,
        frozenset(),
    )

"""``regex``: the first matching rule wins; inline rules, or a pcre_table(5) or regexp_table(5) file.

Agrees with Postfix on every table that loads. A rule that Postfix runs and we cannot run alike is an
error when the table is loaded. Known difference: which text ``$n`` holds in a ``regexp`` rule where
POSIX picks the longest of several alternatives.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import attrs

from tcpmapkit import ConfigError, Found, PermFail, TempFail, hookimpl
from tcpmapkit.resolvers.regex.effort import MATCH_LIMIT, Effort, MatchFailed, TooMuchEffort
from tcpmapkit.resolvers.regex.engine import Engine, choose_engine
from tcpmapkit.resolvers.regex.rules import (
    Condition,
    Rule,
    Rules,
    answer,
    check_flags,
    check_no_delimiters,
    compile_pattern,
    compile_result,
)
from tcpmapkit.resolvers.regex.search import SMALL, Table
from tcpmapkit.resolvers.regex.table import TableReader
from tcpmapkit.resolvers.regex.tree import PatternError, Untranslatable
from tcpmapkit.resolvers.source_file import Identity, beside_lookups, is_same, read_settled

#: A table with more rules that are tried for every key is worth a warning.
_MANY = 100


@attrs.frozen
class InlineRule:
    """One rule of the option `rules`."""

    pattern: str = attrs.field(metadata={"help": "the regular expression, without delimiters"})
    result: str = attrs.field(metadata={"help": "the answer; $1, ${1} are groups, $$ is a dollar"})
    flags: str = attrs.field(
        default="", metadata={"help": "flags as they follow the pattern in pcre_table(5) or regexp_table(5)"}
    )
    negate: bool = attrs.field(default=False, metadata={"help": "match the keys that the pattern does not"})


@attrs.define(eq=False)
class Regex:
    """Answers with the first rule whose pattern matches the key as it came, a file's lines in order.

    `gave_up` counts the patterns that reached the match limit, `too_much` the lookups that failed since
    several did.
    """

    rules: tuple[InlineRule, ...] = attrs.field(
        default=(), metadata={"help": "the rules, in order; instead of path"}
    )
    path: Path | None = attrs.field(
        default=None, metadata={"help": "a pcre_table(5) or regexp_table(5) file; instead of rules"}
    )
    syntax: Literal["pcre", "regexp"] | None = attrs.field(
        default=None,
        metadata={"help": 'the kind of patterns; "regexp" for a path ending in .regexp, else "pcre"'},
    )
    engine: Literal["auto", "pcre2", "re"] = attrs.field(
        default="auto",
        metadata={"help": "what runs the patterns: PCRE2, or Python's re for those that it runs alike"},
    )
    match_limit: int = attrs.field(
        default=MATCH_LIMIT,
        metadata={"help": "steps that one pattern may take over one key, 1000 to 10000000"},
    )
    gave_up: int = attrs.field(default=0, init=False)
    too_much: int = attrs.field(default=0, init=False)
    _table: Table = attrs.field(init=False, repr=False)
    _identity: Identity | None = attrs.field(default=None, init=False, repr=False)
    _without_automaton: str = attrs.field(default="", init=False, repr=False)
    _context: Any = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if bool(self.rules) == (self.path is not None):
            raise ConfigError("regex takes either rules = [{pattern, result}] or path = ...")
        if not 1000 <= self.match_limit <= 10_000_000:
            raise ConfigError("must be from 1000 to 10000000", path=("match_limit",))
        effort = Effort(self.match_limit)
        engine = self._load_engine(effort)
        table: list[Rule] = []
        errors: list[ConfigError] = []
        for index, rule in enumerate(self.rules):
            try:
                table.append(self._compile(index, rule, engine))
            except ConfigError as error:
                errors.append(error)
        if errors:
            raise ConfigError.several(errors)
        self._table = self._arrange(tuple(table), effort)

    def _load_engine(self, effort: Effort) -> Engine:
        try:
            return choose_engine(self.engine, effort)
        except ImportError as error:
            raise ConfigError(f"PCRE2 cannot be used: {error}", path=("engine",)) from None

    def _syntax(self) -> str:
        if self.syntax:
            return self.syntax
        return "regexp" if self.path is not None and self.path.suffix == ".regexp" else "pcre"

    def _compile(self, index: int, rule: InlineRule, engine: Engine) -> Rule:
        """Compile an inline rule; what Postfix would skip with a warning is an error here."""
        option = "flags"
        try:
            check_flags(rule.flags, self._syntax())
            option = "result"
            if not rule.result:
                raise PatternError("no result")
            result = compile_result(_latin(rule.result))
            highest = max((part for part in result if isinstance(part, int)), default=0)
            if highest and rule.negate:
                raise PatternError("$number in the result of a negated rule")
            option = "pattern"
            if "\0" in rule.pattern:
                raise PatternError("NUL in a pattern")
            check_no_delimiters(rule.pattern)
            pattern = compile_pattern(
                _latin(rule.pattern), rule.flags, self._syntax(), engine, captures=bool(highest)
            )
            option = "result"
            if highest > pattern.groups:
                raise PatternError(f"the pattern has no group ${highest}")
            fixed = answer(result)
            if isinstance(fixed, (TempFail, PermFail)):
                raise PatternError(fixed.reason)
        except PatternError as error:
            raise ConfigError(str(error), path=("rules", index, option)) from None
        except Untranslatable as error:
            raise ConfigError(
                f"cannot be run as Postfix runs it: {error}", path=("rules", index, option)
            ) from None
        return Rule(Condition(pattern, rule.negate, index + 1), None, result, fixed)

    async def start(self, context: Any) -> None:
        """Load the file, off the event loop. Raises `ConfigError` for all lines that cannot be run."""
        self._context = context
        if self.path is not None:
            self._table, self._identity = await asyncio.to_thread(self._load, self.path)
        if self.engine == "re":
            self._context.logger.warning(
                'engine = "re": nothing ends a pattern that takes too long over a key'
            )
        if len(self._table.always) > _MANY:
            self._context.logger.warning("%s", self._about_always())

    def _about_always(self) -> str:
        always, rules = len(self._table.always), len(self._table.leaves)
        place = f"{self.path}: " if self.path else ""
        if self._without_automaton:
            return f"{place}{self._without_automaton}: each of the {rules} rules is tried for every key"
        require = "requires" if always == 1 else "require"
        tried = "is tried for every one" if always == 1 else "are tried for every one"
        return f"{place}{always} of the {rules} rules {require} no text of a key, and {tried}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody who checks a configuration may want to know, and nobody else."""
        if len(self._table.leaves) <= SMALL or not 0 < len(self._table.always) <= _MANY:
            return ()
        return (self._about_always(),)

    def _load(self, path: Path) -> tuple[Table, Identity]:
        def warn(line: int, message: str) -> None:
            self._context.logger.warning("%s, line %d: %s", path, line, message)

        effort = Effort(self.match_limit)
        reader = TableReader(path, self._syntax(), self._load_engine(effort), warn)
        content, identity = read_settled(path)
        with beside_lookups():
            table = reader.read(content.decode("latin-1"))
            if reader.errors:
                raise ConfigError.several(reader.errors)
            return self._arrange(table, effort), identity

    def _arrange(self, rules: Rules, effort: Effort) -> Table:
        try:
            table = Table.of(rules, effort)
        except ImportError:
            self._without_automaton = "ahocorasick-rs cannot be used"
            table = Table.of(rules, effort, prefilter=False)
        table.forget_texts()
        return table

    @property
    def files(self) -> tuple[Path, ...]:
        """The file that the rules are read from, if they are."""
        return () if self.path is None else (self.path,)

    @property
    def rows(self) -> int:
        """How many rules there are."""
        return len(self._table.leaves)

    def is_current(self) -> bool:
        """Whether the file is still the one that was read; blocks for one stat(2)."""
        return self.path is None or is_same(self.path, self._identity)

    def resolve(self, query: Any) -> Found | TempFail | PermFail | None:
        """The answer of the first rule that matches; a key that is not valid Unicode is a miss."""
        try:
            key = query.key.encode()
        except UnicodeEncodeError:
            return None
        try:
            return self._table.find(key, query, self._give_up)
        except TooMuchEffort as error:
            self.too_much += 1
            detail = f"{self.path or 'rules'}: {error} ({self.too_much} so far)"
            return TempFail("the rules take too long over this key", detail=detail)

    def _give_up(self, condition: Condition, error: MatchFailed) -> None:
        self.gave_up += 1
        place = f"{self.path}, line {condition.line}" if self.path else f"rule {condition.line}"
        if self._context is not None:
            text = "%s: %s: the rule did not match (%d so far)"
            self._context.warn_seldom("match limit", text, place, error, self.gave_up)


def _latin(text: str) -> str:
    return text.encode().decode("latin-1")


@hookimpl
def register_resolvers(register: Any) -> None:
    """Offer the type."""
    register("regex", Regex, folded=False, partial_keys=False, special_keys=True, in_memory=True)

"""``cidr``: the first network that holds the address; a cidr_table(5) file or inline rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from tcpmapkit import ConfigError, Found, PermFail, TempFail, hookimpl
from tcpmapkit.resolvers.cidr.first_match import FirstMatch
from tcpmapkit.resolvers.cidr.networks import Addresses, parse_address, parse_network, parse_pattern
from tcpmapkit.resolvers.cidr.results import numbered
from tcpmapkit.resolvers.cidr.table import arrange, read_rules
from tcpmapkit.resolvers.postfix_lines import WHITE_SPACE, decoded, table_answer
from tcpmapkit.resolvers.source_file import Identity, beside_lookups, is_same, read_settled

__all__ = ["Cidr", "FirstMatch", "Rule", "parse_address", "parse_network"]

_FREED_AT_ONCE = 4096


@attrs.frozen
class Rule:
    """One inline rule."""

    network: str = attrs.field(metadata={"help": "a network or an address; ! before it negates"})
    result: str = attrs.field(metadata={"help": "the value of the addresses in it"})


@attrs.define(eq=False)
class Cidr:
    """Exactly one of `rules` and `path`. The first rule that holds the address counts, as cidr_table(5)
    says; a key that is no address is a miss. `rows` is the number of rules.

    Raises `ConfigError` for a mistake in `rules`; in a file, what Postfix skips with a warning is
    skipped with a warning.
    """

    rules: tuple[Rule, ...] | None = attrs.field(
        default=None, metadata={"help": "the rules in order, each {network, result}"}
    )
    path: Path | None = attrs.field(default=None, metadata={"help": "a cidr_table(5) file"})
    rows: int = attrs.field(init=False, default=0)
    _identity: Identity | None = attrs.field(init=False, default=None, repr=False)
    _families: dict[int, FirstMatch] = attrs.field(init=False, factory=dict, repr=False)
    _results: Sequence[str] = attrs.field(init=False, default=(), repr=False)

    def __attrs_post_init__(self) -> None:
        if (self.rules is None) == (self.path is None):
            raise ConfigError("cidr takes either rules = [{network, result}] or path = ...")
        parsed: list[Addresses] = []
        for index, rule in enumerate(self.rules or ()):
            try:
                parsed.append(parse_pattern(rule.network.rstrip(WHITE_SPACE)))
            except ValueError as error:
                raise ConfigError(str(error), path=("rules", index, "network")) from None
            try:
                Found(rule.result)
            except ValueError as error:
                raise ConfigError(str(error), path=("rules", index, "result")) from None
        answers, self._results = numbered(rule.result for rule in self.rules or ())
        self._families = arrange(parsed, answers)
        self.rows = len(parsed)

    async def start(self, context: Any) -> None:
        """Read the table. Raises `ConfigError` when it cannot be read."""
        import asyncio

        if self.path is not None:
            await asyncio.to_thread(self._read, self.path, context)

    def _read(self, path: Path, context: Any) -> None:
        def warn(line: int, message: str) -> None:
            # Bytes that are not UTF-8 have become lone surrogates, which no log could write.
            readable = message.encode(errors="backslashreplace").decode()
            context.logger.warning("cidr map %s, line %d: %s", path, line, readable)

        content, identity = read_settled(path)
        with beside_lookups():
            self._families, self._results, self.rows = _arranged(decoded(content), warn)
        self._identity = identity

    @property
    def files(self) -> tuple[Path, ...]:
        """The file that the rules are read from, if they are."""
        return () if self.path is None else (self.path,)

    def is_current(self) -> bool:
        """Whether the file is still the one that was read; blocks for one stat(2)."""
        return self.path is None or is_same(self.path, self._identity)

    def resolve(self, query: Any) -> Found | TempFail | PermFail | None:
        """The answer of the first rule that holds the address, or a miss."""
        try:
            family, number = parse_address(query.key)
        except ValueError:
            return None
        answer = self._families[family].find(number)
        return None if answer is None else table_answer(self._results[answer])


def _arranged(
    text: str, warn: Callable[[int, str], object]
) -> tuple[dict[int, FirstMatch], Sequence[str], int]:
    """The rules of a file, their results by number, and how many rules there are."""
    rules, blocks = read_rules(text, warn)
    count = len(rules)
    answers, results = numbered(result for _, result in rules)
    families = arrange([addresses for addresses, _ in rules], answers, blocks)
    while rules:  # to free all of them at once would hold the interpreter
        del rules[-_FREED_AT_ONCE:]
    return families, results, count


@hookimpl
def register_resolvers(register: Any) -> None:
    register("cidr", Cidr, folded=False, partial_keys=False, special_keys=True, in_memory=True)

"""Reading pcre_table(5) and regexp_table(5) files."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import attrs

from tcpmapkit import ConfigError
from tcpmapkit.resolvers.postfix_lines import WHITE_SPACE, logical_lines
from tcpmapkit.resolvers.regex.engine import Engine, Pattern
from tcpmapkit.resolvers.regex.rules import (
    Block,
    Condition,
    Rule,
    Rules,
    answer,
    check_flags,
    compile_pattern,
    compile_result,
)
from tcpmapkit.resolvers.regex.tree import PatternError, Untranslatable

__all__ = ["TableReader"]

_DEEPEST = 100  # so many `if` inside one another
_ALNUM = frozenset(string.ascii_letters + string.digits)


@attrs.frozen
class _Written:
    """A pattern as it stands in the file."""

    pattern: str
    flags: str
    negate: bool


@attrs.define(eq=False)
class _Open:
    """An ``if`` whose ``endif`` has not come; `condition` is None for the file itself."""

    condition: Condition | None
    rules: list[Rule | Block] = attrs.field(factory=list)


@attrs.define(eq=False)
class TableReader:
    """Reads one table. `warn` is told, by line, what Postfix warns about; `errors` collects the rules
    that Postfix would run and we cannot."""

    file: Path
    syntax: str
    engine: Engine
    warn: Callable[[int, str], object]
    errors: list[ConfigError] = attrs.field(factory=list, init=False)
    _nest: list[_Open] = attrs.field(factory=lambda: [_Open(None)], init=False)

    def read(self, text: str) -> Rules:
        """The rules of a file's text (bytes as Latin-1)."""
        for number, line in logical_lines(text, self.warn):
            line = line.rstrip(WHITE_SPACE)
            if not line:
                continue
            try:
                self._read_line(number, line)
            except PatternError as error:
                self.warn(number, str(error))
            except Untranslatable as error:
                self.errors.append(
                    ConfigError(
                        f"this rule cannot be run as Postfix runs it: {error}",
                        file=self.file,
                        line=number,
                        source=line.encode("latin-1").decode(errors="replace"),
                    )
                )
        while len(self._nest) > 1:
            condition = self._nest[-1].condition
            assert condition is not None
            self.warn(condition.line, "IF has no matching ENDIF")
            self._close()
        return tuple(self._nest[0].rules)

    def _read_line(self, number: int, line: str) -> None:
        if line[0] not in _ALNUM:
            self._nest[-1].rules.append(self._rule(number, line))
        elif line[:2].lower() == "if" and line[2:3] not in _ALNUM:
            if len(self._nest) > _DEEPEST:
                raise Untranslatable(f"more than {_DEEPEST} if inside one another")
            self._nest.append(_Open(self._condition(number, line)))
        elif line[:5].lower() == "endif" and line[5:6] not in _ALNUM:
            if len(self._nest) == 1:
                raise PatternError("ignoring ENDIF without matching IF")
            if line[5:].strip(WHITE_SPACE):
                self.warn(number, "ignoring extra text after ENDIF")
            self._close()
        else:
            raise PatternError("ignoring unrecognized request")

    def _close(self) -> None:
        block = self._nest.pop()
        assert block.condition is not None
        self._nest[-1].rules.append(Block(block.condition, tuple(block.rules)))

    def _rule(self, number: int, line: str) -> Rule:
        first, rest = self._split_pattern(number, line)
        second = None
        if self.syntax == "regexp" and rest.startswith("!"):
            second, rest = self._split_pattern(number, rest)
        text = rest.lstrip(WHITE_SPACE)
        if not text:
            self.warn(number, "no replacement text: using empty string")
        try:
            result = compile_result(text)
        except PatternError as error:
            self.warn(number, str(error))
            raise PatternError("bad replacement syntax: skipping this rule") from None
        highest = max((part for part in result if isinstance(part, int)), default=0)
        if highest and first.negate:
            raise PatternError("$number found in negative match replacement text: skipping this rule")
        pattern = self._compile(first, captures=bool(highest))
        if highest > pattern.groups:
            raise PatternError(f'out of range replacement index "{highest}": skipping this rule')
        return Rule(
            Condition(pattern, first.negate, number),
            Condition(self._compile(second), second.negate, number) if second else None,
            result,
            answer(result),
        )

    def _condition(self, number: int, line: str) -> Condition:
        written, rest = self._split_pattern(number, line[2:])
        rest = rest.lstrip(WHITE_SPACE)
        if rest:
            self.warn(number, f'ignoring extra text after IF statement: "{rest}"')
            self.warn(number, "do not prepend whitespace to statements between IF and ENDIF")
        return Condition(self._compile(written), written.negate, number)

    def _compile(self, written: _Written, captures: bool = False) -> Pattern:
        return compile_pattern(written.pattern, written.flags, self.syntax, self.engine, captures)

    def _split_pattern(self, number: int, text: str) -> tuple[_Written, str]:
        """Cut ``!/pattern/flags`` off the beginning of `text`."""
        body = text.lstrip(WHITE_SPACE + "!")
        negate = text[: len(text) - len(body)].count("!") % 2 == 1
        if not body:
            raise PatternError("no regexp: skipping this rule")
        delimiter = body[0]
        end = 1
        while end < len(body) and body[end] != delimiter:
            end += 2 if body[end] == "\\" else 1
        if end >= len(body):
            what = "ignoring" if self.syntax == "pcre" else "skipping"
            raise PatternError(f'no closing regexp delimiter "{delimiter}": {what} this rule')
        pattern = body[1:end]
        after = end = end + 1
        # In a regexp table a second pattern may follow the flags.
        stop = WHITE_SPACE + "!" if self.syntax == "regexp" else WHITE_SPACE
        while end < len(body) and body[end] not in stop:
            end += 1
        flags = body[after:end]
        for flag in flags:
            check_flags(flag, self.syntax)
            if flag == "X":
                self.warn(number, 'ignoring obsolete regexp option "X"')
        return _Written(pattern, flags, negate), body[end:]

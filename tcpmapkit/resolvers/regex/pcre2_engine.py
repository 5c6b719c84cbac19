"""PCRE2 by the `pcre2` package, as Postfix uses it, with a limit on its work."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tcpmapkit.resolvers.regex.effort import Effort, MatchFailed
from tcpmapkit.resolvers.regex.perl import ANCHORED, CASELESS, DOTALL, EXTENDED, MULTILINE, version_dependent
from tcpmapkit.resolvers.regex.posix import Parsed
from tcpmapkit.resolvers.regex.required import required
from tcpmapkit.resolvers.regex.sieve import begins_with_few
from tcpmapkit.resolvers.regex.tree import Node, PatternError, Reference, Untranslatable, contains, write

__all__ = ["Pcre2", "load_pcre2"]

# The options that the pcre2 package sets and Postfix does not: \u and \x as in JavaScript, no \C.
_ALT_BSUX = 0x2
_NEVER_BACKSLASH_C = 0x100000
_BACKSLASH_C_DISABLED = 185  # compile errors of pcre2.h
_TOO_LARGE = (120, 186, 187)
# What can not be put behind a prefix: verbs belong to the whole pattern, recursion repeats all of it.
_WHOLE_PATTERN = re.compile(rb"\(\*|\(\?R|\(\?[+-]?0|\\g")

# A step costs more in a longer key, in which it may read further: so many bytes long is the key for
# which the match limit holds as it is, and in longer ones it is as many times less.
_PLAIN_LENGTH = 256
# PCRE2 counts its steps anew for each place where a match may begin. A search that needs more than so
# many for one place, by the greatest length of the key, is made again with all its steps counted.
_STEPS_PER_PLACE = {64: 1000, 256: 300, 1024: 75, 4096: 10, 16384: 2, 65536: 1}
_STEPS_FOR_ONE_PLACE = 4000  # where there is only one
_LENGTHS = tuple(_STEPS_PER_PLACE)
# In a long key nothing is possessive that was not written so: what is, takes no step that counts.
_LONG = 1024
_UNCOUNTED = re.compile(rb"\(\?(?:[>=!R0-9&P+(-]|<[=!])|\(\*|[*+?}]\+|\\[gRX]")
_MOST_UNCOUNTED = 50_000_000


def load_pcre2() -> Any:
    """The inner module of the `pcre2` package, which alone can compile in Postfix's mode.

    Raises `ImportError` when there is none, or one that does not work as we know it.
    """
    try:
        from pcre2 import _cy  # type: ignore[import-untyped,unused-ignore]

        code = _cy.compile(rb"\x{61}(b)?", 0, _ALT_BSUX)
        match = _cy.match(code, b"ab", 2, 0, _cy.create_match_context(), 0)[0]
        works = _cy.match_substring_bynumber(match, b"ab", 1) == b"b" and _cy.pattern_capture_count(code) == 1
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"this version of the pcre2 package is not known: {error}") from error
    if not works:
        raise ImportError("this version of the pcre2 package is not known")
    return _cy


class Pcre2:
    """`effort.match_limit` is how many steps one pattern may take over one key of ordinary length."""

    def __init__(self, effort: Effort) -> None:
        self.library = load_pcre2()
        self.context = self.library.create_match_context()
        self.effort = effort

    def perl(self, pattern: str, options: int, captures: bool) -> _Pcre2Pattern:
        """See `engine.Engine`."""
        changed = version_dependent(pattern)
        if changed:
            raise Untranslatable(f"{changed} has another meaning in PCRE2 since 10.43 than before")
        return _Pcre2Pattern(self, pattern.encode("latin-1"), options)

    def posix(self, parsed: Parsed, icase: bool, captures: bool) -> _Pcre2Pattern:
        """See `engine.Engine`."""
        captures = captures or contains(parsed.tree, Reference)
        text = write(parsed.tree, caseless=icase, captures=captures)
        try:
            pattern = _Pcre2Pattern(self, text, DOTALL | (CASELESS if icase else 0))
        except PatternError as error:
            raise Untranslatable(str(error)) from None
        pattern.groups = parsed.groups
        return pattern

    def compile(self, pattern: bytes, options: int, limit: int, counted: bool = False) -> Any:
        prefix = b"(*LIMIT_MATCH=%d)" % limit
        if counted:
            prefix += b"(*NO_AUTO_POSSESS)"
        try:
            return self.library.compile(prefix + pattern, options, _ALT_BSUX | _NEVER_BACKSLASH_C)
        except self.library.PatternError as error:
            text = error.msg.partition("; ")[2]
            if error.code == _BACKSLASH_C_DISABLED or error.code in _TOO_LARGE:
                raise Untranslatable(text) from None
            place = max(error.pos - len(prefix), 0)
            raise PatternError(f"error in regex at offset {place}: {text}") from None


class _Pcre2Pattern:
    __slots__ = (
        *("_code", "_codes", "_context", "_engine", "_match", "_options", "_pattern"),
        *("groups", "kind", "required"),
    )

    def __init__(self, engine: Pcre2, pattern: bytes, options: int) -> None:
        self._engine = engine
        self._pattern = pattern
        self._options = options
        self.required: tuple[frozenset[bytes], ...] = ()
        self.kind: Any = None
        # Those made when first needed, by the greatest length of a key and the part of the limit.
        self._codes: dict[tuple[int, int], Any] | None = None
        limit = min(_STEPS_PER_PLACE[_LENGTHS[0]], engine.effort.match_limit)
        self._code = engine.compile(pattern, options, limit)
        self._match = engine.library.match
        self._context = engine.context
        self.groups: int = engine.library.pattern_capture_count(self._code)

    def search(self, key: bytes) -> Any:
        """See `engine.Pattern`. Raises `TooMuchEffort` too."""
        if len(key) <= 64:
            try:
                return self._match(self._code, key, len(key), 0, self._context, 0)[0]
            except self._engine.library.LibraryError:
                pass
        return self._search_on(key)

    def read_as(self, tree: Node) -> None:
        """See `engine.Pattern`."""
        self.required = required(tree)
        if contains(tree, Reference):  # numbers of groups would be others
            return
        if self._starts_once() or begins_with_few(tree):
            self.kind = id(self._engine), self._options, self._starts_once()

    def any_of(self, patterns: Sequence[_Pcre2Pattern]) -> Callable[[bytes], Any] | None:
        """See `engine.Pattern`."""
        try:
            # What is quoted to the end, or a comment, ends here; groups of one name do not compile.
            together = b"|".join(b"(?:" + pattern._pattern + pattern._end() for pattern in patterns)
            limit = min(_STEPS_PER_PLACE[_LENGTHS[0]], self._engine.effort.match_limit)
            code = self._engine.compile(together, self._options, limit)
        except (PatternError, Untranslatable):
            return None

        def search(key: bytes) -> Any:
            try:
                return self._match(code, key, len(key), 0, self._context, 0)[0]
            except self._engine.library.LibraryError as failed:
                raise MatchFailed(str(failed)) from None

        return search

    def _end(self) -> bytes:
        # \E ends what \Q has begun, a newline a comment.
        return b"\\E\n)" if self._options & EXTENDED else b"\\E)"

    def _search_on(self, key: bytes) -> Any:
        length = next((length for length in _LENGTHS if len(key) <= length), 1 << len(key).bit_length())
        if length > _LONG and not self._starts_once():
            uncounted = len(_UNCOUNTED.findall(self._pattern))
            if uncounted * len(key) ** 2 > _MOST_UNCOUNTED:
                raise MatchFailed("the key is too long for this pattern")
        error: Exception | None = None
        for part in (0, 16, 1):
            if part:
                self._engine.effort.spend(1 if part == 16 else 15)
            elif length == _LENGTHS[0]:
                continue
            try:
                return self._match(self._code_for(length, part), key, len(key), 0, self._context, 0)[0]
            except self._engine.library.LibraryError as failed:
                error = failed
        raise MatchFailed(str(error)) from None

    def _starts_once(self) -> bool:
        """Whether a match can only begin at the beginning of the key, as far as is easily seen."""
        if self._options & ANCHORED:
            return True
        if b"|" in self._pattern:
            return False
        return self._pattern[:2] == rb"\A" or (self._pattern[:1] == b"^" and not self._options & MULTILINE)

    def _code_for(self, length: int, part: int) -> Any:
        """The search with at most a 1/`part` of the limit for all places together; `part` 0: each place
        by itself."""
        if self._codes is None:
            self._codes = {}
        code = self._codes.get((length, part))
        if code is None:
            code = self._codes[length, part] = self._compile(length, part)
        return code

    def _compile(self, length: int, part: int) -> Any:
        engine, counted = self._engine, length > _LONG
        limit = engine.effort.match_limit * _PLAIN_LENGTH // max(length, _PLAIN_LENGTH)
        if not part:
            each = _STEPS_FOR_ONE_PLACE if self._starts_once() else _STEPS_PER_PLACE.get(length, 1)
            return engine.compile(self._pattern, self._options, min(each, limit), counted)
        limit = max(limit // part, 1)
        if not self._starts_once() and not _WHOLE_PATTERN.search(self._pattern):
            try:
                whole = rb"\A(?s-U:.*?)(?:" + self._pattern + self._end()
                return engine.compile(whole, self._options, limit, counted)
            except (PatternError, Untranslatable):
                pass
        if not self._starts_once():
            limit = max(limit // length, 1)
        return engine.compile(self._pattern, self._options, limit, counted)

    def group(self, match: Any, key: bytes, number: int) -> bytes:
        """See `engine.Pattern`."""
        return self._engine.library.match_substring_bynumber(match, key, number) or b""

"""What runs the patterns: PCRE2 with a limit on its work, or Python's `re` for rules that it runs alike.

Postfix compiles without UTF and without JIT: bytes are characters, and only ASCII letters have a case.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from tcpmapkit.resolvers.regex.faithful import beyond_re
from tcpmapkit.resolvers.regex.perl import (
    ANCHORED,
    CASELESS,
    DOTALL,
    EXTENDED,
    parse,
    version_dependent,
)
from tcpmapkit.resolvers.regex.posix import Parsed
from tcpmapkit.resolvers.regex.tree import (
    PatternError,
    Reference,
    Untranslatable,
    contains,
    write,
)

__all__ = [
    "MATCH_LIMIT",
    "Engine",
    "MatchFailed",
    "Pattern",
    "Pcre2",
    "PythonRe",
    "best_engine",
    "load_pcre2",
]

#: Steps that PCRE2 may take over one pattern and key, unless the operator says otherwise.
MATCH_LIMIT = 1_000_000


class MatchFailed(Exception):
    """The engine gave up on this key, at its match limit: neither a match nor none."""


class Pattern(Protocol):
    """A compiled pattern; `groups` is how many ``(...)`` it has."""

    groups: int

    def search(self, key: bytes) -> Any:
        """A match to give to `group`, or None. Raises `MatchFailed`."""

    def group(self, match: Any, key: bytes, number: int) -> bytes:
        """The text of a group of a match in `key`, empty when it took no part."""


class Engine(Protocol):
    """Compiles patterns, given as Latin-1 text. `captures`: whether the text of groups is asked for.

    Both raise `Untranslatable` for what the engine cannot run as Postfix does.
    """

    def perl(self, pattern: str, options: int, captures: bool) -> Pattern:
        """Compile for pcre_table(5); `options` are PCRE2's. Raises `PatternError` where PCRE2 does."""

    def posix(self, parsed: Parsed, icase: bool, captures: bool) -> Pattern:
        """Compile what `posix.parse` has read."""


# The options that the pcre2 package sets and Postfix does not: \u and \x as in JavaScript, no \C.
_ALT_BSUX = 0x2
_NEVER_BACKSLASH_C = 0x100000
_BACKSLASH_C_DISABLED = 185  # compile errors of pcre2.h
_TOO_LARGE = (120, 186, 187)
# What can not be put behind a prefix: verbs belong to the whole pattern, recursion repeats all of it.
_WHOLE_PATTERN = re.compile(rb"\(\*|\(\?R|\(\?[+-]?0|\\g")

#: PCRE2 counts its steps anew for each place where a match may begin. Beyond this many the search is
#: made again as one match, so that the limit holds for all of them together.
_STEPS_PER_START = 2000


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
    """PCRE2 by the `pcre2` package; `match_limit` is how many steps one pattern may take over one key."""

    def __init__(self, match_limit: int) -> None:
        self.library = load_pcre2()
        self.context = self.library.create_match_context()
        self.match_limit = match_limit

    def perl(self, pattern: str, options: int, captures: bool) -> Pattern:
        changed = version_dependent(pattern)
        if changed:
            raise Untranslatable(f"{changed} has another meaning in PCRE2 since 10.43 than before")
        return _Pcre2Pattern(self, pattern.encode("latin-1"), options)

    def posix(self, parsed: Parsed, icase: bool, captures: bool) -> Pattern:
        captures = captures or contains(parsed.tree, Reference)
        text = write(parsed.tree, caseless=icase, captures=captures)
        try:
            pattern = _Pcre2Pattern(self, text, DOTALL | (CASELESS if icase else 0))
        except PatternError as error:
            raise Untranslatable(str(error)) from None
        pattern.groups = parsed.groups
        return pattern

    def compile(self, pattern: bytes, options: int, limit: int) -> Any:
        prefix = b"(*LIMIT_MATCH=%d)" % limit
        try:
            return self.library.compile(prefix + pattern, options, _ALT_BSUX | _NEVER_BACKSLASH_C)
        except self.library.PatternError as error:
            text = error.msg.partition("; ")[2]
            if error.code == _BACKSLASH_C_DISABLED or error.code in _TOO_LARGE:
                raise Untranslatable(text) from None
            place = max(error.pos - len(prefix), 0)
            raise PatternError(f"error in regex at offset {place}: {text}") from None


class _Pcre2Pattern:
    __slots__ = ("_code", "_context", "_engine", "_match", "_options", "_pattern", "_whole", "groups")

    def __init__(self, engine: Pcre2, pattern: bytes, options: int) -> None:
        self._engine = engine
        self._pattern = pattern
        self._options = options
        # The search as one match, made when first needed; the code itself where it cannot be made.
        self._whole: Any = None
        limit = min(_STEPS_PER_START, engine.match_limit)
        if options & ANCHORED or _WHOLE_PATTERN.search(pattern):
            limit = engine.match_limit
        self._code = engine.compile(pattern, options, limit)
        if limit == engine.match_limit:
            self._whole = self._code
        self._match = engine.library.match
        self._context = engine.context
        self.groups: int = engine.library.pattern_capture_count(self._code)

    def search(self, key: bytes) -> Any:
        try:
            return self._match(self._code, key, len(key), 0, self._context, 0)[0]
        except self._engine.library.LibraryError as error:
            return self._search_on(key, error)

    def _search_on(self, key: bytes, error: Exception) -> Any:
        if self._whole is None:
            # \E ends what \Q has begun, a newline a comment.
            end = b"\\E\n)" if self._options & EXTENDED else b"\\E)"
            whole = rb"\A(?s-U:.*?)(?:" + self._pattern + end
            try:
                self._whole = self._engine.compile(whole, self._options, self._engine.match_limit)
            except (PatternError, Untranslatable):
                self._whole = self._engine.compile(self._pattern, self._options, self._engine.match_limit)
        if self._whole is not self._code:
            try:
                return self._match(self._whole, key, len(key), 0, self._context, 0)[0]
            except self._engine.library.LibraryError as again:
                error = again
        raise MatchFailed(str(error)) from None

    def group(self, match: Any, key: bytes, number: int) -> bytes:
        return self._engine.library.match_substring_bynumber(match, key, number) or b""


class PythonRe:
    """Python's `re`, for rules that it runs as Postfix does and that cannot take for ever."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def perl(self, pattern: str, options: int, captures: bool) -> Pattern:
        try:
            parsed = parse(pattern, options)
        except Untranslatable as error:
            raise Untranslatable(f"{error} ({self.reason})") from None
        return self.posix(parsed, bool(options & CASELESS), captures)

    def posix(self, parsed: Parsed, icase: bool, captures: bool) -> Pattern:
        reason = beyond_re(parsed.tree, captures)
        if reason:
            raise Untranslatable(f"{reason} ({self.reason})")
        text = write(parsed.tree, caseless=icase, captures=captures, end=rb"\Z")
        return _RePattern(re.compile(text, re.DOTALL | (re.IGNORECASE if icase else 0)), parsed.groups)


class _RePattern:
    __slots__ = ("groups", "search")

    def __init__(self, compiled: re.Pattern[bytes], groups: int) -> None:
        self.search = compiled.search
        self.groups = groups

    def group(self, match: re.Match[bytes], key: bytes, number: int) -> bytes:
        return match[number] or b""


def best_engine(match_limit: int) -> Engine:
    """PCRE2 where it can be used, else Python's `re`."""
    try:
        return Pcre2(match_limit)
    except ImportError as error:
        return PythonRe(f"PCRE2 cannot be used: {error}")

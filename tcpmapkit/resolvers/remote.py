"""What `dns` and `http` share: dropping values that do not match, and complaining of a source seldom."""

from __future__ import annotations

from typing import Any, Final

from tcpmapkit import ConfigError

__all__ = ["Complaints", "Unmatchable", "ValueMatch"]

#: Seconds in which the same trouble is logged as a warning only once.
_QUIET: Final = 60.0

#: How often PCRE2 may try before it gives up: what a value from a stranger can cost.
_LIMIT: Final = "(*LIMIT_MATCH=1000000)"


class Unmatchable(Exception):
    """A value on which the expression reached its limit, or that PCRE2 cannot read."""


class ValueMatch:
    """The option `match`: a regular expression of PCRE2, Postfix's own engine, found anywhere in a value."""

    def __init__(self, pattern: str) -> None:
        """Raises `ConfigError` for a pattern that does not compile, or where there is no PCRE2."""
        try:
            import pcre2  # type: ignore[import-untyped]
        except ImportError:
            raise ConfigError(
                "match takes the package pcre2, which is not installed", path=("match",)
            ) from None
        try:
            self._search = pcre2.compile(_LIMIT + pattern, pcre2.UNICODE).search
        except pcre2.PatternError as error:
            raise ConfigError(f"bad regular expression: {error}", path=("match",)) from None
        self._trouble: Any = (pcre2.LibraryError, UnicodeEncodeError)

    def __call__(self, value: str) -> bool:
        """Whether it is found in `value`. Raises `Unmatchable`."""
        try:
            return self._search(value) is not None
        except self._trouble as error:
            raise Unmatchable(f"match: {error}") from None


class Complaints:
    """Trouble with a source: a warning once a minute for each reason, at debug level otherwise."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._last: dict[str, float] = {}

    def __call__(self, reason: str, detail: str = "") -> str:
        """Log it, and return `reason`, which is short and generic; `detail` is for the log alone."""
        now = self._context.clock()
        often = now - self._last.get(reason, float("-inf")) < _QUIET
        if not often:
            self._last[reason] = now
        log = self._context.logger.debug if often else self._context.logger.warning
        log("%s: %s%s", self._context.name, reason, f": {detail}" if detail else "")
        return reason

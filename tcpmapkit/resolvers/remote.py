"""What `dns` and `http` share: dropping values that do not match."""

from __future__ import annotations

from typing import Any, Final

from tcpmapkit import ConfigError

__all__ = ["Unmatchable", "ValueMatch"]

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

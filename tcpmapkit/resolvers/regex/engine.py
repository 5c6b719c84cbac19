"""What runs the patterns: PCRE2 with a limit on its work, or Python's `re` for rules that it runs alike.

Postfix compiles without UTF and without JIT: bytes are characters, and only ASCII letters have a case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tcpmapkit.resolvers.regex.effort import Effort
from tcpmapkit.resolvers.regex.pcre2_engine import Pcre2
from tcpmapkit.resolvers.regex.posix import Parsed
from tcpmapkit.resolvers.regex.python_re import PythonRe
from tcpmapkit.resolvers.regex.tree import Node

__all__ = ["Engine", "Pattern", "best_engine", "choose_engine"]


class Pattern(Protocol):
    """A compiled pattern; `groups` is how many ``(...)`` it has, `required` what a key that matches has
    in it (see `required`). Those of an equal `kind` can be searched for at once; None: by itself only."""

    groups: int
    required: tuple[frozenset[bytes], ...]

    @property
    def kind(self) -> Any: ...

    def read_as(self, tree: Node) -> None:
        """The pattern matches nothing that `tree` does not."""

    def any_of(self, patterns: Sequence[Any]) -> Callable[[bytes], Any] | None:
        """The search of a short key for any of some patterns of this kind, as `search`; None when there
        is no such search."""

    def search(self, key: bytes) -> Any:
        """A match to give to `group`, or None. Raises `MatchFailed` and `TooMuchEffort`."""

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


def best_engine(effort: Effort) -> Engine:
    """PCRE2 where it can be used, else Python's `re`, within the same limit."""
    try:
        return Pcre2(effort)
    except ImportError as error:
        return PythonRe(f"PCRE2 cannot be used: {error}", effort)


def choose_engine(name: str, effort: Effort) -> Engine:
    """The engine that the option `engine` names. Raises `ImportError` when it is not there."""
    if name == "re":
        return PythonRe('engine is "re"', None)
    return Pcre2(effort) if name == "pcre2" else best_engine(effort)

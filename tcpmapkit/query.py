"""What is asked and what is answered: `Query`, the four outcomes, `Miss`, the two exceptions.

This is the leaf of the package: everything else imports it, it imports attrs only. The names follow
Postfix's own (DATABASE_README, tcp_table(5), SMTPD_POLICY_README); the four outcomes are Postfix's
"value, or none and why" (``DICT_ERR_NONE``, ``_RETRY``, ``_CONFIG``) spelled as types, so that
"not found" and "could not find out" can never be mistaken for one another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import attrs

__all__ = [
    "Address",
    "Failure",
    "Found",
    "LookupPermFail",
    "LookupTempFail",
    "Miss",
    "NotFound",
    "Outcome",
    "PermFail",
    "Query",
    "TempFail",
]


def _check_value(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"a value found is a str, not {type(value).__name__}")
    if not value:
        raise ValueError("an empty value is a configuration error for Postfix: answer NotFound")
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError("a value found contains NUL, CR or LF")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a value found is not valid UTF-8") from None


def _check_ttl(instance: object, attribute: Any, ttl: object) -> None:
    if ttl is None:
        return
    if not isinstance(ttl, (int, float)):
        raise TypeError(f"a TTL is a number of seconds or None, not {type(ttl).__name__}")
    if ttl != ttl:
        raise ValueError("a TTL that is no number")


@final
@attrs.frozen(init=False)
class Found:
    """The key exists.

    `value` is a non-empty str without NUL, CR and LF (Postfix's maps.c takes an empty one for a
    configuration error); `ttl` is for how many seconds the source vouches for it, None when it
    does not say. `values` are the single values that `value` joins with `separator`, when the
    source has several: a step's `result` template is applied to each (see `Found.joined`).

    Raises `ValueError` or `TypeError` when the value cannot be an answer.
    """

    value: str
    ttl: float | None
    values: tuple[str, ...] = attrs.field(kw_only=True)
    separator: str = attrs.field(kw_only=True)

    # Written out, since there is one for nearly each lookup: what attrs would make takes twice as long.
    def __init__(
        self, value: str, ttl: float | None = None, *, values: tuple[str, ...] = (), separator: str = ","
    ) -> None:
        if (
            type(value) is not str
            or not value
            or not value.isascii()
            or "\n" in value
            or "\r" in value
            or "\0" in value
        ):
            _check_value(value)
        if ttl is not None:
            _check_ttl(self, None, ttl)
        _set_value(self, value)
        _set_ttl(self, ttl)
        _set_values(self, values)
        _set_separator(self, separator)

    @classmethod
    def joined(cls, values: Iterable[str], separator: str, ttl: float | None = None) -> Found | NotFound:
        """Join `values`, equal ones once and the first kept; none at all is `NotFound`."""
        kept = tuple(dict.fromkeys(values))
        if not kept:
            return NotFound(ttl)
        return cls(separator.join(kept), ttl, values=kept if len(kept) > 1 else (), separator=separator)


_set_value, _set_ttl, _set_values, _set_separator = (
    vars(Found)[name].__set__ for name in ("value", "ttl", "values", "separator")
)


@final
@attrs.frozen
class NotFound:
    """The source is authoritative and has no such key. `ttl`: for how many seconds that holds."""

    ttl: float | None = attrs.field(default=None, validator=_check_ttl)


@final
@attrs.frozen
class TempFail:
    """Could not find out; Postfix shall try again. `reason` is one short line for the mail log.

    `ttl`: for how many seconds the source asks not to be asked again (Retry-After). `detail` is what our
    own log says beside the reason; it names no key and no secret.
    """

    reason: str = attrs.field(converter=str)
    ttl: float | None = attrs.field(default=None, validator=_check_ttl)
    detail: str = attrs.field(default="", converter=str, kw_only=True, eq=False, repr=False)


@final
@attrs.frozen
class PermFail:
    """Misconfigured: asking again will not help. Postfix defers all the same. `detail` as for `TempFail`."""

    reason: str = attrs.field(converter=str)
    ttl: float | None = attrs.field(default=None, validator=_check_ttl)
    detail: str = attrs.field(default="", converter=str, kw_only=True, eq=False, repr=False)


@final
@attrs.frozen
class Miss:
    """A resolver's "not mine, ask the next step", when its source says for how long (`ttl`, seconds).

    A bare ``None`` says the same without a time.
    """

    ttl: float | None = attrs.field(default=None, validator=_check_ttl)


Failure = TempFail | PermFail
Outcome = Found | NotFound | TempFail | PermFail


class LookupTempFail(Exception):
    """Raised by a resolver whose source cannot be asked now; the same as returning `TempFail`.

    `ttl`: for how many seconds the source asks not to be asked again. `detail` as for `TempFail`.
    """

    # Also for a subclass that does not call this class's __init__.
    reason: str = "lookup failed"
    ttl: float | None = None
    detail: str = ""

    def __init__(self, reason: str, ttl: float | None = None, *, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.ttl = ttl
        self.detail = detail


class LookupPermFail(Exception):
    """Raised by a resolver that is misconfigured; the same as returning `PermFail`."""

    reason: str = "lookup failed"
    detail: str = ""

    def __init__(self, reason: str, *, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@attrs.frozen
class Address:
    """The parts of a key. `local` is the localpart, `user` it without the extension, `extension`
    without its delimiter, `domain` what follows the last ``@``; None where the key has none."""

    local: str | None
    user: str | None
    extension: str | None
    domain: str | None


def _unsplit(key: str) -> Address:
    local, at, domain = key.rpartition("@")
    return Address(local, local, None, domain) if at else Address(key, key, None, None)


_NO_ATTRIBUTES: Mapping[str, str] = {}


@attrs.define(eq=False)
class Query:
    """One question, as a resolver sees it.

    `key` is what this resolver is asked (folded for a folded type, made by the step's `key`
    template); `map` the name of the map that Postfix asked; `protocol` ``"tcp_table"``,
    ``"socketmap"``, ``"policy"`` or ``""`` (asked from the command line or a program);
    `attributes` the policy request's attributes, empty for the table protocols.

    `partial` marks the keys after the first of a search order. `deadline` is the time, by `clock`,
    when the answer is worth nothing any more. `trace`, when not None, collects what each step did;
    `answered_by` is the name of the step that answered, "" before that; `matched` says which kind of
    key of a search was found; `unchanged_by` is the folding that is known to leave the key as it is, so
    that only the first step of a chain tries. `origin` is the first question of the lookup that this one
    was made for, None when it is that itself; there resolvers keep in `work` what they have done for it,
    and steps in `waited` that they took long: map, step, seconds.
    """

    key: str
    map: str = ""
    protocol: str = ""
    attributes: Mapping[str, str] = _NO_ATTRIBUTES
    deadline: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    split: Callable[[str], Address] = _unsplit
    partial: bool = False
    trace: list[Any] | None = None
    origin: Query | None = attrs.field(default=None, repr=False)
    # These are nobody's to give. With `init=False` each would cost two look-ups, for every lookup.
    work: Any = attrs.field(default=None, kw_only=True, repr=False)
    waited: tuple[tuple[str, str, float], ...] = attrs.field(default=(), kw_only=True, repr=False)
    answered_by: str = attrs.field(default="", kw_only=True)
    matched: int = attrs.field(default=0, kw_only=True)
    unchanged_by: Callable[[str], str] | None = attrs.field(default=None, kw_only=True, repr=False)
    _address: Address | None = attrs.field(default=None, kw_only=True, repr=False)

    @property
    def address(self) -> Address:
        """The parts of the key, split when first asked for."""
        if self._address is None:
            self._address = self.split(self.key)
        return self._address

    @property
    def local(self) -> str | None:
        """The localpart, extension included, unquoted; the whole key when it has no ``@``."""
        return self.address.local

    @property
    def user(self) -> str | None:
        """The localpart without the extension, unquoted."""
        return self.address.user

    @property
    def extension(self) -> str | None:
        """The address extension without its delimiter; None when the key has none."""
        return self.address.extension

    @property
    def domain(self) -> str | None:
        """What follows the last ``@``; None when the key has none."""
        return self.address.domain

    def time_left(self) -> float:
        """Seconds until the answer is worth nothing any more; negative when that time has passed."""
        return self.deadline - self.clock()

    def with_key(self, key: str) -> Query:
        """The same question about another key."""
        return Query(
            key,
            self.map,
            self.protocol,
            self.attributes,
            self.deadline,
            self.clock,
            self.split,
            self.partial,
            self.trace,
            self.origin or self,
        )

    def with_deadline(self, deadline: float) -> Query:
        """The same question with less time."""
        query = self.with_key(self.key)
        query.deadline = deadline
        return query

"""The texts that a pattern requires of every key that it matches, by which rules are found without
trying them all.

Texts are bytes with ASCII letters in lower case, to be looked for in the key in lower case. That is
right for patterns of either case: Postfix compiles without UTF, so no other byte has a case. A pattern
that switches to UTF by itself (``(*UTF)``) requires nothing here and is always tried.
"""

from __future__ import annotations

from functools import lru_cache

import attrs

from tcpmapkit.resolvers.regex.tree import Assertion, Bytes, Choice, Group, Node, Repeat, Sequence

__all__ = ["Texts", "required"]

#: One of these is in every key that matches.
Texts = frozenset[bytes]

_SHORTEST = 2  # a single byte is in too many keys
_LONGEST = 64
_MOST_TEXTS = 32
_MOST_BYTES_OF_A_SET = 4

_EMPTY: Texts = frozenset({b""})


@attrs.frozen
class _Study:
    """`exact`: all that a node can match, None when that is much or unknown. `required`: sets of which
    each has a member in whatever the node matches."""

    exact: Texts | None
    required: tuple[Texts, ...] = ()

    def all(self) -> tuple[Texts, ...]:
        return self.required if self.exact is None else (*self.required, *_useful(self.exact))


_ANYTHING = _Study(None)


def required(tree: Node) -> tuple[Texts, ...]:
    """What keys must have in them, each of the sets with one of its members; empty when nothing is
    known."""
    try:
        return tuple(dict.fromkeys(_study(tree).all()))
    except RecursionError:
        return ()


def _useful(texts: Texts) -> tuple[Texts, ...]:
    return (texts,) if len(texts) <= _MOST_TEXTS and all(len(text) >= _SHORTEST for text in texts) else ()


def _study(node: Node) -> _Study:
    match node:
        case Bytes(allowed):
            return _set(allowed)
        case Sequence(items):
            return _sequence(items)
        case Choice(options):
            return _choice([_study(option) for option in options])
        case Group(_, item):
            return _study(item)
        case Repeat(item, least, most):
            return _repeat(_study(item), least, most)
        case Assertion():
            return _Study(_EMPTY)
    return _ANYTHING


@lru_cache(1024)
def _set(allowed: int) -> _Study:
    # Twice as many, since both cases of a letter are one here. None at all is no knowledge.
    if not 0 < allowed.bit_count() <= 2 * _MOST_BYTES_OF_A_SET:
        return _ANYTHING
    members = []
    while allowed:
        member = allowed.bit_length() - 1
        members.append(bytes((member,)).lower())
        allowed ^= 1 << member
    texts = frozenset(members)
    return _Study(texts) if len(texts) <= _MOST_BYTES_OF_A_SET else _ANYTHING


def _joined(before: Texts, after: Texts) -> Texts | None:
    if len(before) * len(after) > _MOST_TEXTS:
        return None
    if before is _EMPTY:
        return after
    joined = frozenset([first + second for first in before for second in after])
    return joined if max(map(len, joined)) <= _LONGEST else None


def _sequence(items: tuple[Node, ...]) -> _Study:
    exact, so_far = True, _EMPTY
    found: list[Texts] = []
    for item in items:
        study = _set(item.allowed) if isinstance(item, Bytes) else _study(item)
        found += study.required
        if study.exact is not None and (joined := _joined(so_far, study.exact)) is not None:
            so_far = joined
            continue
        exact = False
        found += _useful(so_far)
        so_far = _EMPTY if study.exact is None else study.exact
    if exact:
        return _Study(so_far, tuple(found))
    return _Study(None, (*found, *_useful(so_far)))


def _choice(options: list[_Study]) -> _Study:
    exact = [study.exact for study in options if study.exact is not None]
    if len(exact) == len(options) and len(union := frozenset().union(*exact)) <= _MOST_TEXTS:
        return _Study(union)
    chosen: set[bytes] = set()
    for study in options:
        sets = study.all()
        if not sets:
            return _ANYTHING
        chosen |= max(sets, key=lambda texts: (min(map(len, texts)), -len(texts)))
    return _Study(None, _useful(frozenset(chosen)))


def _repeat(item: _Study, least: int, most: int | None) -> _Study:
    if most == 0:
        return _Study(_EMPTY)
    if least == 0:
        return _Study(item.exact | _EMPTY) if item.exact is not None and most == 1 else _ANYTHING
    if item.exact is None:
        return item
    power: Texts = _EMPTY
    for _ in range(least):
        joined = _joined(power, item.exact)
        if joined is None:
            return _Study(None, (*item.required, *_useful(power)))
        power = joined
        if power == _EMPTY:
            break
    if least == most:
        return _Study(power, item.required)
    return _Study(None, (*item.required, *_useful(power)))

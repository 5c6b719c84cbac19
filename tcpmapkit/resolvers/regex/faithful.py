"""Which patterns another engine than the one they were written for can be trusted with."""

from __future__ import annotations

from tcpmapkit.resolvers.regex.tree import (
    Assertion,
    Bytes,
    Choice,
    Group,
    Node,
    Reference,
    Repeat,
    Sequence,
    Untranslatable,
    bits,
    children,
    contains,
    nullable,
    varies,
)

__all__ = ["adjacent", "beyond_re", "check_anchors", "check_references"]


def check_references(tree: Node) -> None:
    """A reference means the same to every engine while its group is matched exactly once."""
    once: set[int] = set()

    def walk(node: Node, certain: bool) -> None:
        match node:
            case Sequence(items):
                for item in items:
                    walk(item, certain)
            case Group(number, item):
                walk(item, certain)
                if certain and not contains(item, Reference):
                    once.add(number)
            case Choice(options):
                for option in options:
                    walk(option, False)
            case Repeat(item):
                walk(item, False)
            case Reference(number):
                if number not in once:
                    raise Untranslatable(
                        f"\\{number} refers to a group inside a repetition or an alternative"
                    )

    walk(tree, True)


def check_anchors(tree: Node) -> None:
    """Refuse what the library itself gets wrong: anchors that are repeated, and, without REG_NEWLINE,
    a newline matched just outside ``^`` or ``$``, which it takes for the end of a line all the same."""

    def walk(node: Node, before: bool, after: bool) -> None:
        # before, after: whether a newline may be matched somewhere before and after this node.
        match node:
            case Sequence(items):
                matched = [matches_newline(item) for item in items]
                for index, item in enumerate(items):
                    walk(item, before or any(matched[:index]), after or any(matched[index + 1 :]))
            case Assertion("begin") if before:
                raise Untranslatable("^ after what can match a newline")
            case Assertion("end") if after:
                raise Untranslatable("$ before what can match a newline")
            case Repeat(item, _, most) if most != 1 and contains(item, Assertion):
                raise Untranslatable("an anchor inside a repetition")
            case _:
                for child in children(node):
                    walk(child, before, after)

    def matches_newline(node: Node) -> bool:
        if isinstance(node, Bytes):
            return bool(node.allowed & bits(b"\n"))
        return isinstance(node, Reference) or any(map(matches_newline, children(node)))

    walk(tree, False, False)


def beyond_re(node: Node, captures: bool, nested: bool = False) -> str | None:
    """Why Python's `re` may answer otherwise than PCRE2, or take for ever; None when it does not.

    `nested`: repetitions within repetitions are let pass where the answer is the same.
    """
    if isinstance(node, Reference):
        return "a back-reference"
    if isinstance(node, Repeat) and node.most != 1:
        if nullable(node.item) or (varies(node.item) and not nested):
            return "a repetition within a repetition"
        if captures and contains(node.item, Group):
            return "a group within a repetition"
    return next(filter(None, (beyond_re(child, captures, nested) for child in children(node))), None)


def adjacent(tree: Node) -> bool:
    """Whether two repetitions of no fixed number can stand next to each other in a match."""
    # What may stand at the end of what was walked: a repetition, or what is empty behind one.
    found = False

    def walk(node: Node, before: bool) -> bool:
        nonlocal found
        match node:
            case Sequence(items):
                for item in items:
                    before = walk(item, before)
                return before
            case Choice(options):
                return bool(sum(walk(option, before) for option in options))  # all are walked
            case Group(_, item):
                return walk(item, before)
            case Repeat(item, least, most):
                if least == most:
                    return walk(item, before or (least != 1 and varies(item)))
                found = found or before
                walk(item, True)
                return True
            case Bytes():
                return False
        return before

    walk(tree, False)
    return found

"""What an address that was looked up leaves in the addresses found: its localpart, its extension.

Sources: Postfix's mail_addr_map(3), mail_addr_crunch(3) and tok822(3), which reads a value as a list of
RFC 822 addresses; rewrite.c for the forms of an address (``swap_bangpath`` and ``allow_percent_hack`` at
their default, yes). Pure functions on str, linear in the input.
"""

from __future__ import annotations

import re
from typing import Final

from tcpmapkit.keys import quote_address, quote_localpart
from tcpmapkit.query import LookupTempFail

__all__ = ["MAX_VALUE", "addresses", "prepend_localpart", "propagate"]

#: The longest value that is made, in characters: no reply can carry more (socketmap's 100000 bytes).
MAX_VALUE: Final = 100_000

# What no reply can carry. SMTP cannot either, so no such localpart comes in a message's envelope.
_CONTROL = re.compile("[\r\n\0]")

# White space, then one token: a quoted string, a domain literal, an atom, an operator. Quotes and
# brackets may be left open; a backslash takes the next character along, or is the last of the value.
_TOKEN = re.compile(
    r"""[ \t\r\n]*+(?:
        "(?P<quoted>(?:[^"\\]|\\.)*+)(?:"|\\?\Z)
      | \[(?P<literal>(?:[^\]\\]|\\.)*+)(?:\]|\\?\Z)
      | (?P<atom>(?:[^][|%!<>()@,;:\\". \t\r\n]|\\.)++)(?:\\\Z)?
      | (?P<nothing>\\\Z)
      | (?P<operator>[]|%!<>)@,;:.])
      | (?P<comment>\()
    )""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_PART = re.compile(r"[()]|\\.", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_WHITE_SPACE = re.compile(r"[ \t\r\n]")

# A token is its text and whether it is an operator.
_Token = tuple[str, bool]


def prepend_localpart(local: str, value: str) -> str:
    """A value that begins with ``@`` behind an unquoted localpart, in quoted form.

    When the localpart holds what no answer can (CR, LF, NUL) the value is left as it is.
    """
    return value if _CONTROL.search(local) else quote_address(local + value)


def propagate(extension: str, value: str) -> str:
    """The addresses of a value, the extension (its delimiter included) put into each, as a list.

    Display names and comments are dropped, as Postfix drops them. The value is left as it is when the
    extension is empty or holds what no answer can (CR, LF, NUL), and when it has no address in it.

    Raises `LookupTempFail` when the list would be longer than `MAX_VALUE`.
    """
    if not extension or _CONTROL.search(extension):
        return value
    found = addresses(value)
    if not found:
        return value
    if len(value) + len(found) * len(extension) > MAX_VALUE:
        raise LookupTempFail("the addresses found are too long with the extension of the one asked for")
    return ", ".join(_with_extension(tokens, extension) for tokens in found)


def _with_extension(tokens: list[_Token], extension: str) -> str:
    if tokens == [("@", True)]:
        tokens = []
    elif tokens[0] == ("@", True) and ((":", True) in tokens[:-1]):
        tokens = tokens[tokens.index((":", True)) + 1 :]
    if ("@", True) not in tokens:
        if ("!", True) in tokens:
            at = tokens.index(("!", True))
            tokens = [*tokens[at + 1 :], ("@", True), *tokens[:at]]
        elif ("%", True) in tokens:
            at = len(tokens) - 1 - tokens[::-1].index(("%", True))
            tokens = [*tokens[:at], ("@", True), *tokens[at + 1 :]]
    text = "".join(text for text, _ in tokens)
    if ("@", True) in tokens:
        local, at_sign, domain = text.rpartition("@")
        return quote_localpart(local + extension) + at_sign + domain
    local = text + extension
    quoted = quote_localpart(local)
    # Quotes keep Postfix from taking these for the routing that they were not before.
    return f'"{quoted}"' if quoted == local and ("%" in local or "!" in local) else quoted


def addresses(value: str) -> list[list[_Token]]:
    """The addresses of a list, each as its tokens; as tok822_parse(3), which reads it from its end.

    Two words without an operator between them are two addresses; ``Name <address>`` is one, and so is
    each member of ``group: member, member;``.
    """
    tokens = _scan(value)
    found: list[list[_Token]] = []
    after_word = in_group = False
    at, end = len(tokens) - 1, len(tokens)

    def close(start: int, end: int) -> None:
        if start < end:
            found.append(tokens[start:end])

    while at >= 0:
        text, operator = tokens[at]
        if not operator:
            if after_word:
                close(at + 1, end)
                end = at + 1
            after_word = True
        elif text == ":" and in_group:
            close(at + 1, end)
            at = end = _back_to(",", tokens, at)
            continue
        elif text == ">":
            close(at + 1, end)
            end = at
            at = _back_to("<", tokens, at)
            close(at + 1, end)
            at = end = _back_to(">;,:", tokens, at)
            after_word = False
            continue
        else:
            if text in ",;":
                close(at + 1, end)
                end = at
                in_group |= text == ";"
            after_word = False
        at -= 1
    close(0, end)
    return found[::-1]


def _back_to(operators: str, tokens: list[_Token], at: int) -> int:
    """The index of the last of these operators at or before `at`; -1 when there is none."""
    while at >= 0 and not (tokens[at][1] and tokens[at][0] in operators):
        at -= 1
    return at


def _scan(value: str) -> list[_Token]:
    """The tokens of a value, comments left out, as tok822_scan(3)."""
    tokens: list[_Token] = []
    at = 0
    while token := _TOKEN.match(value, at):
        at, text = token.end(), token[token.lastgroup or 0]
        match token.lastgroup:
            case "comment":
                at = _end_of_comment(value, at)
            case "operator":
                tokens.append((text, True))
            case "literal":
                tokens.append((f"[{_unescaped(text)}]", False))
            case "nothing":
                tokens.append(("", False))
            case _:
                tokens.append((_unescaped(text), False))
    return tokens


def _unescaped(text: str) -> str:
    return _WHITE_SPACE.sub(" ", _ESCAPED.sub(r"\1", text))


def _end_of_comment(value: str, at: int) -> int:
    depth = 1
    for part in _COMMENT_PART.finditer(value, at):
        depth += {"(": 1, ")": -1}.get(part[0], 0)
        if not depth:
            return part.end()
    return len(value)

"""A man page in the man(7) macros, as plain as they are: every reader of man pages knows these."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Page", "bold", "inline"]

_SPAN = re.compile(r"(`+)(.+?)\1|\*(\w+)\*|\[([^\]]+)\]\([^)]*\)")


def escape(text: str) -> str:
    """Text that says nothing to roff. A hyphen is what one types, not one that breaks a word."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha")
    escaped = escaped.replace("~", "\\(ti").replace("`", "\\(ga")
    return re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", escaped)


def bold(text: str) -> str:
    """What is typed as it stands."""
    return f"\\fB{escape(text)}\\fR"


def inline(text: str) -> str:
    """One line of Markdown: `code` is bold, *words* are in italics, of a link the text stays."""
    parts, at = [], 0
    for span in _SPAN.finditer(text):
        parts.append(escape(text[at : span.start()]))
        word, emphasised, link = span[2], span[3], span[4]
        parts.append(bold(word) if word else f"\\fI{escape(emphasised)}\\fR" if emphasised else inline(link))
        at = span.end()
    return "".join(parts) + escape(text[at:])


def _line(text: str) -> str:
    """A line of text that is none of roff's requests."""
    joined = " ".join(text.split())
    return f"\\&{joined}" if joined.startswith((".", "'")) else joined


class Page:
    """A page that is written from its head on."""

    def __init__(self, name: str, section: int, version: str, what: str) -> None:
        self._lines = [
            '.\\" Written by ./dev manual; do not change it.',
            f'.TH {name.upper()} {section} "" "tcpmapkit {escape(version)}" "tcpmapkit"',
        ]
        self.section("NAME")
        self._lines.append(f"{escape(name)} \\- {inline(what)}")

    def section(self, heading: str) -> None:
        """A heading at the margin."""
        self._lines.append(f'.SH "{escape(heading)}"')

    def subsection(self, heading: str) -> None:
        """A heading below a section."""
        self._lines.append(f'.SS "{escape(heading)}"')

    def paragraph(self, text: str) -> None:
        """Markdown, of which line breaks count for nothing."""
        self._lines += [".PP", _line(inline(" ".join(text.split())))]

    def item(self, term: str, *texts: str) -> None:
        """A term, in roff already, and what is said of it in Markdown."""
        self._lines += [".TP", _line(term)]
        for number, text in enumerate(text for text in texts if text):
            self._lines += [*([".IP"] if number else []), _line(inline(text))]

    def example(self, lines: Iterable[str]) -> None:
        """Lines that are shown as they are."""
        self._lines += [".PP", ".nf", ".RS 4"]
        shown = [escape(line) for line in lines]
        self._lines += [f"\\&{line}" if line.startswith((".", "\\(aq")) else line for line in shown]
        self._lines += [".RE", ".fi"]

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"

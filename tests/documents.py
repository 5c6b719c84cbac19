"""The documents as the tests read them: sections, tables of options, blocks, and the files some are."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import attrs

TOP = Path(__file__).resolve().parent.parent

#: Every document that an administrator or a plugin's author reads.
DOCUMENTS = sorted(
    file
    for pattern in ("*.md", "docs/*.md", "plugins/**/*.md", "examples/**/*.md")
    for file in TOP.glob(pattern)
)

_BLOCK = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED_ABOVE = re.compile(r"`([\w/-]+\.(?:py|toml))`[^\n]*:\n\n\Z")


@attrs.frozen
class Block:
    """A fenced block. `name` is the file that it is, from behind its language or the line above, or ""."""

    document: Path
    line: int
    language: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(TOP)}:{self.line}"


def blocks(document: Path, language: str | None = None) -> list[Block]:
    """The blocks of a document, or those in one language."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        above = _NAMED_ABOVE.search(text, 0, match.start())
        name = match[2] or (above[1] if above else "")
        found.append(Block(document, text.count("\n", 0, match.start()) + 1, match[1], name, match[3]))
    return [block for block in found if language in (None, block.language)]


def prose(document: Path) -> str:
    """A document without its blocks."""
    return _BLOCK.sub("", document.read_text(encoding="utf-8"))


def sections(document: Path) -> dict[str, str]:
    """The text below each heading of the second level, without blocks."""
    _, *parts = re.split(r"^## ", prose(document), flags=re.MULTILINE)
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts)}


def options_table(section: str) -> dict[str, tuple[str, str, str]]:
    """Type, default and meaning of each option in the table of a section."""
    table = section.partition("| option | type | default | meaning |\n|---|---|---|---|\n")[2].partition(
        "\n\n"
    )[0]
    rows = (re.split(r" \| ", line.strip("| ")) for line in table.splitlines())
    return {name.strip("`"): (kind, default, meaning) for name, kind, default, meaning in rows}


def write_files(document: Path, directory: Path) -> None:
    """Write the blocks that are files; one in SQL makes an SQLite file."""
    for block in blocks(document):
        if not block.name:
            continue
        file = directory / block.name
        file.parent.mkdir(parents=True, exist_ok=True)
        if block.language == "sql":
            with closing(sqlite3.connect(file)) as database:
                database.executescript(block.text)
        else:
            file.write_text(block.text, encoding="utf-8")


def anchors(document: Path) -> set[str]:
    """What a link can name in a document: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

"""What the commands print: plain records, or a table where somebody looks at a terminal; what they tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

__all__ = ["print_line", "print_rows", "print_while_read", "tell"]


def tell(text: str) -> None:
    """An error, a warning or a hint, on standard error."""
    click.echo(text, err=True)


def print_line(text: str) -> None:
    """A line on standard output, in UTF-8 whatever the locale."""
    sys.stdout.buffer.write(text.encode(errors="surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


def print_while_read(lines: Iterable[str]) -> None:
    """Lines on standard output; to nobody where its reader has gone, which is no reason not to serve."""
    try:
        for line in lines:
            print_line(line)
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # for what is left in the buffer too


def print_rows(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Records: one a line, its fields separated by tabs; on a terminal a table under
    `header`, or of two columns where the records share their first field only."""
    if not sys.stdout.isatty():
        for row in rows:
            print_line("\t".join(row))
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE if header else None, show_header=bool(header), pad_edge=False)
    for title in header or ("", ""):
        table.add_column(title, overflow="fold")  # a value is never cut off
    for row in rows:
        fields = row if header else (row[0], "   ".join(row[1:]))
        table.add_row(*map(Text, fields))  # never markup: a key may look like some
    Console().print(table)

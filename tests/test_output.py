"""Plain records for programs, a table for people."""

from __future__ import annotations

import io
import sys

import pytest

from tcpmapkit.output import print_rows

ROWS = [("csv", "tcpmapkit", "[bold]not markup[/bold]"), ("x", "y")]


class Output(io.TextIOWrapper):
    def __init__(self, terminal: bool) -> None:
        self.bytes = io.BytesIO()
        self.terminal = terminal
        super().__init__(self.bytes, encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return self.terminal

    def text(self) -> str:
        return self.bytes.getvalue().decode()


def test_what_is_no_terminal_gets_one_record_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output(terminal=False)
    monkeypatch.setattr(sys, "stdout", output)
    print_rows(ROWS, ("type", "distribution", "source"))
    assert output.text() == "csv\ttcpmapkit\t[bold]not markup[/bold]\nx\ty\n"


def test_a_terminal_gets_a_table_with_a_header_and_no_markup_is_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = Output(terminal=True)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    print_rows(ROWS, ("type", "distribution", "source"))
    lines = output.text().splitlines()
    assert any("type" in line and "distribution" in line for line in lines)
    assert any("[bold]not markup[/bold]" in line for line in lines)
    assert "\t" not in output.text()

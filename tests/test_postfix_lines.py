"""Logical lines as Postfix's readlline(3) has them, and reading a file that is being written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tcpmapkit import ConfigError, Found, PermFail, TempFail
from tcpmapkit.resolvers import source_file
from tcpmapkit.resolvers.postfix_lines import logical_lines, table_answer
from tcpmapkit.resolvers.source_file import read_settled


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", []),
        ("a b", [(1, "a b")]),
        ("a b\n", [(1, "a b")]),
        ("#a\nb c\n", [(2, "b c")]),
        ("\n \t\nb c\n", [(3, "b c")]),
        ("a b\n  c\n", [(1, "a b  c")]),
        ("a\n#x\n #y\n\n \n b\nc d\n", [(1, "a b"), (7, "c d")]),
        ("a b\r\n\r\nc d\r\n", [(1, "a b\r"), (3, "c d\r")]),
        ("a\u00a0b\n\u00a0c\n", [(1, "a\u00a0b"), (2, "\u00a0c")]),
        ("a\x1cb\u2028c\x85d\n", [(1, "a\x1cb\u2028c\x85d")]),
    ],
)
def test_a_logical_line_goes_on_until_a_line_that_begins_with_text(
    text: str, lines: list[tuple[int, str]]
) -> None:
    assert list(logical_lines(text)) == lines


def test_a_first_line_that_begins_with_white_space_is_dropped_with_what_continues_it() -> None:
    warnings: list[tuple[int, str]] = []
    lines = list(logical_lines("# c\n a\n b\nc d\n", lambda *warning: warnings.append(warning)))
    assert lines == [(4, "c d")]
    assert [line for line, _ in warnings] == [2]
    assert "must not start with whitespace" in warnings[0][1]


def test_a_logical_line_ends_at_a_null_byte_and_that_is_told() -> None:
    warnings: list[tuple[int, str]] = []
    lines = list(logical_lines("a b\0c\n d\ne f\n", lambda *warning: warnings.append(warning)))
    assert lines == [(1, "a b"), (3, "e f")]
    assert warnings == [(1, "text after null byte is ignored")]


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table"
    path.write_text("half")
    real_fstat, calls = os.fstat, []

    def fstat(descriptor: int) -> os.stat_result:
        if len(calls) == 1:
            path.write_text("the whole")
        calls.append(descriptor)
        return real_fstat(descriptor)

    monkeypatch.setattr(source_file.os, "fstat", fstat)
    monkeypatch.setattr(source_file.time, "sleep", lambda _: None)
    assert read_settled(path)[0] == b"the whole"
    assert len(calls) == 4


def test_a_file_that_never_comes_to_rest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table"
    path.write_text("x")
    pauses: list[float] = []
    real_fstat = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        with path.open("a") as file:
            file.write("x")
        return real_fstat(descriptor)

    monkeypatch.setattr(source_file.os, "fstat", fstat)
    monkeypatch.setattr(source_file.time, "sleep", pauses.append)
    with pytest.raises(ConfigError, match="keeps changing"):
        read_settled(path)
    assert sum(pauses) == pytest.approx(1)


@pytest.mark.parametrize("name", ["missing", ""])
def test_a_file_that_cannot_be_read_is_the_operators_mistake(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read|not a regular file") as caught:
        read_settled(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.path == ("path",)


def test_a_value_that_no_reply_can_carry_is_a_failure() -> None:
    assert table_answer("a b") == Found("a b")
    assert isinstance(table_answer("a\udcff"), TempFail)
    assert isinstance(table_answer("a\rb"), PermFail)

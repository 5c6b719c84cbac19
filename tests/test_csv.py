"""The `csv` resolver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tcpmapkit import ConfigError, LookupTempFail, Query
from tcpmapkit.resolvers.csv import Csv
from tests.loading import load, value


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def answers(table: Path, content: str | bytes, *keys: str, **options: Any) -> list[str | None]:
    """What the table answers to `keys`; it is to load without a warning."""
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    resolver = Csv(table, **options)
    assert load(resolver) == []
    return [value(resolver, key) for key in keys]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("key,value\na,1\nb,2\n", {}),
        ("key,value\r\na,1\r\n\r\nb,2", {}),
        ("a,1\nb,2\n", {"header": False}),
        ("\ufeffkey,value\na,1\nb,2\n", {"key_column": "key", "value_column": "value"}),
        ("\n\nkey,value\na,1\nb,2\n", {}),
        ("value;x;key\n1;;a\n2;;b\n", {"delimiter": ";", "key_column": 3, "value_column": 1}),
        (
            "value\tx\tkey\n1\t\ta\n2\t\tb\n",
            {"delimiter": "\t", "key_column": "key", "value_column": "value"},
        ),
        ('"key","value"\n"a","1"\n"b",2\n', {}),
        ("value\u00a7key\n1\u00a7a\n2\u00a7b\n", {"delimiter": "\u00a7", "key_column": 2, "value_column": 1}),
    ],
)
def test_the_columns_named_by_the_options_are_read(table: Path, content: str, options: dict) -> None:
    assert answers(table, content, "a", "b", "key", "c", **options) == ["1", "2", None, None]


def test_rows_with_the_same_key_are_joined_in_file_order_equal_values_once(table: Path) -> None:
    content = "k,v\nTeam@example.org,z\nother,o\nteam@example.org,a\nTEAM@example.org,z\nother,o\n"
    assert answers(table, content, "team@EXAMPLE.org", "other") == ["z, a", "o"]
    assert answers(table, content, "team@example.org", separator=" ") == ["z a"]


def test_each_value_is_kept_apart_for_the_result_template(table: Path) -> None:
    table.write_text("k,v\na,1\na,2\nb,3\n")
    resolver = Csv(table, separator=";")
    load(resolver)
    assert resolver.resolve(Query("a")).values == ("1", "2")


def test_quoted_fields_may_hold_the_delimiter_and_quotes_and_white_space_counts(table: Path) -> None:
    content = 'k,v\na,"1, ""2"""\n b ,  3 \n"c,d",4\n'
    assert answers(table, content, "a", " b ", "b", "c,d") == ['1, "2"', "  3 ", None, "4"]


def test_the_special_keys_are_keys_like_others(table: Path) -> None:
    assert answers(table, 'k,v\n*,star\n<>,null\n"""""",quotes\n', "*", "<>", '""', "") == [
        "star",
        "null",
        "quotes",
        None,
    ]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("b", "expected at least 2 columns, there are 1"),
        (",x", "no key"),
        ("b,", "no value"),
        ('b,"x\ny"', "a line break within the value"),
        ('b,"x\r"', "a line break within the value"),
        ('"b\n",x', "a line break within the key"),
    ],
)
def test_a_row_that_cannot_be_an_answer_is_skipped_with_its_line(table: Path, row: str, why: str) -> None:
    table.write_text(f'k,v\na,"1"\n{row}\nc,3\n', newline="")
    resolver = Csv(table)
    assert load(resolver) == [f"{table}, line 3: {why} -- ignoring this row"]
    assert [value(resolver, key) for key in ("a", "b", "c")] == ["1", None, "3"]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b'k,v\na,1\nb,"2\nc,3\n', 3, "unexpected end of data"),
        (b'k,v\na,1\nb,"2\nc,3\n"d",4\n', 3, "expected after"),
        (b'k,v\n"a","1\n2"\nb,"3\n', 4, "unexpected end of data"),
        (b'k,v\na,"1"x\n', 2, "expected after"),
        (b"k,v\na,1\nb,\xff\n", 3, "not UTF-8"),
        (b"k,v\na,1\nb,\0\n", 3, "NUL"),
        (b"k,v\r\na,1\r\nb," + b"x" * 140_000, 3, "larger than field limit"),
        (b"", 1, "no header"),
        (b"\n\n", 1, "no header"),
        (b"k\na\n", 1, "there is no column 2: the header has 1"),
    ],
)
def test_a_damaged_file_is_refused_as_a_whole(table: Path, content: bytes, line: int, message: str) -> None:
    table.write_bytes(content)
    resolver = Csv(table)
    with pytest.raises(ConfigError, match=message) as caught:
        load(resolver)
    assert (caught.value.file, caught.value.line) == (table, line)
    with pytest.raises(LookupTempFail, match="not loaded"):
        resolver.resolve(Query("a"))


@pytest.mark.parametrize(
    ("column", "message", "hint"),
    [
        ("adress", "no column is named 'adress'", "did you mean 'address'?"),
        ("zzz", "no column is named 'zzz'", "the header is 'address', 'box', 'box'"),
        ("box", "several columns are named 'box'", None),
    ],
)
def test_a_column_that_the_header_lacks_is_a_mistake(
    table: Path, column: str, message: str, hint: str | None
) -> None:
    table.write_text("address,box,box\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load(Csv(table, key_column=column))
    assert (caught.value.file, caught.value.line, caught.value.hint) == (table, 1, hint)
    assert caught.value.path == ("key_column",)


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": ""},
        {"delimiter": ",,"},
        {"delimiter": "\n"},
        {"delimiter": '"'},
        {"separator": "\n"},
        {"key_column": 0},
        {"value_column": ""},
        {"value_column": True},
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        Csv(Path("table.csv"), **options)


@pytest.mark.parametrize("option", ["key_column", "value_column"])
def test_without_a_header_no_column_has_a_name(option: str) -> None:
    with pytest.raises(ConfigError, match="without a header") as caught:
        Csv(Path("table.csv"), header=False, **{option: "k"})
    assert caught.value.path == (option,)


def test_a_missing_file_is_the_operators_mistake(table: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(Csv(table))

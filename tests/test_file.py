"""The `file` resolver beside the real ``texthash:``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmapkit import ConfigError, PermFail, Query
from tcpmapkit.keys import fold
from tcpmapkit.resolvers.file import File
from tests.loading import load, value
from tests.real_postfix import Postfix

LONG_AGO = (1_000_000_000, 1_000_000_000)


def table(path: Path, content: bytes) -> Path:
    """Write a table, old enough for Postfix not to wait until it has cooled down."""
    path.write_bytes(content)
    os.utime(path, LONG_AGO)
    return path


def loaded(path: Path) -> tuple[File, list[str]]:
    resolver = File(path)
    return resolver, load(resolver)


PIECES = [
    *(b"a", b"A", b"b", b"@", b"+", b":", b"#", b'"', b'""', b"\\", b" ", b" ", b"\t", b"\r", b"\v", b"\f"),
    *(text.encode() for text in ("\u00e9", "\u00c9", "\u00df", "SS", "\u0130", "\u212a", "\u00a0", "\u2028")),
    *(b"\xff", b"\xc3", b"\0", b"\x1c", b"\x85", b"\n", b"\n ", b"\n#", b"\r\n", b"\xef\xbb\xbf"),
]
ANY_TEXT = st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join)
WORD = st.lists(
    st.sampled_from([p for p in PIECES if p.isalpha() or p in b'@+:"\\' or p[0] > 0x7F]), max_size=4
)
ROWS = st.tuples(WORD.map(b"".join), st.sampled_from([b" ", b"\t ", b"", b"\n "]), ANY_TEXT).map(b"".join)
TABLES = st.lists(st.one_of(ROWS, ROWS, ANY_TEXT), max_size=8).map(b"\n".join)


def utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


# Releases of Postfix differ in whether text after a NUL must be UTF-8.
TABLES = TABLES.filter(lambda content: b"\0" not in content or utf8(content))


def keys_for(content: bytes) -> list[str]:
    """Every beginning of a line that white space ends, and other spellings of it."""
    text = content.decode(errors="surrogateescape")
    keys = {line[: match.start()] for line in text.split("\n") for match in re.finditer(r"\s|$", line)}
    keys |= {"", "*", "a", '""', "A B", '"a b"@b'}
    keys |= {key.upper() for key in keys} | {key.lower() for key in keys} | {key.casefold() for key in keys}
    return sorted(key for key in keys if not set(key) & set("\n\t\0"))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(content=TABLES)
def test_every_table_answers_as_texthash_does(
    postfix: Postfix, tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = table(tmp_path_factory.getbasetemp() / "generated.texthash", content)
    resolver, _ = loaded(path)
    keys = keys_for(content)
    for key, expected in postfix.ask(f"texthash:{path}", keys).items():
        if expected is not None and "\r" in expected:
            assert isinstance(resolver.resolve(Query(fold(key))), PermFail), key
        else:
            assert value(resolver, key) == expected, key


KINDS = "unbalanced|expected|record|duplicate|non-UTF-8"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(content=TABLES.filter(lambda content: b"\0" not in content))
def test_every_line_is_warned_about_as_texthash_does(
    postfix: Postfix, tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = table(tmp_path_factory.getbasetemp() / "warned.texthash", content)
    _, warnings = loaded(path)
    told = postfix.postmap("-q", "-", f"texthash:{path}", input=b"a\n").stderr.decode(errors="replace")
    kinds = re.compile(rf"line (\d+): ({KINDS})")
    assert kinds.findall("\n".join(warnings)) == kinds.findall(told)


def test_a_table_with_crlf_is_read_as_one_with_lf(postfix: Postfix, tmp_path: Path) -> None:
    path = table(tmp_path / "table", b"# c\r\n\r\na b c\r\n  d\r\nlast x")
    resolver, warnings = loaded(path)
    keys = ["a", "a ", "last"]
    real = postfix.ask(f"texthash:{path}", keys)
    assert real == {"a": "b c\r  d", "a ": None, "last": "x"}
    assert isinstance(resolver.resolve(Query("a")), PermFail)
    assert value(resolver, "last") == "x"
    assert warnings == [f"{path}, line 3: a value found contains NUL, CR or LF; asking for 'a' fails"]


@pytest.mark.parametrize(
    "line",
    [
        "a\\",
        "a\\ b",
        "a\\ b c",
        'a\\"b c',
        '"a b"c d',
        '"a \\" b" c',
        '"a\\',
        'a"b c',
        '""',
        '"" x',
        "a: b",
        "\\\\ x",
        "\u00e9\\\u00c9 x",
        "\ufeffa b",
    ],
)
def test_quotes_and_backslashes_in_a_key_mean_what_they_mean_to_postfix(
    postfix: Postfix, tmp_path: Path, line: str
) -> None:
    path = table(tmp_path / "table", f"{line}\n".encode())
    resolver, warnings = loaded(path)
    keys = sorted({line[:length] for length in range(len(line) + 1)} | {"a"})
    real = postfix.ask(f"texthash:{path}", keys)
    assert {key: value(resolver, key) for key in keys} == real
    assert any(real.values()) or warnings


def test_of_two_equal_keys_the_first_counts_with_a_warning(tmp_path: Path) -> None:
    path = table(tmp_path / "table", b"User@example.org one\nother two\nuser@EXAMPLE.org three\n")
    resolver, warnings = loaded(path)
    assert value(resolver, "USER@example.org") == "one"
    assert warnings == [f'{path}, line 3: duplicate entry: "user@example.org" -- the first one counts']


def test_a_map_without_folding_keeps_the_keys_apart(tmp_path: Path) -> None:
    resolver = File(table(tmp_path / "table", b"A one\na two\n"))
    assert load(resolver, fold=str) == []
    assert [value(resolver, key, fold=str) for key in ("A", "a")] == ["one", "two"]


def test_the_special_keys_are_keys_like_others(postfix: Postfix, tmp_path: Path) -> None:
    path = table(tmp_path / "table", b'* star\n<> null\n"" quotes\n')
    resolver, _ = loaded(path)
    keys = ["*", "<>", '""', ""]
    answers = {key: value(resolver, key) for key in keys}
    assert answers == postfix.ask(f"texthash:{path}", keys)
    assert answers == {"*": "star", "<>": "null", '""': "quotes", "": None}


def test_a_missing_table_is_one_line_for_the_operator(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path / "missing")
    assert str(caught.value) == f"path: cannot read {tmp_path}/missing: No such file or directory"

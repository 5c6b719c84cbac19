"""The position scanner agrees with tomli about which keys there are, and finds them."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmapkit.config.positions import Positions, scan


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    found = {path} if path else set()
    for key, inner in items:
        found |= paths_of(inner, (*path, key))
    return found


DOCUMENTS = [
    "",
    "# only a comment",
    "a = 1",
    "a=1\nb  =  'x'  # c = 3\n\n\nd = \"#\"",
    "a.b.c = 1\na.b.d = 2\na . e = 3",
    '\'quoted key\' = 1\n"b\\u00e9 \\" x" = 2\n"" = 3',
    "[a]\nb = 1\n[a.c.d]\ne = 1\n[a.c]\nf = 2",
    "[ a . 'b.c' ]\nx = 1",
    "[[a]]\nx = 1\n[[a]]\ny = 2\n[a.b]\nz = 3\n[[a.c]]\n[[a.c]]\nq = 1",
    "[[a.b]]\n[a.b.c]\nd = 1\n[[a.b]]\n[a.b.c]\nd = 2",
    "[a.b.c]\nx = 1\n[a]\ny = 2",
    "a = [1, 2, [3, {b = 4}], ]\nc = []",
    "a = [ # one\n 1, # two ]\n 2\n\n , ]\nb = 1",
    'a = {b = 1, c = {d = "}"}, e.f = 2, "g h" = [1]}',
    "a = {\n  b = 1, # TOML 1.1\n  c = 2,\n}",
    'a = """\nb = 1\n[x]\n\\""" """\nc = 2',
    'a = """x"""""\nb = 1',
    "a = '''\n[x]\n'''''\nb = 1",
    'a = """ \\\n   b = 1"""\nc = 1',
    "a = 1979-05-27 07:32:00 # x\nb = 07:32:00\nc = 1979-05-27T07:32:00Z",
    "a = [1979-05-27 07:32:00, -inf, 0x1f, 1_000, true]\nb = +nan",
    "\ta\t=\t1\t\n",
    "1 = 2\n-a_ = 3\n3.2 = 3",
]


@pytest.mark.parametrize("text", DOCUMENTS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_scanner_finds_the_keys_that_tomli_finds(text: str, newline: str) -> None:
    text = text.replace("\n", newline)
    positions = Positions(text)
    assert set(positions.spans) == paths_of(tomli.loads(text))


KEYS = st.one_of(
    st.sampled_from(["a", "b", "c", "-1", "x_y"]),
    st.text(st.sampled_from("ab\"\\.= #[]'é"), max_size=3).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
    st.text(st.sampled_from('ab".= #[]é'), max_size=3).map(lambda text: f"'{text}'"),
)
DOTTED = st.lists(KEYS, min_size=1, max_size=3).flatmap(
    lambda parts: st.sampled_from([".", " . ", "\t."]).map(lambda dot: dot.join(parts))
)
BETWEEN = st.sampled_from(["", " ", "\n", " # ] } ' \"\n", "\n\n  "])
ATOMS = st.one_of(
    st.sampled_from(
        ["1", "-2.5e3", "true", "inf", "1979-05-27 07:32:00", "1979-05-27", '""', "''", '"""\n"""']
    ),
    st.text(st.sampled_from("ab\\\"'\n#=[]{},é"), max_size=8).map(
        lambda text: '"""' + text.replace("\\", "\\\\").replace('"', '\\"') + '"""'
    ),
    st.text(st.sampled_from('ab\\"\n#=[]{},'), max_size=8).map(lambda text: f"'''{text}'''"),
    st.sampled_from(['""""x"""""', "''''x'''''", '"\\"]"', "']'"]),
)


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.tuples(BETWEEN, values, BETWEEN).map("".join)
    return st.tuples(st.lists(item, max_size=3), st.booleans(), BETWEEN).map(
        lambda made: "[" + ",".join(made[0]) + ("," if made[1] and made[0] else "") + made[2] + "]"
    )


def inline_tables(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(BETWEEN, DOTTED, st.sampled_from(["=", " = "]), values, BETWEEN).map("".join)
    return st.tuples(st.lists(pair, max_size=3), BETWEEN).map(
        lambda made: "{" + ",".join(made[0]) + made[1] + "}"
    )


VALUES = st.recursive(ATOMS, lambda values: arrays(values) | inline_tables(values), max_leaves=6)
LINES = st.one_of(
    st.tuples(DOTTED, VALUES).map(" = ".join),
    DOTTED.map(lambda key: f"[{key}]"),
    DOTTED.map(lambda key: f"[[ {key} ]] # [x]"),
    st.sampled_from(["", "# x = 1", "\t"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_scanner_and_tomli_agree_on_generated_documents(lines: list[str], newline: str) -> None:
    kept: list[str] = []
    for line in lines:  # drop what redefines a key, so that most documents are TOML
        try:
            tomli.loads("\n".join([*kept, line]))
        except tomli.TOMLDecodeError:
            continue
        kept.append(line)
    text = "\n".join(kept).replace("\n", newline)
    positions = Positions(text)
    assert set(positions.spans) == paths_of(tomli.loads(text))
    for path, span in positions.spans.items():
        assert 0 <= span.start <= span.end <= len(positions.text)
        if isinstance(path[-1], str) and positions.text[span.start] != "[":
            assert positions.text[span.key] in f"{path[-1]}\"'"


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab=.[]{}\"'#,\n\\ 1")))
def test_text_that_is_not_toml_is_scanned_without_failing(text: str) -> None:
    assert isinstance(scan(text), dict)


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("a",), (1, 1), (1, 5)),
        (("t",), (2, 2), (2, 1)),
        (("t", "x y"), (3, 3), (3, 11)),
        (("t", "d"), (4, 1), (4, 1)),
        (("t", "d", "e"), (4, 3), (4, 7)),
        (("t", "list", 1), (7, 3), (7, 3)),
        (("t", "list", 1, "k"), (7, 4), (7, 8)),
        (("s", 1), (10, 3), (10, 1)),
        (("s", 1, "m"), (11, 1), (11, 5)),
        (("s", 1, "n"), (14, 1), (14, 5)),
    ],
)
def test_keys_and_values_are_placed_by_line_and_column(path: Any, key: Any, value: Any) -> None:
    text = (
        "a = 1 # x\r\n[t]\n  'x y' = 2\nd.e = 3\nlist = [\n  1,\n  {k = 'v'},\n]\n[[s]]\n[[s]]\n"
        'm = """\nn = 1\n"""\nn = 2'
    )
    positions = Positions(text)
    span = positions.spans[path]
    assert (positions.place(span.key), positions.place(span.start)) == (key, value)


def test_a_path_that_is_not_written_is_nearest_to_the_table_around_it() -> None:
    found = Positions("[a]\nb = 1").nearest(("a", "c", "d"))
    assert found is not None
    assert found[0] == ("a",)


def test_each_line_can_be_shown() -> None:
    positions = Positions("one\r\n\r\nthree")
    assert [positions.line(number) for number in (1, 2, 3)] == ["one", "", "three"]

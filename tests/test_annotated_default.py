"""The annotated default shows options commented out: each is a real one, with the default that it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from tcpmapkit.config import read_document, structure
from tcpmapkit.config.model import Config
from tcpmapkit.plugins import load_plugins
from tests.documents import TOP

FILE = TOP / "tcpmapkit.toml"
LINES = FILE.read_text(encoding="utf-8").splitlines()

#: Shown because they exist; what stands there is an example.
NO_DEFAULTS = {"user", "allow", "local_domains"}

_OPTION = re.compile(r"# (\w+) = ")
_HEADER = re.compile(r"# \[")


def commented_tables() -> list[range]:
    """Tables that are commented out as a whole: from a header to the first line that is no part of it."""
    tables = []
    for first, line in enumerate(LINES):
        if _HEADER.match(line):
            end = first
            while LINES[end].startswith("# "):
                end += 1
            tables.append(range(first, end))
    return tables


TABLES = commented_tables()
SINGLE = [
    number
    for number, line in enumerate(LINES)
    if _OPTION.match(line) and not any(number in table for table in TABLES)
]


def uncommented(directory: Path, *numbers: int) -> Config:
    """The file with these lines uncommented, which must be right."""
    lines = [re.sub(r"^(# )+", "", line) if n in numbers else line for n, line in enumerate(LINES)]
    file = directory / "tcpmapkit.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    config, errors = structure(read_document(file), load_plugins().types, {"ALIAS_TOKEN": "secret"})
    assert errors == []
    return config


def section_of(config: Config, number: int) -> Any:
    """What the table around a line has become."""
    header = next(line for line in reversed(LINES[:number]) if line.startswith("["))
    names = re.findall(r"\w+", header)
    if names[0] == "listeners":
        return config.listeners[sum(line.startswith("[[listeners]]") for line in LINES[:number]) - 1]
    found: Any = config
    for name in names:
        found = found[name] if isinstance(found, dict | type(config.maps)) else getattr(found, name)
    return found


def test_it_shows_options() -> None:
    assert len(SINGLE) > 10
    assert len(TABLES) == 4


@pytest.mark.parametrize("number", SINGLE, ids=lambda number: LINES[number].split("#")[1].strip())
def test_each_option_shown_is_one_and_has_the_default_it_says(number: int, tmp_path: Path) -> None:
    match = _OPTION.match(LINES[number])
    assert match is not None
    name = match[1]
    config = uncommented(tmp_path, number)
    section = section_of(config, number)
    default = attrs.fields_dict(type(section))[name].default
    if name == "deadline" and default is None:
        default = config.server.deadline
    assert (getattr(section, name) == default) is (name not in NO_DEFAULTS)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: LINES[table[0]].strip("# []"))
def test_each_table_shown_can_be_uncommented(table: range, tmp_path: Path) -> None:
    before, after = uncommented(tmp_path), uncommented(tmp_path, *table)
    assert before != after


def test_everything_shown_can_be_uncommented_at_once(tmp_path: Path) -> None:
    uncommented(tmp_path, *SINGLE, *(number for table in TABLES for number in table))

"""Every type, option, command and section is documented, with the default that it has."""

from __future__ import annotations

import os
import re
from pathlib import Path

import attrs
import click
import pytest
import tomli

from manual.pages import SECTIONS as PAGE_SECTIONS
from manual.words import type_words, with_members
from tcpmapkit.cli import main
from tcpmapkit.config.masking import Secrets
from tcpmapkit.config.model import Config
from tcpmapkit.config.options import Option, options_of, type_options
from tcpmapkit.config.reading import Reader
from tcpmapkit.plugins import BUILT_IN, load_plugins
from tcpmapkit.postfix.parameters import PARAMETERS, REFUSING
from tcpmapkit.search import SEARCHES, SearchOrder
from tests.documents import DOCUMENTS, TOP, anchors, blocks, options_table, prose, sections

RESOLVERS, CONFIGURATION, COMMANDS = (
    TOP / "docs" / f"{name}.md" for name in ("resolvers", "configuration", "commands")
)

TYPES = {name: one for name, one in load_plugins().types.items() if one.source.startswith("tcpmapkit.")}

#: Heading in docs/configuration.md -> the class that reads the section.
SECTIONS = {"Cache" if heading == "cache" else heading: cls for heading, cls in PAGE_SECTIONS.items()}

#: What None stands for where a document can say it.
EFFECTIVE = {("dns", "query"): "{domain}", ("http", "method"): "GET", ("regex", "syntax"): "pcre"}

ALL: dict[tuple[str, str], dict[str, Option]] = {
    **{("resolvers", name): with_members(type_options(one)) for name, one in TYPES.items()},
    **{("configuration", heading): with_members(options_of(cls)) for heading, cls in SECTIONS.items()},
}
each_section = pytest.mark.parametrize(("page", "heading"), ALL, ids=[heading for _, heading in ALL])


def documented(page: str, heading: str) -> dict[str, tuple[str, str, str]]:
    return options_table(sections(TOP / "docs" / f"{page}.md")[heading])


def test_every_built_in_type_has_a_section_and_no_other_has_one() -> None:
    assert set(TYPES) == set(BUILT_IN)
    assert sorted(sections(RESOLVERS)) == sorted(TYPES)


def test_every_section_of_the_file_has_one_in_the_manual() -> None:
    headings = sections(CONFIGURATION)
    assert set(SECTIONS) <= set(headings)
    for option in options_of(Config):
        assert {f"[{option.name}]", f"[[{option.name}]]", f"[{option.name}.NAME]"} & set(headings)


@each_section
def test_the_table_of_options_has_them_all_and_no_other(page: str, heading: str) -> None:
    assert list(documented(page, heading)) == list(ALL[page, heading])


@each_section
def test_each_option_is_documented_with_its_type_and_its_default(
    page: str, heading: str, tmp_path: Path
) -> None:
    reader = Reader(tmp_path, Secrets(), lambda value: ())
    for name, (kind, default, meaning) in documented(page, heading).items():
        option = ALL[page, heading][name]
        assert kind == type_words(option.annotation), name
        assert meaning.endswith((".", "`")), name
        actual = EFFECTIVE.get((heading, name), option.default)
        if isinstance(actual, attrs.Factory):  # type: ignore[arg-type]
            actual = actual.factory()
        if actual is attrs.NOTHING:
            assert default == "required", name
        elif actual is None:
            assert default == "none", name
        else:
            said = tomli.loads(f"value = {default.strip('`')}")["value"]
            assert reader.reader(option.annotation)(said) == actual, name


def test_every_type_has_a_table_of_what_its_states_mean_and_an_example_with_tests() -> None:
    tested = {
        name
        for block in blocks(RESOLVERS, "toml")
        for name in re.findall(r'^type = "(\w+)"', block.text, re.MULTILINE)
        if ".tests]]" in block.text
    }
    assert set(TYPES) <= tested
    for name, text in sections(RESOLVERS).items():
        assert "| state | outcome |" in text, name


SEARCH_ROWS = re.findall(
    r"^\| (none|`\"\w+\"`) \| (.*?) \| (.*?) \| (.*?) \|$", sections(CONFIGURATION)["Keys"], re.MULTILINE
)


def test_each_parameter_that_takes_a_map_is_listed_with_the_search_that_it_wants() -> None:
    listed = {
        parameter: None if search == "none" else search.strip('`"')
        for search, parameters, _, _ in SEARCH_ROWS
        for parameter in re.findall(r"`(\w+)`", parameters)
    }
    # The manual says in a sentence what the others take.
    wanted = {
        one.name: one.search
        for one in PARAMETERS
        if not re.match("address_verify_", one.name) and not re.search("_(a|mx|ns)_access$", one.name)
    }
    assert listed == wanted
    others = [one for one in PARAMETERS if one.name not in wanted]
    assert others
    for one in others:
        base = re.sub("_(a|mx|ns)_access$", "_access", one.name.removeprefix("address_verify_"))
        assert one.search == wanted[base]


def test_each_search_order_is_listed_with_its_keys_in_their_order() -> None:
    assert [search.strip('`"') for search, *_ in SEARCH_ROWS] == ["none", *SEARCHES]
    shown: list[str] = []
    for name, row in zip(SEARCHES, SEARCH_ROWS[1:], strict=True):
        order = SearchOrder(name, local_domains=frozenset({"a.example.org"}))
        said = row[2].partition(";")[0]
        shown = shown if said == "the same" else re.findall("`(.*?)`", said)
        assert [one.key for one in order.keys(shown[0])] == shown, name
        assert row[3].startswith("rewritten") is order.rewrites


def test_the_parameters_that_refuse_such_maps_are_named() -> None:
    text = sections(CONFIGURATION)["Which parameters take such a map"]
    assert all(f"`{parameter}`" in text for parameter in REFUSING)


# Commands.


def test_every_command_has_a_section_and_nothing_else_has_one() -> None:
    assert sorted(sections(COMMANDS)) == sorted(main.commands)


@pytest.mark.parametrize("name", main.commands)
def test_every_option_and_argument_of_a_command_is_in_its_section(name: str) -> None:
    section = sections(COMMANDS)[name]
    synopsis = re.findall(rf"^    tcpmapkit {name}(.*)$", section, re.MULTILINE)
    assert synopsis
    words = " | ".join(synopsis).split()
    options = set(re.findall(r"(?<!\S)\[?(--?[a-z]+)", " ".join(words)))
    known: set[str] = set()
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option):
            known |= set(parameter.opts)
            assert options & set(parameter.opts), parameter.opts
            if parameter.is_flag:
                assert f"| `{parameter.opts[-1]}` |" in section
        else:
            assert set(parameter.make_metavar(click.Context(main)).split()) <= set(words)
    assert options <= known, "no such option"


def test_the_options_of_every_command_and_the_statuses_are_in_the_introduction() -> None:
    introduction = COMMANDS.read_text(encoding="utf-8").partition("\n## ")[0]
    for option in ("--version", "-h", "--help", "-c FILE", "--config FILE"):
        assert option in introduction
    statuses = set(map(int, re.findall(r"^\| (\d+) \|", introduction, re.MULTILINE)))
    assert statuses == {0, 1, 2, os.EX_TEMPFAIL, os.EX_CONFIG}


# All documents.


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(TOP)))
def test_the_links_within_the_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"https?:|mailto:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (document.parent / place) if place else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target

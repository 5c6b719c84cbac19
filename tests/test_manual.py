"""Man pages and shell completion: as the program has it, and as their readers take it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from manual.__main__ import generated
from manual.completion import SCRIPTS
from manual.roff import Page, inline
from manual.words import duration, sentence, size
from tcpmapkit.cli import main
from tcpmapkit.plugins import BUILT_IN
from tests.real_postfix import UNPACKED, environment_for, find_program, missing_server

FILES = generated()
PAGES = [file for file in FILES if file.parent.name == "man"]

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)


@each_file
def test_what_is_shipped_is_what_the_program_says(file: Path) -> None:
    assert file.exists(), "run ./dev manual"
    assert file.read_text(encoding="utf-8") == FILES[file], "run ./dev manual"


def test_nothing_else_is_shipped_beside_them() -> None:
    places = {file.parent for file in FILES}
    assert {file for place in places for file in place.iterdir()} == set(FILES)


def formatted(page: Path) -> subprocess.CompletedProcess[str]:
    """What a reader sees, and the warnings of all kinds."""
    groff = find_program("groff")
    if groff is None:
        missing_server("groff is not installed")
    environment = environment_for(groff)
    if groff.is_relative_to(UNPACKED):
        data = next((UNPACKED / "usr/share/groff").glob("[0-9]*"))
        environment |= {
            "GROFF_TMAC_PATH": f"{data}/tmac:{UNPACKED}/etc/groff",
            "GROFF_FONT_PATH": f"{data}/font",
        }
        environment |= {"GROFF_BIN_PATH": str(groff.parent), "PATH": f"{groff.parent}:/usr/bin:/bin"}
    return subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-P-cbou", page],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        env=environment,
        check=False,
    )


@each_page
def test_a_page_is_formatted_without_a_warning(page: Path) -> None:
    done = formatted(page)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tcpmapkit" in done.stdout


def test_the_page_of_the_commands_has_them_all_with_their_statuses() -> None:
    shown = formatted(next(page for page in PAGES if page.suffix == ".1")).stdout
    for name in main.commands:
        assert f"\n   tcpmapkit {name}\n" in shown
    for status in (0, 1, 2, 75, 78):
        assert f"\n       {status} " in shown


def test_the_page_of_the_configuration_has_every_table_and_type() -> None:
    shown = formatted(next(page for page in PAGES if page.suffix == ".5")).stdout
    tables = ("[server]", "[[listeners]]", "[maps.NAME]", "[[maps.NAME.resolvers]]")
    for heading in (*tables, *BUILT_IN):
        assert f"\n   {heading}\n" in shown


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_completion_asks_the_program(shell: str) -> None:
    text = next(text for file, text in FILES.items() if file.name == SCRIPTS[shell])
    assert "_TCPMAPKIT_COMPLETE" in text
    found = find_program(shell)
    if found is not None:  # else there is nothing that could read it
        done = subprocess.run([found, "-n"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("markdown", "roff"),
    [
        ("a `--b` c", "a \\fB\\-\\-b\\fR c"),
        ("*path* [as there](x.md#y)", "\\fIpath\\fR as there"),
        ("it's \\n and 5 * 3 * 2", "it\\(aqs \\en and 5 * 3 * 2"),
        ("é", "\\[u00E9]"),
        ("`` a`b ``", "\\fB a\\(gab \\fR"),
    ],
)
def test_markdown_becomes_roff(markdown: str, roff: str) -> None:
    assert inline(markdown) == roff


def test_no_text_is_taken_for_a_request() -> None:
    page = Page("x", 1, "1", "what")
    page.paragraph(".so /etc/passwd")
    page.paragraph("'so /etc/passwd")
    page.example([".so /etc/passwd", "'so x"])
    requests = [line for line in str(page).splitlines() if line.startswith((".", "'"))]
    assert not [line for line in requests if "so" in line.split()[0]]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "500ms"), (5.0, "5s"), (120.0, "2m"), (3600, "1h"), (0, "0s"), (90, "90s")]
)
def test_a_duration_is_as_short_as_it_can_be(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(1 << 26, "64MiB"), (1536, "1536B"), (0, "0B")])
def test_a_size_is_as_short_as_it_can_be(number: int, words: str) -> None:
    assert size(number) == words


@pytest.mark.parametrize(("text", "words"), [("the key", "The key."), ("A b.", "A b."), ("", "")])
def test_a_help_text_becomes_a_sentence(text: str, words: str) -> None:
    assert sentence(text) == words

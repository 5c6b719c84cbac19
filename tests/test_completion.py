"""What a shell is offered when a command line is completed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from tcpmapkit.cli import main


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "tcpmapkit.toml"
    tables = "".join(f"[maps.{name}]\n" for name in ("aliases", "access", "routes"))
    file.write_text(tables)  # no chains: what is wrong with a map does not matter here
    return file


def offered(arguments: list[str], incomplete: str) -> list[str]:
    shell = ShellComplete(main, {}, "tcpmapkit", "_TCPMAPKIT_COMPLETE")
    return [item.value for item in shell.get_completions(arguments, incomplete)]


@pytest.mark.parametrize("command", [["query"], ["bench", "--keys", "keys"]], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("incomplete", "names"), [("", ["access", "aliases", "routes"]), ("a", ["access", "aliases"]), ("x", [])]
)
def test_the_maps_of_the_configuration_are_offered(
    site: Path, command: list[str], incomplete: str, names: list[str]
) -> None:
    assert offered([*command, "-c", str(site)], incomplete) == names


def test_a_key_is_not_completed(site: Path) -> None:
    assert offered(["query", "-c", str(site), "aliases"], "a") == []


@pytest.mark.parametrize("text", [None, "[maps", "maps = 3", ""])
def test_nothing_is_offered_from_a_file_that_is_no_configuration(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "tcpmapkit.toml").write_text(text)
    assert offered(["query", "-c", str(tmp_path / "tcpmapkit.toml")], "") == []


def test_commands_are_offered_and_hidden_ones_are_not() -> None:
    assert {"run", "check", "query"} <= set(offered([], ""))

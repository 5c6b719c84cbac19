"""plugins/README.md and examples/plugins: what a plugin's author is told works as it is written."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmapkit.plugins import load_plugins
from tcpmapkit.testing import started_file, toml_blocks

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "plugins" / "README.md"
DROP_INS = ROOT / "examples" / "plugins"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with what the guide has one write."""
    plugin, tests = blocks("python")
    (tmp_path / "plugins").mkdir(mode=0o755)
    (tmp_path / "plugins" / "shout.py").write_text(plugin)
    (tmp_path / "test_shout.py").write_text(tests)
    (configuration,) = toml_blocks(GUIDE)
    (tmp_path / "tcpmapkit.toml").write_text(configuration)
    return tmp_path


def test_the_commands_of_the_guide_print_what_it_says(place: Path) -> None:
    (transcript,) = blocks("console")
    for command, expected in re.findall(r"^\$ tcpmapkit (.*)\n((?:[^$].*\n)*)", transcript, re.MULTILINE):
        program = [sys.executable, "-c", "from tcpmapkit.cli import main; main()"]
        done = subprocess.run([*program, *command.split()], cwd=place, capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, expected), command


async def test_the_tests_of_the_guide_pass(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(place / "plugins")
    monkeypatch.delitem(sys.modules, "shout", raising=False)
    names: dict[str, object] = {}
    exec((place / "test_shout.py").read_text(), names)  # as pytest would import it
    tests = {name: test for name, test in names.items() if name.startswith("test_")}
    assert len(tests) == 3
    for test in tests.values():
        result = test()  # type: ignore[operator]
        if inspect.isawaitable(result):
            await result
    del sys.modules["shout"]


def test_the_smallest_plugin_has_under_ten_lines() -> None:
    lines = (DROP_INS / "shard.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) < 10


@pytest.mark.parametrize("file", sorted(DROP_INS.glob("*.toml")), ids=lambda file: file.name)
async def test_each_drop_in_example_answers_what_it_says(file: Path) -> None:
    async with started_file(file) as maps:
        assert maps


def test_every_drop_in_example_is_used_by_a_configuration() -> None:
    types = {
        name for name, one in load_plugins(DROP_INS).types.items() if one.source.startswith(str(DROP_INS))
    }
    texts = "".join(file.read_text() for file in DROP_INS.glob("*.toml"))
    assert types
    for name in types:
        assert f'type = "{name}"' in texts


def test_every_packaged_plugin_is_listed_and_whole() -> None:
    packages = [file.parent for file in GUIDE.parent.glob("*/pyproject.toml")]
    assert packages
    for package in packages:
        assert f"]({package.name}/README.md)" in GUIDE.read_text()
        module = package / package.name.replace("-", "_")
        for needed in (
            package / "README.md",
            package / "LICENSE",
            module / "py.typed",
            module / "__init__.py",
        ):
            assert needed.is_file(), needed
        assert list((package / "tests").glob("test_*.py"))

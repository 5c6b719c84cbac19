"""What is built and what is pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parent.parent
PLUGINS = sorted(file.parent for file in TOP.glob("plugins/*/pyproject.toml"))
PROJECTS = [TOP, *PLUGINS]
LOCKS = sorted(TOP.glob("requirements/*.txt"))

in_each_project = pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
in_each_lock = pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)


def declared(project: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    return loaded


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """Where each project's wheel and sdist are; made without a network."""
    places = {}
    for project in PROJECTS:
        places[project] = tmp_path_factory.mktemp("dist")
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", places[project]],
            cwd=project,
            capture_output=True,
            check=True,
            timeout=60,
        )
    return places


def wheel_names(place: Path) -> list[str]:
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        return wheel.namelist()


def sdist_names(place: Path) -> list[str]:
    with tarfile.open(next(place.glob("*.tar.gz"))) as sdist:
        return [name.partition("/")[2] for name in sdist.getnames()]


def metadata(place: Path) -> Message:
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(wheel.read(name).decode())


@in_each_project
def test_a_wheel_holds_the_package_and_nothing_else(built: dict[Path, Path], project: Path) -> None:
    package = declared(project)["name"].replace("-", "_")
    names = wheel_names(built[project])
    code = {name for name in names if ".dist-info/" not in name and ".data/" not in name}
    sources = {str(file.relative_to(project)) for file in (project / package).rglob("*.py")}
    assert code == sources | {f"{package}/py.typed"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_man_pages_and_the_completion_are_installed_with_the_program(built: dict[Path, Path]) -> None:
    data = [name.partition(".data/data/")[2] for name in wheel_names(built[TOP]) if ".data/" in name]
    generated = [file for place in ("man", "completion") for file in (TOP / "packaging" / place).iterdir()]
    assert sorted(Path(name).name for name in data) == sorted(file.name for file in generated)
    assert all(name.startswith("share/") for name in data)


@in_each_project
def test_an_sdist_holds_no_stray_file(built: dict[Path, Path], project: Path) -> None:
    included = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "sdist"
    ]
    expected = {name.removeprefix("/") for name in included["include"]} | {
        "PKG-INFO",
        "pyproject.toml",
        ".gitignore",
    }
    names = sdist_names(built[project])
    assert {name.partition("/")[0] for name in names} <= expected
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|\.lock$|\.tools|\.venv|~$", name)]


@in_each_project
def test_an_sdist_builds_the_same_wheel(built: dict[Path, Path], project: Path, tmp_path: Path) -> None:
    with tarfile.open(next(built[project].glob("*.tar.gz"))) as sdist:
        # As an attribute, since the argument is younger than Debian 12's Python 3.11.2.
        sdist.extraction_filter = getattr(tarfile, "data_filter", None)
        sdist.extractall(tmp_path)
    (unpacked,) = tmp_path.iterdir()
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=unpacked, capture_output=True, check=True, timeout=60)
    assert sorted(wheel_names(tmp_path)) == sorted(wheel_names(built[project]))


@in_each_project
def test_a_wheel_says_what_it_needs(built: dict[Path, Path], project: Path) -> None:
    said = metadata(built[project])
    assert (said["License-Expression"], said["Requires-Python"]) == ("MIT", ">=3.11")
    assert {Requirement(text) for text in declared(project)["dependencies"]} <= {
        Requirement(text) for text in said.get_all("Requires-Dist", [])
    }


def imported(package: Path) -> set[str]:
    """The first words of what the modules of a package import, from anywhere in their text."""
    names = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {package.name}


@in_each_project
def test_everything_imported_is_a_dependency_and_no_extra(project: Path) -> None:
    wanted = {canonicalize_name(Requirement(text).name) for text in declared(project)["dependencies"]}
    installed = packages_distributions()
    for name in imported(project / declared(project)["name"].replace("-", "_")):
        provided_by = {canonicalize_name(distribution) for distribution in installed.get(name, [name])}
        assert provided_by & wanted, f"{name} is imported but is no dependency"


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_a_plugin_names_a_module_of_its_own_as_entry_point(plugin: Path) -> None:
    project = declared(plugin)
    assert project["entry-points"]["tcpmapkit"]
    for module in project["entry-points"]["tcpmapkit"].values():
        assert ":" not in module
        assert (plugin / module.partition(".")[0] / "__init__.py").exists()
    assert "tcpmapkit" in {Requirement(text).name for text in project["dependencies"]}


def pinned(lock: Path) -> dict[str, Requirement]:
    """The requirements of a lock file by name, without comments and hashes."""
    joined = re.sub(r"(?m)^\s*#.*\n", "", lock.read_text()).replace("\\\n", " ")
    lines = [line.partition(" --hash=")[0].strip() for line in joined.splitlines() if line.strip()]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


@in_each_lock
def test_a_lock_file_pins_and_hashes_everything(lock: Path) -> None:
    text = re.sub(r"(?m)^\s*#.*\n", "", lock.read_text()).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        assert re.fullmatch(
            r"[a-z0-9-]+(\[[a-z,]+\])?==\S+( ; [^\\#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", line
        ), line


@in_each_lock
def test_a_lock_file_names_no_index_and_no_place(lock: Path) -> None:
    assert not re.search(
        r"https?:|file:|--\w*index|--find-links|--trusted-host|(?m:^-)| @ ", lock.read_text()
    )


def test_there_is_no_lock_file_that_records_addresses() -> None:
    assert not list(TOP.glob("uv.lock"))


@in_each_project
def test_every_dependency_is_in_the_lock_as_declared(project: Path) -> None:
    locked = pinned(TOP / "requirements" / "run.txt")
    ours = {canonicalize_name(declared(other)["name"]) for other in PROJECTS}
    for text in declared(project)["dependencies"]:
        wanted = Requirement(text)
        if canonicalize_name(wanted.name) in ours:
            continue
        (pin,) = locked[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(pin.version), f"{wanted} is locked as {pin}: run ./dev lock"


def test_the_tests_run_with_the_versions_that_are_served_with() -> None:
    run, dev = (pinned(TOP / "requirements" / name) for name in ("run.txt", "dev.txt"))
    assert {name: str(pin.specifier) for name, pin in run.items()}.items() <= {
        name: str(pin.specifier) for name, pin in dev.items()
    }.items()


def test_every_plugin_is_in_the_environment_that_dev_makes() -> None:
    asked = re.findall(r"(?m)^-e ([^\[\s]+)", (TOP / "requirements" / "run.in").read_text())
    assert asked == [str(project.relative_to(TOP)) for project in PROJECTS]

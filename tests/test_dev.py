"""What `./dev` makes, and when; the programs it would call are only noted."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOP = Path(__file__).resolve().parent.parent


@pytest.fixture
def dev() -> ModuleType:
    """A copy of the module `dev` of this test's own."""
    loader = importlib.machinery.SourceFileLoader("dev", str(TOP / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


@pytest.fixture
def checkout(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of nothing, in which `dev` calls no program but notes what it would call."""
    (tmp_path / "requirements").mkdir()
    for name in ("run.txt", "dev.txt", "uv.txt"):
        (tmp_path / "requirements" / name).write_text(name)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    places = {"TOP": ".", "TOOLS": ".tools", "VENV": ".venv", "REQUIREMENTS": "requirements"}
    for name, place in places.items():
        monkeypatch.setattr(dev, name, tmp_path / place)
    (tmp_path / ".venv").mkdir()
    return tmp_path


@pytest.fixture
def called(dev: ModuleType, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def call(*command: object, **_environment: str) -> None:
        if "--target" in command:  # pip makes the directory
            (checkout / ".tools" / "uv").mkdir(parents=True)
        calls.append(" ".join(str(word).replace(f"{checkout}/", "") for word in command))

    monkeypatch.setattr(dev, "call", call)
    return calls


def test_an_environment_is_made_once(dev: ModuleType, called: list[str]) -> None:
    dev.environment("run")
    assert any("pip sync --require-hashes requirements/run.txt" in call for call in called)
    called.clear()
    dev.environment("run")
    assert called == []


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements/run.txt"])
def test_an_environment_is_made_anew_when_what_it_is_made_of_changes(
    dev: ModuleType, checkout: Path, called: list[str], changed: str
) -> None:
    dev.environment("run")
    called.clear()
    (checkout / changed).write_text("other")
    dev.environment("run")
    assert any("pip sync" in call for call in called)


def test_running_after_testing_leaves_the_tests_environment(dev: ModuleType, called: list[str]) -> None:
    dev.environment("dev")
    called.clear()
    dev.environment("run")
    assert called == []


def test_an_interrupted_setup_is_not_taken_for_a_finished_one(
    dev: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.environment("run")
    noting = dev.call

    def fails(*command: object, **environment: str) -> None:
        raise dev.Failed("no network")

    monkeypatch.setattr(dev, "call", fails)
    with pytest.raises(dev.Failed):
        dev.environment("dev")
    monkeypatch.setattr(dev, "call", noting)
    called.clear()
    dev.environment("run")
    assert called != []


def test_servers_that_are_installed_are_used(
    dev: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "missing_packages", list)
    assert dev.servers() is True
    assert called == []


def test_without_apt_the_servers_are_not_promised(
    dev: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev, "missing_packages", lambda: ["redis-server"])
    monkeypatch.setenv("PATH", "/nonexistent")
    assert dev.servers() is False
    assert called == []
    assert "redis-server" in capsys.readouterr().err


def test_an_unknown_command_prints_the_commands() -> None:
    done = subprocess.run([TOP / "dev", "tset"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "./dev test" in done.stderr


def test_what_must_run_can_be_run() -> None:
    assert os.access(TOP / "dev", os.X_OK)
    assert os.access(TOP / ".ci" / "run", os.X_OK)

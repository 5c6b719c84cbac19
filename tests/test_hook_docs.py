"""Every hook is a promise: its docstring names every argument, docs/hooks.md repeats it under a
heading that is its signature, and a test shows when and with what it is called."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit import hookspecs
from tests import test_hooks

MANUAL = Path(__file__).resolve().parent.parent / "docs" / "hooks.md"

HOOKS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in vars(hookspecs).items()
    if inspect.isfunction(function) and hasattr(function, f"{hookspecs.PROJECT}_spec")
}
DESCRIBED = {**HOOKS, "register": hookspecs.Register.__call__}


def signature(name: str, function: Callable[..., Any]) -> str:
    """The hook's call as a heading has it: names and defaults, no types."""
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]
    return f"{name}{inspect.Signature(parameters)}"


def section(name: str, function: Callable[..., Any]) -> str:
    """The hook's section in the manual, made of its docstring."""
    text, *fields = re.split(r"^:", inspect.getdoc(function) or "", flags=re.MULTILINE)
    items = [re.sub(r"^(?:param )?(\w+):\s+(.*)", r"* `\1` - \2", field, flags=re.DOTALL) for field in fields]
    lines = [
        line.replace("``", "`") for line in (text.strip() + "\n\n" + "".join(items)).strip().splitlines()
    ]
    return "\n".join([f"## {signature(name, function)}", "", *lines]).rstrip() + "\n"


def test_there_are_hooks() -> None:
    assert set(HOOKS) >= {"register_resolvers", "resolve", "query_resolved", "startup", "shutdown"}


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_docstring_of_a_hook_names_every_argument(name: str) -> None:
    documented = re.findall(r"^:param (\w+):", inspect.getdoc(DESCRIBED[name]) or "", re.MULTILINE)
    arguments = [argument for argument in inspect.signature(DESCRIBED[name]).parameters if argument != "self"]
    assert documented == arguments


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_manual_says_what_the_docstring_says(name: str) -> None:
    wanted = section(name, DESCRIBED[name])
    assert wanted in MANUAL.read_text(), f"docs/hooks.md lacks:\n\n{wanted}"


def test_the_manual_describes_no_other_hook() -> None:
    headings = re.findall(r"^## (\w+)\(", MANUAL.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(DESCRIBED)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_test_of_its_calls(name: str) -> None:
    assert any(test.startswith(f"test_hook_{name}") for test in vars(test_hooks))


def test_the_plugin_of_the_tests_implements_every_hook() -> None:
    implemented = vars(test_hooks.plugin_that_notes_its_calls([]))
    assert set(HOOKS) - {"resolve"} <= set(implemented), "resolve is a step's, never a plugin's"

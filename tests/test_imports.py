"""Imports point one way, and the slow ones are not made before they are needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tcpmapkit
from tcpmapkit.plugins import BUILT_IN

PACKAGE = Path(tcpmapkit.__file__).parent

# What is in a line may import what stands in its own and in the lines above; nothing may be imported
# from below, and no two modules may import each other, by whatever way.
LAYERS = """
    query errors option seldom
    shown
    resolver protocols
    keys hookspecs markers threads counters breaker cache_store
    template rewriting search
    step_answer step_failures step_log
    step
    chain
    cache ready flight key_search generation plugin_sources plugins
    config
    observing map_log
    maps map_reference
    build build_chain binding built_maps built_step make_resolver http_client
    * resolvers
    service connection connections accepting
    policy_service
    listener_service
    policy_question explain
    server
    site_tests reloaded renewal doubts
    serving handover
    metrics control_state
    merging control
    admin
    serve
    workers
    query_command control_commands stdio bench
    cli testing
"""

#: Where a module stands that the table does not name: what a server is made of, and does not know it.
ELSEWHERE = "*"


def rank(module: str) -> int:
    """The layer of ``tcpmapkit.X`` or of what is below it."""
    top = module.split(".")[1]
    lines = [line.split() for line in LAYERS.strip().splitlines()]
    return next((at for at, line in enumerate(lines) if top in line), -1 if top == "" else elsewhere(lines))


def elsewhere(lines: list[list[str]]) -> int:
    return next(at for at, line in enumerate(lines) if ELSEWHERE in line)


def modules() -> dict[str, Path]:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = ["tcpmapkit", *file.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def for_types_only(tree: ast.Module) -> set[int]:
    """The imports below ``if TYPE_CHECKING``, which are never made."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }


def imports(file: Path, everywhere: bool = True, types: bool = True) -> Iterator[tuple[str, int]]:
    """What a file imports, with the line; also inside functions when `everywhere`, and also what only
    annotations need when `types`."""
    tree = ast.parse(file.read_text())
    left_out = set() if types else for_types_only(tree)
    for node in ast.walk(tree) if everywhere else tree.body:
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module), node.lineno


def test_imports_point_one_way() -> None:
    back = [
        f"{MODULES[module]}:{line}: {module} imports {imported}"
        for module, file in MODULES.items()
        if module != "tcpmapkit"
        for imported, line in imports(file)
        if imported.startswith("tcpmapkit.") and rank(imported) > rank(module)
    ]
    assert not back, "\n".join(back)


def test_no_modules_import_one_another_in_a_circle() -> None:
    reaches = {
        module: {imported for imported, _ in imports(file, types=False) if imported in MODULES}
        - {module, "tcpmapkit"}
        for module, file in MODULES.items()
    }
    while leaves := {module for module, imported in reaches.items() if not imported}:
        reaches = {module: imported - leaves for module, imported in reaches.items() if module not in leaves}
    # A package's own __init__ may gather names of the modules in it, which may import one another.
    assert not {module for module in reaches if module != "tcpmapkit"}, reaches


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("tcpmapkit.resolvers.")])
def test_a_built_in_resolver_imports_what_anyone_elses_may(module: str) -> None:
    own = ".".join(module.split(".")[:3])
    # Shared are files that are known again, how Postfix reads the lines of a table, tables of any size, and
    # what to do with values from elsewhere.
    shared = ("postfix_lines", "remote", "source_file", "table")
    allowed = {own, *(f"tcpmapkit.resolvers.{name}" for name in shared)}
    if own == "tcpmapkit.resolvers.rules":  # whose conditions are the rules of these two
        allowed |= {"tcpmapkit.resolvers.regex", "tcpmapkit.resolvers.cidr"}
    foreign = [
        f"line {line}: {imported}"
        for imported, line in imports(MODULES[module])
        if imported.startswith("tcpmapkit.") and ".".join(imported.split(".")[:3]) not in allowed
    ]
    assert not foreign


def test_only_two_modules_know_pluggy() -> None:
    knowing = {
        module
        for module, file in MODULES.items()
        if any(imported.split(".")[0] == "pluggy" for imported, _ in imports(file))
    }
    assert knowing == {"tcpmapkit.hookspecs", "tcpmapkit.plugins"}


def test_the_leaves_import_attrs_and_nothing_else_of_others() -> None:
    for leaf in ("query", "errors"):
        foreign = {
            imported.split(".")[0]
            for imported, _ in imports(MODULES[f"tcpmapkit.{leaf}"])
            if imported.split(".")[0] not in sys.stdlib_module_names
        }
        assert foreign <= {"attrs"}


@pytest.mark.parametrize(
    "slow",
    [
        *("aiohttp", "dns", "idna", "jmespath", "lmdb", "pcre2", "prometheus_client", "redis", "rich"),
        *("uvloop", "watchfiles"),
    ],
)
def test_a_slow_library_is_not_imported_when_a_module_is(slow: str) -> None:
    eager = [
        f"{file}:{line}"
        for file in MODULES.values()
        for imported, line in imports(file, everywhere=False)
        if imported.split(".")[0] == slow
    ]
    assert not eager


def loaded_by(statement: str, *, whole_names: bool = False) -> set[str]:
    """The modules that a statement loads in a fresh interpreter, by the first part of their names."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=PACKAGE.parent,
    )
    return {name if whole_names else name.split(".")[0] for name in result.stdout.split()}


def test_importing_tcpmapkit_imports_attrs_and_pluggy_only() -> None:
    loaded = loaded_by("import tcpmapkit")
    assert loaded - set(sys.stdlib_module_names) <= {"tcpmapkit", "attr", "attrs", "pluggy"}
    assert "asyncio" not in loaded


def test_loading_the_plugins_imports_no_slow_library() -> None:
    loaded = loaded_by("from tcpmapkit.plugins import BUILT_IN, load_plugins; load_plugins()")
    assert not loaded & {"aiohttp", "dns", "jmespath", "rich", "uvloop"}


def test_a_server_without_admin_imports_nothing_of_it() -> None:
    loaded = loaded_by("import tcpmapkit.serve, tcpmapkit.workers.process, tcpmapkit.workers.parent")
    assert not loaded & {"aiohttp", "prometheus_client"}


#: What a query of tables has no use for: slow libraries, and the parts of the standard library, of
#: which each takes longer to import than a lookup takes.
NOT_FOR_A_TABLE = {
    *("aiohttp", "dns", "idna", "jmespath", "redis", "rich", "uvloop", "yarl"),
    *("ahocorasick_rs", "lmdb", "pcre2", "prometheus_client", "watchfiles"),
    *("email", "importlib.metadata", "json", "sqlite3", "zipfile"),
}

RUN_MAIN = """
from tcpmapkit.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""


@pytest.mark.parametrize(
    ("kind", "options", "needed"),
    [
        ("static", 'entries = { "192.0.2.1" = "b" }', set()),
        ("csv", 'path = "table.csv"', set()),
        ("file", 'path = "table"', set()),
        ("cidr", 'path = "table"', set()),
        ("regex", 'rules = [{ pattern = "^192", result = "b" }]', {"ahocorasick_rs", "pcre2"}),
    ],
)
def test_a_query_of_a_table_imports_what_it_needs_and_no_more(
    kind: str, options: str, needed: set[str], tmp_path: Path
) -> None:
    site = tmp_path / "tcpmapkit.toml"
    site.write_text(f'[maps.asked]\n[[maps.asked.resolvers]]\ntype = "{kind}"\n{options}\n')
    (tmp_path / "table.csv").write_text("from,to\n192.0.2.1,b\n")
    (tmp_path / "table").write_text("192.0.2.1 b\n")
    arguments = ["tcpmapkit", "query", "-c", str(site), "asked", "192.0.2.1"]
    loaded = loaded_by(f"sys.argv = {arguments}; exec({RUN_MAIN!r})", whole_names=True)
    assert f"tcpmapkit.resolvers.{kind}" in loaded
    others = {f"tcpmapkit.resolvers.{other}" for other in BUILT_IN if other != kind}
    assert loaded & (others | NOT_FOR_A_TABLE) <= needed


# Nothing but protocols/ knows what is sent.

_ON_THE_WIRE = re.compile(r"^[245]00(?:[ %]|$)|not%20found|^NOTFOUND\b|^(?:OK|TEMP|PERM|TIMEOUT) ?$|^action=")


def texts(file: Path) -> Iterator[tuple[str, int]]:
    """The text constants of a file, docstrings excepted."""
    tree = ast.parse(file.read_text())
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            if isinstance(node.value, bytes):
                yield node.value.decode("latin-1"), node.lineno
            elif isinstance(node.value, str):
                yield node.value, node.lineno


def test_digits_and_status_words_live_in_protocols_alone() -> None:
    knowing = [
        f"{file}:{line}: {text!r}"
        for module, file in MODULES.items()
        if not module.startswith("tcpmapkit.protocols")
        for text, line in texts(file)
        if _ON_THE_WIRE.search(text)
    ]
    assert not knowing, "\n".join(knowing)


def test_the_protocols_do_know_them() -> None:
    assert any(_ON_THE_WIRE.search(text) for text, _ in texts(MODULES["tcpmapkit.protocols.tcp_table"]))


def test_every_layer_of_the_table_is_there() -> None:
    named = set(LAYERS.split()) - {ELSEWHERE, "__main__"}
    assert named <= {module.split(".")[1] for module in MODULES if "." in module}


def test_no_module_is_longer_than_300_lines() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}

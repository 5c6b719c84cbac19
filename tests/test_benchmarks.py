"""The benchmarks run and notice what is wrong; how fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import benchmarks.__main__
from benchmarks import replacing
from benchmarks.__main__ import main
from benchmarks.aims import aims
from benchmarks.contenders import CACHED, CHAIN, TWISTED, Contender
from benchmarks.data import KEYS, rows, tcp_questions, write_questions
from benchmarks.large import Large
from benchmarks.layers import Layer
from benchmarks.postmap import IN_PROCESS, Asked
from benchmarks.processes import Process, pinned, running
from benchmarks.programs import NoCompiler, Programs, compile_programs
from benchmarks.replacing import Replaced
from benchmarks.report import Report, read_report, write_report
from benchmarks.rounds import Cell, run_load
from benchmarks.startup import Startup
from tcpmapkit.protocols.tcp_table import encode, quote
from tcpmapkit.query import Found, NotFound


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    try:
        return compile_programs(tmp_path_factory.mktemp("programs"))
    except NoCompiler as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def reference(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    table = tmp_path_factory.mktemp("table") / "wire"
    table.write_bytes(b"".join(quote(key) + b" " + quote(value) + b"\n" for key, value in rows()))
    with running([programs.reference, "0", table]) as process:
        yield process


def load(
    programs: Programs, reference: Process, place: Path, questions: Any, *limits: str
) -> subprocess.CompletedProcess[str]:
    asked = write_questions(place / "questions", questions)
    command = [programs.load, str(reference.ports[0]), *limits, asked]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("connections", ["1", "7", "64"])
def test_the_load_asks_as_often_as_it_is_told_and_checks_every_reply(
    programs: Programs, reference: Process, tmp_path: Path, connections: str
) -> None:
    done = load(programs, reference, tmp_path, tcp_questions(), connections, "0", str(3 * KEYS), "100")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["requests"] == 3 * KEYS
    assert 0 < told["p50"] <= told["p90"] <= told["p99"] <= told["p999"] <= told["max"]


@pytest.mark.parametrize(
    "expected",
    [b"200 other\n", b"500 not%20found\n", encode(Found("v" * 200)), b"2", encode(Found("x"))[:-1]],
    ids=["another value", "not found", "a longer one", "less", "no newline"],
)
def test_a_reply_other_than_the_one_expected_ends_the_load(
    programs: Programs, reference: Process, tmp_path: Path, expected: bytes
) -> None:
    questions = tcp_questions()
    questions[700] = (questions[700][0], expected)
    done = load(programs, reference, tmp_path, questions, "8", "0", str(2 * KEYS), "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "wrong reply to get first.last700@example.org" in done.stderr


def test_the_reference_knows_what_is_in_its_table_only(
    programs: Programs, reference: Process, tmp_path: Path
) -> None:
    unknown = [
        (b"get nobody@example.org\n", encode(NotFound())),
        (b"put a b\n", b"400 malformed%20request\n"),
    ]
    done = load(programs, reference, tmp_path, unknown, "2", "0", "100", "0")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_that_goes_wrong_says_whose_it_was(
    programs: Programs, reference: Process, tmp_path: Path
) -> None:
    questions = write_questions(tmp_path / "questions", [(b"get k\n", b"200 v\n")])
    contender = Contender("somebody", reference, reference.ports[0], questions)
    with pytest.raises(RuntimeError, match="somebody, 2 connections: load: wrong reply to get k"):
        run_load(programs, contender, 2, seconds=0.1)


def test_without_a_compiler_the_run_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert main(["--trial", "--output", str(tmp_path / "page")]) == 1
    assert "no C compiler" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_what_is_pinned_runs_on_that_core_alone() -> None:
    core = max(os.sched_getaffinity(0))
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    command = [*pinned(core), sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"[{core}]\n"


OTHER_PARTS = ["waiting", "postmap", "large", "replacing", "layers", "startup"]


@pytest.mark.usefixtures("programs")
def test_a_tiny_run_writes_the_table_and_the_plots(tmp_path: Path) -> None:
    page = tmp_path / "page"
    given = ["--trial", "--only", ", cached", "--skip", *OTHER_PARTS, "--output", str(page)]
    assert main(given) == 0
    table = (page / "README.md").read_text()
    ours = ("cached, tcp_table", "cached, socketmap", "log and metrics on, cached")
    measured = ("C reference", *(f"tcpmapkit, {name}" for name in ours))
    for name in measured:
        assert f"| {name} | " in table
    assert "| Twisted" not in table
    cells = json.loads((page / "results.json").read_text())["cells"]
    found = {(cell["contender"], cell["connections"]) for cell in cells}
    assert found == {(name, connections) for name in measured for connections in (1, 8)}
    assert all(run["requests"] > 0 for cell in cells for run in cell["runs"])
    for theme in ("light", "dark"):
        drawn = ElementTree.parse(page / f"ratio-{theme}.svg").getroot()
        assert "tcpmapkit, cached, socketmap" in [text.text for text in drawn.iter() if text.text]


@pytest.mark.usefixtures("programs")
def test_tables_and_layers_are_measured_without_the_servers(tmp_path: Path) -> None:
    page = tmp_path / "page"
    skipped = ["servers", "waiting", "postmap", "replacing", "startup"]
    assert main(["--trial", "--rows", "1000", "--skip", *skipped, "--output", str(page)]) == 0
    results = json.loads((page / "results.json").read_text())
    assert {table["kind"]: bool(table["disk"]) for table in results["large"]} == {
        "file, in memory": False,
        "csv, in memory": False,
        "file, index": True,
        "csv, index": True,
    }
    assert all(cost > 0 for layer in results["layers"] for cost in layer["costs"])
    text = (page / "README.md").read_text()
    assert "## Big tables" in text
    assert "## What each layer costs" in text
    assert "Not measured: servers: left out." in text


@pytest.mark.usefixtures("programs")
def test_parts_that_are_left_out_can_stay_as_they_were(tmp_path: Path) -> None:
    how = {"command": "`./dev bench`", "system": "Linux 1"}
    large, layers = [Large("csv, index", 9, 1, 2, 3, 4, 5, 6)], [Layer("a request read", (1.0, 2.0))]
    before = Report(how, [], [], None, [], large, [], [], layers, {"Twisted": "missing"})
    write_report(before, tmp_path)
    assert main(["--trial", "--keep", "--skip", "servers", *OTHER_PARTS, "--output", str(tmp_path)]) == 0
    after = read_report(tmp_path)
    assert (after.large, after.layers) == (large, layers)
    assert after.missing == {}
    kept = "servers, waiting, postmap, large, replacing, layers, startup"
    text = (tmp_path / "README.md").read_text()
    assert f"* kept: {kept}: of a run before, `./dev bench` on Linux 1" in text


@pytest.mark.usefixtures("programs")
def test_what_others_wait_while_a_table_is_replaced_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "_ALONE", 0.1)
    monkeypatch.setattr(replacing, "_AFTER", 0.1)
    monkeypatch.setattr(
        replacing, "_KINDS", {name: replacing._KINDS[name] for name in ("csv, index", "pcre")}
    )
    monkeypatch.setattr(benchmarks.__main__, "_REPLACED", dict.fromkeys(replacing._KINDS, 1))
    page = tmp_path / "page"
    skipped = ["servers", *(part for part in OTHER_PARTS if part != "replacing")]
    assert main(["--trial", "--skip", *skipped, "--output", str(page)]) == 0
    found = json.loads((page / "results.json").read_text())["replaced"]
    assert {one["kind"] for one in found} == set(replacing._KINDS)
    assert all(0 < one["p999"] <= one["max"] and one["taken"] > 0 for one in found)
    assert "## While a table is replaced" in (page / "README.md").read_text()


def _cell(contender: str, ratio: float, p99: float) -> Cell:
    return Cell(contender, 64, (), (ratio,), (ratio,), (p99,))


def test_what_falls_short_is_said_with_the_reason() -> None:
    cells = [_cell(CACHED, 0.60, 2), _cell(CHAIN, 0.37, 3), _cell(TWISTED, 0.18, 4)]
    asked = [
        Asked("pcre", 10, "Postfix itself", (0.5,)),
        Asked("pcre", 10, IN_PROCESS, (1.5,)),
        Asked("pcre", 10_000, "Postfix itself", (500.0,)),
        Asked("pcre", 10_000, IN_PROCESS, (5.0,)),
    ]
    startups = [Startup("query, CPU", (0.08, 0.09), 0.1)]
    replaced = [Replaced("cidr", 9, 1, 2, 3, 12_000, 1), Replaced("pcre", 9, 1, 2, 3, 21_000, 1)]
    found = {aim.what: bool(aim.why) for aim in aims(cells, asked, replaced, startups)}
    assert found == {
        f"{CACHED}, 64 connections: throughput / C": False,
        f"{CHAIN}, 64 connections: throughput / C": True,
        f"{CACHED}, 64 connections: throughput / Twisted": False,
        f"{CHAIN}, 64 connections: throughput / Twisted": True,
        f"{CACHED}, 64 connections: p99 / C": False,
        f"{CHAIN}, 64 connections: p99 / C": True,
        "pcre, 10 rows: microseconds, at most Postfix's own": True,
        "pcre, 10000 rows: microseconds, at most Postfix's own": False,
        "cidr, 9 rows replaced: milliseconds that others wait": False,
        "pcre, 9 rows replaced: milliseconds that others wait": True,
        "query, CPU: seconds more than the libraries": False,
    }

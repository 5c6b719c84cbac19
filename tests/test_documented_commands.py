"""Every console block of the documents is run, and prints what stands there.

A document's blocks are run in their order in a directory with the annotated default, its examples and
the blocks that are files; the ports are free ones, put in the place of those that the documents name.
The server that a ``run`` starts goes on until the document's end.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.documents import DOCUMENTS, TOP, Block, blocks, write_files
from tests.real_postfix import Postfix

#: What a test cannot run: it runs the tests.
NOT_RUN = {"./dev test"}

#: The ports of the documents.
PORTS = ("4242", "4243", "4244")

WITH_CONSOLE = [document for document in DOCUMENTS if blocks(document, "console")]


@attrs.frozen
class Command:
    """A line after ``$``, and what it prints."""

    line: str
    output: str

    @property
    def serves(self) -> bool:
        return re.match(r"(\./dev|tcpmapkit) run\b", self.line) is not None


def commands(block: Block) -> list[Command]:
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.MULTILINE)
    assert parts[0] == "", f"{block}: output before the first command"
    return [Command(*pair) for pair in zip(parts[1::2], parts[2::2], strict=True)]


def steady(output: str) -> str:
    """Output without what differs from run to run."""
    output = re.sub(r"\d+\.\d+ (ms|us|s)\b", r"0.00 \1", output)
    return re.sub(r"\b\d+ a second", "0 a second", output)


def free_ports(number: int) -> list[str]:
    """Ports where nobody listens, below those that the system gives to outgoing connections."""
    found: list[str] = []
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(str(port))
        if len(found) == number:
            return found
    raise AssertionError("no free port")


def script(file: Path, *lines: str) -> None:
    file.write_text("\n".join(("#!/bin/sh", *lines, "")))
    file.chmod(0o755)


class Sandbox:
    """A directory where commands are run as an administrator types them."""

    def __init__(self, directory: Path) -> None:
        self.place = directory / "checkout"
        self.programs = directory / "bin"
        self.programs.mkdir()
        shutil.copytree(TOP / "examples", self.place / "examples")
        shutil.copy(TOP / "tcpmapkit.toml", self.place)
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.servers: list[subprocess.Popen[str]] = []
        installed = Path(sys.executable).with_name("tcpmapkit")
        assert installed.exists(), "the package is not installed in this environment"
        script(self.programs / "tcpmapkit", f'exec "{installed}" "$@"')
        script(self.place / "dev", f'exec "{installed}" "$@"')

    def add_postfix(self, postfix: Postfix) -> None:
        environment = [f'export {name}="{value}"' for name, value in postfix.environment.items()]
        postmap = f'exec "{postfix.programs / "postmap"}" -c "{postfix.configuration}" "$@"'
        script(self.programs / "postmap", *environment, postmap)

    def with_free_ports(self) -> None:
        """Put the free ports into the configurations."""
        for file in self.place.glob("*.toml"):
            file.write_text(self.to_ours(file.read_text()))

    def to_ours(self, text: str) -> str:
        return re.sub(r"(?<!\d)424[234](?!\d)", lambda match: self.ports[match[0]], text)

    def to_documents(self, text: str) -> str:
        for port, ours in self.ports.items():
            text = re.sub(rf"(?<!\d){ours}(?!\d)", port, text)
        return text

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.programs}:{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}

    def run(self, lines: list[str]) -> list[str]:
        """What each line prints, errors included, in one shell."""
        # $? must be what the reader of the transcript thinks it is.
        text = "".join(f"{line}\nstatus=$?; printf '\\001'; (exit $status)\n" for line in lines)
        done = subprocess.run(
            ["/bin/sh", "-c", f"exec 2>&1\n{self.to_ours(text)}"],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        return self.to_documents(done.stdout.decode()).split("\1")[:-1]

    def serve(self, command: Command) -> str:
        """Start a server; its first lines, as many as the document has."""
        with (self.place / "log").open("w") as log:
            server = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command.line}"],
                cwd=self.place,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.servers.append(server)
        assert server.stdout is not None
        printed = "".join(server.stdout.readline() for _ in command.output.splitlines())
        assert printed, (self.place / "log").read_text()
        return self.to_documents(printed)

    def stop(self) -> list[int]:
        """Stop the servers; their exit statuses."""
        for server in self.servers:
            server.terminate()
        statuses = []
        for server in self.servers:
            try:
                server.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.communicate()
            statuses.append(server.returncode)
        self.servers.clear()
        return statuses


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize("document", WITH_CONSOLE, ids=lambda document: str(document.relative_to(TOP)))
def test_a_transcript_is_what_happens(
    document: Path, sandbox: Sandbox, request: pytest.FixtureRequest
) -> None:
    console = blocks(document, "console")
    if any("$ postmap " in block.text for block in console):
        sandbox.add_postfix(request.getfixturevalue("postfix"))
    write_files(document, sandbox.place)
    sandbox.with_free_ports()
    for block in console:
        asked = [command for command in commands(block) if command.line not in NOT_RUN]
        if any(command.serves for command in asked):
            [command] = asked
            assert sandbox.serve(command) == command.output, block
            continue
        printed = sandbox.run([command.line for command in asked])
        told = [Command(one.line, steady(text)) for one, text in zip(asked, printed, strict=True)]
        assert told == [Command(one.line, steady(one.output)) for one in asked], block
    assert set(sandbox.stop()) <= {0}, "a server that was told to stop says that it did"


def test_the_readme_and_the_manual_have_transcripts_and_only_the_tests_are_not_run() -> None:
    assert {TOP / "README.md", TOP / "docs" / "commands.md"} <= set(WITH_CONSOLE)
    lines = [
        command.line
        for document in WITH_CONSOLE
        for block in blocks(document, "console")
        for command in commands(block)
    ]
    assert set(lines) >= NOT_RUN
    assert any(line.startswith("postmap -q ") for line in lines)

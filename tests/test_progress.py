"""What whoever waits for a large table sees, and what the server does with its tables before it answers."""

from __future__ import annotations

import asyncio
import gc
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmapkit.serve import serve
from tcpmapkit.site import open_site

COMMAND = [sys.executable, "-c", "from tcpmapkit.cli import main; main()"]

MAPS = """\
[[maps.aliases.resolvers]]
type = "file"
path = "aliases"
index = "disk"

[[maps.users.resolvers]]
type = "csv"
path = "users[bold].csv"
index = "disk"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "aliases").write_text("a@example.org b@example.org\n")
    (tmp_path / "users[bold].csv").write_text("k,v\na@example.org,b@example.org\n")
    path = tmp_path / "tcpmapkit.toml"
    path.write_text(MAPS)
    return path


def told(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CACHE_DIRECTORY": "/nonexistent"}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=environment)


def test_without_a_terminal_a_line_says_that_an_index_is_built_once(site: Path) -> None:
    first = told("check", "-c", site)
    assert sorted(first.stderr.splitlines()) == [
        f"{site}: 2 maps, 0 tests passed",
        "building the index of aliases",
        "building the index of users[bold].csv",
    ]
    asked = told("query", "-c", site, "users", "A@example.org")
    assert (asked.stdout, asked.stderr) == ("b@example.org\n", "")


def test_query_says_so_too_and_builds_what_it_asks_only(site: Path) -> None:
    asked = told("query", "-c", site, "aliases", "a@example.org")
    assert (asked.stdout, asked.stderr) == ("b@example.org\n", "building the index of aliases\n")


def test_a_terminal_shows_a_bar_for_each_table_and_wipes_it_off(site: Path) -> None:
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"there is no terminal to be had: {error}")
    environment = os.environ | {"CACHE_DIRECTORY": "/nonexistent", "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([*COMMAND, "check", "-c", site], stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # EIO: nobody has the other end any more
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "index of aliases" in text
    assert "index of users[bold].csv" in text
    assert text.rstrip().replace("\r", "\n").splitlines()[-1] == f"{site}: 2 maps, 0 tests passed"


async def test_tables_are_out_of_the_garbage_collectors_way_while_they_are_served(site: Path) -> None:
    site.write_text(
        MAPS.replace('"disk"', '"memory"')
        + '[[listeners]]\nprotocol = "tcp_table"\nendpoint = "inet:127.0.0.1:0"\nmap = "aliases"\n'
    )
    frozen = []

    def ready(listeners: object) -> None:
        frozen.append(gc.get_freeze_count())
        signal.raise_signal(signal.SIGTERM)

    gc.unfreeze()
    async with asyncio.timeout(30):
        await serve(open_site(site), ready)
    assert frozen[0] > 0
    assert gc.get_freeze_count() == 0

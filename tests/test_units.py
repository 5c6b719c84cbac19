"""What is shipped for systemd: the units are right, confined, and fit to what the server does."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmapkit.config import ServerConfig
from tcpmapkit.handover import MOST_LEFT
from tcpmapkit.inherited import STORED
from tcpmapkit.process import OTHER_FILES
from tcpmapkit.site import DEFAULT_FILES
from tests.documents import TOP, Block, blocks
from tests.real_postfix import environment_for, find_program, missing_server

UNITS = TOP / "packaging" / "systemd"
SERVICE = UNITS / "tcpmapkit.service"
SOCKETS = sorted(UNITS.glob("*.socket"))

#: systemd's own scale from 0 to 10: how much a service could do that was taken over. 2 and less is "OK".
MOST_EXPOSED = 2.0


class Unit(configparser.RawConfigParser):
    """A unit file: the values of each option in the order of the file."""

    def __init__(self, file: Path) -> None:
        super().__init__(strict=False, interpolation=None, comment_prefixes=("#", ";"))
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.text = file.read_text()
        self.read_string(self.text)

    def values(self, option: str) -> list[str]:  # type: ignore[override]
        return re.findall(rf"^{option}=(.*)$", self.text, re.MULTILINE)


def systemd(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found = find_program(program)
    if found is None:
        missing_server(f"systemd is not installed: no {program}")
    done = subprocess.run(
        [found, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment_for(found),
        check=False,
    )
    if "/run/systemd" in done.stderr and "Permission denied" in done.stderr:
        pytest.skip("systemd-analyze wants /run/systemd, which is not there, and only root can make it")
    return done


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units on a machine where the program is what they say."""
    place = tmp_path / "units"
    place.mkdir()
    for file in (SERVICE, *SOCKETS):
        text = file.read_text().replace("/usr/bin/tcpmapkit", shutil.which("true") or "/bin/true")
        (place / file.name).write_text(text)
    return place


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    done = systemd("systemd-analyze", "verify", "--man=no", *sorted(units.iterdir()))
    assert (done.returncode, [line for line in done.stderr.splitlines() if "tcpmapkit" in line]) == (0, [])


def test_the_service_is_confined(units: Path) -> None:
    done = systemd("systemd-analyze", "security", "--offline=true", "--no-pager", units / "tcpmapkit.service")
    exposure = re.search(r"exposure level for tcpmapkit.service: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= MOST_EXPOSED, done.stdout


def test_the_service_can_do_what_the_server_does() -> None:
    unit = Unit(SERVICE)
    assert int(unit["Service"]["LimitNOFILE"]) >= ServerConfig().max_connections + OTHER_FILES
    assert float(unit["Service"]["TimeoutStopSec"].removesuffix("s")) > ServerConfig().grace
    most = int(unit["Service"]["FileDescriptorStoreMax"])
    assert most == MOST_LEFT
    assert most * len(f"{STORED}:") < 65536, "execve(2) takes no variable of more than 131072 bytes"
    allowed = unit.values("SystemCallFilter")
    assert allowed[-1].split() == ["@chown", "setpriority"], (
        "what is taken away before is given back only after it"
    )
    families = set(unit["Service"]["RestrictAddressFamilies"].split())
    assert families == {"AF_UNIX", "AF_INET", "AF_INET6"}
    for command in (unit["Service"]["ExecStart"], unit["Service"]["ExecReload"]):
        assert command.endswith(f" -c {DEFAULT_FILES[-1]}")


UNDER_MDWE = """
import ctypes, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(99)
from tcpmapkit.cli import main
main()
"""


def test_patterns_and_the_rest_run_where_no_memory_becomes_executable(tmp_path: Path) -> None:
    # MemoryDenyWriteExecute=yes; PCRE2 with its JIT compiler would find no memory.
    (tmp_path / "tcpmapkit.toml").write_text(
        "[[maps.m.resolvers]]\ntype = 'regex'\nrules = [{ pattern = '^(a+)b$', result = 'x${1}' }]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", UNDER_MDWE, "query", "-c", tmp_path / "tcpmapkit.toml", "m", "aab"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=UNITS.parent.parent,
        check=False,
    )
    if done.returncode == 99:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert (done.stdout, done.stderr, done.returncode) == ("xaa\n", "", 0)


def test_a_mistake_in_the_configuration_is_not_tried_again() -> None:
    assert Unit(SERVICE)["Service"]["RestartPreventExitStatus"] == str(os.EX_CONFIG)


DOCUMENTED = blocks(TOP / "docs" / "deployment.md", "ini")


@pytest.mark.parametrize("block", DOCUMENTED, ids=lambda block: block.name)
def test_systemd_understands_what_the_documents_add(block: Block, units: Path) -> None:
    place = units / block.name
    place.parent.mkdir(exist_ok=True)
    place.write_text(block.text)
    done = systemd("systemd-analyze", "verify", "--man=no", units / "tcpmapkit.service")
    complaints = [line for line in done.stderr.splitlines() if "tcpmapkit" in line]
    if "notify-reload" in block.text and find_version() < 253:
        assert any("notify-reload" in line for line in complaints)
        return
    assert (done.returncode, complaints) == (0, [])


def find_version() -> int:
    said = re.match(r"systemd (\d+)", systemd("systemd-analyze", "--version").stdout)
    assert said is not None
    return int(said[1])


def test_the_documented_score_is_the_one_there_is() -> None:
    done = systemd("systemd-analyze", "security", "--offline=true", "--no-pager", SERVICE)
    documented = (TOP / "docs" / "deployment.md").read_text()
    said = re.search(r"says ([\d.]+) of 10", documented)
    shown = re.search(r"exposure level for tcpmapkit.service: ([\d.]+)", done.stdout)
    assert said is not None
    assert shown is not None
    # A newer systemd looks at more.
    assert abs(float(said[1]) - float(shown[1])) <= 0.3


@pytest.mark.parametrize("file", SOCKETS, ids=lambda file: file.name)
def test_sockets_listen_where_only_this_host_or_postfix_connects(file: Path) -> None:
    unit = Unit(file)
    places = unit.values("ListenStream")
    assert places
    for place in places:
        assert place.startswith(("127.0.0.1:", "/var/spool/postfix/"))
    if any(place.startswith("/") for place in places):
        assert unit["Socket"]["SocketGroup"] == "postfix"
        assert unit["Socket"]["SocketMode"] == "0660"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes users and gives directories away")
def test_the_user_and_the_directories_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "group").write_text("root:x:0:\npostfix:x:123:\n")
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    made = systemd("systemd-sysusers", f"--root={tmp_path}", UNITS / "tcpmapkit.sysusers.conf")
    assert made.returncode == 0, made.stderr
    _, _, uid, gid, *_ = (tmp_path / "etc" / "passwd").read_text().splitlines()[1].split(":")
    made = systemd("systemd-tmpfiles", "--create", f"--root={tmp_path}", UNITS / "tcpmapkit.tmpfiles.conf")
    assert made.returncode == 0, made.stderr
    for name, mode, user, group in (
        ("etc/tcpmapkit", 0o750, 0, int(gid)),
        ("var/spool/postfix/tcpmapkit", 0o2750, int(uid), 123),
    ):
        status = (tmp_path / name).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, user, group), name

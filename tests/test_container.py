"""The image and what runs it, as far as that can be told where nothing builds one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tcpmapkit.cli import main
from tcpmapkit.config import ServerConfig
from tcpmapkit.process import OTHER_FILES
from tcpmapkit.site import DEFAULT_FILES

TOP = Path(__file__).resolve().parent.parent
DOCKER = TOP / "packaging" / "docker"
DOCKERFILE = DOCKER / "Dockerfile"

Instruction = tuple[str, str]


def instructions() -> list[list[Instruction]]:
    """The instructions of each stage; those before the first FROM are a stage without one."""
    lines = (line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[list[Instruction]] = [[]]
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest.strip()))
    return stages


BUILD, IMAGE = instructions()[1:]


def said(word: str, stage: list[Instruction] = IMAGE) -> list[str]:
    return [rest for name, rest in stage if name == word]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_holds_what_was_installed_and_no_source() -> None:
    assert said("COPY") == ["--from=build /opt/tcpmapkit /opt/tcpmapkit"]
    assert "ADD" not in {word for stage in instructions() for word, _ in stage}
    assert not [rest for rest in said("RUN") if re.search(r"\b(pip|apt-get|curl|wget)\b", rest)]


def test_everything_that_is_installed_is_pinned_by_its_hash() -> None:
    installs = [rest for rest in said("RUN", BUILD) if "pip" in rest and " install " in rest]
    fetching = [rest for rest in installs if "--no-deps --no-build-isolation ." not in rest]
    assert len(installs) == 2
    assert all("--require-hashes -r requirements/run.txt" in rest for rest in fetching)


def test_what_only_builds_is_left_out_and_nothing_that_runs_is() -> None:
    (uninstall,) = (rest for rest in said("RUN", BUILD) if " uninstall " in rest)
    removed = set(shlex.split(uninstall.partition(" uninstall -y ")[2]))
    assert "hatchling" in removed
    for project in (TOP, *(TOP / "plugins").glob("*/")):
        if (project / "pyproject.toml").exists():
            needed = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
            assert not removed & {re.split(r"[^\w.-]", one)[0] for one in needed}


def test_it_is_not_root_and_can_be_seen_not_to_be() -> None:
    (user,) = said("USER")
    uid, gid = user.split(":")
    assert (uid + gid).isdecimal()
    assert uid != "0"
    assert f"install -d -o {uid} -g {gid} " in said("RUN")[0]
    # Nobody takes the user back.
    assert [word for word, _ in IMAGE][-1] == "CMD"


def test_its_commands_are_commands() -> None:
    (entry,), (command,), (health,) = said("ENTRYPOINT"), said("CMD"), said("HEALTHCHECK")
    asked = json.loads(health.partition(" CMD ")[2])
    for words in (json.loads(entry) + json.loads(command), asked):
        program, name, *rest = words
        assert program == "tcpmapkit"
        assert name in main.commands
        assert rest[-2:] == ["-c", str(DEFAULT_FILES[-1])]
        assert rest[:-2] == (["--ready"] if name == "status" else [])
    assert said("STOPSIGNAL") == ["SIGTERM"]


def kept(path: str) -> bool:
    """Whether a file of the checkout is sent to the builder: the last line that fits decides."""
    lines = (TOP / ".dockerignore").read_text().splitlines()
    keep = True
    for line in filter(None, lines):
        if line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = Path(path).parts
        tails = ["/".join(parts[at:end]) for at in range(len(parts)) for end in range(at + 1, len(parts) + 1)]
        heads = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        tried = tails if pattern.startswith("**/") else heads
        if any(fnmatch(one, pattern.removeprefix("**/")) for one in tried):
            keep = line.startswith("!")
    return keep


def test_the_builder_gets_what_the_wheel_is_made_of_and_nothing_else() -> None:
    hatch = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    needed = [
        *hatch["wheel"]["shared-data"],
        "requirements/run.txt",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ]
    needed += ["tcpmapkit/cli.py", "plugins/tcpmapkit-redis/pyproject.toml"]
    for path in needed:
        assert (TOP / path).exists(), path
        assert kept(path), path
    for path in (".git/config", ".venv/x", "tests/x.py", "plugins/tcpmapkit-redis/tests/x.py", "secret.toml"):
        assert not kept(path), path
    assert not kept("tcpmapkit/__pycache__/cli.cpython-313.pyc")


# Beside Postfix.


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return loaded


def test_the_service_is_confined_and_has_what_it_needs(compose: dict[str, Any]) -> None:
    service = compose["services"]["tcpmapkit"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DOCKERFILE)
    assert float(service["stop_grace_period"].removesuffix("s")) > ServerConfig().grace
    assert service["ulimits"]["nofile"] >= ServerConfig().max_connections + OTHER_FILES
    place, _, options = service["tmpfs"][0].partition(":")
    (user,) = said("USER")
    assert options.startswith("uid={},gid={}".format(*user.split(":")))
    admin = tomllib.loads((DOCKER / "tcpmapkit.toml").read_text())["admin"]["endpoint"]
    assert Path(admin.removeprefix("unix:")).parent == Path(place)


def test_only_the_network_of_the_containers_may_connect(compose: dict[str, Any]) -> None:
    (listener,) = tomllib.loads((DOCKER / "tcpmapkit.toml").read_text())["listeners"]
    (network,) = compose["networks"]["mail"]["ipam"]["config"]
    assert network["subnet"] in listener["allow"]
    host, port = listener["endpoint"].removeprefix("inet:").split(":")
    assert host == "0.0.0.0"
    address = compose["services"]["tcpmapkit"]["networks"]["mail"]["ipv4_address"]
    assert f"socketmap:inet:{address}:{port}:aliases" in (DOCKER / "compose.yaml").read_text()
    assert any(port in ports.split() for ports in said("EXPOSE"))


def test_the_mounted_configuration_is_right() -> None:
    done = CliRunner().invoke(main, ["check", "-c", str(DOCKER / "tcpmapkit.toml")])
    assert done.exit_code == 0, done.stderr

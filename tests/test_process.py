"""Open files and privileges, each in a process of its own."""

from __future__ import annotations

import grp
import json
import os
import pwd
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit.errors import ConfigError
from tcpmapkit.process import OTHER_FILES, drop_privileges

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
HOME = Path(__file__).parent.parent


def in_a_process(code: str) -> Any:
    """What `code` prints as JSON, run in a new process with what it needs imported."""
    prelude = """\
        import json, logging, os, resource, sys
        from tcpmapkit.process import OTHER_FILES, StartError, drop_privileges, limit_connections
        logging.basicConfig(format="%(message)s")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    )
    assert done.returncode == 0, done.stderr
    return [*json.loads(done.stdout), done.stderr.strip()]


def limited(soft: int, hard: int, wanted: int, *, written: bool) -> Any:
    """The connections allowed, or the refusal; the soft limit afterwards; what was logged."""
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if highest != resource.RLIM_INFINITY and highest < hard:
        pytest.skip(f"the hard limit on open files is below {hard}")
    return in_a_process(f"""
        resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
        try:
            allowed = limit_connections({wanted}, written={written})
        except StartError as error:
            allowed = str(error)
        print(json.dumps([allowed, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
    """)


def test_the_soft_limit_is_raised_to_what_is_needed_and_no_further() -> None:
    assert limited(300, 4000, 1000, written=True) == [1000, 1000 + OTHER_FILES, ""]


def test_a_limit_that_is_high_enough_is_left_alone() -> None:
    assert limited(3000, 4000, 1000, written=True) == [1000, 3000, ""]


def test_a_hard_limit_below_what_the_operator_asked_for_is_refused() -> None:
    refusal, _, log = limited(300, 1000, 1000, written=True)
    assert refusal.startswith(
        f"max_connections = 1000 needs {1000 + OTHER_FILES} open files, and the limit is 1000"
    )
    assert log == ""


def test_the_default_gives_way_to_the_hard_limit_with_a_warning() -> None:
    allowed, soft, log = limited(300, 1000, 10_000, written=False)
    assert (allowed, soft) == (500, 1000)
    assert log == "the limit on open files is 1000: at most 500 connections instead of 10000"


def test_a_hard_limit_that_leaves_nothing_is_refused() -> None:
    assert "raise LimitNOFILE" in limited(100, 200, 10_000, written=False)[0]


def become(user: str | None, group: str | None) -> Any:
    return in_a_process(f"""
        try:
            drop_privileges({user!r}, {group!r})
            problem = None
        except StartError as error:
            problem = str(error)
        print(json.dumps([problem, os.getresuid(), os.getresgid(), sorted(os.getgroups())]))
    """)


@AS_ROOT
def test_privileges_are_dropped_for_good_with_the_supplementary_groups() -> None:
    nobody = pwd.getpwnam("nobody")
    groups = sorted(os.getgrouplist("nobody", nobody.pw_gid))
    assert become("nobody", None) == [None, [nobody.pw_uid] * 3, [nobody.pw_gid] * 3, groups, ""]


@AS_ROOT
def test_a_group_that_is_named_is_the_only_one() -> None:
    nobody, daemon = pwd.getpwnam("nobody"), grp.getgrnam("daemon")
    assert become("nobody", "daemon") == [None, [nobody.pw_uid] * 3, [daemon.gr_gid] * 3, [daemon.gr_gid], ""]


@AS_ROOT
def test_a_number_without_an_entry_is_a_user_too() -> None:
    assert become("54321", "54322") == [None, [54321] * 3, [54322] * 3, [54322], ""]


@AS_ROOT
def test_root_without_a_user_is_warned_about() -> None:
    *_, log = become(None, None)
    assert log == "running as root: set user in [server]"


@AS_ROOT
def test_nobody_cannot_become_somebody_else() -> None:
    assert in_a_process("""
        drop_privileges("nobody", None)
        drop_privileges("nobody", None)
        try:
            drop_privileges("daemon", None)
        except StartError as error:
            print(json.dumps([str(error)]))
    """) == ["cannot become user daemon: not started as root", ""]


@pytest.mark.parametrize(
    ("user", "group", "message", "option"),
    [
        ("no-such-user", None, "there is no user 'no-such-user'", "user"),
        (None, "no-such-group", "there is no group 'no-such-group'", "group"),
        (str(2**32 - 1), None, "there is no user '4294967295'", "user"),
        ("54321", None, "user 54321 has no entry, so a group is needed", "user"),
    ],
)
def test_a_user_or_group_that_does_not_exist_is_a_mistake_in_the_configuration(
    user: str | None, group: str | None, message: str, option: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        drop_privileges(user, group)
    assert caught.value.path == ("server", option)

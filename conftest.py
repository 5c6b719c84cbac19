"""What the tests of the core and of every shipped plugin share: both event loops, the real servers.

An async test runs on asyncio and on uvloop; one that needs a single loop says so:
``@pytest.mark.asyncio(loop_factories=["uvloop"])``.

A missing server skips its tests, and the run ends by naming them. With ``TCPMAPKIT_TESTS_NEED_SERVERS=1``
in the environment (`./dev test` sets it wherever it can install the servers) they fail instead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.private_postfix import PrivatePostfix, running_postfix
from tests.real_postfix import Postfix, find_program, missing_server
from tests.real_redis import RedisServer, running_redis

try:
    from uvloop import new_event_loop as new_uvloop
except ImportError:

    def new_uvloop() -> asyncio.AbstractEventLoop:  # type: ignore[misc]
        pytest.skip("uvloop is not installed")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": new_uvloop}


@pytest.fixture(scope="session")
def postfix(tmp_path_factory: pytest.TempPathFactory) -> Postfix:
    """The real Postfix; see `tests.real_postfix.Postfix`."""
    postmap = find_program("postmap")
    if postmap is None:
        missing_server("Postfix is not installed: no postmap")
    return Postfix.prepare(postmap, tmp_path_factory.mktemp("postfix"))


@pytest.fixture
def private_postfix() -> Iterator[PrivatePostfix]:
    """A running Postfix of the test's own; see `tests.private_postfix.running_postfix`."""
    with running_postfix() as mail:
        yield mail


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real redis-server of this run's own; see `tests.real_redis.RedisServer`."""
    program = find_program("redis-server")
    if program is None:
        missing_server("Redis is not installed: no redis-server")
    with running_redis(program) as server:
        yield server


def reasons_for_skipping(reports: list[pytest.TestReport]) -> Counter[str]:
    """How many tests were skipped for each reason."""
    return Counter(
        str(
            report.longrepr[2] if isinstance(report.longrepr, tuple | list) else report.longrepr
        ).removeprefix("Skipped: ")
        for report in reports
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("what was skipped, and why")
    for reason, times in sorted(reasons_for_skipping(reports).items()):
        places = sorted(
            {
                str(Path(report.nodeid.partition("::")[0]))
                for report in reports
                if reason in str(report.longrepr)
            }
        )
        terminalreporter.write_line(f"{times} skipped: {reason} ({', '.join(places)})")
    if not reports:
        terminalreporter.write_line("nothing")

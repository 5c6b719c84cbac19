"""Metrics of several workers, scraped from real processes: sums that never go down, whoever dies."""

from __future__ import annotations

import http.client
import signal
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.running_workers import PATIENCE, Workers, answer, running_workers

only_asyncio = pytest.mark.asyncio(loop_factories=["asyncio"])  # of the clients: the server has its own

SERVED = """
[server]
workers = 2

[admin]
endpoint = "unix:admin"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "aliases"

[maps.aliases]
resolvers = [{ type = "static", entries = { user = "value" } }]
"""

Scrape = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def scrape(directory: Path) -> Scrape:
    connection = _UnixConnection(directory / "tcpmapkit" / "admin")
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    finally:
        connection.close()
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(scraped: Scrape, name: str, **labels: str) -> float:
    """The sum over the series that have these labels."""
    return sum(
        value
        for (one, had), value in scraped.items()
        if one == f"tcpmapkit_{name}" and labels.items() <= dict(had).items()
    )


def serves_with_two(directory: Path) -> bool:
    try:
        scraped = scrape(directory)
    except (OSError, http.client.HTTPException):
        return False  # it was the dead one's
    return value(scraped, "worker_up") == 2 and value(scraped, "worker_restarts_total") == 1


async def look_up(workers: Workers, times: int) -> None:
    for _ in range(times):
        assert await answer(workers.port, b"get user\n") == b"200 value\n"


@only_asyncio
async def test_sums_are_those_of_all_workers_and_do_not_go_down_when_one_is_killed(tmp_path: Path) -> None:
    with running_workers(tmp_path, SERVED) as workers:
        await look_up(workers, 10)
        first = scrape(tmp_path)
        assert value(first, "lookups_total", outcome="found") == 10
        assert value(first, "connections_total") == 10
        assert value(first, "step_answers_total", answer="found") == 2  # the other replies were ready
        assert [value(first, "worker_up", worker=number) for number in "01"] == [1, 1]
        assert value(first, "connections_limit") == 10_000

        victim = workers.pids()[0]
        workers.kill(victim)
        await workers.becomes(lambda: victim not in workers.pids() and serves_with_two(tmp_path))
        await look_up(workers, 6)
        second = scrape(tmp_path)
        assert value(second, "lookups_total", outcome="found") == 16
        assert value(second, "lookup_duration_seconds_count") == 16
        assert value(second, "worker_restarts_total") == 1
        of_processes = ("process_", "tcpmapkit_worker_")
        assert not [
            series
            for series, before in first.items()
            if series[0].endswith(("_total", "_bucket", "_count", "_sum"))
            and not series[0].startswith(of_processes)
            and second[series] < before
        ]


@only_asyncio
async def test_a_reload_of_all_workers_is_one_reload(tmp_path: Path) -> None:
    with running_workers(tmp_path, SERVED) as workers:
        process = workers.server.process
        assert process is not None
        for text, result, times in (
            (SERVED.replace("value", "other"), "good", 1),
            ("nonsense", "bad", 1),
            (SERVED, "good", 2),
        ):
            workers.server.configuration.write_text(text)
            process.send_signal(signal.SIGHUP)
            await workers.becomes(
                lambda result=result, times=times: (  # type: ignore[misc]
                    value(scrape(tmp_path), "reloads_total", result=result) == times
                )
            )

"""Metrics: what is exposed of a server that serves, that it is right and documented, alone and of workers."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tcpmapkit.control import Control
from tcpmapkit.counters import BOUNDS, Outcomes, StepCounters
from tcpmapkit.metrics.catalogue import CATALOGUE, METRICS
from tcpmapkit.metrics.samples import Departed, Samples, merge
from tcpmapkit.metrics.snapshot import _read, parent_snapshot, snapshot
from tcpmapkit.metrics.text import exposition
from tcpmapkit.protocols.socketmap import encode_request
from tcpmapkit.serving import Serving
from tcpmapkit.site import open_site
from tests.documents import TOP
from tests.endpoints import until

PLUGIN = """
import attrs
from tcpmapkit import Found, LookupTempFail, hookimpl

@attrs.define(eq=False)
class Moody:
    async def resolve(self, query):
        if query.user == "down":
            raise LookupTempFail("down")
        return Found("there") if query.user == "there" else None

@hookimpl
def register_resolvers(register):
    register("moody", Moody)
"""
OBSERVER = (
    PLUGIN
    + """
@hookimpl
def query_resolved(query, outcome, resolver, elapsed):
    raise RuntimeError("no")
"""
)
CONFIGURATION = """
[plugins]
directory = "plugins"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "aliases"

[[listeners]]
protocol = "socketmap"
endpoint = "unix:socketmap"

[maps.aliases]
cache = { jitter = 0, stale = "1h" }
resolvers = [
    { type = "csv", path = "aliases.csv" },
    { type = "moody", name = "api" },
]

[maps.other]
resolvers = [{ type = "static", entries = { k = "v" } }]
"""
LISTENER = "inet:127.0.0.1:0"

Labels = dict[str, str]


class Told:
    """What a scrape tells."""

    def __init__(self, text: str) -> None:
        self.text = text
        families = list(text_string_to_metric_families(text))
        # In OpenMetrics a counter has its name without "_total", which must not be another's.
        assert len({family.name for family in families}) == len(families)
        self.samples = [one for family in families for one in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series that have these labels."""
        found = [
            one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()
        ]
        assert found, f"{name} {labels}"
        return sum(found)

    def labels(self, name: str) -> list[Labels]:
        return [one.labels for one in self.samples if one.name == name]


@asynccontextmanager
async def serving(directory: Path, plugin: str = PLUGIN, *, accepts: bool = True) -> AsyncIterator[Serving]:
    (directory / "plugins").mkdir(mode=0o755)
    (directory / "plugins" / "moody.py").write_text(plugin)
    (directory / "aliases.csv").write_text("key,value\na@example.org,b@example.org\n")
    (directory / "tcpmapkit.toml").write_text(CONFIGURATION)
    site = open_site(directory / "tcpmapkit.toml")
    served = Serving(site, accepts=accepts)
    if accepts:
        served.server.bind()
    await site.start()
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


async def ask(served: Serving, *keys: str, listener: int = 0) -> list[bytes]:
    """The replies of the tcp_table listener."""
    counters = served.server.counters[listener]
    before = counters.connections_open
    reader, writer = await asyncio.open_connection(*served.server.addresses[listener][0])
    replies = []
    for key in keys:
        writer.write(f"get {key}\n".encode())
        replies.append(await reader.readline())
    writer.close()
    await until(lambda: counters.connections_open == before)
    return replies


async def ask_socketmap(served: Serving, *requests: str) -> None:
    reader, writer = await asyncio.open_unix_connection(served.server.addresses[1][0][0])
    for request in requests:
        map, _, key = request.partition(" ")
        writer.write(encode_request(map, key))
        length = await reader.readuntil(b":")
        await reader.readexactly(int(length[:-1]) + 1)
    writer.close()


async def told(served: Serving) -> Told:
    return Told(exposition(json.loads(json.dumps(await snapshot(served)))))


# ---- the catalogue


def test_names_follow_the_conventions() -> None:
    assert len(METRICS) == len(CATALOGUE)
    for metric in CATALOGUE:
        assert re.fullmatch("(tcpmapkit|process)(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") is (metric.kind == "counter")
        assert metric.name.endswith("_seconds") or metric.kind != "histogram"
        assert metric.help.endswith((".", ")")), metric.name
        assert "le" not in metric.labels


ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| (.+?) \| (.+) \|$", re.MULTILINE)


def test_the_manual_lists_each_metric_with_its_type_labels_and_meaning_and_no_other() -> None:
    rows = ROW.findall((TOP / "docs" / "metrics.md").read_text())
    assert [(name, kind, re.findall(r"`(\w+)`", labels), said) for name, kind, labels, said in rows] == [
        (metric.name, metric.kind, list(metric.labels), metric.help) for metric in CATALOGUE
    ]


def test_the_manual_names_no_metric_that_there_is_not() -> None:
    text = (TOP / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"tcpmapkit_[a-z_]+", text))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} <= METRICS.keys()


# ---- what is exposed


async def test_all_of_the_catalogue_is_exposed_with_help_and_type(tmp_path: Path) -> None:
    async with serving(tmp_path, OBSERVER) as served:
        text = exposition(await snapshot(served))
    for metric in CATALOGUE:
        assert text.count(f"# HELP {metric.name} ") == 1, metric.name
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
    assert set(re.findall(r"# TYPE (\S+)", text)) == METRICS.keys()


async def test_each_sample_has_the_labels_of_its_metric_and_none_twice(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await ask(served, "a@example.org", "x")
        samples = (await told(served)).samples
    series = [(one.name, *sorted(one.labels.items())) for one in samples]
    assert len(series) == len(set(series))
    for one in samples:
        metric = METRICS.get(one.name) or METRICS[re.sub("_(bucket|sum|count)$", "", one.name)]
        assert set(one.labels) - {"le"} == set(metric.labels)


async def test_no_key_value_or_address_is_in_a_label(tmp_path: Path) -> None:
    keys = ["a@example.org", "secret@example.net", "there@example.com", "down@example.com", "*", "<>"]
    async with serving(tmp_path) as served:
        before = {(one.name, *sorted(one.labels.items())) for one in (await told(served)).samples}
        await ask(served, *keys)
        await ask_socketmap(served, "other k", "nowhere secret@example.net")
        after = await told(served)
    assert {(one.name, *sorted(one.labels.items())) for one in after.samples} == before
    assert not re.search("@|secret|nowhere|there@", after.text)


async def test_what_no_map_has_yet_been_asked_is_exposed_as_zero(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        first = await told(served)
    assert first.value("tcpmapkit_lookups_total") == 0
    assert {tuple(sorted(one.items())) for one in first.labels("tcpmapkit_lookups_total")} >= {
        (("listener", LISTENER), ("map", "aliases"), ("outcome", outcome), ("source", source))
        for outcome, source in [
            *(("found", source) for source in ("fresh", "cache", "stale")),
            *(("not_found", source) for source in ("fresh", "negative")),
            *(("temporary", source) for source in ("fresh", "cache")),
            *(("permanent", source) for source in ("fresh", "cache")),
        ]
    }


async def test_lookups_are_counted_by_map_outcome_and_source(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await ask(served, *["a@example.org"] * 3, *["there@example.org"] * 2, *["no"] * 4, *["down"] * 5, "*")
        await ask_socketmap(served, "other k", "other k", "aliases a@example.org", "nowhere k")
        now = await told(served)
    lookups = {
        (outcome, source): now.value(
            "tcpmapkit_lookups_total", map="aliases", listener=LISTENER, outcome=outcome, source=source
        )
        for outcome, source in (
            *(("found", "fresh"), ("found", "cache"), ("found", "stale")),
            *(("not_found", "fresh"), ("not_found", "negative")),
            *(("temporary", "fresh"), ("temporary", "cache")),
        )
    }
    assert lookups == {
        ("found", "fresh"): 2,
        ("found", "cache"): 3,
        ("found", "stale"): 0,
        ("not_found", "fresh"): 2,  # "*" is not for the step of the plugin
        ("not_found", "negative"): 3,
        ("temporary", "fresh"): 1,
        ("temporary", "cache"): 4,
    }
    socketmap = {"listener": "unix:" + str(tmp_path / "socketmap")}
    assert now.value("tcpmapkit_lookups_total", map="other", source="cache", **socketmap) == 1
    assert now.value("tcpmapkit_lookups_total", map="aliases", source="cache", **socketmap) == 1
    assert now.value("tcpmapkit_unknown_map_requests_total", **socketmap) == 1


async def test_every_lookup_of_a_map_is_in_its_histogram_and_ready_replies_are_the_quickest(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as served:
        await ask(served, *["a@example.org"] * 30, *["no"] * 20)
        now = await told(served)
    name, about = "tcpmapkit_lookup_duration_seconds", {"map": "aliases", "listener": LISTENER}
    assert now.value(f"{name}_count", **about) == 50 == now.value(f"{name}_bucket", le="+Inf", **about)
    assert now.value(f"{name}_bucket", le=str(BOUNDS[0]), **about) >= 48
    buckets = [now.value(f"{name}_bucket", le=str(bound), **about) for bound in BOUNDS]
    assert buckets == sorted(buckets)
    assert 0 < now.value(f"{name}_sum", **about) < 5


async def test_steps_tell_what_they_answered_how_they_failed_and_what_they_hold(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await ask(served, "a@example.org", "there@example.org", "no", "down")
        now = await told(served)
    table, api = {"map": "aliases", "step": "csv"}, {"map": "aliases", "step": "api"}
    answers = "tcpmapkit_step_answers_total"
    assert [now.value(answers, answer=one, **table) for one in ("found", "missed")] == [1, 3]
    assert [now.value(answers, answer=one, **api) for one in ("found", "missed")] == [1, 1]
    assert now.value("tcpmapkit_step_errors_total", kind="temporary", **api) == 1
    assert now.value("tcpmapkit_step_errors_total", **api) == 1
    assert now.value("tcpmapkit_step_duration_seconds_count", **api) == 3
    assert now.value("tcpmapkit_breaker_state", **api) == 0
    assert now.value("tcpmapkit_table_rows", **table) == 1
    assert now.value("tcpmapkit_table_held", **table) == 0
    assert now.value("tcpmapkit_table_loaded_timestamp_seconds", **table) > 1.7e9
    assert table not in now.labels("tcpmapkit_breaker_state")
    assert api not in now.labels("tcpmapkit_table_rows")


async def test_a_breaker_that_opens_and_a_table_that_is_held_are_seen(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await ask(served, *(f"down+{number}" for number in range(30)))
        (tmp_path / "aliases.csv").unlink()
        await served.reload_tables()
        now = await told(served)
    assert now.value("tcpmapkit_breaker_state", step="api") == 1
    assert now.value("tcpmapkit_breaker_openings_total", step="api") == 1
    assert now.value("tcpmapkit_step_errors_total", step="api", kind="breaker") == 10
    assert now.value("tcpmapkit_table_held", map="aliases", step="csv") == 1
    assert now.value("tcpmapkit_table_rows", map="aliases", step="csv") == 1


async def test_the_cache_the_connections_and_the_process_are_told_of(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await ask(served, "a@example.org", "no", "get", "x" * 4096)
        _, writer = await asyncio.open_connection(*served.server.addresses[0][0])
        await until(lambda: served.server.counters[0].connections_open == 1)
        now = await told(served)
        writer.close()
    assert now.value("tcpmapkit_cache_entries", map="aliases", kind="found") == 1
    assert now.value("tcpmapkit_cache_bytes", map="aliases", kind="not_found") > 400
    assert now.value("tcpmapkit_cache_max_bytes", map="aliases", kind="found") == 64 << 20
    assert now.value("tcpmapkit_ready_replies", listener=LISTENER) >= 2
    assert now.value("tcpmapkit_open_connections", listener=LISTENER) == 1
    assert now.value("tcpmapkit_connections_total", listener=LISTENER) == 2
    assert now.value("tcpmapkit_connections_limit") == served.server.max_connections
    assert now.value("tcpmapkit_worker_up", worker="0") == 1
    assert now.value("process_open_fds", worker="0") > 3


async def test_a_plugin_that_fails_to_observe_is_counted_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path, OBSERVER) as served:
        before = await told(served)
        await ask(served, "a@example.org", "no")
        after = await told(served)
    assert before.value("tcpmapkit_plugin_failures_total", plugin="moody") == 0
    assert after.value("tcpmapkit_plugin_failures_total", plugin="moody") == 2


async def test_no_counter_goes_down_over_reloads_good_and_bad(tmp_path: Path) -> None:
    async def counted(served: Serving) -> dict[Any, float]:
        return {
            (one.name, *sorted(one.labels.items())): one.value
            for one in (await told(served)).samples
            if one.name.endswith(("_total", "_bucket", "_count", "_sum"))
        }

    file = tmp_path / "tcpmapkit.toml"
    renewed = {
        "another definition": CONFIGURATION.replace("stale = ", "ttl = 60, stale = "),
        "another step": CONFIGURATION.replace('"csv", path', '"csv", on_error = "next", path'),
        "a mistake": CONFIGURATION.replace("moody", "nobody"),
        "the first": CONFIGURATION,
    }
    async with serving(tmp_path) as served:
        before = await counted(served)
        for text in renewed.values():
            await ask(served, "a@example.org", "there", "no", "down")
            await ask_socketmap(served, "other k")
            file.write_text(text)
            await served.reload()
            (tmp_path / "aliases.csv").write_text(f"key,value\na@example.org,{len(text)}@example.org\n")
            await served.reload_tables()
            after = await counted(served)
            assert before.keys() <= after.keys()
            assert not {one: value for one, value in before.items() if after[one] < value}
            before = after
        last = await told(served)
    assert last.value("tcpmapkit_reloads_total", result="good") == 3
    assert last.value("tcpmapkit_reloads_total", result="bad") == 1
    assert last.value("tcpmapkit_lookups_total", map="aliases", listener=LISTENER) == 16
    assert last.value("tcpmapkit_step_answers_total", map="aliases", step="csv") >= 8


@pytest.mark.parametrize("counters", [StepCounters, Outcomes], ids=lambda one: one.__name__)
async def test_counters_are_read_where_nothing_counts_meanwhile_and_others_have_their_turn(
    tmp_path: Path, counters: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read elsewhere, "missed", the difference of two, would go down when a lookup came between."""
    readers: set[threading.Thread] = set()
    turn = 0
    read_in: list[int] = []

    def latency(self: Any) -> Any:
        readers.add(threading.current_thread())
        read_in.append(turn)
        return slot.__get__(self)

    async def others() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async with serving(tmp_path) as served:
        slot = counters.latency  # type: ignore[attr-defined]
        monkeypatch.setattr(counters, "latency", property(latency))
        lookups = asyncio.ensure_future(others())
        await Control(served).answer({"command": "metrics"})
        lookups.cancel()
    assert readers == {threading.current_thread()}
    assert len(set(read_in)) == {StepCounters: 3, Outcomes: 3}[counters]


async def test_log_lines_that_are_lost_are_counted_of_workers_and_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmapkit.metrics.snapshot.lost_lines", lambda: 3)
    async with serving(tmp_path) as served:
        alone = await told(served)
    (tmp_path / "worker").mkdir()
    async with serving(tmp_path / "worker", accepts=False) as served:
        worker = await snapshot(served)
    known = parent_snapshot({}, {}, 1)
    assert alone.value("tcpmapkit_log_lines_lost_total") == 3
    assert Told(exposition(merge([known, worker, worker]))).value("tcpmapkit_log_lines_lost_total") == 9


async def test_a_reload_may_come_while_metrics_are_read(tmp_path: Path) -> None:
    fewer = CONFIGURATION.partition("[maps.other]")[0]
    async with serving(tmp_path) as served:
        gathered = _read(Samples(), served, 0)
        for at, _ in enumerate(gathered):
            (tmp_path / "tcpmapkit.toml").write_text((fewer, CONFIGURATION)[at % 2])
            assert not (await served.reload()).errors


# ---- workers


def of_worker(number: int, **more: Any) -> dict[str, Any]:
    return {
        "tcpmapkit_lookups_total": [[["a", "l", "found", "fresh"], 10 + number]],
        "tcpmapkit_step_duration_seconds": [[["a", "s"], [*[number] * (len(BOUNDS) + 1), 0.5]]],
        "tcpmapkit_open_connections": [[["l"], 3]],
        "tcpmapkit_breaker_state": [[["a", "s"], number]],
        "tcpmapkit_table_rows": [[["a", "s"], 100]],
        "tcpmapkit_table_loaded_timestamp_seconds": [[["a", "s"], 1000.0 + number]],
        "tcpmapkit_worker_connections": [[[str(number)], 3]],
        "process_resident_memory_bytes": [[[str(number)], 1 << 20]],
        **more,
    }


def test_what_workers_count_is_added_up_and_what_is_one_workers_own_is_told_of_each() -> None:
    merged = merge([of_worker(0), of_worker(1)])
    assert merged == {
        "tcpmapkit_lookups_total": [[["a", "l", "found", "fresh"], 21]],
        "tcpmapkit_step_duration_seconds": [[["a", "s"], [*[1] * (len(BOUNDS) + 1), 1.0]]],
        "tcpmapkit_open_connections": [[["l"], 6]],
        "tcpmapkit_breaker_state": [[["a", "s"], 1]],
        "tcpmapkit_table_rows": [[["a", "s"], 100]],
        "tcpmapkit_table_loaded_timestamp_seconds": [[["a", "s"], 1000.0]],
        "tcpmapkit_worker_connections": [[["0"], 3], [["1"], 3]],
        "process_resident_memory_bytes": [[["0"], 1 << 20], [["1"], 1 << 20]],
    }
    assert Told(exposition(merged)).value("tcpmapkit_lookups_total") == 21


def test_one_snapshot_merged_is_itself_and_none_is_empty() -> None:
    assert merge([of_worker(1)]) == of_worker(1)
    assert merge([]) == {}
    assert exposition({}) == ""


def test_merging_changes_none_of_the_snapshots() -> None:
    first, second = of_worker(0), of_worker(1)
    merge([first, second, first])
    assert (first, second) == (of_worker(0), of_worker(1))


def test_a_metric_of_another_version_is_left_out() -> None:
    assert merge([of_worker(1, tcpmapkit_of_tomorrow_total=[[[], 1]])]) == of_worker(1)


def test_what_a_worker_that_is_gone_has_counted_stays_and_what_it_held_goes_with_it() -> None:
    departed = Departed()
    departed.note("100", of_worker(0))
    departed.note("100", of_worker(4))  # its last word
    departed.note("101", of_worker(1))
    assert departed.snapshot == {}
    departed.depart("100")
    departed.depart("102")  # never asked
    assert departed.snapshot == {
        "tcpmapkit_lookups_total": [[["a", "l", "found", "fresh"], 14]],
        "tcpmapkit_step_duration_seconds": [[["a", "s"], [*[4] * (len(BOUNDS) + 1), 0.5]]],
    }
    departed.depart("101")
    assert departed.snapshot["tcpmapkit_lookups_total"][0][1] == 25


def test_the_parent_says_which_workers_serve_and_what_became_of_reloads() -> None:
    known = Told(exposition(parent_snapshot({0: (True, 0), 1: (False, 3)}, {"good": 2, "bad": 1}, 5000)))
    assert known.value("tcpmapkit_worker_up", worker="1") == 0
    assert known.value("tcpmapkit_worker_restarts_total", worker="1") == 3
    assert known.value("tcpmapkit_reloads_total", result="bad") == 1
    assert known.value("tcpmapkit_connections_limit") == 5000


async def test_a_worker_leaves_to_its_parent_what_that_knows(tmp_path: Path) -> None:
    async with serving(tmp_path, accepts=False) as served:
        own = await snapshot(served, worker=3)
    known = parent_snapshot({3: (True, 0)}, {"good": 0, "bad": 0}, 5000)
    assert own.keys() & known.keys() == {"tcpmapkit_log_lines_lost_total"}  # each of them has a log
    assert own["tcpmapkit_worker_connections"] == [[["3"], 0]]
    assert {*own, *known} >= METRICS.keys() - {"tcpmapkit_plugin_failures_total"}

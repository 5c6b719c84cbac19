"""The dashboard and the alert rules ask for metrics that there are, each in the way that its type allows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tcpmapkit.metrics.catalogue import METRICS, Metric
from tests.documents import TOP

DASHBOARD = TOP / "packaging" / "grafana" / "tcpmapkit.json"
RULES = TOP / "packaging" / "prometheus" / "tcpmapkit.rules.yml"

#: What Prometheus itself says of a target.
OF_PROMETHEUS = {"up"}

NAME = re.compile(r"\b(?:tcpmapkit|process)_[a-z_]+|\bup\b")
SELECTED = re.compile(r"((?:tcpmapkit|process)_[a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\b(by|without) \(([^)]*)\)")
RATED = re.compile(r"\b(rate|increase|irate|delta|deriv|changes)\(([a-z_]+)")

#: Labels that Prometheus gives to every series of a target.
EVERYWHERE = {"instance", "job"}


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[Any]:
    for panel in panels():
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for annotation in dashboard()["annotations"]["list"]:
        yield pytest.param(annotation["expr"], id=annotation["name"])
    for rule in rules():
        yield pytest.param(rule["expr"], id=rule["alert"])


each_expression = pytest.mark.parametrize("expression", list(expressions()))


def metric(name: str) -> Metric:
    """Whose name, or the name of whose part, this is."""
    found = METRICS.get(name) or METRICS[re.sub("_(bucket|sum|count)$", "", name)]
    assert (found.name == name) is (found.kind != "histogram"), f"{name}: a histogram has parts"
    return found


def labels(expression: str) -> set[str]:
    return set().union(
        *(metric(name).labels for name in NAME.findall(expression) if name not in OF_PROMETHEUS)
    )


@each_expression
def test_every_metric_asked_for_is_in_the_manual(expression: str) -> None:
    names = set(NAME.findall(expression))
    assert names
    manual = (TOP / "docs" / "metrics.md").read_text()
    for name in names - OF_PROMETHEUS:
        assert f"| `{metric(name).name}` |" in manual


@each_expression
def test_rates_are_taken_of_counters_alone_and_counters_are_never_shown_bare(expression: str) -> None:
    rated = dict.fromkeys(name for function, name in RATED.findall(expression) if function != "changes")
    for name in set(NAME.findall(expression)) - OF_PROMETHEUS:
        assert (name in rated) is (metric(name).kind != "gauge"), name


@each_expression
def test_what_is_selected_and_grouped_by_are_labels_of_the_metric(expression: str) -> None:
    for name, selectors in SELECTED.findall(expression):
        selected = set(re.findall(r"(\w+)(?==|!=)", selectors))
        assert selected <= {*metric(name).labels, *EVERYWHERE}, name
    for _, grouped in GROUPED.findall(expression):
        assert set(grouped.split(", ")) <= labels(expression) | EVERYWHERE | {"le"}


@each_expression
def test_a_quantile_keeps_the_bounds_of_the_buckets(expression: str) -> None:
    for quantile in re.findall(r"histogram_quantile\(.*", expression):
        assert re.search(r"_bucket\b", quantile)
        kinds = dict(GROUPED.findall(quantile))
        assert ", le" in f", {kinds['by']}" if "by" in kinds else "le" not in kinds["without"].split(", ")


@each_expression
def test_brackets_are_closed(expression: str) -> None:
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


def test_legends_and_texts_name_labels_that_the_expression_leaves() -> None:
    shown = [(target["expr"], target["legendFormat"]) for panel in panels() for target in panel["targets"]]
    for expression, legend in shown:
        left = {
            label
            for kind, names in GROUPED.findall(expression)
            if kind == "by"
            for label in names.split(", ")
        }
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= left, legend
    for rule in rules():
        named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        dropped = {
            label
            for kind, names in GROUPED.findall(rule["expr"])
            if kind == "without"
            for label in names.split(", ")
        }
        assert named <= (labels(rule["expr"]) | EVERYWHERE) - dropped, rule["alert"]


def test_panels_have_numbers_and_places_of_their_own() -> None:
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        places = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & places, panel["title"]
        assert max(x for x, _ in places) < 24
        taken |= places


def test_the_dashboard_works_with_any_data_source_and_shows_all_of_the_catalogue() -> None:
    data = dashboard()
    assert data["uid"] == "tcpmapkit"
    assert "id" not in data
    variables = {one["name"] for one in data["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(data))) <= variables
    shown = {
        metric(name).name
        for panel in panels()
        for one in panel["targets"]
        for name in NAME.findall(one["expr"])
    }
    assert METRICS.keys() - shown == {
        "tcpmapkit_build_info",  # the servers to choose from
        "tcpmapkit_cache_max_bytes",
        "tcpmapkit_cache_renewals_total",
        "tcpmapkit_plugin_failures_total",
        "tcpmapkit_ready_replies",
        "tcpmapkit_breaker_openings_total",
        "tcpmapkit_log_lines_lost_total",
        "process_max_fds",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
    }


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_has_happened_and_what_to_look_at(rule: dict[str, Any]) -> None:
    assert re.fullmatch("Tcpmapkit[A-Z][A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert "$labels.instance" in rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    assert re.fullmatch(r"\d+m", rule.get("for", "0m"))


def test_the_alerts_cover_what_defers_mail() -> None:
    asked = {name for rule in rules() for name in NAME.findall(rule["expr"])}
    assert asked >= {
        "up",
        "tcpmapkit_lookups_total",
        "tcpmapkit_lookup_duration_seconds_bucket",
        "tcpmapkit_breaker_state",
        "tcpmapkit_table_held",
        "tcpmapkit_reloads_total",
        "tcpmapkit_stale_answers_total",
        "tcpmapkit_worker_restarts_total",
        "tcpmapkit_worker_up",
    }

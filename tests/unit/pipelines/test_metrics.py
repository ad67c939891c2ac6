"""Metrics are what their declarations say, on the page and on the dashboard, and never in a job's way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from skinvae.pipelines import metrics
from skinvae.pipelines.metrics import METRICS, TAGS, Kind, Metric, Rising, RunMetrics
from tests.regenerate_docs import METRICS_PAGE, metrics_page

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "skinvae.json"
RAY_S_OWN = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_cpu_utilization"}
VARIABLE_VALUES = {"$__rate_interval": "1m", "$scoring_id": ".*", "$run_id": ".*", "$training": ".*"}


def test_names_are_prometheus_s() -> None:
    assert len({one.name for one in METRICS}) == len(METRICS)
    assert set(METRICS) == {one for one in vars(metrics).values() if isinstance(one, Metric)}
    for one in METRICS:
        assert re.fullmatch(r"skinvae_[a-z_]+", one.name)
        assert one.name.endswith("_total") == (one.kind is Kind.COUNTER), one
        assert bool(one.boundaries) == (one.kind is Kind.HISTOGRAM)
    assert {tag for one in METRICS for tag in one.tags} == set(TAGS)


def test_the_page_is_what_the_code_says() -> None:
    assert METRICS_PAGE.read_text(encoding="utf-8") == metrics_page(), "run `python -m tests.regenerate_docs`"


# The dashboard


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression: str = target["expr"]
            for name, value in VARIABLE_VALUES.items():
                expression = expression.replace(name, value)
            yield expression


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


def test_the_dashboard_shows_every_metric_and_no_other(dashboard: dict[str, Any]) -> None:
    shown = {name for expression in expressions(dashboard) for name in names_in(expression)}
    assert shown == {name for one in METRICS for name in one.series} | RAY_S_OWN


def test_ray_has_the_metrics_of_its_own_that_the_dashboard_shows() -> None:
    assert {name.removeprefix(metrics.PREFIX) for name in RAY_S_OWN} <= METRICS_GAUGES.keys()


def test_prometheus_can_parse_every_expression(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        assert "$" not in expression
        promql_parser.parse(expression)


def test_the_dashboard_selects_and_groups_by_tags_that_the_metrics_have(dashboard: dict[str, Any]) -> None:
    by_series = {name: one for one in METRICS for name in one.series}
    for expression in expressions(dashboard):
        for name, selector in re.findall(r"\b(ray_skinvae\w+)(?:\{([^}]*)\})?", expression):
            assert set(re.findall(r"(\w+)=~", selector)) <= set(by_series[name].tags), expression
        for group in re.findall(r"sum by \(([^)]*)\)", expression):
            allowed = {tag for name in names_in(expression) for tag in by_series[name].tags} | {"le"}
            assert set(group.split(", ")) <= allowed, expression


def test_the_variables_ask_for_what_is_there(dashboard: dict[str, Any]) -> None:
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert {"datasource", "scoring_id", "run_id", "training"} == variables.keys()
    by_series = {name: one for one in METRICS for name in one.series}
    for variable in variables.values():
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["definition"]).groups()
            assert label in by_series[name].tags


def test_panels_have_places_and_sources_of_their_own(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"


# Counting


class Counted(RunMetrics):
    """Instead of Ray."""

    def __init__(self) -> None:
        super().__init__(verb="score")
        self.total = 0.0

    def add(self, metric: Metric, amount: float, **tags: str) -> None:
        assert amount >= 0
        self.total += amount


def test_sums_that_rise_are_added_once_and_those_that_fall_began_anew() -> None:
    """A ProgressActor that was lost counts from 0 again; each tag counts for itself."""
    counted = Counted()
    rising = Rising(counted)
    assert [rising.reach(metrics.STORAGE_RETRIES, total) for total in (3, 5, 5, 2, 4)] == [3, 2, 0, 2, 2]
    rising.reach(metrics.STAGE_SECONDS, 1.5, stage="read")
    rising.reach(metrics.STAGE_SECONDS, 1.0, stage="score")
    rising.reach(metrics.STAGE_SECONDS, 2.0, stage="read")
    assert counted.total == 9 + 2.0 + 1.0


def test_metrics_that_fail_are_said_once_and_end_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Metric) -> None:
        raise OSError("no agent")

    monkeypatch.setattr(metrics, "_in_ray", broken)
    run = RunMetrics(verb="score", run_id="r", scoring_id="c")
    for _ in range(3):
        run.add(metrics.COMMITS, 1)
        run.set(metrics.ROWS_IN_TABLE, 5)
        run.observe(metrics.COMMIT_SECONDS, [1.0, 2.0])
    assert capsys.readouterr().err == "note: no more metrics of this run: OSError: no agent\n"


def test_what_a_metric_is_not_told_is_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses to count 0."""
    monkeypatch.setattr(metrics, "_in_ray", lambda _: pytest.fail("nothing happened"))
    RunMetrics(verb="score").add(metrics.STORAGE_RETRIES, 0)

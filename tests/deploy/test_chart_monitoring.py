"""Alert rules, dashboard and scraping, as the chart installs them."""

from __future__ import annotations

import copy
import json

import pytest

from .chart import (
    CHART,
    Document,
    container,
    find,
    rendered,
)
from .names import ROOT, rules


@pytest.mark.parametrize(
    ("copied", "original"),
    [
        ("recording.yml", "deploy/prometheus/recording.yml"),
        ("alerts.yml", "deploy/prometheus/alerts.yml"),
        ("natterjack.json", "deploy/grafana/natterjack.json"),
    ],
)
def test_files_of_the_chart_are_identical_copies(copied: str, original: str) -> None:
    assert (CHART / "files" / copied).read_bytes() == (ROOT / original).read_bytes(), (
        f"run: cp {original} helm/natterjack/files/"
    )


@pytest.mark.process
def test_rules_are_installed_unchanged() -> None:
    def without_runbooks(found: list[Document]) -> list[Document]:
        found = copy.deepcopy(found)
        for rule in found:
            rule.get("annotations", {}).pop("runbook_url", None)
        return found

    groups = find(rendered("production"), "PrometheusRule")["spec"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert without_runbooks(found) == without_runbooks(rules("record", "alert"))
    for rule in found:
        if "alert" in rule:
            page = "https://wiki.example.org/natterjack-alerts"
            assert rule["annotations"]["runbook_url"] == f"{page}#{rule['alert'].lower()}"


@pytest.mark.process
def test_the_dashboard_is_installed_unchanged() -> None:
    found = next(d for d in rendered("production") if d["metadata"]["name"].endswith("dashboard"))
    original = json.loads((ROOT / "deploy" / "grafana" / "natterjack.json").read_text())
    assert json.loads(found["data"]["natterjack.json"]) == original
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


@pytest.mark.process
def test_workers_are_scraped_on_their_metrics_port() -> None:
    documents = rendered("production")
    endpoint = find(documents, "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    ports = container(find(documents, "Deployment", "worker")["spec"]["template"])["ports"]
    assert endpoint["port"] in {port["name"] for port in ports}
    assert endpoint["path"] == "/metrics"

"""Alert rules, dashboard and scraping, as the chart installs them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from .chart import (
    CHART,
    Document,
    container,
    find,
    refused,
    render,
    rendered,
)
from .libyaml import read_yaml
from .names import ROOT, rules
from .prometheus import promtool


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


def installed(documents: list[Document]) -> dict[str, Document]:
    """The alert rules of the release, by name."""
    groups = find(documents, "PrometheusRule")["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def changed(**alerts: Any) -> Document:
    """Values with changed alerts."""
    return {"metrics": {"prometheusRule": {"enabled": True, "alerts": alerts}}}


@pytest.mark.process
def test_rules_are_installed_unchanged() -> None:
    """Except for the address of the pages and the number of workers that are wanted."""

    def unchanged(found: list[Document]) -> list[Document]:
        found = copy.deepcopy(found)
        for rule in found:
            rule.get("annotations", {}).pop("runbook_url", None)
            if rule.get("alert") == "NatterjackWorkersNotReady":
                rule["expr"] = re.sub(r"\d+ # threshold", "N # threshold", rule["expr"])
        return found

    groups = find(rendered("production"), "PrometheusRule")["spec"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert unchanged(found) == unchanged(rules("record", "alert"))


@pytest.mark.process
def test_alerts_link_to_their_pages() -> None:
    for name, rule in installed(rendered("production")).items():
        page = "https://wiki.example.org/natterjack-alerts"
        assert rule["annotations"]["runbook_url"] == f"{page}#{name.lower()}"
    site = {"docsUrl": "https://docs.example.org/natterjack/"} | changed()
    for name, rule in installed(render(site)).items():
        page = "https://docs.example.org/natterjack/how-to/answer-an-alert.html"
        assert rule["annotations"]["runbook_url"] == f"{page}#{name.lower()}"


def test_the_default_links_are_pages_of_the_site() -> None:
    values = read_yaml(CHART / "values.yaml")
    site = (ROOT / "mkdocs.yml").read_text()
    home = read_yaml(CHART / "Chart.yaml")["home"]
    assert values["docsUrl"] == home
    for rule in rules("alert"):
        url = rule["annotations"]["runbook_url"].partition("#")[0]
        page = url.removeprefix(f"{home}/").removesuffix(".html") + ".md"
        assert "use_directory_urls: false" in site, "pages have the ending .html"
        assert f": {page}\n" in site, "it is in the navigation"


@pytest.mark.process
@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"worker": {"replicaCount": 7}}, "7"),
        ({"autoscaling": {"enabled": True, "minReplicas": 3}}, "3"),
        (changed(NatterjackWorkersNotReady={"threshold": 5}), "5"),
    ],
)
def test_as_many_workers_must_be_ready_as_are_wanted(values: Document, wanted: str) -> None:
    rule = installed(render(changed() | values))["NatterjackWorkersNotReady"]
    assert f"(natterjack_worker_ready) < {wanted} # threshold" in rule["expr"]


@pytest.mark.process
def test_a_registrar_that_is_deployed_but_never_ran_is_missed(tmp_path: Path) -> None:
    values = read_yaml(CHART / "ci" / "registrar-values.yaml")
    values["metrics"] = changed()["metrics"]
    alert = "NatterjackNoRegistrarReady"
    rules_of: dict[bool, Document] = {}
    for enabled in (True, False):
        values["registrar"]["enabled"] = enabled
        rules_of[enabled] = installed(render(values))[alert]
        group = {"name": "registrar", "rules": [rules_of[enabled]]}
        (tmp_path / f"{enabled}.yml").write_text(json.dumps({"groups": [group]}))
        fires = [
            {
                "exp_labels": {"namespace": "speech", "severity": "warning"},
                "exp_annotations": {
                    **rules_of[enabled]["annotations"],
                    "description": rules_of[enabled]["annotations"]["description"].replace(
                        "{{ with $labels.job }} of {{ . }}{{ end }}", ""
                    ),
                },
            }
        ]
        checks = [
            {"eval_time": time, "alertname": alert, "exp_alerts": found}
            for time, found in (("5m", []), ("15m", fires if enabled else []))
        ]
        other = {
            "series": 'natterjack_registrar_ready{namespace="other",job="a"}',
            "values": "1x30",
        }
        case = {"interval": "1m", "input_series": [other], "alert_rule_test": checks}
        test = tmp_path / f"test-{enabled}.yml"
        test.write_text(json.dumps({"rule_files": [f"{enabled}.yml"], "tests": [case]}))
        assert "SUCCESS" in promtool("test", "rules", test)


@pytest.mark.process
def test_alerts_can_be_changed_and_switched_off(tmp_path: Path) -> None:
    marked = [rule["alert"] for rule in rules("alert") if "# threshold" in rule["expr"]]
    off = "NatterjackNatsDisconnected"
    alerts: Document = {name: {"threshold": -0.5} for name in marked}
    alerts["labels"] = {"team": "speech", "severity": "page"}
    alerts[off] = {"enabled": False}
    alerts["NatterjackFinalsLate"] |= {"for": "1h30m", "labels": {"team": "captions"}}
    documents = render(changed(**alerts))
    found = installed(documents)
    assert set(found) == {rule["alert"] for rule in rules("alert")} - {off}
    for name, rule in found.items():
        team = "captions" if name == "NatterjackFinalsLate" else "speech"
        assert rule["labels"] == {"team": team, "severity": "page"}
    for name in marked:
        assert set(re.findall(r"(\S+) # threshold", found[name]["expr"])) == {"-0.5"}, name
    assert found["NatterjackFinalsLate"]["for"] == "1h30m"
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": find(documents, "PrometheusRule")["spec"]["groups"]}))
    assert "SUCCESS" in promtool("check", "rules", file)


@pytest.mark.process
def test_a_group_without_alerts_is_left_out() -> None:
    group = "natterjack-process"
    path = ROOT / "deploy" / "prometheus" / "alerts.yml"
    names = [
        rule["alert"]
        for each in read_yaml(path)["groups"]
        for rule in each["rules"]
        if each["name"] == group
    ]
    documents = render(changed(**{name: {"enabled": False} for name in names}))
    groups = find(documents, "PrometheusRule")["spec"]["groups"]
    assert group not in {each["name"] for each in groups}


@pytest.mark.process
@pytest.mark.parametrize(
    ("alerts", "problem"),
    [
        ({"NatterjackNoSuchAlert": {"enabled": False}}, "there is no such alert"),
        ({"NatterjackWorkerDown": {"threshold": 1}}, "this alert has no threshold"),
        ({"NatterjackFinalsLate": {"for": "soon"}}, "for"),
        ({"NatterjackFinalsLate": {"treshold": 1}}, "treshold"),
        ({"labels": {"a-b": "c"}}, "a-b"),
    ],
)
def test_mistakes_in_alerts_are_refused(alerts: Document, problem: str) -> None:
    assert problem in refused(changed(**alerts))


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

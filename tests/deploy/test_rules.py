"""The rules: they are valid, each alert fires when it should and not otherwise, and each has its
page."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, get_args

import pytest
import yaml

from worker import errors
from worker.session import State

from .names import ALERT_CASES, ROOT, RULE_FILES, labels_of_samples, rules, selectors
from .prometheus import promtool

RUNBOOKS = "https://natterjack.example/docs/alerts.md"
ALERTS = {rule["alert"]: rule for rule in rules("alert")}
RECORDED = {rule["record"]: rule for rule in rules("record")}
VALUES = {
    "outcome": {state.name.lower() for state in State} | {"busy", "crashed", "rejected"},
    "cause": {
        *get_args(errors.RefusedCause),
        *get_args(errors.UnavailableCause),
        *get_args(errors.StalledCause),
        "dropped",
        "protocol",
    },
    "scope": {"tenant", "session"},
    "state": {"waiting", "leased"},
    "kind": {"interim", "final"},
    "code": {"malformed"},
    "unit": {"seconds"},
}
"""Values that labels can have which expressions ask for."""


@cache
def _tests() -> list[dict[str, Any]]:
    return [case for path in ALERT_CASES for case in yaml.safe_load(path.read_text())["tests"]]


def cases(alert: str) -> list[dict[str, Any]]:
    """What is tested of an alert: a case's last question with its series."""
    found = []
    for case in _tests():
        asked = [test for test in case["alert_rule_test"] if test["alertname"] == alert]
        if asked:
            found.append({**asked[-1], "input_series": case["input_series"]})
    return found


def test_the_rules_are_valid() -> None:
    said = promtool("check", "rules", *RULE_FILES)
    assert said.count("SUCCESS") == len(RULE_FILES), said


def test_the_rules_say_what_they_should() -> None:
    said = promtool("test", "rules", *ALERT_CASES)
    assert said.count("SUCCESS") == len(ALERT_CASES), said


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    found = cases(alert)
    assert any(case["exp_alerts"] for case in found)
    assert any(not case["exp_alerts"] for case in found)
    assert all(case["input_series"] for case in found)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch(r"Natterjack(?:[A-Z][a-z]+)+", alert)
    assert rule["for"]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}#{alert.lower()}"
    assert "{{" not in rule["annotations"]["summary"]


def test_the_page_has_every_alert_and_no_other() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    sections = re.split(r"^### ", page, flags=re.M)[1:]
    told = {section.partition("\n")[0]: section for section in sections}
    assert list(told) == list(ALERTS), "in the order of the rules"
    for alert, section in told.items():
        for part in ("**Why:**", "**Check:**", "**Cure:**"):
            assert part in section, f"{alert} has no {part}"
        severity = ALERTS[alert]["labels"]["severity"]
        assert f"{severity}, after {ALERTS[alert]['for']}" in section


@pytest.mark.parametrize("name", [*RECORDED, *ALERTS])
def test_expressions_read_what_workers_have(name: str) -> None:
    expression = (ALERTS.get(name) or RECORDED[name])["expr"]
    found = selectors(expression)
    recorded = re.findall(r"[\w]+:natterjack_\w+:\w+", expression)
    assert found or recorded
    assert set(recorded) <= set(RECORDED)
    for selector in found:
        labels = labels_of_samples()[selector.name]
        for label, _, value in selector.labels:
            assert label in labels
            assert set(value.split("|")) <= VALUES[label], f"{label}={value}"


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_names_tell_their_labels(name: str) -> None:
    level, _, _ = name.split(":")
    by = set(re.findall(r"by \(([^)]*)\)", RECORDED[name]["expr"]))
    labels = {frozenset(re.split(r",\s*", one)) - {"le"} for one in by}
    assert frozenset(level.split("_")) in labels

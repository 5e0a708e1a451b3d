"""The rules: their validity, when each alert fires, and the page of each alert."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest

from gateway.access import Reason
from natterjack.broker.login.attempts import REASONS
from natterjack.broker.streams import CONSUMER, SESSIONS, stream_configs
from natterjack.notices import CODES
from natterjack.plugin import errors
from natterjack.settings import KINDS, StreamSettings
from tests.nats_server import NatsServer
from worker.session.states import State

from ..ports import free_port
from .libyaml import read_yaml
from .names import ALERT_CASES, BROKER, ROOT, RULE_FILES, labels_of_samples, rules, selectors
from .prometheus import promtool

RUNBOOKS = "https://natterjack.example/how-to/answer-an-alert.html"
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
    "reason": set(REASONS) | {reason.value for reason in Reason} | {"draining", "request"},
    "credential": {"creds", "cert", "ca"},
    "scope": {"tenant", "session"},
    "state": {"waiting", "leased"},
    "kind": {"interim", "final"},
    "code": {"malformed", *CODES},
    "complete": {"true", "false"},
    "unit": {"seconds"},
    "is_stream_leader": {"true", "false"},
    "is_consumer_leader": {"true", "false"},
    "consumer_name": {CONSUMER},
    "stream_name": {"STT_.+", "TTS_.+", "KV_stt_.+", "KV_tts_.+", SESSIONS},
}
"""Possible values of the labels that expressions select."""


@cache
def _tests() -> list[dict[str, Any]]:
    return [case for path in ALERT_CASES for case in read_yaml(path)["tests"]]


def cases(alert: str) -> list[dict[str, Any]]:
    """Return the cases of an alert: each case's last check with its series."""
    found = []
    for case in _tests():
        asked = [test for test in case["alert_rule_test"] if test["alertname"] == alert]
        if asked:
            found.append({**asked[-1], "input_series": case["input_series"]})
    return found


@pytest.mark.process
def test_the_rules_are_valid() -> None:
    output = promtool("check", "rules", *RULE_FILES)
    assert output.count("SUCCESS") == len(RULE_FILES), output


def _asked_for(path: Path, folder: Path) -> dict[str, Any]:
    """Cases, with no rules but the alerts that they ask about and what those are recorded from:
    promtool evaluates all at each minute of a case, and compares nothing with the others."""
    document: dict[str, Any] = read_yaml(path)
    wanted = {check["alertname"] for case in document["tests"] for check in case["alert_rule_test"]}
    left = list(wanted)
    while left:
        name = left.pop()
        rule = ALERTS.get(name) or RECORDED[name]
        found = RECORDED.keys() & set(re.findall(r"[\w:]+", rule["expr"])) - wanted
        wanted |= found
        left += found
    document["rule_files"] = []
    for file in RULE_FILES:
        copied = read_yaml(file)
        for group in copied["groups"]:
            group["rules"] = [
                rule for rule in group["rules"] if rule.get("alert", rule.get("record")) in wanted
            ]
        (folder / file.name).write_text(json.dumps(copied))
        document["rule_files"].append(str(folder / file.name))
    return document


def _check(document: dict[str, Any], folder: Path) -> None:
    """Assert that cases pass."""
    path = folder / "cases.yml"
    path.write_text(json.dumps(document))
    output = promtool("test", "rules", path)
    assert output.count("SUCCESS") == 1, output


@pytest.mark.process
@pytest.mark.parametrize("path", ALERT_CASES, ids=lambda path: path.stem)
def test_the_cases_of_the_rules_pass(path: Path, tmp_path: Path) -> None:
    document = _asked_for(path, tmp_path)
    assert all(case["alert_rule_test"] for case in document["tests"])
    _check(document, tmp_path)


@pytest.mark.process
@pytest.mark.parametrize("path", ALERT_CASES, ids=lambda path: path.stem)
def test_every_alert_keeps_the_namespace(path: Path, tmp_path: Path) -> None:
    """The same cases, with two namespaces that have the same jobs and workers: each has alerts of
    its own."""
    document = _asked_for(path, tmp_path)
    for case in document["tests"]:
        case["input_series"] = [
            {**series, "series": series["series"].replace("{", f'{{namespace="{name}",', 1)}
            for series in case["input_series"]
            if "namespace=" not in series["series"]
            for name in ("one", "two")
        ] + [series for series in case["input_series"] if "namespace=" in series["series"]]
        for check in case["alert_rule_test"]:
            # An alert about workers that never were has no job either.
            check["exp_alerts"] = [
                {**alert, "exp_labels": {**alert["exp_labels"], **labels}}
                for alert in check["exp_alerts"]
                for labels in (
                    [{"namespace": "one"}, {"namespace": "two"}]
                    if {"job", "namespace"} & set(alert["exp_labels"]) == {"job"}
                    else [{}]
                )
            ]
    _check(document, tmp_path)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    found = cases(alert)
    assert any(case["exp_alerts"] for case in found)
    assert any(not case["exp_alerts"] for case in found)
    assert all(case["input_series"] for case in found)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_annotations_and_a_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch(r"Natterjack(?:[A-Z][a-z]+)+", alert)
    assert rule["for"]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}#{alert.lower()}"
    assert "{{" not in rule["annotations"]["summary"]


def test_the_page_has_every_alert_and_no_other() -> None:
    page = (ROOT / "docs" / "how-to" / "answer-an-alert.md").read_text()
    sections = re.split(r"^### ", page, flags=re.M)[1:]
    pages = {section.partition("\n")[0]: section for section in sections}
    assert list(pages) == list(ALERTS), "in the order of the rules"
    for alert, section in pages.items():
        section = section.partition("\n## ")[0]
        parts = re.findall(r"^- \*\*(\w+):\*\*", section, flags=re.M)
        assert parts == ["Cause", "Check", "Cure"], alert
        severity = ALERTS[alert]["labels"]["severity"]
        assert f"{severity}, after {ALERTS[alert]['for']}" in section


@pytest.mark.parametrize("name", [*RECORDED, *ALERTS])
def test_expressions_use_existing_metrics_and_labels(name: str) -> None:
    expression = (ALERTS.get(name) or RECORDED[name])["expr"]
    found = selectors(expression)
    recorded = re.findall(r"[\w]+:natterjack_\w+:\w+", expression)
    assert found or recorded
    assert set(recorded) <= set(RECORDED)
    for selector in found:
        labels = (labels_of_samples() | BROKER)[selector.name]
        for label, _, value in selector.labels:
            assert label in labels
            assert set(value.split("|")) <= VALUES[label], f"{label}={value}"


def test_the_stream_patterns_match_all_streams() -> None:
    for stream in stream_configs(StreamSettings(kinds=KINDS)):
        assert re.fullmatch("|".join(VALUES["stream_name"]), stream.name or "")


@pytest.mark.process
async def test_the_server_reports_the_values_that_the_exporter_exports(tmp_path: Path) -> None:
    """The exporter turns each number in /varz into a metric named after its path."""
    port = free_port()
    server = NatsServer(tmp_path, extra_arguments=("-m", str(port)))
    server.start()
    try:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}/varz") as answer,
        ):
            jetstream = (await answer.json())["jetstream"]
    finally:
        server.stop()
    # A single server reports no cluster size.
    for name in set(BROKER) - {"nats_varz_jetstream_meta_cluster_size"}:
        if place := re.fullmatch("nats_varz_jetstream_([a-z]+)_(.+)", name):
            assert isinstance(jetstream[place[1]][place[2]], int)


@pytest.mark.parametrize("name", RECORDED)
def test_names_of_recording_rules_contain_their_labels(name: str) -> None:
    level, _, _ = name.split(":")
    by = set(re.findall(r"by \(([^)]*)\)", RECORDED[name]["expr"]))
    assert by
    assert all(re.search(r"\bnamespace\b", one) for one in by)
    labels = {frozenset(re.split(r",\s*", one)) - {"le", "namespace"} for one in by}
    assert frozenset(level.split("_")) in labels

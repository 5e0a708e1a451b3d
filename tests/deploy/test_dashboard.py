"""The dashboard: its form, and data for every query from a real worker under load."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.grafana import dashboard
from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings

from ..waiting import until
from ..worker.programs import StartWorker
from .load import SETTINGS, Load
from .names import RULE_FILES, labels_of_samples, rules, selectors, unrated_counters
from .prometheus import Prometheus

MODEL: dict[str, Any] = json.loads(dashboard.DASHBOARD.read_text())
PANELS = [panel for panel in MODEL["panels"] if panel["type"] != "row"]
QUERIES = [
    (f"{panel['title']}: {target['legendFormat']}", target["expr"])
    for panel in PANELS
    for target in panel["targets"]
]

MAY_BE_EMPTY = {
    "Credit left, time: {{provider}}": "only the managed proxy reports a credit in seconds",
    "Credentials expire in: {{credential}}": "nothing in use expires",
    **dict.fromkeys(
        (
            "Time to first audio: {{provider}} p50",
            "Time to first audio: {{provider}} p95",
            "Speech: {{provider}} published",
            "Characters: {{provider}}",
            "Characters: {{provider}} again",
        ),
        "there is no voice session",
    ),
    **dict.fromkeys(
        (
            "Absent edges: {{tenant}}.{{agent}}",
            "Findings of inputs: {{tenant}}.{{agent}} {{code}}",
            "Spools of edges: {{tenant}}.{{agent}}",
            "Last report: {{tenant}}.{{agent}}",
            "Clocks of edges: {{tenant}}.{{agent}}",
        ),
        "no edge reports",
    ),
    **dict.fromkeys(
        (
            "Webhook events: {{name}} sent",
            "Webhook events: {{name}} {{cause}}",
            "Webhook events: {{name}} dead letters",
            "Webhook backlog: {{name}}",
            "Webhook delay: {{name}}",
            *(f"Webhook requests: {{{{name}}}} p{share}" for share in (50, 95, 99)),
            "Ready: webhook {{instance}}",
        ),
        "there is no webhook",
    ),
    **dict.fromkeys(
        (title for title, expression in QUERIES if "natterjack_registrar_" in expression),
        "there is no registrar",
    ),
    **dict.fromkeys(
        (title for title, expression in QUERIES if "natterjack_gateway_" in expression),
        "there is no gateway",
    ),
}
"""Queries without data under this load, and why."""
PENDING = {
    "NatterjackAudioGaps",
    "NatterjackProviderStreamsBreak",
    "NatterjackRecoveriesFrequent",
    "NatterjackRecoveryCostHigh",
}
"""Alerts that would fire if this load continued."""


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator(
        roles={"an-admin": "admin"}, balances=[{"amount": 100}], price_per_hour=3.6
    ) as emulator:
        yield emulator


@pytest.fixture
def provider_settings(emulator: DeepgramEmulator) -> dict[str, str]:
    return {
        "DEEPGRAM_ADMIN_KEY": "an-admin",
        "DEEPGRAM_API_URL": emulator.account_url,
        "DEEPGRAM_BALANCE_SECONDS": "1",
    }


# ---- the file -----------------------------------------------------------------------------------


def test_the_file_is_up_to_date() -> None:
    assert dashboard.DASHBOARD.read_text() == dashboard.text(), (
        "run: python -m deploy.grafana.dashboard"
    )


def test_the_dashboard_can_be_provisioned() -> None:
    assert MODEL["editable"] is False
    variables = {variable["name"]: variable for variable in MODEL["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    numbers = [panel["id"] for panel in MODEL["panels"]]
    assert len(set(numbers)) == len(numbers)
    rows = [panel["title"] for panel in MODEL["panels"] if panel["type"] == "row"]
    assert rows == [
        "Overview",
        "Latency",
        "Providers",
        "Audio",
        "Money",
        "Voice",
        "Webhook",
        "Registrar",
        "Gateway",
        "Edges",
        "Process",
    ]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in MODEL["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels_have_a_title_a_description_and_a_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]


@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_queries_use_existing_metrics_and_labels(title: str, expression: str) -> None:
    found = selectors(expression)
    assert found
    for selector in found:
        names = {name: value for name, _, value in selector.labels}
        assert set(names) <= set(labels_of_samples()[selector.name])
        assert (names["job"], names["instance"]) == ("$job", "$instance"), title
    assert unrated_counters(expression) == []
    assert set(re.findall(r"\[([^\]]*)\]", expression)) <= {"$__rate_interval"}


def test_every_metric_of_natterjack_is_shown() -> None:
    shown = {s.name for _, expression in QUERIES for s in selectors(expression)}
    base = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    ours = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in labels_of_samples()
        if name.startswith("natterjack_")
    }
    assert base >= ours


# ---- against a real Prometheus ------------------------------------------------------------------


def substituted(expression: str) -> str:
    """Substitute variables as Grafana does, with all jobs and instances and a short interval."""
    values = {"$job": ".+", "$instance": ".+", "$__rate_interval": "8s"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def has_numbers(series: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(value)) for one in series for _, value in one["values"])


@pytest.mark.slow
async def test_every_query_has_data_under_load(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
    tmp_path: Path,
) -> None:
    load = Load(ready_broker, broker_settings, emulator)
    await load.limits()
    worker = await start_worker(**SETTINGS)
    target = worker.http.removeprefix("http://")
    async with Prometheus(tmp_path / "prometheus", [target], RULE_FILES) as prometheus:
        await until(lambda: prometheus.query("natterjack_build_info"), "a scrape", 20)
        start = time.time()
        await load.run()
        end = time.time()

        async def empty(expression: str) -> bool:
            return not has_numbers(await prometheus.query_range(expression, start, end))

        wrong: list[str] = []

        async def complete() -> bool:
            nonlocal end
            end = time.time()  # the last values may not have been scraped yet
            wrong[:] = [
                title
                for title, expression in QUERIES
                if await empty(substituted(expression)) != (title in MAY_BE_EMPTY)
            ]
            return not wrong

        with contextlib.suppress(AssertionError):
            await until(complete, "every query has data", 20)
        assert wrong == []
        for variable in MODEL["templating"]["list"][1:]:
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert query is not None
            found = await prometheus.query(substituted(query[1]))
            assert all(one["metric"][query[2]] for one in found)
            assert found
        annotations = MODEL["annotations"]["list"][0]["target"]["expr"]
        await prometheus.query(annotations)
        await until(lambda: evaluated(prometheus), "every rule is evaluated")
        assert [rule["record"] for rule in rules("record") if await empty(rule["record"])] == []
        would_fire = {
            rule["alert"] for rule in rules("alert") if await prometheus.query(rule["expr"])
        }
        assert would_fire >= PENDING


async def evaluated(prometheus: Prometheus) -> bool:
    """Whether all rules have been evaluated.

    Raises: AssertionError if a rule has an error.
    """
    groups = (await prometheus.ask("rules"))["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert [rule["lastError"] for rule in found if rule.get("lastError")] == []
    return len(found) == len(rules("record", "alert")) and all(
        rule["health"] == "ok" for rule in found
    )

"""docs/reference/alerts.md: every alert, from deploy/prometheus/alerts.yml."""

from __future__ import annotations

from typing import Any

import yaml

from . import ROOT
from .markdown import cell, heading, table

RUNBOOK = "../how-to/answer-an-alert.md"
"""The runbook, from the generated page; each alert is a section of it."""


def rules() -> list[dict[str, Any]]:
    """The alert rules, in their order."""
    text = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def page() -> str:
    """The page."""
    rows = [
        (
            f"[{rule['alert']}]({RUNBOOK}#{rule['alert'].lower()})",
            rule["labels"]["severity"],
            str(rule["for"]),
            cell(rule["annotations"]["summary"]),
        )
        for rule in rules()
    ]
    return "\n".join(
        [
            heading(
                "Alerts",
                "`deploy/prometheus/alerts.yml`",
                "Each alert links to its section of the runbook: cause, check and cure.",
            ),
            table(("alert", "severity", "after", "summary"), rows),
        ]
    )

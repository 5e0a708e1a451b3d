"""Build the Grafana dashboard natterjack.json: `python -m deploy.grafana.dashboard`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .panels import ROWS, Panel

DASHBOARD = Path(__file__).with_name("natterjack.json")

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes: workers come and go
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    custom = {
        "drawStyle": "line",
        "fillOpacity": 20 if panel.stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if panel.limit is None else "dashed"},
    }
    return {
        "unit": panel.unit,
        "color": {"mode": "fixed", "fixedColor": "text"}
        if panel.kind == "stat"
        else {"mode": "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": custom if panel.kind == "timeseries" else {},
    }


def _panel(panel: Panel, number: int, x: int, y: int, height: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if panel.kind == "stat":
        options = {
            "colorMode": "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "value_and_name" if "{{" in panel.queries[0][1] else "value",
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _SOURCE,
                "editorMode": "code",
                "expr": expression,
                "legendFormat": legend,
                "range": True,
            }
            for i, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Place the panels of each row from left to right, with a line break when a line is full."""
    number = y = 0
    for title, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1},
            "panels": [],
        }
        y += 1
        x = height = 0
        for panel in panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + height
            height = 4 if panel.kind == "stat" and panel.width == 4 else 8
            number += 1
            yield _panel(panel, number, x, y, height)
            x += panel.width
        y += height


def build() -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON model."""
    return {
        "uid": "natterjack",
        "title": "natterjack",
        "description": "Live transcription: sessions, latency, providers and their cost.",
        "tags": ["natterjack"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": _SOURCE,
                    "enable": True,
                    "iconColor": "red",
                    "target": {
                        "refId": "Alerts",
                        "expr": 'ALERTS{alertname=~"Natterjack.+",alertstate="firing"}',
                    },
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{job}} {{instance}} {{provider}} {{tenant}}",
                }
            ]
        },
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                },
                _variable("job", "Job", "label_values(natterjack_build_info, job)"),
                _variable(
                    "instance",
                    "Instance",
                    'label_values(natterjack_build_info{job=~"$job"}, instance)',
                ),
            ]
        },
        "panels": list(_panels()),
    }


def text() -> str:
    """Return the content of the file."""
    return json.dumps(build(), indent=2) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text())

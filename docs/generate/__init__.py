"""Generates the reference pages from the code: `python -m docs.generate` writes them.

The pages are committed, so that they can be read, linked to and reviewed without a build; a test
compares them with what this package generates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def writers() -> dict[Path, Callable[[], str]]:
    """The function that returns the content of a generated file, for each by path."""
    from . import (
        alerts,
        api,
        chart,
        commands,
        edge_config,
        events,
        metrics,
        permissions,
        providers,
        settings,
        transcripts,
    )

    of_page = {
        "alerts.md": alerts.page,
        "asyncapi.json": events.asyncapi,
        "chart-values.md": chart.page,
        "commands.md": commands.page,
        "edge-config.md": edge_config.page,
        "events.md": events.page,
        "metrics.md": metrics.page,
        "permissions.md": permissions.page,
        "plugin-api.md": api.plugin_page,
        "providers.md": providers.page,
        "python-api.md": api.python_page,
        "settings.md": settings.page,
        "transcript-json.md": transcripts.page,
        "transcript.schema.json": transcripts.schema,
    }
    found = {REFERENCE / name: write for name, write in of_page.items()}
    return {**found, ROOT / "natterjack" / "data" / "variables.txt": settings.variables_text}


def pages() -> dict[Path, str]:
    """The content of every generated file, by path."""
    return {path: write() for path, write in writers().items()}

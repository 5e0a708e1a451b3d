"""`python -m tests.worker.voices.program` is a worker that has the voices of `pyproject.toml`, also
if natterjack was installed before they were added to it."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

from natterjack.plugin.entry_points import GROUP, VOICES_GROUP, available
from worker.__main__ import main
from worker.providers import loading

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def found(group: str = GROUP) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    declared = tomllib.loads(PROJECT.read_text())["project"]["entry-points"].get(group, {})
    points = {name: EntryPoint(name, value, group) for name, value in declared.items()}
    return {**available(group), **(points if group == VOICES_GROUP else {})}


if __name__ == "__main__":
    loading.available = found  # type: ignore[attr-defined, assignment]
    main()

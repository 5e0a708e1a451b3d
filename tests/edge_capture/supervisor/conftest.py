"""Fixtures for agents with several sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge_capture.supervisor.agents import Counter


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[list[Counter]]:
    """Writers to two pipes, `a` and `b`."""
    made = [Counter(tmp_path / f"{name}.pipe") for name in "ab"]
    yield made
    for each in made:
        each.close()

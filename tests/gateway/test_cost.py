"""The cost of a client's chunk in Python function calls, which does not depend on the machine."""

from __future__ import annotations

import pytest

from bench import calls

MAX_CALLS = 150.0
"""Limit per chunk, including its share of transcripts. The figures are in
docs/explanation/performance.md."""
MAX_GATEWAY_CALLS = 40.0


@pytest.mark.process
async def test_calls_per_chunk() -> None:
    counted = await calls.measure("gateway")
    assert 10 < counted["all"] < MAX_CALLS, counted
    assert counted["gateway"] < MAX_GATEWAY_CALLS, counted

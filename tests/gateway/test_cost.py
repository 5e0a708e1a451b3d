"""The cost of a client's chunk in Python function calls, which does not depend on the machine."""

from __future__ import annotations

import pytest

from bench import calls

pytestmark = pytest.mark.process

MAX_CALLS = 150.0
"""Limit per chunk, including its share of transcripts. The figures are in
docs/explanation/performance.md."""
MAX_GATEWAY_CALLS = 40.0


async def test_calls_per_chunk() -> None:
    counted = await calls.measure("gateway")
    assert 10 < counted["all"] < MAX_CALLS, counted
    assert counted["gateway"] < MAX_GATEWAY_CALLS, counted

"""The cost of a chunk in Python function calls, which does not depend on the machine."""

from __future__ import annotations

import pytest

from bench import calls

pytestmark = pytest.mark.process

MAX_CALLS = 65.0
"""Limit per chunk, including its share of transcripts, events, checkpoints, leases and accounts.
The figures are in docs/explanation/performance.md."""
MAX_WORKER_CALLS = 32.0


async def test_calls_per_chunk() -> None:
    counted = await calls.measure()
    assert 10 < counted["all"] < MAX_CALLS, counted
    assert counted["worker"] < MAX_WORKER_CALLS, counted

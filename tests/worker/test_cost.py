"""What a chunk costs in calls of Python functions, which are the same on every machine."""

from __future__ import annotations

import pytest

from bench import calls

MOST_CALLS = 65.0
"""With its share of transcripts, events, checkpoints, leases and books: figures in
docs/explanation/performance.md. It was 279 before any of it was looked at."""
MOST_CALLS_OF_THE_WORKER = 32.0


@pytest.mark.process
async def test_calls_a_chunk() -> None:
    counted = await calls.measure()
    assert 10 < counted["all"] < MOST_CALLS, counted
    assert counted["worker"] < MOST_CALLS_OF_THE_WORKER, counted

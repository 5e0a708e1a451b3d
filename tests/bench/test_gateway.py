"""The benchmark of the gateway measures what it says, with real processes."""

from __future__ import annotations

import pytest

from bench.gateway import cost, losses

pytestmark = pytest.mark.process


@pytest.mark.parametrize("who", cost.WHO)
async def test_cost(who: str) -> None:
    found = await cost.measure(who, 3, 3)
    assert list(found.cpu_s_per_hour) == list(cost.PARTS if who == "gateway" else ["client"])
    assert all(used > 0 for used in found.cpu_s_per_hour.values())
    assert found.audio_ms["count"] > 30
    assert found.results_ms["count"] >= 6
    assert found.delivered > 0.8
    assert found.broken == 0
    assert found.cores > 0


@pytest.mark.parametrize(
    ("who", "lost", "streams"),
    [("alone", True, 2), ("alone, again", True, 4), ("gateway", False, 2)],
)
async def test_losses_of_a_dropped_connection(who: str, lost: bool, streams: int) -> None:
    found = await losses.measure(who, "drop", 8, 2)
    assert found.spoken == 40
    assert (found.lost > 0) == lost
    assert (found.doubled, found.others) == (0, 0)
    assert found.streams == streams
    assert found.incomplete == (2 if who == "alone" else 0)

"""A small harvest: a short version of `python -m tests.faults.harvest`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nats_server import NatsServer

from .harvest import Harvest, Settings

pytestmark = pytest.mark.process


@pytest.mark.slow
async def test_no_event_is_lost_or_out_of_order_whoever_is_killed(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = Settings(kills=5, broker_kills=2, freezes=1, sessions=10, finals=20)
    outcome = await Harvest(nats_server, tmp_path, settings).run()
    assert outcome.clean, outcome
    assert (outcome.kills, outcome.broker_kills, outcome.freezes) == (5, 2, 1)
    assert outcome.published > 10 * 22
    assert outcome.handled == outcome.published + outcome.twins

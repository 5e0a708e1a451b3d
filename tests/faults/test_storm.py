"""A small storm: a short version of `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fleet import fleet
from .invoice import uncertain_seconds
from .soak import CHAINS
from .storm import Settings, Storm

pytestmark = pytest.mark.process


@pytest.mark.slow
@pytest.mark.parametrize("providers", CHAINS, ids=lambda chain: chain[0])
async def test_random_faults_cost_no_word(tmp_path: Path, providers: tuple[str, ...]) -> None:
    settings = Settings(faults=8, seed=20, talks=3, words=40)
    async with fleet(tmp_path, 3, providers) as running:
        outcome = await Storm(running, tmp_path, settings).run(lambda line: None)
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.audit.clean, outcome.audit
    assert outcome.audit.sessions >= 3
    assert outcome.faults.total() >= 8
    uncertain = uncertain_seconds(outcome.faults)
    for name, item in outcome.bill.items():
        # Twice the soak's bound: in a short run, one late record of a worker matters more.
        assert abs(item.difference_seconds) <= 2 * item.connections + uncertain, f"{name}: {item}"
    assert sum(item.received_seconds for item in outcome.bill.values()) > 3 * 10

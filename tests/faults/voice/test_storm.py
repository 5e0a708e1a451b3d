"""A small storm on each voice: a short version of `python -m tests.faults.soak --voice`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .storm import VOICES, Settings, VoiceStorm, voice_fleet

pytestmark = pytest.mark.process


@pytest.mark.slow
@pytest.mark.parametrize("voice", VOICES)
async def test_random_faults_cost_no_word_that_is_spoken(tmp_path: Path, voice: str) -> None:
    settings = Settings(faults=12, seed=20, talks=3, words=50, max_pause_seconds=2, long_cuts=False)
    async with voice_fleet(tmp_path, 3, voice) as running:
        outcome = await VoiceStorm(running, tmp_path, settings).run(lambda line: None)
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.account.clean, outcome.account
    assert outcome.account.sessions >= 3
    assert outcome.faults.total() >= 12

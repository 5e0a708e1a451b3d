"""Short runs of the table of an edge's faults, with a real sound server: what was captured is
transcribed or a named gap, and no word is lost outside of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..waiting import bound
from .edge_table import rows
from .edge_table.program import Program
from .edge_table.rig import Rig

pytestmark = [pytest.mark.sound, pytest.mark.slow, pytest.mark.timeout(400)]
TOLERANCE_SECONDS = 0.2


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("microphone-unloaded", "mic"), ("both-lost", "run"), ("suspended", "run"),
        ("agent-stopped-60", "mic"),
    ],
)  # fmt: skip
async def test_captured_audio_is_transcribed_or_a_named_gap(
    name: str, program: Program, sound_packages: None
) -> None:
    result = await rows.measure(name, before=3, after=3, program=program)
    details = "\n".join(result.details())
    assert abs(result.difference) <= bound(TOLERANCE_SECONDS), details
    assert result.words.played > 12, details  # 6 s of speech
    assert (result.words.lost, result.words.doubled, result.words.out_of_order) == (0, 0, 0), (
        details
    )
    assert not result.sums.problems + result.problems, details
    assert result.exit_code == 0, details


async def test_what_a_failed_wait_says(tmp_path: Path, sound_packages: None) -> None:
    rig = Rig(tmp_path)
    async with rig.running():
        with pytest.raises(
            AssertionError, match="never; the edge runs, the sound server runs"
        ) as said:
            await rig.agrees(lambda: False, "never", 0.1)
        assert "most recent call first" in str(said.value)  # what its threads do
        rig.edge.kill()
        words = "caught up; the edge has ended with status -9, the sound server runs; .* ends with"
        with pytest.raises(AssertionError, match=words):
            await rig.delivered(60)

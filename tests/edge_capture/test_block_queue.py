from __future__ import annotations

import numpy as np
import pytest

from edge_capture.sources.block_queue import BlockQueue
from natterjack.audio import AudioFormat

RATE, BLOCK = 16_000, 320
MONO = AudioFormat("linear16", RATE, 1)


def captured(queue: BlockQueue, now: float, *, latency_s: float = 0.05) -> None:
    """Give it 20 ms."""
    data = np.full(BLOCK * queue._format.channels, round(now), np.int16).tobytes()
    queue.captured(data, latency_s=latency_s, now=now, asleep=1.0, now_ns=round(now * 1e9))


def test_blocks_have_the_times_of_their_delivery() -> None:
    queue = BlockQueue(MONO, 10)
    captured(queue, 100.5, latency_s=0.1)
    (block,) = queue.blocks
    assert block.samples.shape == (BLOCK, 1)
    assert block[1:] == (100.5, 1.0, 100_500_000_000, 0.1, 0)


@pytest.mark.parametrize("latency_s", [-1.0, 0.0, 61.0])
def test_an_absurd_latency_is_ignored(latency_s: float) -> None:
    queue = BlockQueue(MONO, 10)
    captured(queue, 101.0, latency_s=latency_s)
    assert queue.blocks[0].latency_s == 0.02


def test_channels_stay_together() -> None:
    queue = BlockQueue(MONO._replace(channels=2), 10)
    captured(queue, 3.0)
    assert queue.blocks[0].samples.shape == (BLOCK, 2)


def test_audio_that_a_full_queue_lost_is_counted_before_the_next_block() -> None:
    queue = BlockQueue(MONO, 2)
    for now in (1.0, 1.02, 1.04, 1.06):
        captured(queue, now)
    assert len(queue.blocks) == 2
    queue.blocks.clear()
    captured(queue, 1.08)
    captured(queue, 1.1)
    assert [block.lost_frames for block in queue.blocks] == [2 * BLOCK, 0]

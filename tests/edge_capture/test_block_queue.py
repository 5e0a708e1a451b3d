from __future__ import annotations

import numpy as np
import pytest

from edge_capture.sources.block_queue import BlockQueue
from natterjack.audio import AudioFormat

RATE, BLOCK = 16_000, 320
MONO = AudioFormat("linear16", RATE, 1)


def captured(
    queue: BlockQueue, now: float, *, latency: float | None = 0.0, overflow: bool = False
) -> None:
    """Give it 20 ms that were captured `latency` before `now`; None: the device does not know."""
    queue.captured(
        np.full(BLOCK * queue._format.channels, round(now), np.int16).tobytes(),
        captured_at=0.0 if latency is None else 500.0 - latency,
        current=500.0,
        now=now,
        now_ns=round(now * 1e9),
        overflow=overflow,
    )


def test_blocks_have_the_time_of_their_capture() -> None:
    queue = BlockQueue(MONO, 10, 100.0)
    captured(queue, 100.5, latency=0.1)
    captured(queue, 101.0, latency=None)
    first, second = queue.blocks
    assert first.samples.shape == (BLOCK, 1)
    assert (first.time_ns, first.lost_frames) == (100_400_000_000, 0)
    # Without times of the device, a block is assumed to have just been completed.
    assert second.time_ns == 100_980_000_000
    assert queue.end == pytest.approx(101.0)


@pytest.mark.parametrize("latency", [-1.0, 6.0])
def test_an_absurd_latency_is_ignored(latency: float) -> None:
    queue = BlockQueue(MONO, 10, 100.0)
    captured(queue, 101.0, latency=latency)
    assert queue.blocks[0].time_ns == 100_980_000_000


def test_channels_stay_together() -> None:
    queue = BlockQueue(MONO._replace(channels=2), 10, 0.0)
    captured(queue, 3.0)
    assert queue.blocks[0].samples.shape == (BLOCK, 2)


def test_audio_that_a_full_queue_lost_is_counted_before_the_next_block() -> None:
    queue = BlockQueue(MONO, 2, 0.0)
    for now in (1.0, 1.02, 1.04, 1.06):
        captured(queue, now)
    assert len(queue.blocks) == 2
    queue.blocks.clear()
    captured(queue, 1.08)
    captured(queue, 1.1)
    assert [block.lost_frames for block in queue.blocks] == [2 * BLOCK, 0]
    assert queue.overflows == 2


def test_the_time_since_an_earlier_recording_is_lost() -> None:
    queue = BlockQueue(MONO, 10, 100.0, resumed=True)
    captured(queue, 103.5, latency=0.5)
    captured(queue, 103.52, latency=0.5)
    assert [block.lost_frames for block in queue.blocks] == [3 * RATE, 0]
    assert queue.end == pytest.approx(103.04)


def test_a_gap_is_never_negative() -> None:
    queue = BlockQueue(MONO, 10, 100.0, resumed=True)
    captured(queue, 100.1, latency=2.0)
    assert queue.blocks[0].lost_frames == 0


def test_overflows_are_reported_once_in_a_while() -> None:
    queue = BlockQueue(MONO, 10, 0.0)
    assert queue.overflows_to_report(1000.0) is None
    captured(queue, 1.0, overflow=True)
    assert queue.overflows_to_report(1000.0) == 1
    captured(queue, 1.0, overflow=True)
    assert queue.overflows_to_report(1004.0) is None
    assert queue.overflows_to_report(1005.1) == 2
    assert queue.overflows_to_report(2000.0) is None

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from edge_capture.sources.block_queue import BlockQueue, DecidedBlocks
from edge_capture.sources.capture_clock import CaptureClock
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


HELD, MORE = 20, 25


def late_and_caught_up(*, caught_up: bool) -> DecidedBlocks:
    """Return blocks of which `HELD` came late, and are held back until the device catches up."""
    queue, clock = BlockQueue(MONO, 200), CaptureClock(RATE, 100.0)
    for number in range(100):
        captured(queue, 100 + number * 0.02)
    for number in range(HELD + MORE * caught_up):
        captured(queue, 102.9 + number * 0.001)
    return DecidedBlocks(queue, clock)


@pytest.mark.parametrize("caught_up", [False, True])
def test_a_reader_that_gives_up_after_any_block_loses_none(caught_up: bool) -> None:
    """As a capture that is cancelled between two of the blocks that one decision has released."""
    whole = [block.time_ns for block in late_and_caught_up(caught_up=caught_up).take_all()]
    assert len(whole) == 100 + HELD + MORE * caught_up
    assert whole == sorted(whole)
    for count in range(len(whole) + 1):
        decided = late_and_caught_up(caught_up=caught_up)
        first = [block.time_ns for block in islice(decided.take_all(), count)]
        rest = [block.time_ns for block in decided.take_all()]
        assert first + rest == whole
        assert not list(decided.take_all())


def test_blocks_that_may_follow_a_gap_are_held_back() -> None:
    assert len(list(late_and_caught_up(caught_up=True).take())) == 100 + HELD + MORE
    decided = late_and_caught_up(caught_up=False)
    assert len(list(decided.take())) == 100
    assert len(list(decided.take_all())) == HELD

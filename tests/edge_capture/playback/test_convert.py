from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edge_capture.playback.convert import Block, Converter

from .chunks import chunk, positions


def joined(blocks: list[Block]) -> list[int]:
    return positions(b"".join(block.audio for block in blocks))


def test_at_the_session_rate_frames_pass_unchanged() -> None:
    converter = Converter(8000, 8000)
    blocks = converter.convert(chunk(0)) + converter.convert(chunk(1, end=True))
    assert joined(blocks) == list(range(160))
    assert [(block.start, block.end, block.last) for block in blocks] == [
        (0, 80, False), (80, 160, False), (160, 160, True),
    ]  # fmt: skip


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 44_100, 48_000])
def test_positions_are_those_of_the_session(rate: int) -> None:
    converter = Converter(24_000, rate)
    blocks = []
    for seq in range(50):
        blocks += converter.convert(chunk(seq, count=731, rate=24_000, end=seq == 49))
    assert blocks[0].start == 0
    for before, after in pairwise(blocks):
        assert before.end == pytest.approx(after.start, abs=1)
        assert before.start <= before.end
    frames = sum(len(block.audio) // 2 for block in blocks)
    assert frames == pytest.approx(50 * 731 * rate / 24_000, abs=1)
    assert (blocks[-1].end, blocks[-1].last) == (50 * 731, True)
    for block in blocks[:-2]:
        assert (block.end - block.start) * rate / 24_000 == pytest.approx(
            len(block.audio) / 2, abs=1e-3
        )


def test_each_utterance_is_whole() -> None:
    """The frames that the resampler keeps back belong to the utterance, even if its end is
    missing."""
    converter = Converter(8000, 16_000)
    blocks = converter.convert(chunk(0, end=True))
    assert sum(len(block.audio) for block in blocks) == 320
    blocks = converter.convert(chunk(1, utterance=1))
    blocks += converter.convert(chunk(2, utterance=2, end=True))
    lengths = dict.fromkeys((1, 2), 0)
    for block in blocks:
        lengths[block.utterance] += len(block.audio)
    assert lengths == {1: 320, 2: 320}
    assert [block.end for block in blocks if block.utterance == 1][-1] == 160


def test_a_jump_of_positions_ends_what_was_before() -> None:
    converter = Converter(8000, 16_000)
    blocks = converter.convert(chunk(0)) + converter.convert(chunk(5, end=True))
    assert [block.end for block in blocks if block.start < 80][-1] == 80
    assert min(block.start for block in blocks if block.start >= 80) == 400
    assert blocks[-1].end == 480


def test_after_a_cut_nothing_is_left() -> None:
    converter = Converter(8000, 16_000)
    converter.convert(chunk(0))
    converter.reset()
    blocks = converter.convert(chunk(2, 40, end=True))
    assert (blocks[0].start, blocks[-1].end) == (40, 120)
    assert sum(len(block.audio) for block in blocks) == 320


def test_an_end_without_audio() -> None:
    assert Converter(8000, 16_000).convert(chunk(0, count=0, end=True)) == [
        Block(b"", 0, 0, 0, last=True)
    ]


@pytest.mark.parametrize(("volume", "expected"), [(0.5, 8000), (2.0, 32_000), (4.0, 32_767)])
def test_volume(volume: float, expected: int) -> None:
    one = chunk(0)._replace(payload=np.full(80, 16_000, "<i2").tobytes())
    (block,) = Converter(8000, 8000, volume).convert(one)
    assert set(np.frombuffer(block.audio, "<i2")) == {expected}

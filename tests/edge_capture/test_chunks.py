from __future__ import annotations

import numpy as np
import pytest

from edge_capture.chunks import Chunker
from natterjack.audio import AudioFormat
from natterjack.notices import DROPPED
from tests.edge_capture.program import loudest_hertz, tone

RATE = 16_000


def linear(rate: int, channels: int = 1) -> AudioFormat:
    return AudioFormat("linear16", rate, channels)


def test_positions_and_times_are_continuous_for_blocks_of_any_size() -> None:
    chunker = Chunker(linear(44100), linear(RATE), None, 80)
    audio = tone(440, 5, 44100).astype(np.float32)[:, None]
    random, fed, chunks = np.random.default_rng(1), 0, []
    while fed < len(audio):
        size = int(random.integers(1, 9000))
        chunks += chunker.feed(audio[fed : fed + size], 1_000_000_000 + fed * 10**9 // 44100)
        fed += size
    chunks.append(chunker.finish())
    assert [chunk.pos for chunk in chunks] == [index * 1280 for index in range(len(chunks))]
    assert all(
        chunk.time_ns == pytest.approx(1_000_000_000 + chunk.pos * 10**9 / RATE, abs=50_000)
        for chunk in chunks
    )
    samples = np.frombuffer(b"".join(chunk.payload for chunk in chunks), "<i2")
    assert len(samples) == 5 * RATE
    assert loudest_hertz(samples, RATE) == pytest.approx(440, abs=0.5)
    assert samples.std() / 32768 == pytest.approx(0.5 / np.sqrt(2), rel=0.001)
    # A seam between blocks would be a click: a jump that a sine does not have.
    assert np.abs(np.diff(samples.astype(np.int32)))[100:-100].max() < 3000


def test_positions_do_not_depend_on_the_clock() -> None:
    chunker = Chunker(linear(RATE), linear(RATE), None, 80)
    block = np.ones((1280, 1), np.int16)
    clock = [10**18, 10**18 - 3600 * 10**9, 5]
    chunks = [chunk for time_ns in clock for chunk in chunker.feed(block, time_ns)]
    assert [chunk.pos for chunk in chunks] == [0, 1280, 2560]
    assert [chunk.time_ns for chunk in chunks] == clock


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_lost_frames_make_positions_jump(rate: int) -> None:
    chunker = Chunker(linear(rate), linear(RATE), None, 80)
    second = tone(440, 1.03, rate).astype(np.float32)[:, None]
    before = chunker.feed(second, 0)
    before += chunker.skip(rate * 2, DROPPED)
    after = [*chunker.feed(second, 3_030_000_000), chunker.finish()]
    assert sum(len(chunk.payload) for chunk in before) == 2 * round(1.03 * RATE)
    assert after[0].pos == round(3.03 * RATE)
    assert [c.note for c in (*before, *after) if c.note] == [after[0].note] == ["dropped:end"]
    assert after[0].time_ns == pytest.approx(3_030_000_000, abs=100_000)
    assert sum(len(chunk.payload) for chunk in after) == 2 * round(1.03 * RATE)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_a_session_without_audio_has_an_empty_last_chunk(rate: int) -> None:
    chunk = Chunker(linear(rate), linear(RATE), None, 80).finish()
    assert (chunk.pos, chunk.payload, chunk.end) == (0, b"", True)


def test_the_mix_is_the_mean_and_is_clipped() -> None:
    stereo = np.array([[0.5, -0.25], [1.5, 1.5], [-3, -3]], np.float32)
    chunk = Chunker(linear(RATE, 2), linear(RATE), None, 80)
    chunk.feed(stereo, 0)
    assert np.frombuffer(chunk.finish().payload, "<i2").tolist() == [4096, 32767, -32768]


def test_sixteen_bit_channels_are_mixed_without_overflow() -> None:
    stereo = np.array([[30000, 30000], [-32768, -32768], [100, 0]], np.int16)
    chunker = Chunker(linear(RATE, 2), linear(RATE), None, 80)
    chunker.feed(stereo, 0)
    assert np.frombuffer(chunker.finish().payload, "<i2").tolist() == [30000, -32768, 50]

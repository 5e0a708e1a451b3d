"""The chunker with random blocks and losses: no frame is lost, duplicated or misplaced."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.chunks import Chunk, Chunker
from natterjack.audio import AudioFormat
from natterjack.notices import BUSY

from ..searching import examples

# A positive number is a block of so many frames, a negative one so many lost frames.
blocks = st.lists(st.integers(1, 3000) | st.integers(-5000, -1), max_size=30)
lengths_ms = st.sampled_from([1, 20, 80, 100])


def cut(source: int, published: int, chunk_ms: int, script: list[int]) -> list[Chunk]:
    """Return the chunks of a source whose frame n has the value n."""
    chunker = Chunker(
        AudioFormat("linear16", source, 1), AudioFormat("linear16", published, 1), None, chunk_ms
    )
    chunks, at = [], 0
    for size in script:
        if size > 0:
            frames = (np.arange(at, at + size) % 2**15).astype(np.int16)
            chunks += chunker.feed(frames[:, None], at * 10**9 // source)
        else:
            chunks += chunker.skip(-size, BUSY)
        at += abs(size)
    return [*chunks, chunker.finish()]


@examples(100)
@given(rate=st.sampled_from([8000, 16_000, 44_100]), chunk_ms=lengths_ms, script=blocks)
def test_each_frame_is_at_its_position_once(rate: int, chunk_ms: int, script: list[int]) -> None:
    chunks = cut(rate, rate, chunk_ms, script)
    got = [
        (chunk.pos + n, value)
        for chunk in chunks
        for n, value in enumerate(np.frombuffer(chunk.payload, "<i2").tolist())
    ]
    wanted, at = [], 0
    for size in script:
        wanted += [(n, n % 2**15) for n in range(at, at + size)]
        at += abs(size)
    assert got == wanted
    assert [chunk.end for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(len(chunk.payload) <= 2 * (rate * chunk_ms // 1000) for chunk in chunks)
    assert all(chunk.payload for chunk in chunks[:-1])


@examples(60)
@given(
    rates=st.sampled_from([(48_000, 16_000), (44_100, 16_000), (8000, 16_000), (16_000, 8000)]),
    chunk_ms=lengths_ms,
    script=blocks,
)
def test_resampled_audio_keeps_its_length_and_position(
    rates: tuple[int, int], chunk_ms: int, script: list[int]
) -> None:
    source, published = rates
    chunks = cut(source, published, chunk_ms, script)
    ends = [chunk.pos + len(chunk.payload) // 2 for chunk in chunks]
    assert all(end <= chunk.pos for end, chunk in zip(ends, chunks[1:], strict=False))
    # Each stretch between losses is rounded to a whole frame.
    stretches = 1 + sum(size < 0 for size in script)
    frames = sum(size for size in script if size > 0)
    length = sum(len(chunk.payload) // 2 for chunk in chunks)
    assert abs(length - frames * published / source) <= stretches
    if script and script[-1] > 0:
        assert abs(ends[-1] - sum(map(abs, script)) * published / source) <= stretches


@examples(60)
@given(
    rates=st.sampled_from(
        [(16_000, 16_000), (48_000, 16_000), (44_100, 16_000), (8000, 16_000), (16_000, 8000)]
    ),
    chunk_ms=lengths_ms,
    sizes=st.lists(st.integers(1, 3000) | st.just(960), min_size=20, max_size=60),
)
def test_fewer_than_the_wanted_frames_complete_no_chunk(
    rates: tuple[int, int], chunk_ms: int, sizes: list[int]
) -> None:
    """Holding frames back until there are `wanted_frames` delays no chunk."""
    source, published = (AudioFormat("linear16", rate, 1) for rate in rates)
    prompt = Chunker(source, published, None, chunk_ms)
    patient = Chunker(source, published, None, chunk_ms)
    at_once, held_back, held = 0, 0, 0
    for size in sizes:
        at_once += len(prompt.feed(np.zeros((size, 1), np.int16), 0))
        held += size
        if held >= patient.wanted_frames:
            held_back += len(patient.feed(np.zeros((held, 1), np.int16), 0))
            held = 0
        assert held_back == at_once


def test_a_whole_chunk_is_wanted() -> None:
    """One wake-up per chunk is enough."""
    chunker = Chunker(AudioFormat("linear16", 16_000, 2), AudioFormat("linear16", 16_000, 1), 0, 80)
    assert chunker.wanted_frames == 1280
    chunker.feed(np.zeros((1380, 2), np.int16), 0)
    assert chunker.wanted_frames == 1180

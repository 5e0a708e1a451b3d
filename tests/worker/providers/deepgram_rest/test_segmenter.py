"""Splitting a stream into segments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from natterjack.emulators import pcm, tones
from worker.providers.deepgram_rest.segmenter import (
    PRE_ROLL_SECONDS,
    SILENCE_SECONDS,
    Segment,
    Segmenter,
)
from worker.providers.voice import BLOCK_SECONDS, Voice

RATE = 16_000
SIZE = round(BLOCK_SECONDS * RATE) * 2


def cut(audio: bytes, *, pause: float = 0.5, longest: float = 10.0) -> list[Segment]:
    voice = Voice(RATE)
    segmenter = Segmenter(pause_seconds=pause, max_segment_seconds=longest)
    blocks = voice.feed(audio) + voice.flush()
    segments = [segment for block in blocks for segment in segmenter.add(block)]
    segments += segmenter.finish()
    frontier = 0
    for segment in segments:
        assert segment.start == frontier
        assert segment.end >= segment.start
        assert segment.end - segment.start <= max(longest, SILENCE_SECONDS) / BLOCK_SECONDS + 1
        frontier = segment.end
    assert frontier == len(blocks)
    return segments


def words_in(audio: bytes, segments: list[Segment]) -> list[str]:
    """Decode each segment with speech on its own and return the words."""
    words = []
    for segment in segments:
        if segment.speech:
            decoder = tones.Decoder(RATE)
            found = decoder.feed(audio[segment.start * SIZE : segment.end * SIZE])
            words += [word.word for word in found + decoder.flush()]
    return words


def test_nothing() -> None:
    assert cut(b"") == []


def test_silence_advances_the_position() -> None:
    segments = cut(tones.silence(10))
    assert not any(segment.speech or segment.paused for segment in segments)
    assert len(segments) == 10 // SILENCE_SECONDS + 1


def test_segments_end_in_pauses() -> None:
    words = tones.sequence(24)
    audio = tones.encode(words, phrase_words=8, pause_seconds=1.2, lead_seconds=2, tail_seconds=3)
    segments = cut(audio)
    spoken = [segment for segment in segments if segment.speech]
    assert [segment.paused for segment in spoken] == [True] * 3
    assert words_in(audio, segments) == words
    places = tones.places(words, phrase_words=8, pause_seconds=1.2, lead_seconds=2)
    for segment, first, last in zip(spoken, places[::8], places[7::8], strict=True):
        before = first.start - segment.start * BLOCK_SECONDS
        assert before == pytest.approx(PRE_ROLL_SECONDS, abs=0.02)
        after = segment.end * BLOCK_SECONDS - last.end
        assert after == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("gap", [0.04, 0.08, 0.12])
@pytest.mark.parametrize("longest", [2.0, 3.1, 7.0])
def test_speech_without_pauses_is_cut_between_words(gap: float, longest: float) -> None:
    words = tones.sequence(80)
    audio = tones.encode(words, gap_seconds=gap)
    segments = cut(audio, longest=longest)
    assert words_in(audio, segments) == words
    spoken = [segment for segment in segments if segment.speech]
    lengths = [(segment.end - segment.start) * BLOCK_SECONDS for segment in spoken[:-1]]
    assert all(longest / 2 - 0.1 <= length <= longest for length in lengths)
    assert [segment.paused for segment in segments] == [False] * (len(segments) - 1) + [True]


def test_the_longest_gap_is_preferred_to_the_quietest_place() -> None:
    """A stop consonant within a word is as silent as a pause, but shorter."""
    burst = tones.encode(tones.sequence(1), tail_seconds=0)
    hum = np.random.default_rng(2).normal(0, 0.0003, round(0.2 * RATE))
    pieces = [burst, tones.silence(0.05)] * 6 + [burst, pcm.to_linear16(hum)]
    pieces += [burst, tones.silence(0.05)] * 5
    audio = b"".join(pieces)
    first = cut(audio, longest=3)[0]
    begin = (6 * 0.29 + 0.24, 6 * 0.29 + 0.44)
    assert begin[0] + 0.05 < first.end * BLOCK_SECONDS < begin[1] - 0.05


def test_no_gap_at_all() -> None:
    audio = pcm.to_linear16(np.random.default_rng(3).normal(0, 0.1, 30 * RATE))
    segments = cut(audio, longest=5)
    assert all(segment.speech for segment in segments)
    assert 6 <= len(segments) <= 13


def test_a_split_in_the_pause_that_ends_the_speech() -> None:
    words = tones.sequence(6)  # 1.84 s
    audio = tones.encode(words, tail_seconds=2)
    for longest in (2.0, 2.05, 2.1, 2.2, 2.3):
        segments = cut(audio, longest=longest)
        assert words_in(audio, segments) == words
        assert [segment.paused for segment in segments].count(True) == 1


def test_a_click_is_not_speech() -> None:
    audio = bytearray(tones.silence(4))
    audio[32000:32004] = b"\xff\x7f\xff\x7f"
    segments = cut(bytes(audio))
    assert not any(segment.speech for segment in segments)


def test_the_end_comes_at_any_moment() -> None:
    words = tones.sequence(3)
    audio = tones.encode(words, lead_seconds=0.4, tail_seconds=0.7)
    for end in range(0, len(audio), 640):
        segments = cut(audio[:end])
        decoder = tones.Decoder(RATE)
        all_words = [word.word for word in decoder.feed(audio[:end]) + decoder.flush()]
        assert words_in(audio[:end], segments) == all_words


def test_segments_of_random_audio_are_contiguous() -> None:
    random = np.random.default_rng(4)
    parts = []
    for _ in range(60):
        level = random.choice([0.0, 0.001, 0.01, 0.1])
        parts.append(pcm.to_linear16(random.normal(0, level, random.integers(100, 30_000))))
    segments = cut(b"".join(parts), longest=4)
    assert {segment.speech for segment in segments} == {True, False}
    for before, after in itertools.pairwise(segments):
        assert before.end == after.start

"""Detection of speech: tones and a real voice, in silence and in noise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import soundfile
import soxr

from natterjack.emulators import pcm, tones
from natterjack.local.demo import bundled_recording
from worker.providers.voice import BLOCK_SECONDS, Block, Voice

RATE = 16_000


def noise(seconds: float, level_db: float, seed: int = 1) -> bytes:
    """White noise of `level_db` decibels of full scale."""
    samples = np.random.default_rng(seed).normal(0, 10 ** (level_db / 20), round(seconds * RATE))
    return pcm.to_linear16(samples)


def mixed(*tracks: bytes) -> bytes:
    return pcm.to_linear16(
        np.sum([np.frombuffer(track, "<i2") / 32768 for track in tracks], axis=0)
    )


def judged(audio: bytes, chunk: int = 2560, rate: int = RATE) -> list[Block]:
    voice = Voice(rate)
    pieces = [audio[at : at + chunk] for at in range(0, len(audio), chunk)]
    return [block for piece in pieces for block in voice.feed(piece)] + voice.flush()


def voiced(blocks: list[Block]) -> list[tuple[float, float]]:
    """Spans that are voiced, in seconds."""
    spans: list[tuple[float, float]] = []
    for index, block in enumerate(blocks):
        at = index * BLOCK_SECONDS
        if block.voiced and spans and spans[-1][1] >= at - 1e-9:
            spans[-1] = (spans[-1][0], at + BLOCK_SECONDS)
        elif block.voiced:
            spans.append((at, at + BLOCK_SECONDS))
    return spans


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
def test_words_are_voiced_and_nothing_else(rate: int) -> None:
    words = tones.sequence(6)
    spans = voiced(judged(tones.encode(words, rate, lead_seconds=0.5), rate=rate))
    places = tones.places(words, lead_seconds=0.5)
    assert len(spans) == len(places)
    for span, place in zip(spans, places, strict=True):
        # At 22,050 Hz a block has 220 samples: slightly less than 10 ms.
        assert span == pytest.approx((place.start, place.end), abs=0.02)


@pytest.mark.parametrize("chunk", [4, 334, 100_000])
def test_the_size_of_pieces_does_not_matter(chunk: int) -> None:
    words = tones.encode(tones.sequence(5), lead_seconds=7)
    audio = mixed(noise(len(words) / 2 / RATE, -50), words)
    assert [b.voiced for b in judged(audio, chunk)] == [b.voiced for b in judged(audio)]


def test_words_are_detected_in_noise_once_it_is_known() -> None:
    words = tones.sequence(8)
    audio = tones.encode(words, lead_seconds=12, gap_seconds=0.5)
    seconds = len(audio) / 2 / RATE
    blocks = judged(mixed(audio, noise(seconds, -45)[: len(audio)]))
    for place in tones.places(words, lead_seconds=12, gap_seconds=0.5):
        inside = blocks[round((place.start + 0.01) * 100) : round((place.end - 0.01) * 100)]
        assert all(block.voiced for block in inside)
    before = blocks[700:1190]
    assert sum(block.voiced for block in before) < 0.02 * len(before)


def test_noise_is_speech_until_it_is_known() -> None:
    """It may be a quiet voice."""
    blocks = judged(noise(10, -45))
    assert all(block.voiced for block in blocks[:400])
    assert not any(block.voiced for block in blocks[600:])


def test_long_loud_audio_is_speech() -> None:
    assert all(block.voiced for block in judged(noise(20, -30)))


def test_a_constant_offset_is_silence() -> None:
    assert not any(block.voiced for block in judged(np.full(RATE, 9000, "<i2").tobytes()))


def test_speech_in_any_channel_counts() -> None:
    words = tones.sequence(2)
    left, right = tones.encode(words[:1]), tones.encode(words[1:], lead_seconds=1)
    voice = Voice(RATE, channels=2)
    spans = voiced(voice.feed(pcm.interleave(left, right)) + voice.flush())
    assert [round(start, 2) for start, _ in spans] == [0, 1]


@pytest.mark.parametrize("gain_db", [0, -20])
def test_a_person_reading(gain_db: int) -> None:
    """The recording has voice in a third to nine tenths of its time, and its pauses are found."""
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    audio = pcm.to_linear16(soxr.resample(samples, rate, RATE) * 10 ** (gain_db / 20))
    blocks = judged(audio)
    share = sum(block.voiced for block in blocks) / len(blocks)
    assert 1 / 3 < share < 0.9
    spans = voiced(blocks)
    pauses = [b[0] - a[1] for a, b in itertools.pairwise(spans)]
    assert sum(pause > 0.3 for pause in pauses) >= 5

"""Real speech with the real engine: texts and their times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from itertools import pairwise

import numpy as np
import pytest

from natterjack.local.wer import normalized_words, word_error_rate, word_errors
from natterjack.plugin.provider import Final, Interim, Turn
from worker.providers.sherpa import SherpaProvider

from .speech import BYTES_PER_SECOND, REFERENCE, Take, linear16, seconds, take_of

pytestmark = pytest.mark.engine

MAX_WER = 0.15


def assert_partition(take: Take, audio: bytes) -> None:
    """Check that finals cover all of the audio, without hole or overlap."""
    finals = take.finals
    assert finals[0].start == 0
    assert finals[-1].end == len(audio) / BYTES_PER_SECOND
    assert all(final.start < final.end for final in finals)
    assert all(before.end == after.start for before, after in pairwise(finals))


def test_a_recording_is_transcribed(whole_take: Take, speech: bytes) -> None:
    assert word_error_rate(REFERENCE, whole_take.text) < MAX_WER
    assert_partition(whole_take, speech)
    assert {final.language for final in whole_take.finals if final.text} == {"en"}


def test_words_are_estimates_within_their_final(whole_take: Take) -> None:
    events: list[Final | Interim] = [*whole_take.finals, *whole_take.interims]
    for event in events:
        if not event.text:
            assert not event.words
            continue
        assert event.times_estimated
        assert event.confidence is None
        assert " ".join(word.text for word in event.words) == event.text
        times = [t for word in event.words for t in (word.start, word.end)]
        assert all(t is not None and event.start <= t <= event.end for t in times)
        assert all(a <= b for a, b in pairwise(t for t in times if t is not None))
        assert all(word.confidence is None for word in event.words)


def test_interims_arrive_during_speech(whole_take: Take) -> None:
    position = 0.0
    since_final = 0
    for event in whole_take.events:
        if isinstance(event, Interim):
            assert event.start == position
            assert event.end > event.start
            since_final += 1
        elif isinstance(event, Final):
            if event.end - event.start > 6:
                assert since_final >= 2  # not more: this was heard faster than real time
            position, since_final = event.end, 0
    assert any("best of times" in event.text.lower() for event in whole_take.interims)


def test_turns_enclose_speech(whole_take: Take) -> None:
    started: float | None = None
    covered = 0.0
    for event in whole_take.events:
        if isinstance(event, Turn):
            assert (event.event == "started") == (started is None)
            if started is not None:
                assert started < event.at <= covered  # after the finals that belong before it
            started = event.at if started is None else None
        elif isinstance(event, Final):
            assert bool(event.text) == (started is not None)
            covered = event.end
    assert started is None
    assert len(whole_take.turns) >= 10


def test_a_final_ends_in_silence(whole_take: Take) -> None:
    ends = {turn.at for turn in whole_take.turns if turn.event == "ended"}
    starts = sorted(turn.at for turn in whole_take.turns if turn.event == "started")
    for final in whole_take.finals:
        if final.text:
            assert any(0.1 <= final.end - end <= 0.4 for end in ends)
            following = [start for start in starts if start >= final.end]
            assert not following or following[0] - final.end >= 0.1


async def test_chunk_size_changes_nothing(
    provider: SherpaProvider, part: bytes, part_take: Take
) -> None:
    for size in (646, 64_000):
        take = await take_of(provider, part, size=size, interim_seconds=0)
        assert take.events == part_take.events


async def test_neither_interims_nor_other_streams_change_finals(
    provider: SherpaProvider, part: bytes, part_take: Take
) -> None:
    assert not part_take.interims
    takes = await asyncio.gather(take_of(provider, part), take_of(provider, part))
    for take in takes:
        assert take.interims
        assert take.finals == part_take.finals
        assert take.turns == part_take.turns


@pytest.mark.parametrize(
    ("max_segment_seconds", "start", "end", "first", "last"),
    [
        (12, 0.0, 20.8, "It was the best", "winter of despair"),  # finals end in pauses
        (4, 28.6, 44.4, "in short", "comparison only"),  # and some between the words of a sentence
    ],
)
async def test_resuming_at_any_final_loses_and_repeats_nothing(
    provider: SherpaProvider,
    speech: bytes,
    max_segment_seconds: float,
    start: float,
    end: float,
    first: str,
    last: str,
) -> None:
    def take(audio: bytes) -> Awaitable[Take]:
        return take_of(provider, audio, interim_seconds=0, max_segment_seconds=max_segment_seconds)

    speech = seconds(start, end, speech)
    reference = REFERENCE[REFERENCE.index(first) : REFERENCE.index(last) + len(last)]
    whole = await take(speech)
    assert_partition(whole, speech)
    expected = normalized_words(whole.text)
    finals = whole.finals
    assert len(finals) > 5
    for index in range(len(finals) - 1):
        head = " ".join(final.text for final in finals[: index + 1])
        rest = speech[round(finals[index].end * BYTES_PER_SECOND) :]
        tail = await take(rest)
        assert_partition(tail, rest)
        joined = normalized_words(f"{head} {tail.text}")
        # Voice activity starts afresh, so a word may be heard otherwise (and split or joined on
        # other processors), but none is missing or there twice.
        assert abs(len(joined) - len(expected)) <= 1, f"after final {index}"
        assert word_errors(expected, joined) <= 3, f"after final {index}"
        assert word_error_rate(reference, " ".join(joined)) < MAX_WER


async def test_the_last_words_are_not_lost(provider: SherpaProvider, speech: bytes) -> None:
    take = await take_of(provider, seconds(32, 41.6, speech))  # ends as the last word does
    assert normalized_words(take.text)[-2:] == ["comparison", "only"]
    assert take.turns[-1].event == "ended"


SILENCES = {
    "digital silence": np.zeros(160_000),
    "near silence": np.random.default_rng(1).normal(0, 3 / 32768, 160_000),
    "white noise": np.random.default_rng(2).normal(0, 0.05, 160_000),
    "loud noise": np.random.default_rng(3).normal(0, 0.3, 160_000),
    "a tone": 0.3 * np.sin(np.arange(160_000) / 16_000 * 2 * np.pi * 440),
    "clicks": (np.arange(160_000) % 8_000 < 20) * 0.8,
}


@pytest.mark.parametrize("name", SILENCES)
async def test_noise_yields_no_text(provider: SherpaProvider, name: str) -> None:
    audio = linear16(SILENCES[name])
    take = await take_of(provider, audio)
    assert take.text == ""
    assert not any(interim.text for interim in take.interims)
    assert_partition(take, audio)
    # The position moves on, so that a session never starts again far back.
    assert all(final.end - final.start <= 2.1 for final in take.finals)


async def test_no_audio_at_all(provider: SherpaProvider) -> None:
    assert (await take_of(provider, b"")).events == []


@pytest.mark.parametrize("size", [2, 1022, 1024, 1026])
async def test_hardly_any_audio(provider: SherpaProvider, size: int) -> None:
    take = await take_of(provider, bytes(size))
    assert take.events == [Final("", 0, size / BYTES_PER_SECOND)]

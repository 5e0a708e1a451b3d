"""Canned words: whoever speaks hears the passage, and nobody else does."""

from __future__ import annotations

import itertools
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile

from natterjack.emulators import pcm
from natterjack.emulators.canned import PASSAGE, CannedDecoder, VoiceActivity
from natterjack.emulators.deepgram import DeepgramEmulator, DeepgramFluxEmulator
from natterjack.emulators.pcm import Floats
from natterjack.emulators.server import Emulator
from natterjack.emulators.tones import TimedWord
from natterjack.local.demo import bundled_recording
from tests.waiting import within

RATE = 16_000


def noise(seconds: float, level_db: float, rate: int = RATE) -> Floats:
    """Steady noise of that level, in decibels of full scale."""
    random = np.random.default_rng(7)
    samples = 10 ** (level_db / 20) * random.standard_normal(round(seconds * rate))
    return samples.astype(np.float32)


def recited(samples: Floats, rate: int = RATE, step_seconds: float = 0.02) -> list[TimedWord]:
    decoder = CannedDecoder(rate)
    step = round(step_seconds * rate)
    words: list[TimedWord] = []
    for at in range(0, len(samples), step):
        words += decoder.feed_samples(samples[at : at + step])
    return words + decoder.flush()


def check_times(words: list[TimedWord], seconds: float) -> None:
    """Words follow one another, in order, within the audio."""
    ends = [0.0]
    for word in words:
        assert ends[-1] <= word.start < word.end
        ends.append(word.end)
    assert ends[-1] <= seconds + 1e-6


@pytest.fixture(scope="module")
def speech() -> tuple[Floats, int]:
    """A person who reads, 44 s with pauses."""
    samples, rate = soundfile.read(bundled_recording(), dtype="float32")
    return samples, rate


def test_a_reader_hears_the_passage_at_a_reader_s_pace(speech: tuple[Floats, int]) -> None:
    samples, rate = speech
    words = recited(samples, rate)
    seconds = len(samples) / rate
    check_times(words, seconds)
    assert [word.word for word in words] == list(
        itertools.islice(itertools.cycle(PASSAGE), len(words))
    )
    assert 100 < len(words) / seconds * 60 < 200  # a minute
    pauses = sum(b.start - a.end > 0.2 for a, b in itertools.pairwise(words))
    assert pauses > 8  # the reader's


def test_the_size_of_pieces_changes_nothing(speech: tuple[Floats, int]) -> None:
    samples, rate = speech
    samples = samples[: 10 * rate]
    assert recited(samples, rate) == recited(samples, rate, 0.0333) == recited(samples, rate, 10)


@pytest.mark.parametrize("level_db", [-90.0, -60.0])
def test_a_quiet_room_has_no_words(level_db: float) -> None:
    assert recited(noise(30, level_db)) == []


def test_a_fan_stops_to_count_as_a_voice() -> None:
    words = recited(noise(60, -40))
    assert all(word.end < 8 for word in words)


def test_a_click_is_no_voice_and_a_short_yes_is_one_word() -> None:
    quiet = noise(1, -80)
    click, yes = noise(0.02, -10), noise(0.25, -20)
    assert recited(np.concatenate([quiet, click, quiet])) == []
    [word] = recited(np.concatenate([quiet, yes, quiet]))
    assert (word.word, round(word.start, 1)) == (PASSAGE[0], 1.0)


def test_a_pause_holds_the_passage() -> None:
    quiet, voice = noise(1, -80), noise(1, -20)
    words = recited(np.concatenate([quiet, voice, quiet, voice, quiet]))
    check_times(words, 5)
    assert [word.word for word in words] == list(PASSAGE[: len(words)])
    assert not [word for word in words if 2.0 < word.start < 3.0 or word.end > 4.01]


@pytest.mark.parametrize("at", np.arange(1.1, 1.9, 0.07).tolist())
def test_a_cut_loses_and_doubles_no_word(at: float) -> None:
    samples = np.concatenate([noise(1, -80), noise(1, -20), noise(1, -80)])
    decoder = CannedDecoder(RATE)
    where = round(at * RATE)
    before = decoder.feed_samples(samples[:where]) + decoder.cut()
    assert all(word.end <= at for word in before)
    after = decoder.feed_samples(samples[where:]) + decoder.flush()
    check_times([*before, *after], 3)
    assert all(word.start >= at - 0.01 for word in after)  # a frame
    words = [word.word for word in [*before, *after]]
    assert words == list(PASSAGE[: len(words)])


def test_encodings_are_decoded(speech: tuple[Floats, int]) -> None:
    samples, rate = speech
    audio = pcm.to_linear16(samples[: 10 * rate])
    coded = CannedDecoder(rate, "mulaw").feed(pcm.from_linear16(audio, "mulaw"))
    assert len(coded) == pytest.approx(len(CannedDecoder(rate).feed(audio)), abs=2)


def test_a_voice_goes_on_over_short_stops() -> None:
    activity = VoiceActivity()
    for _ in range(5):
        activity.step(-20)
    assert activity.active
    for _ in range(19):
        activity.step(-80)
    assert activity.active
    activity.step(-80)
    assert not activity.active


async def transcript(emulator: Emulator, query: str, audio: bytes) -> list[dict[str, Any]]:
    messages = []
    headers = {"Authorization": "Token a-key"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{emulator.url}{emulator.path}?{query}") as socket,
        within(20),
    ):
        for at in range(0, len(audio), 9600):
            await socket.send_bytes(audio[at : at + 9600])
        await socket.send_json({"type": "CloseStream"})
        async for frame in socket:
            messages.append(frame.json())
    return messages


async def test_deepgram_s_emulators_recite(speech: tuple[Floats, int]) -> None:
    samples, rate = speech
    audio = pcm.to_linear16(samples[: 12 * rate])
    query = f"encoding=linear16&sample_rate={rate}"
    async with DeepgramEmulator(words="canned") as emulator:
        messages = await transcript(emulator, f"model=nova-3&{query}", audio)
        finals = [
            message["channel"]["alternatives"][0]["transcript"]
            for message in messages
            if message["type"] == "Results" and message["is_final"]
        ]
        words = " ".join(finals).split()
        assert len(words) > 20
        assert words == list(PASSAGE[: len(words)])
        assert emulator.words == words
    async with DeepgramFluxEmulator(words="canned") as emulator:
        messages = await transcript(emulator, f"model=flux-general-en&{query}", audio)
        turns = [m["transcript"] for m in messages if m.get("event") == "EndOfTurn"]
        assert " ".join(turns).lower().replace(".", "").split()[:8] == list(PASSAGE[:8])


def test_the_passage_says_that_it_is_canned() -> None:
    assert " ".join(PASSAGE).startswith("these words are not what you said")

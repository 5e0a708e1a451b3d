"""Streams against the emulator: what only this provider does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from natterjack.audio import AudioFormat
from natterjack.emulators import tones
from natterjack.emulators.speechmatics.agent import SpeechmaticsAgentEmulator
from natterjack.emulators.speechmatics.faults import CLOSE_CODES
from natterjack.emulators.speechmatics.spec import AGENT as spec
from natterjack.plugin.errors import Dropped, ProviderError, RemoteProtocolError, Stalled
from natterjack.plugin.provider import Interim, ProviderEvent, Turn, Usage
from tests.waiting import until, within
from worker.providers.speechmatics_agent import SpeechmaticsAgentProvider

from ..emulated.contract import EmulatedContract
from ..emulated.streams import (
    AUDIO,
    PLACES,
    WORDS,
    codes,
    collect,
    fail,
    final_words,
    finals,
    opened,
    request,
    resume,
    send,
    transcribe,
    transcribed,
    turns,
)
from ..emulated.table import AGENT, Emulated
from ..speechmatics.test_failures import EXPECTED

Make = Callable[..., SpeechmaticsAgentProvider]


class TestExternal(EmulatedContract):
    """The mode in which `finalize` ends turns."""

    @pytest.fixture
    def case(self) -> Emulated:
        def settings(emulator: Any) -> dict[str, Any]:
            return {**AGENT.settings(emulator), "agent_turn_detection_mode": "external"}

        return replace(AGENT, settings=settings)


async def test_a_stream(
    provider: SpeechmaticsAgentProvider, emulator: SpeechmaticsAgentEmulator
) -> None:
    async with opened(provider) as stream:
        assert stream.reference == emulator.log[0].request_id
        events = await transcribed(stream)
    assert final_words(events) == WORDS
    assert events[-1] == Usage(audio_seconds=round(len(AUDIO) / 32000, 6))
    assert codes(events)[:2] == ["recognition_quality", "concurrent_session_usage"]
    texts = [final.text for final in finals(events) if final.text]
    assert texts[0] == "Able about above acorn."
    assert [event for event in events if isinstance(event, Interim) and event.text]
    found = [event for event in events if isinstance(event, Turn)]
    bounds = [at for n in (0, 4, 8) for at in (PLACES[n].start, PLACES[n + 3].end)]
    assert [turn.at for turn in found] == pytest.approx(bounds, abs=0.006)
    await until(lambda: emulator.log[0].closed, "the connection was closed")
    assert emulator.log[0].closed == "server 1000"
    assert emulator.log[0].path == "/v2/agent"
    session = emulator.sessions[0]
    assert session.last_seq_no == session.frames == emulator.log[0].audio_frames


async def test_temporary_keys(make: Make, emulator: SpeechmaticsAgentEmulator) -> None:
    """They are obtained with the account's key, as for `speechmatics`."""
    provider = make(temporary_keys=True)
    for _ in range(2):
        async with opened(provider):
            pass
    (key,) = emulator.temporary_keys
    assert [made["authorization"] for made in emulator.requests] == [f"Bearer {key}"] * 2


@pytest.mark.parametrize("sentences", [True, False])
async def test_word_times_are_estimated_within_segments(
    provider: SpeechmaticsAgentProvider, sentences: bool
) -> None:
    words = tones.sequence(60)
    audio, places = tones.encode(words, phrase_words=15), tones.places(words, phrase_words=15)
    events = await transcribe(provider, audio, options={"emit_sentences": sentences})
    assert final_words(events) == words
    spoken = [final for final in finals(events) if final.text]
    assert len(spoken) == (12 if sentences else 4)
    timed = [word for final in spoken for word in final.words]
    # All tone words are equally long, but their names are not.
    allowed = 0.6 if sentences else 1.5
    for word, place in zip(timed, places, strict=True):
        assert word.start == pytest.approx(place.start, abs=allowed)
    for final in finals(events):
        assert not [p for p in places if p.start + 0.01 < final.end < p.end - 0.01]


async def test_speakers(provider: SpeechmaticsAgentProvider) -> None:
    events = await transcribe(provider, options={"diarization": "speaker"})
    speakers = [word.speaker for final in finals(events) for word in final.words]
    assert [name for name, _ in itertools.groupby(speakers)] == ["S1", "S2", "S1"]


@pytest.mark.parametrize("rate", [8000, 16000])
async def test_rates(provider: SpeechmaticsAgentProvider, rate: int) -> None:
    audio_format = AudioFormat("linear16", rate, 1)
    async with opened(provider, audio_format=audio_format) as stream:
        events = await transcribed(stream, tones.encode(WORDS, rate), rate // 5)
    assert final_words(events) == WORDS


async def test_sent_messages_match_the_specification(
    make: Make, emulator: SpeechmaticsAgentEmulator
) -> None:
    provider = make(turn_detection_mode="external")
    options = {"additional_vocab": [{"content": "CEO", "sounds_like": ["see oh"]}]}
    async with opened(provider, keyterms=("natter jack",), options=options) as stream:
        await stream.configure({"enable_partials": False})
        await send(stream, AUDIO)
        await stream.finalize()
        await stream.finalize()
        await stream.finish()
        events = await collect(stream)
    assert final_words(events) == WORDS
    assert "warning" not in codes(events), "two requests for the same audio are one"
    assert not [event for event in events if isinstance(event, Interim)]
    received = emulator.sessions[0].received
    assert [message["message"] for message in received] == [
        "StartRecognition",
        "SetRecognitionConfig",
        "ForceEndOfUtterance",
        "EndOfStream",
    ]
    for message in received:
        assert spec.problems(message) == []


async def test_finalize_ends_the_turn(make: Make) -> None:
    async with opened(make(turn_detection_mode="external")) as stream:
        await send(stream, AUDIO)
        await stream.finalize()
        events = aiter(stream)
        found: list[ProviderEvent] = []
        async with within(5):
            while turns(found) != ["started", "ended"]:
                found.append(await anext(events))
        assert final_words(found) == WORDS


async def test_finalize_within_a_word_loses_nothing(make: Make) -> None:
    at = 2 * round(16000 * (PLACES[2].start + 0.1))
    async with opened(make(turn_detection_mode="external")) as stream:
        await send(stream, AUDIO[:at])
        await stream.finalize()
        await send(stream, AUDIO[at:])
        await stream.finish()
        events = await collect(stream)
    assert final_words(events) == WORDS
    assert turns(events) == ["started", "ended"] * 2


@pytest.mark.parametrize("kind", EXPECTED)
async def test_errors_in_the_middle(
    provider: SpeechmaticsAgentProvider, emulator: SpeechmaticsAgentEmulator, kind: str
) -> None:
    """Also those that the specification does not name."""
    await emulator.set(error_type=kind, error_after_seconds=1.5)
    _, error = await fail(provider)
    assert (type(error), error.cause) == EXPECTED[kind]
    assert error.provider == "speechmatics-agent"
    assert emulator.log[0].closed == f"server {CLOSE_CODES[kind]}"


async def test_an_error_at_the_start(
    provider: SpeechmaticsAgentProvider, emulator: SpeechmaticsAgentEmulator
) -> None:
    with pytest.raises(ProviderError, match=r"speechmatics-agent: .*model.*invalid_model"):
        await provider.open(request(model="enhanced"))
    assert emulator.log[0].closed == "server 4004"


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        ({"unreadable_final_after_seconds": 3}, RemoteProtocolError, "without readable text"),
        ({"parks_after_seconds": 3}, RemoteProtocolError, "clock went back"),
        ({"duration_limit_seconds": 2.5}, Dropped, "duration"),
    ],
    ids=str,
)
async def test_audio_that_is_not_final_is_sent_again(
    provider: SpeechmaticsAgentProvider,
    emulator: SpeechmaticsAgentEmulator,
    fault: dict[str, Any],
    kind: type[ProviderError],
    reason: str,
) -> None:
    await emulator.set(**fault, connections=1)
    events, error = await fail(provider)
    assert isinstance(error, kind)
    assert reason in str(error)
    assert finals(events)
    await resume(provider, events)


async def test_a_server_that_is_deaf(make: Make, emulator: SpeechmaticsAgentEmulator) -> None:
    """It acknowledges audio and sends nothing else. No audio with a sound becomes final."""
    await emulator.set(no_transcripts_after_seconds=0)
    silence = tones.silence(20)
    events = await transcribe(make(silence_margin_seconds=2), silence + AUDIO + silence)
    assert 15 < max(final.end for final in finals(events)) < 20 + PLACES[0].start
    assert final_words(events) == []


async def test_words_that_never_become_final(
    make: Make, emulator: SpeechmaticsAgentEmulator
) -> None:
    await emulator.set(no_transcripts_after_seconds=1.0)
    _, error = await fail(make(final_timeout_seconds=3), AUDIO + tones.silence(5))
    assert isinstance(error, Stalled)
    assert error.cause == "mute"

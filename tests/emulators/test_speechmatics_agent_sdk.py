"""The emulator of Agent STT, tested with the provider's own client and specification.

The official SDK must understand every message of the emulator. Each message must also match the
schemas in specs/.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from speechmatics.agent_stt import (
    AgentSttAsyncClient,
    AudioEncoding,
    AudioFormat,
    ServerMessageType,
    TranscriptionConfig,
    TurnConfig,
    TurnDetectionMode,
)
from speechmatics.rt import ConnectionError, TranscriptionError, TransportError

from natterjack.emulators import tones
from natterjack.emulators.speechmatics.agent import SpeechmaticsAgentEmulator
from natterjack.emulators.speechmatics.spec import AGENT as spec
from tests.waiting import bound, until, within

KEY = "a-key"
FORMAT = AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=16000, chunk_size=3200)
CONFIG = TranscriptionConfig(
    language="en",
    enable_partials=True,
    emit_sentences=True,
    diarization="speaker",
    additional_vocab=[{"content": "natterjack", "sounds_like": ["natter jack"]}],
)
EXTERNAL = TurnConfig(turn_detection_mode=TurnDetectionMode.EXTERNAL)


@pytest.fixture
async def emulator() -> AsyncIterator[SpeechmaticsAgentEmulator]:
    async with SpeechmaticsAgentEmulator(api_key=KEY) as emulator:
        yield emulator


def client_of(
    emulator: SpeechmaticsAgentEmulator, key: str = KEY, **changes: Any
) -> AgentSttAsyncClient:
    arguments = {"transcription_config": CONFIG, "audio_format": FORMAT, **changes}
    # The client appends `/agent`.
    return AgentSttAsyncClient(api_key=key, url=f"{emulator.url}/v2", **arguments)


async def send(client: AgentSttAsyncClient, audio: bytes, chunk: int = 3200) -> None:
    for at in range(0, len(audio), chunk):
        await client.send_audio(audio[at : at + chunk])


async def test_the_sdk_gets_every_word_and_the_turns(emulator: SpeechmaticsAgentEmulator) -> None:
    words = tones.sequence(30)
    audio = tones.encode(words, phrase_words=10, lead_seconds=0.4, tail_seconds=1.5)
    client = client_of(emulator)
    async with within(10), client:
        await send(client, audio)
    assert tones.words_of(client.transcript) == words
    assert client.session_error is None
    assert client.session_info.session_id == emulator.log[0].request_id
    assert {event["message"] for event in client.events} == {
        "Info",
        "RecognitionStarted",
        "AudioAdded",
        "AddPartialSegment",
        "AddSegment",
        "SpeechStarted",
        "SpeechEnded",
        "StartOfTurn",
        "EndOfTurn",
        "EndOfTranscript",
    }
    turns = [event for event in client.timeline if "Turn" in event.message]
    assert [event.message for event in turns] == ["StartOfTurn", "EndOfTurn"] * 3
    places = tones.places(words, phrase_words=10, lead_seconds=0.4)
    bounds = [at for n in (0, 10, 20) for at in (places[n].start, places[n + 9].end)]
    assert [event.time for event in turns] == pytest.approx(bounds, abs=0.006)
    assert {segment.speaker for segment in client.segments} == {"S1", "S2"}
    assert len(client.segments) == 6
    for segment in client.segments:
        assert 0 < segment.start_time < segment.end_time
    await until(lambda: emulator.log[0].closed, "the connection is closed")
    assert emulator.log[0].path == "/v2/agent"
    start, *_, last = emulator.sessions[0].received
    assert start["turn_config"] == {"turn_detection_mode": "vad"}
    assert start["transcription_config"]["model"] == "linden-1"
    assert last["message"] == "EndOfStream"
    assert emulator.requests[0]["sm-app"].startswith("agent-stt-sdk/")
    assert emulator.requests[0]["sm-sdk"].startswith("python-agent-stt-sdk")


async def test_what_the_sdk_sends_fits_the_specification(
    emulator: SpeechmaticsAgentEmulator,
) -> None:
    client = client_of(emulator, turn_config=EXTERNAL)
    async with within(10), client:
        await send(client, tones.encode(tones.sequence(3)))
        await client.force_end_of_utterance()
    received = emulator.sessions[0].received
    assert [message["message"] for message in received] == [
        "StartRecognition",
        "ForceEndOfUtterance",
        "EndOfStream",
    ]
    for message in received:
        assert spec.problems(message) == [], message


async def test_a_force_without_a_timestamp_ends_the_session(
    emulator: SpeechmaticsAgentEmulator,
) -> None:
    """The SDK can leave the timestamp out; the specification requires it."""
    client = client_of(emulator, turn_config=EXTERNAL)
    async with within(10):
        await client.connect()
        await send(client, tones.encode(tones.sequence(3)))
        await client.force_end_of_utterance(timestamp=None)
        await until(lambda: client.session_error, "the session has failed")
        await client.disconnect()
    assert "timestamp" in str(client.session_error)


async def test_the_sdk_ends_turns_itself(emulator: SpeechmaticsAgentEmulator) -> None:
    words = tones.sequence(3)
    client = client_of(emulator, turn_config=EXTERNAL)
    async with within(10), client:
        await send(client, tones.encode(words))
        client.finalize()
        await until(lambda: client.segments, "the turn ended")
        assert tones.words_of(client.transcript) == words
        assert [event.message for event in client.timeline] == ["StartOfTurn", "EndOfTurn"]


async def test_the_sdk_sends_a_file_with_backpressure(emulator: SpeechmaticsAgentEmulator) -> None:
    await emulator.set(pace=30.0)
    words = tones.sequence(60)
    client = client_of(emulator)
    await client.transcribe(io.BytesIO(tones.encode(words)), timeout=bound(20))
    await client.close()
    assert tones.words_of(client.transcript) == words


async def test_eight_kilohertz(emulator: SpeechmaticsAgentEmulator) -> None:
    words = tones.sequence(6)
    slow = AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=8000, chunk_size=1600)
    client = client_of(emulator, audio_format=slow)
    async with within(10), client:
        await send(client, tones.encode(words, 8000))
    assert tones.words_of(client.transcript) == words


async def test_the_sdk_receives_errors(emulator: SpeechmaticsAgentEmulator) -> None:
    with pytest.raises(ConnectionError, match="401"):
        await client_of(emulator, "wrong").connect()
    with pytest.raises(TranscriptionError, match="xx"):
        await client_of(emulator, transcription_config=TranscriptionConfig(language="xx")).connect()
    await emulator.set(quota=0)
    # The emulator refuses at once, so the SDK may not be able to send StartRecognition.
    with pytest.raises((TranscriptionError, TransportError), match=r"Quota|quota_exceeded"):
        await client_of(emulator).connect()


async def test_the_sdk_tells_nobody_that_the_connection_broke(
    emulator: SpeechmaticsAgentEmulator,
) -> None:
    """It drops audio from then on, without an error: words are lost. Whoever uses it has to watch
    the connection; our plugin does not use it."""
    words = tones.sequence(40)
    await emulator.set(drop_mid_word=10)
    client = client_of(emulator)
    async with within(30):
        await client.connect()
        for at in range(0, len(audio := tones.encode(words, tail_seconds=1.0)), 3200):
            await client.send_audio(audio[at : at + 3200])
        await until(lambda: emulator.log[0].closed, "the connection is gone")
        await client.disconnect()
    assert client.session_error is None
    assert len(tones.words_of(client.transcript)) < 10


# ---- the specification ----------------------------------------------------------------------


async def talk(
    emulator: SpeechmaticsAgentEmulator,
    audio: bytes,
    *orders: dict[str, Any],
    mode: str = "vad",
) -> list[dict[str, Any]]:
    """Send audio, then `orders`, and return all messages of the server."""
    seen: list[dict[str, Any]] = []
    begin = {
        "message": "StartRecognition",
        "audio_format": FORMAT.to_dict(),
        "transcription_config": CONFIG.to_dict(),
        "turn_config": {"turn_detection_mode": mode},
    }
    async with (
        within(10),
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
        session.ws_connect(f"{emulator.url}/v2/agent") as socket,
    ):
        await socket.send_json(begin)
        async for frame in socket:
            seen.append(json.loads(frame.data))
            if seen[-1]["message"] == "RecognitionStarted":
                for at in range(0, len(audio), 6400):
                    await socket.send_bytes(audio[at : at + 6400])
                for order in orders:
                    await socket.send_json(order)
    return seen


END = {"message": "EndOfStream", "last_seq_no": 0}


async def test_every_message_fits_the_specification(emulator: SpeechmaticsAgentEmulator) -> None:
    words = tones.sequence(20)
    audio = tones.encode(words, phrase_words=8, lead_seconds=4, tail_seconds=0)
    await emulator.set(warning_type="speaker_id", warning_after_seconds=2)
    partials = {"language": "en", "enable_partials": True}
    orders: list[dict[str, Any]] = [
        {"message": "SetRecognitionConfig", "transcription_config": partials},
        {"message": "GetSpeakers"},
    ]
    seen = await talk(emulator, audio, *orders, END)
    finals = [m["segment"]["transcript"] for m in seen if m["message"] == "AddSegment"]
    assert tones.words_of(" ".join(finals)) == words
    twice = {"message": "ForceEndOfUtterance", "timestamp": 1000}
    seen += await talk(emulator, audio, twice, twice, END, mode="external")
    await emulator.set(warning_type=None, duration_limit_seconds=3.0, untyped_warning=True)
    seen += await talk(emulator, audio)
    await emulator.clear()
    seen += await talk(emulator, audio, {"message": "EndOfChannel"})
    for message in seen:
        assert spec.problems(message) == [], message
        assert ServerMessageType(message["message"])
    assert {m["message"] for m in seen} == spec.messages("subscribe")


async def test_every_error_fits_the_specification(emulator: SpeechmaticsAgentEmulator) -> None:
    types = spec.document()["components"]["schemas"]["Error"]["properties"]["type"]["enum"]
    for kind in types:
        await emulator.set(error_type=kind)
        *_, error = await talk(emulator, b"")
        assert (error["message"], error["type"]) == ("Error", kind)
        assert spec.problems(error) == []

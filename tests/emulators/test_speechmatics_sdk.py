"""The Speechmatics emulator, tested with the provider's own client and specification.

The official SDK must understand every message of the emulator. Each message must also match the
schemas in specs/.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from speechmatics.rt import (
    AsyncClient,
    AudioEncoding,
    AudioFormat,
    AuthenticationError,
    ConnectionError,
    ConversationConfig,
    JWTAuth,
    ServerMessageType,
    TranscriptionConfig,
    TranscriptionError,
    TranscriptResult,
    TransportError,
)

from natterjack.emulators import tones
from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.emulators.speechmatics.spec import REALTIME as spec
from tests.waiting import bound, until, within

KEY = "a-key"
FORMAT = AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=16000)
CONFIG = TranscriptionConfig(
    language="en",
    max_delay=1.0,
    enable_partials=True,
    diarization="speaker",
    additional_vocab=[{"content": "natterjack", "sounds_like": ["natter jack"]}],
    conversation_config=ConversationConfig(end_of_utterance_silence_trigger=0.5),
)


@pytest.fixture
async def emulator() -> AsyncIterator[SpeechmaticsEmulator]:
    async with SpeechmaticsEmulator(api_key=KEY) as emulator:
        yield emulator


class Client:
    """The SDK's client. It stores every message, and transcripts as the SDK's own model."""

    def __init__(self, emulator: SpeechmaticsEmulator, **auth: Any) -> None:
        self.messages: list[dict[str, Any]] = []
        self.transcripts: list[TranscriptResult] = []
        self.sdk = AsyncClient(url=f"{emulator.url}/v2", **(auth or {"api_key": KEY}))
        for kind in ServerMessageType:
            self.sdk.on(kind, self._take)

    def _take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["message"] in ("AddTranscript", "AddPartialTranscript"):
            self.transcripts.append(TranscriptResult.from_message(message))

    def kinds(self) -> set[str]:
        return {message["message"] for message in self.messages}

    @property
    def words(self) -> list[str]:
        finals = [one for one in self.transcripts if one.is_final]
        return tones.words_of("".join(one.metadata.transcript for one in finals))

    async def start(self, config: TranscriptionConfig = CONFIG) -> None:
        await self.sdk.start_session(transcription_config=config, audio_format=FORMAT)

    async def send(self, audio: bytes, chunk: int = 3200) -> None:
        for at in range(0, len(audio), chunk):
            await self.sdk.send_audio(audio[at : at + chunk])

    async def stop(self) -> None:
        async with within(10):
            await self.sdk.stop_session()


async def test_the_sdk_gets_every_word_and_the_end(emulator: SpeechmaticsEmulator) -> None:
    words = tones.sequence(30)
    audio = tones.encode(words, phrase_words=10, lead_seconds=0.4, tail_seconds=1.5)
    client = Client(emulator)
    await client.start()
    await client.send(audio)
    await client.stop()
    assert client.words == words
    assert client.sdk.session_id == emulator.log[0].request_id
    assert client.kinds() == {
        "Info",
        "RecognitionStarted",
        "AudioAdded",
        "AddPartialTranscript",
        "AddTranscript",
        "EndOfUtterance",
        "EndOfTranscript",
    }
    finals = [one for one in client.transcripts if one.is_final]
    results = [result for final in finals for result in final.results]
    assert {result.type for result in results} == {"word", "punctuation"}
    assert {result.attaches_to for result in results} == {None, "previous"}
    assert any(result.is_eos for result in results)
    best = [result.alternatives[0] for result in results if result.alternatives]
    assert len(best) == len(results)
    assert {one.speaker for one in best} <= {"S1", "S2", "UU"}
    spoken = [result for result in results if result.type == "word"]
    places = tones.places(words, phrase_words=10, lead_seconds=0.4)
    for result, place in zip(spoken, places, strict=True):
        assert result.start_time == pytest.approx(place.start, abs=0.006)
        assert result.end_time == pytest.approx(place.end, abs=0.006)
    await until(lambda: emulator.log[0].closed, "the connection is closed")
    assert emulator.sessions[0].received[0]["transcription_config"]["max_delay"] == 1.0
    assert emulator.requests[0]["sm-sdk"].startswith("python-rt-sdk")


async def test_the_sdk_sends_a_file_with_backpressure(emulator: SpeechmaticsEmulator) -> None:
    """In file mode the SDK sends as fast as the socket allows, and the emulator reads no faster
    than it processes."""
    await emulator.set(pace=30.0)
    words = tones.sequence(60)
    audio = tones.encode(words)
    client = Client(emulator)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await client.sdk.transcribe(
        io.BytesIO(audio), transcription_config=CONFIG, audio_format=FORMAT, timeout=bound(20)
    )
    await client.sdk.close()
    assert client.words == words
    assert loop.time() - begin >= len(audio) / 32000 / 30 * 0.95


async def test_the_sdk_forces_the_end_of_an_utterance(emulator: SpeechmaticsEmulator) -> None:
    words = tones.sequence(3)
    client = Client(emulator)
    await client.start(TranscriptionConfig(language="en", max_delay=4.0))
    await client.send(tones.encode(words))
    await client.sdk.force_end_of_utterance()
    await until(lambda: "EndOfUtterance" in client.kinds(), "the utterance ended")
    assert client.words == words
    forced = [m for m in client.messages if m["message"] in ("AddTranscript", "EndOfUtterance")]
    assert all(message["forced"] for message in forced)
    await client.stop()
    assert client.words == words


async def test_the_sdk_reconfigures_and_requests_speakers(
    emulator: SpeechmaticsEmulator,
) -> None:
    client = Client(emulator)
    await client.start()
    change = {"language": "en", "enable_partials": False}
    await client.sdk.send_message(
        {"message": "SetRecognitionConfig", "transcription_config": change}
    )
    await client.sdk.send_message({"message": "GetSpeakers", "final": False})
    await client.send(tones.encode(tones.sequence(6)))
    await client.stop()
    assert "SpeakersResult" in client.kinds()
    assert "AddPartialTranscript" not in client.kinds()


async def test_the_sdk_obtains_a_temporary_key(emulator: SpeechmaticsEmulator) -> None:
    office = emulator.url.replace("ws://", "http://")
    client = Client(emulator, auth=JWTAuth(KEY, mp_url=office))
    await client.start()
    await client.stop()
    (key,) = emulator.temporary_keys
    assert emulator.requests[0]["authorization"] == f"Bearer {key}"
    await emulator.set(management_status=403)
    with pytest.raises(AuthenticationError, match="403"):
        await Client(emulator, auth=JWTAuth(KEY, mp_url=office)).start()


async def test_the_sdk_receives_errors(emulator: SpeechmaticsEmulator) -> None:
    with pytest.raises(ConnectionError, match="401"):
        await Client(emulator, api_key="wrong").start()
    await emulator.set(auth_in_band=True)
    # The emulator refuses at once, so the SDK may not be able to send StartRecognition.
    refused = (TranscriptionError, TransportError)
    with pytest.raises(refused, match=r"Not Authorised|not_authorised"):
        await Client(emulator, api_key="wrong").start()
    with pytest.raises(TranscriptionError, match="xx"):
        await Client(emulator).start(TranscriptionConfig(language="xx"))
    await emulator.set(quota=0)
    with pytest.raises(refused, match=r"Quota|quota_exceeded"):
        await Client(emulator).start()


# ---- the specification ----------------------------------------------------------------------

NEVER_SENT = {
    "ChannelAudioAdded",
    "AddPartialTranslation",
    "AddTranslation",
    "AudioEventStarted",
    "AudioEventEnded",
}
"""The emulator accepts one channel, and neither translates nor detects audio events."""


async def talk(
    emulator: SpeechmaticsEmulator, audio: bytes, *orders: dict[str, Any], query: str = ""
) -> list[dict[str, Any]]:
    """Send audio, then `orders`, and return all messages of the server."""
    headers = {} if query else {"Authorization": f"Bearer {KEY}"}
    seen: list[dict[str, Any]] = []
    begin = {
        "message": "StartRecognition",
        "audio_format": FORMAT.to_dict(),
        "transcription_config": CONFIG.to_dict(),
    }
    async with (
        within(10),
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{emulator.url}/v2/{query}") as socket,
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


async def test_every_message_fits_the_specification(emulator: SpeechmaticsEmulator) -> None:
    words = [*tones.sequence(20), "monday", "eleven"]
    audio = tones.encode(words, phrase_words=6, lead_seconds=4, tail_seconds=0)
    await emulator.set(warning_type="speaker_id", warning_after_seconds=2)
    orders: list[dict[str, Any]] = [
        {"message": "SetRecognitionConfig", "transcription_config": {"max_delay": 2.0}},
        {"message": "GetSpeakers"},
        {"message": "ForceEndOfUtterance", "timestamp": 1000},
    ]
    seen = await talk(emulator, audio, *orders, END)
    await emulator.set(warning_type=None, duration_limit_seconds=3.0)
    seen += await talk(emulator, audio)
    await emulator.clear()
    seen += await talk(emulator, audio, {"message": "EndOfChannel"})
    for message in seen:
        assert spec.problems(message) == [], message
        assert ServerMessageType(message["message"])
    assert {m["message"] for m in seen} == spec.messages("subscribe") - NEVER_SENT
    kinds = {r["type"] for m in seen for r in m.get("results", ())}
    assert kinds == {"word", "punctuation", "entity"}
    finals = [m for m in seen if m["message"] == "AddTranscript"]
    first = list(itertools.takewhile(lambda m: m["message"] != "EndOfTranscript", seen))
    transcript = "".join(m["metadata"]["transcript"] for m in first if m in finals)
    assert tones.words_of(transcript) == words


async def test_every_error_fits_the_specification(emulator: SpeechmaticsEmulator) -> None:
    for kind in spec.document()["components"]["schemas"]["ErrorTypeEnum"]["enum"]:
        await emulator.set(error_type=kind)
        *_, error = await talk(emulator, b"")
        assert (error["message"], error["type"]) == ("Error", kind)
        assert spec.problems(error) == []


async def test_a_temporary_key_may_be_in_the_address(emulator: SpeechmaticsEmulator) -> None:
    emulator.temporary_keys.append("eyJ-temporary")
    assert (await talk(emulator, b"", END, query="?jwt=eyJ-temporary"))[-1] == {
        "message": "EndOfTranscript"
    }
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await talk(emulator, b"", END, query=f"?jwt={KEY}")


async def test_the_extra_message_of_the_sdk(emulator: SpeechmaticsEmulator) -> None:
    """LanguageInfo is the one message that the specification lacks."""
    await emulator.set(language_info=True)
    seen = await talk(emulator, tones.encode(tones.sequence(3)), END)
    (message,) = [m for m in seen if m["message"] not in spec.messages("subscribe")]
    assert ServerMessageType(message["message"]) is ServerMessageType.LANGUAGE_INFO

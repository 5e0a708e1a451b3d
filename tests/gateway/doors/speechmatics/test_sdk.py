"""`/v2` and `/v2/agent` with Speechmatics' own Python SDKs, and different providers behind them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from speechmatics.agent_stt import AgentSttAsyncClient, TurnConfig, TurnDetectionMode
from speechmatics.agent_stt import AudioFormat as AgentFormat
from speechmatics.agent_stt import TranscriptionConfig as AgentConfig
from speechmatics.rt import (
    AsyncClient,
    AudioEncoding,
    AudioFormat,
    ConnectionError,
    ConversationConfig,
    ServerMessageType,
    TranscriptionConfig,
    TranscriptionError,
    TranscriptResult,
    TransportError,
)

from natterjack.emulators import tones
from tests.waiting import bound, until, within

from ..house import FRAME_SECONDS, House, Speech

pytestmark = pytest.mark.process

FORMAT = AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=16000)
CONFIG = TranscriptionConfig(
    language="en",
    max_delay=1.0,
    enable_partials=True,
    diarization="speaker",
    additional_vocab=[{"content": "natterjack", "sounds_like": ["natter jack"]}],
    conversation_config=ConversationConfig(end_of_utterance_silence_trigger=0.5),
)
AGENT_FORMAT = AgentFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=16000, chunk_size=2560)
AGENT_CONFIG = AgentConfig(language="en", enable_partials=True)
EXTERNAL = TurnConfig(turn_detection_mode=TurnDetectionMode.EXTERNAL)
PROVIDERS = ["speechmatics", "speechmatics-agent", "deepgram", "deepgram-flux"]


class Client:
    """The SDK's client for `/v2`, and what it has received."""

    def __init__(self, house: House, key: str = "none", path: str = "/v2") -> None:
        self.messages: list[dict[str, Any]] = []
        self.sdk = AsyncClient(url=f"{house.gateway.ws}{path}", api_key=key)
        for kind in ServerMessageType:
            self.sdk.on(kind, self.messages.append)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["message"] == kind]

    @property
    def words(self) -> list[str]:
        finals = [TranscriptResult.from_message(one) for one in self.of("AddTranscript")]
        return tones.words_of("".join(one.metadata.transcript for one in finals))

    async def start(self, config: TranscriptionConfig = CONFIG) -> None:
        await self.sdk.start_session(transcription_config=config, audio_format=FORMAT)

    async def stop(self) -> None:
        async with within(60):
            await self.sdk.stop_session()


def agent(house: House, key: str = "none", **changes: Any) -> AgentSttAsyncClient:
    arguments = {"transcription_config": AGENT_CONFIG, "audio_format": AGENT_FORMAT, **changes}
    return AgentSttAsyncClient(api_key=key, url=f"{house.gateway.ws}/v2", **arguments)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_sdk_gets_words_from_any_provider(house: House, provider: str) -> None:
    speech = Speech(24)
    await house.start(provider)
    client = Client(house)
    await client.start()
    await speech.play(client.sdk.send_audio)
    await client.stop()
    speech.check(client.words)
    assert [one["seq_no"] for one in client.of("AudioAdded")] == list(
        range(1, len(speech.frames()) + 1)
    )
    assert client.of("AddPartialTranscript")
    assert len(client.of("EndOfUtterance")) == 3
    assert client.messages[-1] == {"message": "EndOfTranscript"}
    results = [one for final in client.of("AddTranscript") for one in final["results"]]
    spoken = [one["start_time"] for one in results if one["type"] == "word"]
    places = [place.start for place in speech.places]
    exact = provider != "speechmatics-agent"
    assert spoken == pytest.approx(places, abs=0.05 if exact else 1.0)
    assert all(one["alternatives"][0]["speaker"] for one in results)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_agent_sdk_gets_turns_from_any_provider(house: House, provider: str) -> None:
    speech = Speech(24)
    await house.start(provider)
    client = agent(house)
    async with within(60):
        await client.connect()
        await speech.play(client.send_audio)
        # The client waits for no more than five seconds.
        await until(lambda: len(tones.words_of(client.transcript)) == 24, "all words", 20)
        await client.disconnect()
    speech.check(tones.words_of(client.transcript))
    assert client.session_error is None
    turns = [one.message for one in client.timeline if "Turn" in one.message]
    assert turns == ["StartOfTurn", "EndOfTurn"] * 3
    kinds = [one["message"] for one in client.events]
    assert kinds[-1] == "EndOfTranscript"
    assert "AddPartialSegment" in kinds


async def test_the_sdk_sends_a_file_as_fast_as_it_may(house: House) -> None:
    await house.start("speechmatics")
    speech = Speech(40)
    client = Client(house)
    await client.sdk.transcribe(
        io.BytesIO(speech.audio),
        transcription_config=CONFIG,
        audio_format=FORMAT,
        timeout=bound(60),
    )
    await client.sdk.close()
    speech.check(client.words)


async def test_forced_ends(house: House) -> None:
    await house.start("speechmatics")
    speech = Speech(3, tail_seconds=0.2)
    client = Client(house)
    await client.start(TranscriptionConfig(language="en", max_delay=4.0))
    await client.sdk.force_end_of_utterance()
    await until(lambda: client.of("EndOfUtterance"), "an answer without speech", 20)
    await speech.play(client.sdk.send_audio)
    await client.sdk.force_end_of_utterance()
    await until(lambda: len(client.of("EndOfUtterance")) == 2, "the end of the utterance", 20)
    speech.check(client.words)
    assert all(one["forced"] for one in client.of("EndOfUtterance"))
    await client.stop()
    speech.check(client.words)


async def test_the_agent_sdk_ends_turns_itself(house: House) -> None:
    await house.start("speechmatics")
    speech = Speech(3, tail_seconds=0.2)
    client = agent(house, turn_config=EXTERNAL)
    async with within(60):
        await client.connect()
        await speech.play(client.send_audio)
        client.finalize()
        await until(lambda: len(client.timeline) == 2, "the turn has ended", 20)
        speech.check(tones.words_of(client.transcript))
        assert [one.message for one in client.timeline] == ["StartOfTurn", "EndOfTurn"]
        assert client.timeline[1].time == pytest.approx(
            len(speech.frames()) * FRAME_SECONDS, abs=0.1
        )
        await client.disconnect()


async def test_the_sdk_reconfigures_and_asks_for_speakers(house: House) -> None:
    await house.start("speechmatics")
    client = Client(house)
    await client.start()
    change = {"language": "en", "enable_partials": False, "max_delay": 2.0}
    await client.sdk.send_message(
        {"message": "SetRecognitionConfig", "transcription_config": change}
    )
    await client.sdk.send_message({"message": "GetSpeakers", "final": False})
    await client.sdk.send_message({"message": "GetSpeakers", "final": True})
    await Speech(6).play(client.sdk.send_audio)
    await client.stop()
    assert len(client.of("SpeakersResult")) == 2
    assert not client.of("AddPartialTranscript")


async def test_a_wish_reaches_a_provider_of_the_same_service(house: House) -> None:
    """Speakers are told apart, if the key names the provider."""
    key = house.key(provider=("speechmatics",))
    await house.start("speechmatics")
    client = Client(house, key)
    await client.start()
    await Speech(16).play(client.sdk.send_audio)
    await client.stop()
    session = house.emulators["speechmatics"].sessions[0]  # type: ignore[attr-defined]
    config = session.received[0]["transcription_config"]
    assert (config["diarization"], config["max_delay"]) == ("speaker", 1.0)
    assert {"content": "natterjack", "sounds_like": ["natter jack"]} in config["additional_vocab"]
    labels = {
        one["alternatives"][0]["speaker"]
        for final in client.of("AddTranscript")
        for one in final["results"]
    }
    assert labels == {"S1", "S2"}


async def test_the_sdks_are_told_of_refusals(house: House) -> None:
    key = house.key(max_connections=1)
    await house.start("speechmatics")
    with pytest.raises(ConnectionError, match="401"):
        await Client(house, "wrong").start()
    with pytest.raises(ConnectionError, match="401"):
        await agent(house, "wrong").connect()
    with pytest.raises(TranscriptionError, match="language"):
        await Client(house, key).start(TranscriptionConfig(language="e!"))
    with pytest.raises(TranscriptionError, match="path"):
        await Client(house, key, "/v2/de").start()
    first = Client(house, key, "/v2/en")
    await first.start()
    # The gateway refuses at once, so the SDK may not be able to send StartRecognition.
    with pytest.raises((TranscriptionError, TransportError), match=r"limit|quota_exceeded"):
        await Client(house, key).start()
    with pytest.raises((TranscriptionError, TransportError), match=r"limit|job_error"):
        await agent(house, key).connect()
    await first.stop()

"""Creating and checking streams on a real server."""

from __future__ import annotations

import asyncio

import pytest
from nats.js.api import RetentionPolicy, StreamConfig
from nats.js.errors import APIError

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.errors import StreamMismatch, StreamMissing
from natterjack.settings import KINDS, BrokerSettings, StreamSettings
from natterjack.voice.spec import MAX_TEXT_CHARACTERS, TextPiece

pytestmark = pytest.mark.process


async def test_ensure_creates_everything_once_and_then_only_checks(broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings())
    js = await streams.ensure(broker, StreamSettings(create_streams=False))
    for name in (streams.SESSIONS, streams.AUDIO, streams.TRANSCRIPTS):
        assert (await js.stream_info(name)).config.name == name
    consumer = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    assert consumer.ack_wait == 3
    assert consumer.max_ack_pending == -1
    assert await js.key_value(streams.CHECKPOINTS_BUCKET)


async def test_streams_of_a_kind_are_made_only_where_it_is_on(broker: Broker) -> None:
    def names(*kinds: str) -> set[str]:
        settings = StreamSettings.model_validate({"kinds": kinds})
        return {config.name or "" for config in streams.stream_configs(settings)}

    voice = {"TTS_SESSIONS", "TTS_TEXT", "TTS_AUDIO", "TTS_EVENTS", "KV_tts_sessions"}
    assert names("transcribe", "speak") - names("transcribe") == voice
    assert voice <= names("speak")
    assert "STT_SESSIONS" not in names("speak")
    js = await streams.ensure(broker, StreamSettings(kinds=("transcribe",)))
    existing = {info.config.name or "" for info in await js.streams_info()}
    assert existing == names("transcribe")
    with pytest.raises(StreamMissing, match="TTS_SESSIONS is missing"):
        await streams.ensure(broker, StreamSettings(create_streams=False, kinds=KINDS))
    await streams.ensure(broker, StreamSettings(kinds=KINDS))
    existing = {info.config.name or "" for info in await js.streams_info()}
    assert existing == names(*KINDS)
    consumer = (await js.consumer_info(streams.VOICE_SESSIONS, streams.CONSUMER)).config
    assert (consumer.ack_wait, consumer.max_ack_pending) == (3, -1)
    await js.delete_consumer(streams.VOICE_SESSIONS, streams.CONSUMER)
    with pytest.raises(StreamMissing, match="consumer workers of TTS_SESSIONS is missing"):
        await streams.ensure(broker, StreamSettings(create_streams=False, kinds=KINDS))


async def test_text_is_refused_when_its_stream_is_full_and_speech_displaces_the_oldest(
    broker: Broker,
) -> None:
    settings = StreamSettings(kinds=KINDS, tts_text_max_bytes=4000, tts_audio_max_bytes=4000)
    js = await streams.ensure(broker, settings)
    for _ in range(3):
        await js.publish("tts.text.t.c.s", bytes(1000))
    with pytest.raises(APIError, match="maximum bytes exceeded"):
        await js.publish("tts.text.t.c.s", bytes(1000))
    for _ in range(5):
        await js.publish("tts.audio.t.c.s", bytes(1000))
    assert (await js.stream_info(streams.TEXT)).state.first_seq == 1
    assert (await js.stream_info(streams.SPEECH)).state.first_seq > 1


async def test_the_longest_text_is_stored(broker: Broker) -> None:
    js = await streams.ensure(broker, StreamSettings(kinds=KINDS))
    longest = TextPiece(
        session_id="s" * 64, utterance=2**53 - 1, piece=2**53 - 1, text="\x01" * MAX_TEXT_CHARACTERS
    )
    headers = {"Nats-Msg-Id": longest.msg_id}
    assert (await js.publish("tts.text.t.c.s", longest.encode(), headers=headers)).seq == 1


async def test_many_programs_may_start_at_the_same_time(broker_settings: BrokerSettings) -> None:
    async def one() -> None:
        async with connected(broker_settings, name="test", once=True) as broker:
            await streams.ensure(broker, StreamSettings())

    await asyncio.gather(*(one() for _ in range(8)))


async def test_missing_streams_are_an_error_if_none_may_be_created(broker: Broker) -> None:
    with pytest.raises(
        StreamMismatch, match="STT_SESSIONS is missing and NATTERJACK_CREATE_STREAM"
    ):
        await streams.ensure(broker, StreamSettings(create_streams=False))


async def test_an_incompatible_stream_is_named_with_its_remedy(broker: Broker) -> None:
    await broker.client.jetstream().add_stream(
        StreamConfig(
            name=streams.SESSIONS, subjects=["stt.session.>"], retention=RetentionPolicy.LIMITS
        )
    )
    with pytest.raises(StreamMismatch, match=r"STT_SESSIONS .*retention is limits.*streams apply"):
        await streams.ensure(broker, StreamSettings())


async def test_the_lease_time_of_an_existing_consumer_follows_the_setting(broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings())
    js = await streams.ensure(broker, StreamSettings(lease_seconds=1.5))
    assert (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config.ack_wait == 1.5


async def test_changing_the_lease_time_keeps_the_rest_of_the_consumer(broker: Broker) -> None:
    js = await streams.ensure(broker, StreamSettings())
    found = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    await js.add_consumer(streams.SESSIONS, found.evolve(description="ours", metadata={"of": "us"}))
    await streams.ensure(broker, StreamSettings(lease_seconds=2))
    after = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    assert (after.ack_wait, after.description) == (2, "ours")
    assert (after.metadata or {})["of"] == "us"

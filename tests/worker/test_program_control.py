"""Control of running sessions: finalize, configure and stop, across reconnects and handovers."""

from __future__ import annotations

import asyncio
import signal

import pytest

from natterjack.broker.connection import Broker
from natterjack.broker.control import control_session
from natterjack.control import ControlReply, ControlRequest
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.errors import BrokerError
from natterjack.settings import BrokerSettings
from natterjack.subjects import control_subject, session_subject

from ..waiting import until
from .programs import Speaker, StartWorker, closed, spoken, stored, streaming

pytestmark = pytest.mark.process


async def control(broker: Broker, speaker: Speaker, **request: object) -> ControlReply:
    return await control_session(broker, speaker.spec.key, ControlRequest.model_validate(request))


async def test_stop_ends_the_session_without_losing_earlier_words(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 60)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 6.0)
    await streaming(broker, speaker.spec)
    reply = await control(broker, speaker, command="stop", reason="enough")
    assert reply.ok
    assert reply.position is not None
    transcript = await closed(broker, speaker.spec)
    await speaking
    assert transcript.closing[0].reason == "stopped: enough"
    spoken_words = [p.word for p in speaker.places if p.end < reply.position - 0.1]
    assert transcript.words[: len(spoken_words)] == spoken_words
    assert len(transcript.words) <= len(spoken_words) + 2
    with pytest.raises(BrokerError, match="no worker holds"):
        await control(broker, speaker, command="stop")


async def test_settings_survive_reconnect_and_handover(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 70, speed=3)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 3.0)
    await streaming(broker, speaker.spec)
    await until(lambda: emulator.log[0].audio_seconds > 0, "the provider receives audio")
    reply = await control(broker, speaker, command="configure", settings={"keyterms": ["zebra"]})
    assert reply.ok, reply
    assert reply.provider == "deepgram"
    assert "keyterms" in reply.supports.configure
    assert reply.position is not None
    assert reply.position > 0
    emulator.drop()
    await until(lambda: len(emulator.log) >= 2, "reconnected")
    assert emulator.log[1].query["keyterm"] == ["zebra"]
    for worker in workers:
        if worker.find("session streaming"):
            worker.signal(signal.SIGTERM)
    await until(lambda: len(emulator.log) >= 3, "handed over")
    assert emulator.log[2].query["keyterm"] == ["zebra"]
    await speaking
    (await closed(broker, speaker.spec)).audit(speaker)


async def test_stop_survives_a_killed_worker(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    worker = await start_worker()
    speaker = Speaker(broker_settings, 60, speed=3)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4.0)
    await streaming(broker, speaker.spec)
    assert (await control(broker, speaker, command="stop")).ok
    worker.signal(signal.SIGKILL)
    await speaking
    await start_worker()
    transcript = await closed(broker, speaker.spec)
    account = transcript.closing[0].account
    assert account is not None
    assert account.transcribed_seconds < speaker.seconds - 3


async def test_finalize_makes_pending_audio_final(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    # With long endpointing, only finalize produces a final from a few words.
    await start_worker(DEEPGRAM_ENDPOINTING_MS="3000", WORKER_PARK_SECONDS="20")
    speaker = Speaker(broker_settings, 4)
    await speaker.speak(end=False)
    await until(
        lambda: emulator.log and emulator.log[0].audio_seconds > speaker.seconds - 0.01,
        "the provider has all audio",
    )
    assert (await stored(broker, speaker.spec)).finals == []
    reply = await control(broker, speaker, command="finalize")
    assert reply.ok
    assert reply.position == pytest.approx(speaker.seconds, abs=0.01)

    async def final() -> bool:
        return (await stored(broker, speaker.spec)).words == speaker.words

    await until(final, "a final without an end of audio")
    assert (await control(broker, speaker, command="stop")).ok
    await closed(broker, speaker.spec)


async def test_configure_is_refused_without_a_provider_stream(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 12)
    await broker.client.jetstream().publish(
        session_subject(speaker.spec.key), speaker.spec.model_dump_json().encode(),
        headers={"Nats-Msg-Id": speaker.spec.session_id},
    )  # fmt: skip

    async def held() -> bool:
        try:
            await control(broker, speaker, command="configure")
        except BrokerError:
            return False  # a session is assigned shortly before it accepts requests
        return (await stored(broker, speaker.spec)).states == ["assigned"]

    await until(held, "a worker holds it and answers")
    for settings in ({"keyterms": 5}, {"numerals": "perhaps"}):
        reply = await control(broker, speaker, command="configure", settings=settings)
        assert not reply.ok
        assert "no provider stream is open" in (reply.error or "")
    await speaker.speak()
    (await closed(broker, speaker.spec)).audit(speaker)


async def test_stop_during_a_provider_outage_keeps_earlier_words(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_BACKOFF_SECONDS="3")
    speaker = Speaker(broker_settings, 40, speed=3)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 5.0)
    await streaming(broker, speaker.spec)
    await emulator.set(handshake_status=503)
    emulator.drop()
    await spoken(speaker, 11.0)
    reply = await control(broker, speaker, command="stop")
    assert reply.position is not None
    assert reply.position >= 10.9
    await emulator.set(handshake_status=None)
    transcript = await closed(broker, speaker.spec)
    await speaking
    spoken_words = [place.word for place in speaker.places if place.end < 10.8]
    assert transcript.words[: len(spoken_words)] == spoken_words


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"{]", "bad request"),
        (b'{"command": "dance"}', "bad request: command"),
        (b'{"command": "configure", "settings": {"volume": 11}}', "no setting volume to change"),
        (b'{"command": "configure"}', "no settings were given"),
    ],
)
async def test_a_refused_request_lists_the_supported_ones(
    payload: bytes,
    text: str,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 8, speed=8)
    await speaker.speak(end=False)
    await streaming(broker, speaker.spec)
    message = await broker.client.request(control_subject(speaker.spec.key), payload, timeout=30)
    reply = ControlReply.model_validate_json(message.data)
    assert not reply.ok
    assert text in (reply.error or "")
    assert reply.supports.finalize
    assert "keyterms" in reply.supports.configure
    assert (await control(broker, speaker, command="stop")).ok
    (await closed(broker, speaker.spec)).audit(speaker)

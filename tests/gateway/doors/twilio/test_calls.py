"""Calls at the door `/twilio`, with a real broker, workers and an emulated provider."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.doors.twilio.protocol import signature
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.events import DurableEvent, FinalEvent, StatusEvent, parse_event
from natterjack.speaking.opening import speak
from natterjack.voice.events import UtteranceEvent, parse_voice_event
from tests.edge_capture.playback.speaker import heard
from tests.nats_server import NatsServer
from tests.waiting import lateness, until, within
from tests.worker.programs import holder
from tests.worker.voice.tone_worker import ToneWorker

from ..house import PHRASE, House
from .twilio import CALL, STREAM, Twilio, mulaw

pytestmark = pytest.mark.process

LONG_PHRASE: dict[str, Any] = {**PHRASE, "tail_seconds": 1.5}


def key(house: House, **fields: Any) -> str:
    return house.key(**{"doors": ("twilio",), **fields})


def speech(words: list[str]) -> bytes:
    return mulaw(tones.encode(words, 8000, **LONG_PHRASE))


class Stored:
    """The durable events of all sessions."""

    def __init__(self, events: list[DurableEvent]) -> None:
        self.events = events

    def words(self, speaker: str) -> list[str]:
        return [
            tones.plain(word.text)
            for event in self.events
            if isinstance(event, FinalEvent) and event.speaker == speaker
            for word in event.words
        ]

    @property
    def closing(self) -> list[StatusEvent]:
        return [e for e in self.events if isinstance(e, StatusEvent) and e.closing]


async def closed(broker: Broker, sessions: int) -> Stored:
    """All events, once so many sessions have ended."""
    js = broker.client.jetstream()
    found: list[Stored] = []

    async def look() -> bool:
        info = await js.stream_info(streams.TRANSCRIPTS)
        events: list[DurableEvent] = []
        for sequence in range(info.state.first_seq or 1, info.state.last_seq + 1):
            message = await js.get_msg(streams.TRANSCRIPTS, sequence)
            event = parse_event(message.data or b"")
            assert event.type != "interim"
            events.append(event)
        found[:] = [Stored(events)]
        return len(found[0].closing) >= sessions

    await until(look, f"{sessions} sessions have ended", 60)
    return found[0]


async def test_each_track_of_a_call_is_a_speaker(house: House, ready_broker: Broker) -> None:
    token = key(house)
    await house.start("deepgram")
    caller, agent = tones.sequence(16), tones.sequence(32)[16:]
    call = Twilio(
        f"{house.gateway.ws}/twilio", tracks=("inbound", "outbound"), token=token,
        conversation="call-7", language="en-GB",
    )  # fmt: skip
    async with within(90):
        await call.dial()
        await call.start()
        await call.message("dtmf", dtmf={"track": "inbound_track", "digit": "5"})
        await call.message("weather", weather={"sunny": True})
        await call.talk({"inbound": speech(caller), "outbound": speech(agent)})
        assert await call.stop() == 1000
        stored = await closed(ready_broker, 2)
    assert stored.words("caller") == caller
    assert stored.words("agent") == agent
    assert {event.conversation for event in stored.events} == {"call-7"}
    assert all(event.state == "closed" for event in stored.closing)
    labels = stored.closing[0].labels or {}
    assert (labels["call_sid"], labels["stream_sid"]) == (CALL, STREAM)
    assert stored.closing[0].language == "en-GB"
    assert house.gateway.find("a key was pressed and is ignored") is not None
    assert not call.invalid
    assert not call.marks, "nothing is sent to a stream in one direction"
    (query, _) = (connection.query for connection in house.emulators["deepgram"].log)
    assert query["encoding"] == ["mulaw"]
    assert query["sample_rate"] == ["8000"]


async def test_the_key_may_be_in_the_path_and_the_conversation_is_the_call(
    house: House, ready_broker: Broker
) -> None:
    token = key(house)
    await house.start("deepgram")
    words = tones.sequence(8)
    call = Twilio(f"{house.gateway.ws}/twilio/{token}")
    async with within(60):
        await call.dial()
        await call.start()
        await call.talk({"inbound": speech(words)})
        assert await call.stop() == 1000
        stored = await closed(ready_broker, 1)
    assert stored.words("caller") == words
    assert {event.conversation for event in stored.events} == {CALL}
    with pytest.raises(InvalidStatus) as caught:
        await Twilio(f"{house.gateway.ws}/twilio/wrong").dial()
    assert caught.value.response.status_code == 401


async def test_lost_messages_are_a_gap_and_times_stay_true(
    house: House, ready_broker: Broker
) -> None:
    token = key(house)
    await house.start("deepgram")
    words = tones.sequence(16)
    places = tones.places(words, **PHRASE)
    # The pause between the phrases, and a second more that is lost.
    pause_ms = round((places[7].end + places[8].start) * 500) // 20 * 20
    lost = range(pause_ms - 200, pause_ms + 200, 20)
    call = Twilio(f"{house.gateway.ws}/twilio", token=token)
    async with within(60):
        await call.dial()
        await call.start()
        await call.talk({"inbound": speech(words)}, lost_ms=lost)
        assert await call.stop() == 1000
        stored = await closed(ready_broker, 1)
    assert stored.words("caller") == words
    account = stored.closing[0].account
    assert account is not None
    (gap,) = account.gaps
    assert gap.start == pytest.approx(lost.start / 1000, abs=0.05)
    assert gap.end == pytest.approx(lost.stop / 1000, abs=0.05)
    assert gap.cause == "dropped"
    starts = [w.start for e in stored.events if isinstance(e, FinalEvent) for w in e.words]
    assert starts == pytest.approx([place.start for place in places], abs=0.1)


async def test_a_call_survives_a_killed_worker_and_a_network_that_is_cut(
    house: House, ready_broker: Broker
) -> None:
    token = key(house)
    await house.emulator("deepgram")
    await asyncio.gather(house.start_worker("deepgram"), house.start_worker("deepgram"))
    await house.start_gateway()
    words = tones.sequence(24)
    call = Twilio(f"{house.gateway.ws}/twilio", token=token)
    async with within(90):
        await call.dial()
        await call.start()
        talking = asyncio.create_task(call.talk({"inbound": speech(words)}, 2))
        await until(lambda: call.sent_ms > 4000, "4 s are sent", 30)
        await (await holder(house.workers)).stop()
        await talking
        call.cut()
        stored = await closed(ready_broker, 1)
    assert stored.words("caller") == words


async def test_a_call_survives_a_killed_broker(
    house: House, ready_broker: Broker, nats_server: NatsServer
) -> None:
    token = key(house)
    await house.start("deepgram")
    words = tones.sequence(24)
    call = Twilio(f"{house.gateway.ws}/twilio", token=token)
    async with within(90):
        await call.dial()
        await call.start()
        talking = asyncio.create_task(call.talk({"inbound": speech(words)}, 2))
        await until(lambda: call.sent_ms > 4000, "4 s are sent", 30)
        nats_server.kill()
        nats_server.start()
        await talking
        assert await call.stop() == 1000
        await ready_broker.wait_connected()
        stored = await closed(ready_broker, 1)
    assert stored.words("caller") == words
    account = stored.closing[-1].account
    assert account is not None
    assert not account.gaps


async def test_a_call_without_audio(house: House, ready_broker: Broker) -> None:
    token = key(house)
    await house.start("deepgram")
    call = Twilio(f"{house.gateway.ws}/twilio", token=token)
    async with within(60):
        await call.dial()
        await call.start()
        assert await call.stop() == 1000
        stored = await closed(ready_broker, 1)
    assert stored.closing[0].state == "closed"
    assert stored.words("caller") == []


# ---- speech -------------------------------------------------------------------------------------


@pytest.fixture
async def voice(house: House) -> ToneWorker:
    """A worker that speaks tone words."""
    worker = ToneWorker(house.nats_url, "", WORKER_KINDS="speak", WORKER_VOICE="tones")
    house.workers.append(worker)
    await worker.start()
    return worker


async def utterances(broker: Broker) -> list[UtteranceEvent]:
    js = broker.client.jetstream()
    info = await js.stream_info(streams.VOICE_EVENTS)
    found = []
    for sequence in range(info.state.first_seq or 1, info.state.last_seq + 1):
        message = await js.get_msg(streams.VOICE_EVENTS, sequence)
        event = parse_voice_event(message.data or b"")
        if isinstance(event, UtteranceEvent):
            found.append(event)
    return found


async def test_a_voice_session_is_heard_on_the_call(
    house: House, ready_broker: Broker, voice: ToneWorker
) -> None:
    token = key(house)
    await house.start_gateway()
    words = tones.sequence(10)
    call = Twilio(
        f"{house.gateway.ws}/twilio", token=token, conversation="call-7", voice="assistant"
    )
    async with within(90):
        await call.dial()
        await call.start()
        async with speak("acme", "call-7", "assistant", broker=ready_broker) as speaking:
            await speaking.say(" ".join(words))

            async def finished() -> bool:
                return any(e.event == "finished" for e in await utterances(ready_broker))

            await until(finished, "the utterance was played", 60)
            # Reported as played when it was, and not when it was sent.
            assert len(call.waiting) < 8000 * 0.5
        assert await call.stop() == 1000
    assert heard(call.heard, 8000) == words
    assert call.marks
    assert not call.invalid


async def test_an_interruption_clears_what_was_not_heard(
    house: House, ready_broker: Broker, voice: ToneWorker
) -> None:
    token = key(house)
    await house.start_gateway()
    words = tones.sequence(40)
    call = Twilio(
        f"{house.gateway.ws}/twilio", token=token, conversation="call-7", voice="assistant"
    )
    async with within(90), lateness() as late:
        await call.dial()
        await call.start()
        async with speak("acme", "call-7", "assistant", broker=ready_broker) as speaking:
            await speaking.say(" ".join(words))
            await until(lambda: len(call.played) > 8000 * 2, "2 s were heard", 60)
            await speaking.interrupt()
            await until(lambda: call.clears > 0, "the call is cleared", 20)

            async def interrupted() -> bool:
                return any(e.event == "interrupted" for e in await utterances(ready_broker))

            await until(interrupted, "the utterance was interrupted", 20)
        await call.stop()
    (event,) = [e for e in await utterances(ready_broker) if e.event == "interrupted"]
    spoken = [tones.plain(word) for word in (event.text_spoken or "").split()]
    reached = heard(call.heard, 8000)
    assert reached == words[: len(reached)]
    assert len(reached) < 25
    # The gateway learns from the next mark that a busy machine made the call silent in between.
    unknown_s = late.seconds + call.silence_ms / 1000
    assert abs(len(spoken) - len(reached)) <= 2 + unknown_s / tones.WORD_SECONDS


# ---- who may, and bad input ---------------------------------------------------------------------


async def test_calls_are_refused_with_a_reason(house: House) -> None:
    key(house)
    other = house.key(doors=("deepgram",))
    bound = key(house, conversations=("call-*",))
    await house.start_gateway()
    refusals: tuple[tuple[dict[str, str], str], ...] = (
        ({}, "no key was given"),
        ({"token": "wrong"}, "the key is not known here"),
        ({"token": other}, "does not open this door"),
        ({"token": bound, "conversation": "standup"}, "may not use the conversation standup"),
        ({"token": bound, "conversation": "<script>"}, "is not valid"),
        ({"token": bound, "inbound": "<script>"}, "is not valid"),
    )
    for parameters, reason in refusals:
        call = Twilio(f"{house.gateway.ws}/twilio", parameters=parameters)
        async with within(20):
            await call.dial()
            await call.start()
            assert await call.ended() == 1008
        assert reason in call.close_reason, call.close_reason
    assert house.gateway.find("call refused") is not None


async def test_calls_are_signed_if_there_is_an_auth_token(house: House) -> None:
    token = key(house)
    url = "wss://asr.example.org/twilio"
    await house.start_gateway(GATEWAY_TWILIO_AUTH_TOKEN="12345", GATEWAY_TWILIO_URL=url)
    for headers in ({}, {"X-Twilio-Signature": signature("54321", url)}):
        with pytest.raises(InvalidStatus) as caught:
            await Twilio(f"{house.gateway.ws}/twilio", token=token).dial(**headers)
        assert caught.value.response.status_code == 403
    call = Twilio(f"{house.gateway.ws}/twilio", token=token)
    async with within(20):
        await call.dial(**{"X-Twilio-Signature": signature("12345", url)})
        await call.start()
        assert await call.stop() == 1000


BAD: list[str | bytes] = [
    b"\x00", "garbage {", "[]", "{}", '{"event": "media", "media": {"payload": ""}}',
    '{"event": "stop"}', "[" * 100_000, b"\x00" * 500_000,
]  # fmt: skip


async def test_bad_messages_end_the_call(house: House) -> None:
    token = key(house)
    await house.start_gateway()
    async with within(60):
        for message in BAD:
            async with connect(f"{house.gateway.ws}/twilio") as socket:
                await socket.send(message)
                await socket.wait_closed()
                assert socket.close_code == 1008, message[:30]
        for message in ("garbage {", b"\x00", '{"event": "media", "media": {"payload": "?"}}'):
            call = Twilio(f"{house.gateway.ws}/twilio", token=token)
            await call.dial()
            await call.start()
            await call.socket.send(message)
            assert await call.ended() == 1008, message
        call = Twilio(f"{house.gateway.ws}/twilio", token=token)
        await call.dial()
        await call.start(mediaFormat={"encoding": "audio/x-l16", "sampleRate": 8000, "channels": 1})
        assert await call.ended() == 1008
        assert "audio/x-mulaw" in call.close_reason


async def test_odd_frames_are_audio(house: House, ready_broker: Broker) -> None:
    """Empty and long payloads, and timestamps that jump or are missing, while nothing is lost."""
    token = key(house)
    await house.start("deepgram")
    words = tones.sequence(8)
    audio = speech(words)
    call = Twilio(f"{house.gateway.ws}/twilio", token=token)
    async with within(60):
        await call.dial()
        await call.start()
        sizes = [0, 160, 3200, 1, 159, 800]
        at = number = 0
        while at < len(audio):
            size = sizes[number % len(sizes)]
            jitter = (number % 5) * 7
            await call.media(audio[at : at + size], max(0, at // 8 + jitter - 14))
            at, number = at + size, number + 1
        await call.socket.send(json.dumps({"event": "media", "media": {"payload": ""}}))
        assert await call.stop() == 1000
        stored = await closed(ready_broker, 1)
    assert stored.words("caller") == words
    assert stored.closing[0].account is not None
    assert not stored.closing[0].account.gaps

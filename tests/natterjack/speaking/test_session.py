"""speak() on a real broker: its text is stored once and in order, its events are read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.errors import (
    InvalidKey,
    NotAllowed,
    NoWorker,
    StreamMissing,
    UsageError,
    VoiceEnded,
)
from natterjack.settings import KINDS, BrokerSettings, StreamSettings
from natterjack.voice.events import UtteranceEvent, VoiceEvent
from tests.faults.proxy import NatsProxy
from tests.nats_server import NatsServer
from tests.waiting import soon, until, within

from .by_hand import Hand, claimed, request_of, stored_pieces, text_stored

KEY = ("acme", "call", "bot")


@pytest.fixture
async def voice_broker(broker: Broker) -> Broker:
    """A connection to a broker on which voice is switched on."""
    await streams.ensure(broker, StreamSettings(kinds=KINDS))
    return broker


async def collect(speaking: natterjack.Speaking) -> list[VoiceEvent]:
    return [event async for event in speaking]


async def test_text_is_stored_in_order_and_the_session_ends_with_it(
    voice_broker: Broker, broker_settings: BrokerSettings
) -> None:
    async def tokens() -> AsyncIterator[str]:
        for token in ("How ", "are ", "you?"):
            await asyncio.sleep(0)
            yield token

    speaking = natterjack.speak(
        *KEY, voice=["a", "b"], model="m", sample_rate=16_000, interrupt_on="acme.call.caller",
        options={"speed": 1.2}, labels={"ticket": "7"}, settings=broker_settings,
    )  # fmt: skip
    async with speaking:
        assert await speaking.say("Hello.") == 0
        assert await speaking.say(tokens()) == 1
        assert await speaking.say("Wait", flush=False) == 2
        assert await speaking.say(" here.") == 2
    spec = await request_of(voice_broker)
    assert spec == speaking.spec
    assert (spec.providers, spec.model, spec.interrupt_on) == (["a", "b"], "m", "acme.call.caller")
    assert (spec.options, spec.labels) == ({"speed": 1.2}, {"ticket": "7"})
    pieces = await stored_pieces(voice_broker)
    assert {piece.session_id for piece in pieces} == {spec.session_id}
    assert [(p.utterance, p.flush) for p in pieces if p.flush][:3] == [(0, 1), (1, 1), (2, 1)]
    texts = ["".join(p.text for p in pieces if p.utterance == number) for number in range(3)]
    assert texts == ["Hello.", "How are you?", "Wait here."]
    assert [piece.end for piece in pieces] == [*[False] * (len(pieces) - 1), True]
    with pytest.raises(VoiceEnded, match=r"acme\.call\.bot was closed by this application"):
        await speaking.say("More.")


async def test_events_of_the_session_are_read_until_its_end(voice_broker: Broker) -> None:
    async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
        await speaking.say("One two.")
        hand = await claimed(voice_broker, speaking.spec)
        stranger = Hand(voice_broker, natterjack.VoiceSpec.model_validate(
            {**speaking.spec.model_dump(), "session_id": "another-session"}
        ))  # fmt: skip
        await stranger.status("failed")
        await hand.utterance(0, "started")
        await hand.utterance(0, "finished", text_spoken="One two.", end=1.5)
        await speaking.close()
        await hand.status("closed", reason="finished")
        async with within(30):
            events = await collect(speaking)
        assert [(e.type, getattr(e, "state", None) or e.event) for e in events] == [  # type: ignore[union-attr]
            ("status", "assigned"), ("utterance", "started"), ("utterance", "finished"),
            ("status", "closed"),
        ]  # fmt: skip
        with pytest.raises(VoiceEnded, match=r"has closed: finished"):
            await speaking.interrupt()


async def test_events_are_read_on_from_a_stored_position(voice_broker: Broker) -> None:
    async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
        hand = await claimed(voice_broker, speaking.spec)
        async with within(30):
            first = await anext(speaking)
        assert first.sequence == 0
        stored = speaking.position
    assert stored is not None
    await hand.utterance(0, "started")
    async with natterjack.VoiceEvents(voice_broker, "acme", after=stored) as events, within(30):
        event = await anext(events)
    assert (event.type, event.sequence) == ("utterance", 1)
    async with natterjack.VoiceEvents(voice_broker, from_start=True) as events, within(30):
        assert (await anext(events)).sequence == 0
    with pytest.raises(UsageError, match="'7' is not a position"):
        natterjack.VoiceEvents(voice_broker, after="7")


async def test_an_interrupt_drops_text_and_ends_what_is_being_said(voice_broker: Broker) -> None:
    taken: list[str] = []
    closed: list[bool] = []

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                taken.append("word ")
                yield taken[-1]
                await asyncio.sleep(0.01)  # the pace of the text
        finally:
            closed.append(True)

    async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
        hand = await claimed(voice_broker, speaking.spec)
        saying = asyncio.create_task(speaking.say(endless()))
        await until(lambda: len(taken) > 2, "some words were taken")
        reply = await speaking.interrupt("the user said so")
        assert reply.ok
        assert await soon(saying, 30) == 0
        assert closed == [True]
        (request,) = hand.requests
        assert (request.command, request.reason) == ("interrupt", "the user said so")
        assert request.session_id == speaking.spec.session_id
        assert await speaking.say("And now?") == 1
    pieces = await stored_pieces(voice_broker)
    assert [piece.utterance for piece in pieces if piece.flush][:2] == [0, 1]
    assert [piece.text for piece in pieces if piece.utterance == 1] == ["And now?"]


async def test_an_utterance_that_the_worker_interrupts_takes_no_more_text(
    voice_broker: Broker,
) -> None:
    async def waits() -> AsyncIterator[str]:
        yield "One "
        async for event in speaking:
            if isinstance(event, UtteranceEvent):
                break
        yield "two."

    async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
        hand = await claimed(voice_broker, speaking.spec)
        saying = asyncio.create_task(speaking.say(waits()))
        await text_stored(voice_broker, "One ")
        await hand.utterance(0, "interrupted", reason="turn", text_spoken="One")
        assert await soon(saying, 30) == 0
        assert await speaking.say("Three.", flush=False) == 1
        await hand.utterance(1, "interrupted", reason="turn", text_spoken="")
        async for event in speaking:
            if isinstance(event, UtteranceEvent):
                break
        assert await speaking.say("Four.") == 2
    pieces = await stored_pieces(voice_broker)
    assert "".join(piece.text for piece in pieces) == "One Three.Four."


async def test_an_iterable_that_fails_ends_its_utterance(voice_broker: Broker) -> None:
    async def fails() -> AsyncIterator[str]:
        yield "One "
        raise ValueError("no model")

    async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
        with pytest.raises(ValueError, match="no model"):
            await speaking.say(fails())
        assert await speaking.say("Sorry.") == 1
    pieces = await stored_pieces(voice_broker)
    assert ["".join(p.text for p in pieces if p.utterance == n) for n in (0, 1)] == [
        "One ", "Sorry.",
    ]  # fmt: skip


async def test_an_error_in_the_block_stops_the_speech(voice_broker: Broker) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
            hand = await claimed(voice_broker, speaking.spec)
            await speaking.say("A long story.")
            async with within(30):
                await anext(speaking)
            raise ZeroDivisionError
    assert [request.command for request in hand.requests] == ["interrupt"]
    assert (await stored_pieces(voice_broker))[-1].end


async def test_text_outlives_the_broker(
    nats_server: NatsServer, voice_broker: Broker, broker_settings: BrokerSettings
) -> None:
    async with natterjack.speak(*KEY, settings=broker_settings) as speaking:
        await speaking.say("One. ")
        await text_stored(voice_broker, "One. ")
        nats_server.kill()
        await speaking.say("Two. ")
        await speaking.say("Three.")
        closing = asyncio.create_task(speaking.close())
        nats_server.start()
        await soon(closing, 60)
    await until(lambda: voice_broker.connected, "this connection is back, too", 60)
    pieces = await stored_pieces(voice_broker)
    assert [piece.text for piece in pieces if piece.text] == ["One. ", "Two. ", "Three."]


async def test_pieces_whose_acknowledgement_is_lost_are_stored_once(
    nats_server: NatsServer, voice_broker: Broker
) -> None:
    async with NatsProxy(nats_server.port) as proxy:
        proxy.after("tts.session.>")
        for number in range(1, 4):
            proxy.after("tts.text.>", n=number)
        settings = BrokerSettings(url=proxy.url)
        async with natterjack.speak(*KEY, settings=settings) as speaking, within(120):
            for number in range(1, 6):
                await speaking.say(f"{number}. ")
                await text_stored(voice_broker, "".join(f"{n}. " for n in range(1, number + 1)))
        assert proxy.accepted >= 4
    js = voice_broker.client.jetstream()
    assert (await js.stream_info(streams.VOICE_SESSIONS)).state.messages == 1
    pieces = await stored_pieces(voice_broker)
    assert len({piece.msg_id for piece in pieces}) == len(pieces)


async def test_text_waits_while_its_stream_is_full(broker: Broker) -> None:
    js = await streams.ensure(broker, StreamSettings(kinds=KINDS, tts_text_max_bytes=2000))
    await js.publish("tts.text.other.c.s", bytes(1900))
    async with natterjack.speak(*KEY, broker=broker) as speaking:
        await speaking.say("One. " * 20)
        closing = asyncio.create_task(speaking.close())
        await asyncio.wait({closing}, timeout=0.5)
        assert not closing.done()
        await js.purge_stream(streams.TEXT)
        await soon(closing, 30)


async def test_a_session_that_no_worker_takes_is_reported(voice_broker: Broker) -> None:
    async def speak() -> None:
        async with natterjack.speak(*KEY, broker=voice_broker, worker_seconds=0.2) as speaking:
            await speaking.say("Hello.")
            await collect(speaking)

    with pytest.raises(NoWorker, match=r"acme\.call\.bot within 0\.2 s: .*WORKER_KINDS"):
        await soon(speak(), 30)


async def test_a_session_that_failed_takes_no_text(voice_broker: Broker) -> None:
    async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
        hand = await claimed(voice_broker, speaking.spec)
        await hand.status("failed", reason="refused", detail="no such voice")
        async with within(30):
            await collect(speaking)
        with pytest.raises(VoiceEnded, match="has failed: refused: no such voice") as raised:
            await speaking.say("Hello.")
        assert raised.value.reason == "refused"


async def test_without_voice_on_the_broker_the_remedy_is_named(broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings(kinds=("transcribe",)))
    with pytest.raises(StreamMissing, match="TTS_EVENTS is missing: voice is not switched on"):
        async with natterjack.speak(*KEY, broker=broker):
            pass


async def test_without_rights_the_subject_is_named(tmp_path: Path, processes: None) -> None:
    configuration = tmp_path / "nats.conf"
    configuration.write_text(
        "authorization { users: [{user: all, password: x}, {user: some, password: x, "
        'permissions: {publish: {deny: "tts.session.>"}}}] }'
    )
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(configuration)))
    server.start()
    try:
        url = server.url.replace("//", "//{}:x@")
        async with connected(BrokerSettings(url=url.format("all")), name="t", once=True) as one:
            await streams.ensure(one, StreamSettings(kinds=KINDS))
        with pytest.raises(NotAllowed, match=r"publish to tts\.session\.acme\.call\.bot"):
            async with natterjack.speak(*KEY, settings=BrokerSettings(url=url.format("some"))):
                pass
    finally:
        server.stop()


def test_impossible_values_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(InvalidKey):
        natterjack.speak("acme", "a call", "bot")
    with pytest.raises(UsageError, match="sample_rate"):
        natterjack.speak(*KEY, sample_rate=1)
    with pytest.raises(UsageError, match="interrupt_on"):
        natterjack.speak(*KEY, interrupt_on="the caller")


async def test_text_of_any_kind_and_size_is_stored(voice_broker: Broker) -> None:
    """Half a character becomes U+FFFD, as no JSON can have it."""
    long = "All work and no play. " * 50_000

    async def tokens() -> AsyncIterator[str]:
        for token in "ab\udcff" * 3_333:
            yield token

    texts = ["\x00\x1b[31m\u202e👩🏽\u200d🚀\ud83d", "", long, "\n"]
    async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
        for text in texts:
            await speaking.say(text)
        await speaking.say(tokens())
    pieces = await stored_pieces(voice_broker)
    found = "".join(piece.text for piece in pieces)
    assert found == "".join(texts).replace("\ud83d", "\ufffd") + "ab\ufffd" * 3_333
    assert max(len(piece.text) for piece in pieces) == 8000
    assert pieces[-1].end


async def test_requests_that_cannot_be_are_refused_and_nothing_is_interrupted(
    voice_broker: Broker,
) -> None:
    async with natterjack.speak(*KEY, broker=voice_broker) as speaking:
        await speaking.say("Hello", flush=False)
        for reason in ("x" * 201, "\ud800"):
            with pytest.raises(UsageError, match=r"interrupt: "):
                await speaking.interrupt(reason)
        for value in (object(), float("nan"), "\ud800", {1, 2}):
            with pytest.raises(UsageError, match="configure"):
                await speaking.configure({"speed": value})
        assert await speaking.say(" there.") == 0
    pieces = await stored_pieces(voice_broker)
    assert "".join(piece.text for piece in pieces) == "Hello there."

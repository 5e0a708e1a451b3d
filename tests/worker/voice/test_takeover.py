"""A worker that takes over a voice session knows how far its former holder came."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

import pytest
from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.broker.streams import TEXT
from natterjack.emulators import tones
from natterjack.local.embedded import EmbeddedServer
from natterjack.subjects import speech_subject, text_subject, voice_event_subject
from natterjack.voice.audio import SpeechHeader, encode_speech_headers
from natterjack.voice.control import VoiceReply
from natterjack.voice.events import UtteranceEvent
from natterjack.voice.spec import TextPiece, parse_piece
from tests.faults.proxy import NatsProxy
from tests.waiting import bound, until

from .conftest import Start
from .player import RATE, Application, playing, words
from .test_session import WORDS, interruption, sentences
from .tone_worker import ToneWorker

pytestmark = pytest.mark.process

AHEAD = {"WORKER_VOICE_AHEAD_SECONDS": "60"}


async def published(application: Application, utterance: int) -> None:
    """Wait until all audio of an utterance is published."""

    async def look() -> bool:
        chunks = await application.stored_chunks()
        return any(header.end and header.utterance == utterance for header, _ in chunks)

    await until(look, f"utterance {utterance} is published", 30)


async def publish_after(broker: Broker, application: Application, **flags: Any) -> SpeechHeader:
    """Publish an end or a cut as the session's worker does, which is dead."""
    newest, audio = (await application.stored_chunks())[-1]
    position = newest.pos + len(audio) // 2
    header = newest._replace(seq=newest.seq + 1, pos=position, **flags)
    await broker.client.jetstream().publish(
        speech_subject(application.spec.key), b"", headers=encode_speech_headers(header)
    )
    return header


async def test_the_end_of_an_utterance_has_its_text_although_that_is_read_late(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    first = await start(**AHEAD)
    application = Application(broker)
    await application.open()
    async with (
        playing(broker, application.spec, speed=0.5) as player,
        NatsProxy(nats_server.port) as proxy,
    ):
        await application.say(sentences(WORDS[:20]))
        await published(application, 0)
        first.signal(signal.SIGKILL)  # before it knows that all was played
        lost = proxy.before(f"$JS.API.DIRECT.GET.{TEXT}")
        await start(NATS_URL=proxy.url, **AHEAD)
        player.speed = 4
        await until(lambda: len(player.words) == 20, "it is played", 30)
        await application.say(sentences(WORDS[20:25]), end=True)
        await application.closed()
        assert lost.fired.is_set()
    events = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    assert [e.text_spoken for e in events if e.event == "finished"] == application.said


async def test_what_was_heard_of_speech_of_a_former_holder_is_known(
    broker: Broker, start: Start
) -> None:
    first = await start(**AHEAD)
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=1) as player:
        await application.say(sentences(WORDS[:40], 13))
        await published(application, 0)
        first.signal(signal.SIGKILL)
        await start(**AHEAD)
        await until(lambda: player.position > 10 * RATE, "most of it is played", 60)
        assert (await application.request("interrupt")).ok
        event = await interruption(application)
        await application.say(sentences(WORDS[50:55]), end=True)
        await application.closed()
    heard = [word for word in player.words if word in WORDS[:40]]
    assert event.estimated
    assert abs(len(tones.words_of(event.text_spoken or "")) - len(heard)) <= 2


async def test_an_interrupt_right_after_a_long_takeover_says_what_was_heard(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    """The broker does not answer for longer than reports of the player are taken for recent."""
    first = await start(**AHEAD)
    application = Application(broker)
    await application.open()
    async with (
        playing(broker, application.spec) as player,
        NatsProxy(nats_server.port) as proxy,
    ):
        await application.say(sentences(WORDS[:20]))
        await published(application, 0)
        first.signal(signal.SIGKILL)
        await first.wait()
        stalled = proxy.before(speech_subject(application.spec.key), proxy.stall)
        await start(NATS_URL=proxy.url, **AHEAD)
        await until(stalled.fired.is_set, "the next worker takes over", 30)
        await until(lambda: len(player.words) == 20, "all of it is played", 60)
        await asyncio.sleep(bound(3))  # the length of the outage
        proxy.heal()
        reply = await until(lambda: interrupted(application), "the worker listens", 30)
        assert reply.utterance in (0, None)
        await application.say(sentences(WORDS[20:25]), end=True)
        await application.closed()
    ends = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    heard = next(e for e in ends if e.utterance == 0 and e.event != "started").text_spoken
    assert tones.words_of(heard or "") == tones.words_of(sentences(WORDS[:20]))


async def interrupted(application: Application) -> VoiceReply | None:
    """The reply to an interrupt; None if nobody listens."""
    try:
        return await application.request("interrupt")
    except NatsError:
        return None


async def test_the_ends_of_what_an_interrupt_dropped_are_all_published(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    """The worker dies between two of them, in its first phrase. What follows does not wait for the
    dropped text."""
    application = Application(broker)
    subject = voice_event_subject(application.spec.key, "utterance")
    async with NatsProxy(nats_server.port) as proxy:
        workers: list[ToneWorker] = []
        # The start of the first utterance, its end, and the end of the second.
        dead = proxy.before(subject, lambda: workers[0].signal(signal.SIGKILL), n=3)
        workers.append(await start(NATS_URL=proxy.url, TONES_PACE="1"))
        await application.open()
        async with playing(broker, application.spec, speed=1) as player:
            for first in (0, 15, 30):
                await application.say(sentences(WORDS[first : first + 15], 15))
            await until(lambda: player.position > 2 * RATE, "some is played, and its text read", 60)
            with contextlib.suppress(NatsError):  # it dies before it replies
                await application.request("interrupt")
            await until(dead.fired.is_set, "the worker is dead", 60)
            await start()
            await application.say(sentences(WORDS[45:50]), end=True)
            await application.closed()
    events = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    ends = [event for event in events if event.event != "started"]
    assert [(event.utterance, event.event) for event in ends] == [
        (0, "interrupted"), (1, "interrupted"), (2, "interrupted"), (3, "finished"),
    ]  # fmt: skip
    texts = [(event.text_spoken or "") + (event.text_remaining or "") for event in ends]
    assert texts == application.said
    assert [event.text_spoken for event in ends[1:3]] == ["", ""]
    assert [word for word in player.words if word in WORDS[45:50]] == list(WORDS[45:50])


async def test_each_utterance_starts_once_although_another_one_ends_after_that(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    """The first of them ends while the second is spoken; then the worker dies."""
    application = Application(broker)
    subject = voice_event_subject(application.spec.key, "utterance")
    async with NatsProxy(nats_server.port) as proxy:
        workers: list[ToneWorker] = []
        dead = proxy.after(subject, lambda: workers[0].signal(signal.SIGKILL), n=3)
        workers.append(await start(NATS_URL=proxy.url, TONES_PACE="1.5"))
        await application.open()
        async with playing(broker, application.spec, speed=1.5) as player:
            await application.say(sentences(WORDS[:5], 5))
            await application.say(sentences(WORDS[5:40], 35), end=True)
            await until(dead.fired.is_set, "the worker is dead", 60)
            assert sorted(await application.utterances()) == [
                (0, "finished"), (0, "started"), (1, "started"),
            ]  # fmt: skip
            await start(TONES_PACE="8")
            await application.closed()
            assert tones.compare(WORDS[:40], player.words) == tones.Counts()
    assert sorted(await application.utterances()) == [
        (0, "finished"), (0, "started"), (1, "finished"), (1, "started"),
    ]  # fmt: skip


async def test_text_that_a_killed_worker_has_sent_is_counted_though_it_has_not_reported_it(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    """It dies before its first report, and before its first phrase has ended."""
    application = Application(broker)
    await application.open()
    text = sentences(WORDS[:40], 40)
    async with NatsProxy(nats_server.port) as proxy:
        workers: list[ToneWorker] = []
        subject = voice_event_subject(application.spec.key, "utterance")
        dead = proxy.after(subject, lambda: workers[0].signal(signal.SIGKILL))
        workers.append(await start(NATS_URL=proxy.url, TONES_PACE="1"))
        async with playing(broker, application.spec) as player:
            await application.say(text, end=True)
            await until(dead.fired.is_set, "the worker is dead", 60)
            await start()
            await application.closed()
            assert tones.compare(WORDS[:40], player.words) == tones.Counts()
    usage = await application.usage()
    assert usage.characters == 2 * len(text)
    assert usage.repeated_characters == len(text)


async def test_an_interrupt_that_a_former_holder_has_begun_says_what_was_heard(
    broker: Broker, start: Start
) -> None:
    """The former holder dies within its first phrase, after the cut."""
    first = await start(TONES_PACE="3")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=2) as player:
        await application.say(sentences(WORDS[:40], 40))
        await until(lambda: player.position > 3 * RATE, "some of it is played", 60)
        first.signal(signal.SIGKILL)
        await first.wait()
        await publish_after(broker, application, cut=True)
        await start()
        event = await interruption(application)
        await application.say(sentences(WORDS[50:55]), end=True)
        await application.closed()
    heard = [word for word in player.words if word in WORDS[:40]]
    assert len(heard) >= 5
    assert event.estimated
    # How fast the voice speaks is not known yet: 15 characters a second are assumed.
    assert len(heard) / 2 <= len(tones.words_of(event.text_spoken or "")) <= 2 * len(heard)


async def dies_at_the_end_of_an_interrupt(
    broker: Broker, start: Start, nats_server: EmbeddedServer, *, stored: bool, phrase_words: int,
    heard_seconds: float,
) -> None:  # fmt: skip
    """Let a worker be killed when it publishes the end of an interrupted utterance, before or after
    that is stored, and another one go on: each utterance starts and ends once."""
    application = Application(broker)
    await application.open()
    subject = voice_event_subject(application.spec.key, "utterance")
    async with NatsProxy(nats_server.port) as proxy:
        workers: list[ToneWorker] = []
        dead = (proxy.after if stored else proxy.before)(
            subject,
            lambda: workers[0].signal(signal.SIGKILL),
            where=lambda message: b'"interrupted"' in message.payload,
        )
        workers.append(await start(NATS_URL=proxy.url, TONES_PACE="3"))
        async with playing(broker, application.spec, speed=2) as player:
            player.stop_at = int((heard_seconds + 1) * RATE)
            await application.say(sentences(WORDS[:40], phrase_words))
            await until(lambda: player.position > heard_seconds * RATE, "some of it is played", 60)
            request = asyncio.create_task(application.request("interrupt"))
            await until(dead.fired.is_set, "the worker is dead", 60)
            request.cancel()
            player.stop_at = None
            await start()
            await application.say(sentences(WORDS[50:55]), end=True)
            await application.closed()
    assert await application.utterances() == [
        (0, "started"), (0, "interrupted"), (1, "started"), (1, "finished"),
    ]  # fmt: skip


async def test_an_interrupt_whose_end_a_former_holder_has_published_ends_nothing_again(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    """It dies in the second phrase, before it has written its checkpoint, which is of the first."""
    await dies_at_the_end_of_an_interrupt(
        broker, start, nats_server, stored=True, phrase_words=10, heard_seconds=4
    )


async def test_an_interrupt_whose_end_a_former_holder_could_not_publish_is_finished(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    """It dies after it has written a checkpoint, since the last one did not say that the utterance
    has started."""
    await dies_at_the_end_of_an_interrupt(
        broker, start, nats_server, stored=False, phrase_words=40, heard_seconds=2
    )


async def test_an_utterance_whose_end_a_former_holder_has_published_does_not_end_again(
    broker: Broker, start: Start
) -> None:
    """Its checkpoint, which is of the phrase before, could not be stored."""
    first = await start(TONES_PACE="2", **AHEAD)
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=2) as player:
        player.stop_at = 5 * RATE
        await application.say(f"{sentences(WORDS[:10], 10)} {sentences(WORDS[10:50], 40)}")
        await until(lambda: player.position > 4 * RATE, "the second phrase is played", 60)
        first.signal(signal.SIGKILL)
        await first.wait()
        end = await publish_after(broker, application, end=True)
        player.stop_at = None
        started = (await application.events())[-1]
        assert isinstance(started, UtteranceEvent)
        finished = started.model_copy(
            update={
                "sequence": started.sequence + 1, "event": "finished", "latency": None,
                "text_spoken": application.said[0], "end": end.pos / RATE,
            }
        )  # fmt: skip
        subject = voice_event_subject(application.spec.key, "utterance")
        await broker.client.jetstream().publish(subject, finished.encode())
        await start()
        await application.say(sentences(WORDS[50:55]), end=True)
        await application.closed()
    chunks = await application.stored_chunks()
    assert words(b"".join(a for header, a in chunks if header.utterance == 1)) == WORDS[50:55]
    assert await application.utterances() == [
        (0, "started"), (0, "finished"), (1, "started"), (1, "finished"),
    ]  # fmt: skip


async def withdraw(broker: Broker, application: Application, first: int = 0) -> list[TextPiece]:
    """Remove the stored text from its piece `first` on, as if it was not stored yet, or a replica
    lagged behind. The pieces are returned."""
    store = StreamStore(broker, TEXT)
    await store.start()
    try:
        stored = await store.read_all(text_subject(application.spec.key))
    finally:
        await store.stop()
    for message in stored[first:]:
        assert await broker.client.jetstream().delete_msg(TEXT, message.sequence)
    return [parse_piece(message.data) for message in stored[first:]]


async def store(broker: Broker, application: Application, pieces: list[TextPiece]) -> None:
    """Store pieces of text; the broker does not take them for duplicates."""
    for piece in pieces:
        subject = text_subject(application.spec.key)
        await broker.client.jetstream().publish(subject, piece.encode())


@pytest.mark.parametrize("known", [0, 1, 2], ids=["none", "a third", "all but the end"])
async def test_text_that_is_stored_after_the_takeover_is_the_text_of_the_speech_before(
    broker: Broker, start: Start, known: int
) -> None:
    """The former holder has received it live."""
    first = await start(**AHEAD)
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=0.5) as player:
        await application.say(sentences(WORDS[:20]))
        await published(application, 0)
        first.signal(signal.SIGKILL)  # before it knows that all was played
        await first.wait()
        late = await withdraw(broker, application, known)
        await start(**AHEAD)
        player.speed = 4
        await until(lambda: len(player.words) == 20, "it is played", 30)
        await assigned(application, epoch=2)
        assert (0, "finished") not in await application.utterances()
        await store(broker, application, late)
        await application.say(sentences(WORDS[20:25]), end=True)
        await application.closed()
        assert tones.compare(WORDS[:25], player.words) == tones.Counts()
    events = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    assert [e.text_spoken for e in events if e.event == "finished"] == application.said


async def assigned(application: Application, epoch: int) -> None:
    """Wait until a worker has begun to hold the session."""

    async def look() -> bool:
        return any(event.epoch == epoch for event in await application.events())

    await until(look, f"epoch {epoch} begins", 30)


async def test_a_cut_drops_the_text_that_is_stored_after_the_takeover_and_says_so(
    broker: Broker, start: Start
) -> None:
    first = await start(TONES_PACE="3")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=2) as player:
        await application.say(sentences(WORDS[:40], 40))
        await application.say(sentences(WORDS[40:45], 5), pieces=1)
        await until(lambda: player.position > 3 * RATE, "some of it is played", 60)
        first.signal(signal.SIGKILL)
        await first.wait()
        await publish_after(broker, application, cut=True, utterance=1)
        late = await withdraw(broker, application, 1)
        await start()
        await assigned(application, epoch=2)
        await store(broker, application, late)
        await application.say(sentences(WORDS[50:55]), end=True)
        await application.closed()
    ends = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    ends = [event for event in ends if event.event != "started"]
    assert [(event.utterance, event.event) for event in ends] == [
        (0, "interrupted"), (1, "interrupted"), (2, "finished"),
    ]  # fmt: skip
    assert [(e.text_spoken or "") + (e.text_remaining or "") for e in ends] == application.said


async def test_text_that_never_comes_holds_up_a_session_for_a_while_only(
    broker: Broker, start: Start
) -> None:
    first = await start(**AHEAD)
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=4) as player:
        await application.say(sentences(WORDS[:20]))
        await published(application, 0)
        first.signal(signal.SIGKILL)
        await first.wait()
        await withdraw(broker, application)
        await start(WORKER_HOLE_SECONDS="1", **AHEAD)
        await application.say(sentences(WORDS[20:25]), end=True)
        await application.closed()
        assert tones.compare(WORDS[:25], player.words) == tones.Counts()
    ends = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    assert [(e.utterance, e.event, e.detail) for e in ends if e.event != "started"] == [
        (0, "interrupted", "a part of its text is missing"), (1, "finished", None),
    ]  # fmt: skip

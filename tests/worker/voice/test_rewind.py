"""Speech that is lost while its player still plays what came before."""

from __future__ import annotations

import pytest
from nats.aio.msg import Msg

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.local.embedded import EmbeddedServer
from natterjack.subjects import played_subject, speech_subject
from natterjack.voice.audio import AUDIO_CUT, SpeechHeader, decode_speech_headers
from natterjack.voice.spec import Played
from tests.faults.proxy import NatsProxy
from tests.waiting import until

from .conftest import Start
from .player import RATE, Application, playing
from .test_session import WORDS, sentences
from .test_takeover import published

pytestmark = pytest.mark.process


async def test_speech_that_is_lost_is_spoken_again_from_where_the_player_has_stopped(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    """The player lacks chunks that the broker has lost, and plays for seconds what it has. The
    worker's cut reaches it after that."""
    application = Application(broker)
    await application.open()
    async with (
        playing(broker, application.spec, speed=1) as player,
        NatsProxy(nats_server.port) as proxy,
    ):
        late = proxy.before(
            speech_subject(application.spec.key),
            lambda: until(lambda: player.starved, "the player has played what it has", 60),
            where=lambda message: AUDIO_CUT.encode() in message.headers,
        )
        await start(
            NATS_URL=proxy.url, WORKER_VOICE_AHEAD_SECONDS="60", NATTERJACK_LEASE_SECONDS="30"
        )
        player.stop_at, player.loses = RATE, range(30, 35)
        await application.say(sentences(WORDS[:20], 10), end=True)
        await published(application, 0)
        await until(lambda: player.position == RATE, "a second of it is played", 60)
        await broker.client.jetstream().purge_stream(streams.SPEECH)
        player.stop_at = None
        await application.closed()
        assert late.fired.is_set()
        counts = tones.compare(WORDS[:20], player.words)
        assert player.cuts == 1
    # The word within which the player has stopped is cut.
    assert (counts.lost <= 1, counts.doubled, counts.out_of_order) == (True, 0, 0), player.words
    assert await application.utterances() == [(0, "started"), (0, "finished")]


async def test_a_player_that_asks_for_chunks_learns_which_is_the_first_to_be_played(
    broker: Broker, start: Start
) -> None:
    """It has asked for all of them, since it has joined. The answer is not stored."""
    await start(WORKER_VOICE_AHEAD_SECONDS="60")
    application = Application(broker)
    await application.open()
    arrived: list[SpeechHeader] = []

    async def receive(message: Msg) -> None:
        arrived.append(decode_speech_headers(message.headers, len(message.data)))

    subject = speech_subject(application.spec.key)
    async with playing(broker, application.spec) as player:
        player.stop_at = 2 * RATE
        await application.say(sentences(WORDS[:20], 10))
        await published(application, 0)
        await until(lambda: player.position == 2 * RATE, "some of it is played", 60)
        chunks = [header for header, _ in await application.stored_chunks()]
        subscription = await broker.client.subscribe(subject, cb=receive)
        asking = Played(
            session_id=application.spec.session_id, utterance=0, position=0, state="starved",
            missing=0,
        )  # fmt: skip
        await broker.client.publish(played_subject(application.spec.key), asking.encode())
        await until(lambda: any(header.answer for header in arrived), "an answer", 30)
        await subscription.unsubscribe()
    *again, answer = arrived
    assert (answer.fence, answer.epoch) == (True, 1)
    assert 0 < answer.seq < len(chunks)
    assert again == chunks[answer.seq :]
    assert again[0].pos <= 2 * RATE < again[1].pos
    assert [header for header, _ in await application.stored_chunks()] == chunks

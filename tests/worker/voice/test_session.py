"""Voice sessions with real workers: every word is published and heard once, whatever dies."""

from __future__ import annotations

import signal

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.streams import ensure
from natterjack.emulators import tones
from natterjack.events import TurnEvent
from natterjack.fleet.reader import FleetReader
from natterjack.fleet.sessions import KeyFilter
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import (
    SessionKey,
    session_subject,
    speech_subject,
    transcript_subject,
)
from natterjack.voice.audio import encode_speech_headers
from natterjack.voice.events import UtteranceEvent, VoiceStatusEvent
from tests.waiting import until

from .conftest import Start
from .player import RATE, Application, heard, playing

pytestmark = pytest.mark.process

WORDS = tones.sequence(60)


def sentences(words: list[str], size: int = 5) -> str:
    """Text of these words, with a full stop after each `size` of them."""
    groups = [words[at : at + size] for at in range(0, len(words), size)]
    return " ".join(f"{' '.join(group).capitalize()}." for group in groups)


async def test_text_is_spoken_played_and_accounted_for(broker: Broker, start: Start) -> None:
    await start()
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:20]))
        await application.say(sentences(WORDS[20:30]), end=True, pieces=1)
        closing = await application.closed()
        assert (closing.state, closing.reason) == ("closed", "end of text")
        assert tones.compare(WORDS[:30], player.words) == tones.Counts()
    assert heard(await application.stored_chunks()) == WORDS[:30]
    events = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    assert sorted((e.utterance, e.event) for e in events) == [
        (0, "finished"), (0, "started"), (1, "finished"), (1, "started"),
    ]  # fmt: skip
    assert [e.text_spoken for e in events if e.event == "finished"] == application.said
    usage = await application.usage()
    assert usage.characters == sum(map(len, application.said))
    assert usage.repeated_characters == 0
    assert usage.audio_seconds == pytest.approx(30 * 0.32, abs=0.5)
    assert usage.played_seconds == usage.audio_seconds
    assert usage.cost == pytest.approx(usage.characters * 0.03 / 1000, abs=1e-5)


async def spoken_chunks(application: Application, count: int) -> None:
    """Wait until so many chunks are stored."""

    async def look() -> bool:
        return len(await application.stored_chunks()) >= count

    await until(look, f"{count} chunks", 30)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_another_worker_goes_on_within_the_utterance(
    broker: Broker, start: Start, number: signal.Signals
) -> None:
    first = await start(TONES_PACE="4")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=4) as player:
        await application.say(sentences(WORDS, 7), end=True)
        await spoken_chunks(application, 25)
        await start(TONES_PACE="8")
        first.signal(number)
        await application.closed()
        assert tones.compare(WORDS, player.words) == tones.Counts()
    chunks = await application.stored_chunks()
    assert heard(chunks) == WORDS
    assert len({header.epoch for header, _ in chunks}) == 2
    assert await application.utterances() == [(0, "started"), (0, "finished")]


async def test_workers_that_die_again_and_again_leave_no_word_out(
    broker: Broker, start: Start
) -> None:
    application = Application(broker)
    await application.open()
    worker = await start(TONES_PACE="3")
    async with playing(broker, application.spec, speed=3) as player:
        await application.say(sentences(WORDS[:30], 9))
        await application.say(sentences(WORDS[30:], 9), end=True)
        for chunks in (3, 20, 45):
            await spoken_chunks(application, chunks)
            worker.signal(signal.SIGKILL)
            worker = await start(TONES_PACE="3")
        await application.closed()
        assert tones.compare(WORDS, player.words) == tones.Counts()
    assert heard(await application.stored_chunks()) == WORDS
    assert sorted(await application.utterances()) == [
        (0, "finished"), (0, "started"), (1, "finished"), (1, "started"),
    ]  # fmt: skip


async def test_a_broker_that_is_killed_and_forgets_the_speech_costs_no_word(
    broker: Broker, start: Start, nats_server: EmbeddedServer
) -> None:
    await start(TONES_PACE="3", NATTERJACK_LEASE_SECONDS="30")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=2) as player:
        await application.say(sentences(WORDS[:40], 7))
        await until(lambda: player.position > 3 * RATE, "some of it is played", 30)
        nats_server.kill()
        await until(lambda: not broker.connected, "the connection is lost", 30)
        nats_server.start()
        await broker.wait_connected()
        await application.say(sentences(WORDS[40:50]), end=True)
        await application.closed(90)
        assert tones.compare(WORDS[:50], player.words) == tones.Counts()


async def test_an_interrupt_of_which_only_the_cut_was_published_is_finished(
    broker: Broker, start: Start
) -> None:
    first = await start(TONES_PACE="2")
    application = Application(broker)
    await application.open()
    await application.say(sentences(WORDS, 7))
    await spoken_chunks(application, 12)
    first.signal(signal.SIGKILL)
    await first.wait()
    newest, audio = (await application.stored_chunks())[-1]
    cut = newest._replace(seq=newest.seq + 1, pos=newest.pos + len(audio) // 2, cut=True)
    subject = speech_subject(application.spec.key)
    headers = encode_speech_headers(cut)
    await broker.client.jetstream().publish(subject, b"", headers=headers)
    await start()
    event = await interruption(application)
    assert (event.utterance, event.reason, event.text_spoken) == (0, "request", "")
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:10]), end=True)
        await application.closed()
        assert player.words == WORDS[:10]
    assert (await application.utterances())[-2:] == [(1, "started"), (1, "finished")]


async def test_a_stream_that_breaks_within_a_phrase_is_opened_again(
    broker: Broker, start: Start
) -> None:
    await start(TONES_DROPS="3", WORKER_BACKOFF_SECONDS="0.05")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS, 7), end=True)
        await application.closed()
        assert tones.compare(WORDS, player.words) == tones.Counts()
    assert heard(await application.stored_chunks()) == WORDS
    usage = await application.usage()
    assert usage.repeated_characters > 0


async def interruption(application: Application) -> UtteranceEvent:
    async def look() -> UtteranceEvent | None:
        events = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
        return next((e for e in events if e.event == "interrupted"), None)

    found = await until(look, "the utterance is interrupted", 30)
    assert isinstance(found, UtteranceEvent)
    return found


@pytest.mark.parametrize("reason", ["request", "turn"])
async def test_an_interrupt_stops_speech_at_once_and_later_text_is_spoken(
    broker: Broker, start: Start, reason: str
) -> None:
    await start(TONES_PACE="8")
    application = Application(broker, interrupt_on="t.c.caller")
    await application.open()
    async with playing(broker, application.spec, speed=2) as player:
        await application.say(sentences(WORDS, 7))
        await until(lambda: player.position > 4 * RATE, "some of it is played", 30)
        if reason == "request":
            reply = await application.request("interrupt", reason="enough")
            assert (reply.ok, reply.utterance) == (True, 0)
            assert reply.position is not None
            assert reply.position > 3  # the last report is up to 0.1 s old
        else:
            turn = TurnEvent(
                session_id="other", tenant="t", conversation="c", speaker="caller", epoch=1,
                published_at=application.spec.opened_at, sequence=0, turn=0, event="started",
            )  # fmt: skip
            subject = transcript_subject(SessionKey("t", "c", "caller"), "turn")
            await broker.client.publish(subject, turn.encode())
        event = await interruption(application)
        await application.say(sentences(WORDS[:10]), end=True)
        await application.closed()
        assert player.cuts == 1
        played = player.words
    assert (event.utterance, event.reason, event.estimated) == (0, reason, True)
    assert event.detail == ("enough" if reason == "request" else None)
    assert event.text_spoken is not None
    assert event.text_remaining is not None
    assert event.text_spoken + event.text_remaining == application.said[0]
    before = played[:-10]
    assert played[-10:] == WORDS[:10]
    assert before == WORDS[: len(before)]
    assert len(before) < 40, "it stopped"
    assert abs(len(event.text_spoken.split()) - len(before)) <= 4
    assert (await application.utterances())[-2:] == [(1, "started"), (1, "finished")]
    cut = next(header for header, _ in await application.stored_chunks() if header.cut)
    assert cut.utterance == 0


async def test_with_nothing_to_interrupt_there_is_no_cut(broker: Broker, start: Start) -> None:
    await start()
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:5]))
        await until(lambda: len(player.words) == 5, "it is played", 30)

        async def finished() -> bool:
            return (0, "finished") in await application.utterances()

        await until(finished, "the utterance is over", 30)
        reply = await application.request("interrupt")
        assert (reply.ok, reply.utterance) == (True, None)
        reply = await application.request("close", reason="bye")
        assert reply.ok
        assert (await application.closed()).reason == "closed: bye"
        assert player.cuts == 0


async def test_a_session_is_closed_when_its_text_was_spoken(broker: Broker, start: Start) -> None:
    await start(TONES_PACE="8")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.piece(0, 0, sentences(WORDS[:20]))
        await until(lambda: player.position > RATE, "some of it is played", 30)
        assert (await application.request("close")).ok
        assert (await application.closed()).reason == "closed: by request"
        assert player.words == WORDS[:20]


async def test_speech_that_nobody_plays_is_dropped_and_not_heard_late(
    broker: Broker, start: Start
) -> None:
    await start(WORKER_VOICE_UNPLAYED_SECONDS="1.5", WORKER_VOICE_AHEAD_SECONDS="3")
    application = Application(broker)
    await application.open()
    await application.say(sentences(WORDS))
    event = await interruption(application)
    assert (event.reason, event.text_spoken, event.end) == ("no_player", "", 0)
    assert event.text_remaining == application.said[0]
    published = sum(len(audio) for _, audio in await application.stored_chunks()) / 2 / RATE
    assert published < 12, "it was not published far ahead"
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:10]), end=True)
        await application.closed()
        assert player.words == WORDS[:10]


async def test_a_player_gets_the_chunks_that_it_missed(broker: Broker, start: Start) -> None:
    await start()
    application = Application(broker)
    await application.open()
    await application.say(sentences(WORDS[:15]), end=True)
    await spoken_chunks(application, 10)
    async with playing(broker, application.spec) as player:
        player.missing = 0
        await application.closed()
        assert player.words == WORDS[:15]
    assert heard(await application.stored_chunks()) == WORDS[:15]


async def test_speech_that_is_lost_before_it_was_played_is_spoken_again(
    broker: Broker, start: Start
) -> None:
    """As after a restart of a broker that keeps it in memory, if no player had it."""
    await start(WORKER_VOICE_AHEAD_SECONDS="6")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=4) as player:
        await application.say(sentences(WORDS[:40], 7), end=True)
        await until(lambda: player.position > 3 * RATE, "some of it is played", 30)
    await broker.client.jetstream().purge_stream(streams.SPEECH)
    async with playing(broker, application.spec) as other:
        other.missing = 0
        await application.closed()
        assert other.cuts == 1
        rest = other.words
    assert rest == WORDS[40 - len(rest) : 40]
    # The word in which the first player stopped may be cut.
    assert abs(len(player.words) + len(rest) - 40) <= 1
    assert await application.utterances() == [(0, "started"), (0, "finished")]


async def test_a_voice_that_is_mute_is_left_and_one_that_refuses_ends_the_session(
    broker: Broker, start: Start
) -> None:
    await start(TONES_MUTE="1", WORKER_MUTE_SECONDS="1", WORKER_BACKOFF_SECONDS="0.05")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:10]), end=True)
        await application.closed()
        assert player.words == WORDS[:10]
    refused = Application(broker, conversation="other", voice="nope")
    await refused.say("Nobody says this.")
    await refused.open()
    closing = await refused.closed()
    assert closing.state == "failed"
    assert closing.reason is not None
    assert closing.reason.startswith("nope: unknown voice 'nope': installed are")
    assert (closing.utterance, closing.text_remaining) == (0, "Nobody says this.")
    assert await refused.utterances() == [(0, "interrupted")]


async def test_a_session_without_a_voice_fails_and_its_end_names_the_setting(
    broker: Broker, start: Start
) -> None:
    worker = await start(WORKER_VOICE="")
    assert worker.find("WORKER_VOICE is not set")
    application = Application(broker)
    await application.open()
    await application.say("Nobody says this.")
    closing = await application.closed()
    assert closing.state == "failed"
    assert closing.reason is not None
    assert "no voice is named: set WORKER_VOICE" in closing.reason


async def test_a_bad_request_is_answered_and_a_stream_is_parked_while_nothing_is_said(
    broker: Broker, start: Start
) -> None:
    worker = await start(WORKER_PARK_SECONDS="0.5")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:5]))
        await until(lambda: len(player.words) == 5, "it is played", 30)

        async def parked() -> bool:
            return '"waiting"' in (await worker.get("/sessions"))[1]

        await until(parked, "the stream is closed", 30)
        reply = await application.request("configure", settings={"speed": 2})
        assert reply.error is not None
        assert "no provider stream is open" in reply.error
        await application.say(sentences(WORDS[5:10]), end=True)
        await application.closed()
        assert player.words == WORDS[:10]
    states = [e.state for e in await application.events() if isinstance(e, VoiceStatusEvent)]
    assert states == ["assigned", "streaming", "streaming", "closed"]


async def test_both_kinds_of_session_share_the_slots(broker: Broker, start: Start) -> None:
    await ensure(broker, StreamSettings(kinds=("transcribe", "speak"), lease_seconds=1))
    await start(
        WORKER_KINDS="transcribe,speak", WORKER_MAX_SESSIONS="1", DEEPGRAM_URL="ws://[::1]:1"
    )
    application = Application(broker)
    await application.open()
    js = broker.client.jetstream()
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:5]))
        await until(lambda: len(player.words) == 5, "it is played", 30)
        spec = SessionSpec(tenant="t", conversation="c", speaker="s")
        payload = spec.model_dump_json().encode()
        await js.publish(session_subject(spec.key), payload)

        async def given_back() -> bool:
            info = await js.consumer_info(streams.SESSIONS, streams.CONSUMER)
            return bool(info.delivered.consumer_seq >= 1)

        await until(given_back, "the request was given back", 30)
        reader = FleetReader(broker)
        await reader.start()

        async def shown() -> bool:
            kinds = {row.kind: row.state for row in (await reader.read(KeyFilter())).rows}
            return kinds.keys() == {"speak", "transcribe"} and kinds["transcribe"] == "waiting"

        await until(shown, "operators see both sessions", 30)
        assert (await js.stream_info(streams.TRANSCRIPTS)).state.messages == 0
        await application.say(sentences(WORDS[5:10]), end=True)
        await application.closed()
        assert player.words == WORDS[:10]

    async def claimed() -> bool:
        info = await js.stream_info(streams.TRANSCRIPTS)
        return info.state.messages > 0

    await until(claimed, "the other session is claimed", 30)

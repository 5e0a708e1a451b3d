"""A voice session gets input that is wrong, strange or hostile. It reports the text that it does
not speak, speaks the rest, and does no harm to other sessions."""

from __future__ import annotations

import json
import signal

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.spoken import tone_words
from natterjack.subjects import (
    played_subject,
    speech_subject,
    text_subject,
    voice_control_subject,
    voice_session_subject,
)
from natterjack.voice.control import VoiceReply
from natterjack.voice.events import UtteranceEvent
from tests.waiting import until

from .conftest import Start
from .player import RATE, Application, heard, playing
from .test_session import WORDS, sentences, spoken_chunks

pytestmark = pytest.mark.process

HUGE = 2**53 - 1


class Raw(Application):
    """An application whose pieces are bytes."""

    async def raw(self, payload: bytes | str | dict[str, object], number: str = "") -> None:
        if isinstance(payload, dict):
            payload = json.dumps({"session_id": self.spec.session_id, **payload})
        data = payload.encode() if isinstance(payload, str) else payload
        headers = {"Nats-Msg-Id": f"raw-{number}"} if number else None
        await self._js.publish(text_subject(self.spec.key), data, headers=headers)

    async def ends(self) -> list[UtteranceEvent]:
        """How each utterance has ended, in order."""
        events = [e for e in await self.events() if isinstance(e, UtteranceEvent)]
        return [event for event in events if event.event != "started"]


STRANGE = {
    "control": "Able\x00about\x07 \x1b[31mabove\x9b.",
    "markup": "<speak>able <break time='1s'/> about</speak> **above** & <b>",
    "emoji": "👩🏽‍🚀 able 🇩🇪🇩🇪 about 🎉. above",
    "right to left": "هل أنت بخير اليوم؟ \u202eable\u202c نعم.",
    "zalgo": "able a" + "\u0301" * 3000 + " about.",
    "no words": "… !? — \u200b \u00a0\n\t",
    "one line": "able" * 300,
}


async def test_strange_text_is_spoken_as_far_as_it_can_be(broker: Broker, start: Start) -> None:
    """An utterance without words ends without audio. Half of a surrogate pair costs only itself."""
    await start(TONES_PACE="60", WORKER_VOICE_AHEAD_SECONDS="60")
    application = Raw(broker)
    await application.open()
    async with playing(broker, application.spec, speed=60) as player:
        for text in STRANGE.values():
            await application.say(text, pieces=1)
        number = len(STRANGE)
        await application.raw(  # json.dumps writes it as an escape
            {"utterance": number, "piece": 0, "text": "able \ud83d", "flush": True}
        )
        application.said.append("able \ufffd")
        await application.piece(number + 1, 0, "", flush=True, end=True)
        closing = await application.closed()
        assert (closing.state, closing.reason) == ("closed", "end of text")
        ends = await application.ends()
        assert [(e.utterance, e.event) for e in ends] == [
            (n, "finished") for n in range(number + 2)
        ]
        assert [e.text_spoken for e in ends] == [*application.said, ""]
        assert player.words[-1] == "able"
    assert "about" in heard(await application.stored_chunks())


async def test_a_piece_that_cannot_be_read_costs_itself_only_and_is_told(
    broker: Broker, start: Start
) -> None:
    worker = await start(WORKER_HOLE_SECONDS="0.5")
    application, other = Raw(broker), Application(broker, conversation="other")
    await application.open()
    await other.open()
    async with playing(broker, application.spec) as player, playing(broker, other.spec) as beside:
        await other.say(sentences(WORDS[:20]), end=True)
        first, second = sentences(WORDS[:5]) + " ", sentences(WORDS[5:10])
        await application.piece(0, 0, first)
        await application.raw({"utterance": 0, "piece": 1, "text": 7})
        await application.piece(0, 2, second, flush=True)
        await application.raw({"utterance": 1, "piece": 0, "text": "x" * 100_001, "flush": True})
        for garbage in (b"", b"\xff\x00", b"[" * 50_000, b"null", b'{"text":"able"}'):
            await application.raw(garbage)
        for place in ({"utterance": HUGE, "piece": 0}, {"utterance": 2, "piece": HUGE},
                      {"utterance": -1, "piece": 0}, {"utterance": "2", "piece": 1e300},
                      {"utterance": HUGE, "piece": 0, "end": True}):  # fmt: skip
            await application.raw({**place, "text": "never", "flush": True})
        await application.piece(3, 0, sentences(WORDS[10:15]), flush=True, end=True)
        closing = await application.closed()
        assert (closing.state, closing.reason) == ("closed", "end of text")
        assert player.words == WORDS[:15]
        await other.closed()
        assert beside.words == WORDS[:20]
    ends = {end.utterance: end for end in await application.ends()}
    assert [(n, e.event, e.reason) for n, e in ends.items()] == [
        (0, "finished", None), (1, "interrupted", "failed"), (2, "interrupted", "failed"),
        (3, "finished", None),
    ]  # fmt: skip
    assert ends[0].text_spoken == first + second
    assert (ends[0].detail or "").startswith("piece of text: not a TextPiece: text")
    assert "at most 100000" in (ends[1].detail or "")
    assert ends[2].detail == "a part of its text is missing"
    assert worker.running


async def test_an_application_that_dies_within_an_utterance_does_not_keep_its_session(
    broker: Broker, start: Start
) -> None:
    """Text without the end of a sentence waits for it, and is not spoken late."""
    await start(WORKER_IDLE_SECONDS="2", WORKER_PARK_SECONDS="0.5")
    application = Raw(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        said = sentences(WORDS[:10], 10)
        await application.piece(0, 0, said + " Able about")
        closing = await application.closed()
        assert player.words == WORDS[:10]
    assert (closing.state, closing.reason) == ("closed", "idle: no text for 2 s")
    (end,) = await application.ends()
    assert (end.event, end.reason) == ("interrupted", "idle")
    assert (end.text_spoken, end.text_remaining) == (said, " Able about")
    assert closing.text_remaining == " Able about"


async def test_a_voice_that_is_slow_is_not_taken_for_an_application_that_has_stopped(
    broker: Broker, start: Start
) -> None:
    await start(
        WORKER_IDLE_SECONDS="0.5", TONES_MUTE="1", WORKER_MUTE_SECONDS="2",
        WORKER_BACKOFF_SECONDS="0.05",
    )  # fmt: skip
    application = Raw(broker)
    await application.say(sentences(WORDS[:10]))  # it is there when the session begins
    await application.open()
    async with playing(broker, application.spec) as player:
        closing = await application.closed()
        assert player.words == WORDS[:10]
    assert closing.reason == "idle: no text for 0.5 s"
    assert [end.event for end in await application.ends()] == ["finished"]


async def test_a_newer_application_gets_the_key_when_the_older_one_has_stopped(
    broker: Broker, start: Start
) -> None:
    await start(WORKER_SUPERSEDED_SECONDS="1")
    first, second = Raw(broker), Raw(broker)
    await first.open()
    async with playing(broker, first.spec) as player:
        await first.piece(0, 0, sentences(WORDS[:10]) + " Able about")
        await spoken_chunks(first, 3)
        await second.open()
        async with playing(broker, second.spec) as other:
            await second.say(sentences(WORDS[20:30]), end=True)
            closing = await first.closed()
            assert (await second.closed()).reason == "end of text"
            assert other.words == WORDS[20:30]
        assert player.words == [*WORDS[:10], "able", "about"]
    assert closing.reason == "superseded: a newer session uses the key"
    assert [end.event for end in await first.ends()] == ["finished"]


async def test_an_application_that_goes_on_speaking_keeps_the_key(
    broker: Broker, start: Start
) -> None:
    await start(WORKER_SUPERSEDED_SECONDS="1")
    first, second = Raw(broker), Raw(broker)
    await first.open()
    await first.say("Able.")
    await spoken_chunks(first, 1)
    await second.open()
    async with playing(broker, first.spec, speed=1) as player:
        await first.say(sentences(WORDS[:20]))
        await until(lambda: player.position > 3 * RATE, "it speaks on", 30)
        assert await second.events() == []
        await first.say("Above.", end=True)
        assert (await first.closed()).reason == "end of text"
        assert player.words == ["able", *WORDS[:20], "above"]
    async with playing(broker, second.spec):
        await second.piece(0, 0, "", flush=True, end=True)
        assert (await second.closed()).reason == "end of text"


async def test_text_after_the_end_is_told_as_not_spoken(broker: Broker, start: Start) -> None:
    await start()
    application = Raw(broker)
    await application.open()
    await application.say("Able.", end=True)
    await application.say("Too late.")
    async with playing(broker, application.spec) as player:
        closing = await application.closed()
        assert player.words[0] == "able"
    ends = await application.ends()
    assert (ends[0].event, ends[0].text_spoken) == ("finished", "Able.")
    if ends[1].event == "interrupted":  # else it was spoken before the end was played
        assert ends[1].reason == "end of text"
        assert (ends[1].text_spoken or "") + (ends[1].text_remaining or "") == "Too late."
        assert closing.text_remaining == "Too late."
        if not ends[1].estimated:  # else some of it was published before the end was played
            assert ends[1].text_remaining == "Too late."
    else:
        assert ends[1].text_spoken == "Too late."


@pytest.mark.parametrize("voice", ["endless", "unreadable"])
async def test_a_phrase_that_no_voice_can_speak_costs_its_own_utterance_only(
    broker: Broker, start: Start, voice: str
) -> None:
    await start(
        WORKER_BACKOFF_SECONDS="0.05", TONES_PACE="200", **{f"TONES_{voice.upper()}": "Zero"}
    )
    application, other = Raw(broker), Application(broker, conversation="other")
    await application.open()
    await other.open()
    async with playing(broker, application.spec, speed=50) as player:
        await application.say("Zero about.")
        await application.say(sentences(WORDS[:10]), end=True)
        closing = await application.closed()
        assert player.words[-10:] == WORDS[:10]
    assert (closing.state, closing.reason) == ("closed", "end of text")
    ends = await application.ends()
    assert [(e.utterance, e.event, e.reason) for e in ends] == [
        (0, "interrupted", "failed"), (1, "finished", None),
    ]  # fmt: skip
    wrong = {"endless": "does not end", "unreadable": "cannot be read"}[voice]
    assert wrong in (ends[0].detail or "")
    async with playing(broker, other.spec) as beside:
        await other.say(sentences(WORDS[:5]), end=True)
        await other.closed()
        assert beside.words == WORDS[:5]


async def test_text_that_is_not_stored_any_more_is_told_and_not_spoken_wrongly(
    broker: Broker, start: Start
) -> None:
    """The text is older than the stream keeps it when a worker dies."""
    first = await start(TONES_PACE="4", WORKER_VOICE_AHEAD_SECONDS="3")
    application = Raw(broker)
    await application.open()
    text = sentences(WORDS)
    async with playing(broker, application.spec, speed=4) as player:
        for index in range(0, len(text), 50):
            await application.piece(0, index // 50, text[index : index + 50])
        await application.piece(0, len(text) // 50 + 1, "", flush=True)
        await application.piece(1, 0, "Able about above.", flush=True, end=True)
        await until(lambda: player.position > 4 * RATE, "some of it is played", 30)
        first.signal(signal.SIGKILL)
        await first.wait()
        info = await application._js.stream_info(streams.TEXT)
        await application._js.purge_stream(streams.TEXT, seq=info.state.first_seq + 2)
        await start(WORKER_HOLE_SECONDS="0.5")
        closing = await application.closed()
        played = player.words
    assert closing.reason == "end of text"
    ends = await application.ends()
    assert [(e.utterance, e.event, e.reason) for e in ends] == [
        (0, "interrupted", "failed"), (1, "finished", None),
    ]  # fmt: skip
    assert ends[0].detail == "a part of its text is missing"
    assert played[-2:] == ["about", "above"]
    # The word within which the audio of the dead worker ends may be cut, and join the next.
    rest = played[:-3]
    assert rest[:-1] == WORDS[: len(rest) - 1], "nothing is spoken twice, or from a wrong place"


async def test_forged_reports_and_requests_change_nothing_else(
    broker: Broker, start: Start
) -> None:
    """A user who may publish reports can end the wait for a player, and do no more."""
    worker = await start(TONES_PACE="30")
    application, other = Raw(broker), Application(broker, conversation="other")
    await application.open()
    await other.open()
    key, session_id = application.spec.key, application.spec.session_id
    report = {"session_id": session_id, "utterance": 0, "position": 0, "state": "playing"}
    async with playing(broker, application.spec) as player, playing(broker, other.spec) as beside:
        await other.say(sentences(WORDS[:30]), end=True)
        await application.say(sentences(WORDS[:10]))
        await spoken_chunks(application, 1)
        for forged in (
            {"position": -1}, {"position": 1.5}, {"position": "NaN"}, {"position": HUGE + 1},
            {"session_id": "somebody-else", "position": HUGE}, {"state": "dancing"},
            {"missing": -1}, {"missing": HUGE}, {"utterance": HUGE}, {"position": 0},
        ):  # fmt: skip
            payload = json.dumps({**report, **forged}).encode()
            await broker.client.publish(played_subject(key), payload)
        nan = json.dumps({**report, "position": float("nan")}).encode()
        for payload in (nan, b"", b"x" * 5000, b"[" * 4000):
            await broker.client.publish(played_subject(key), payload)
        for request in (
            b"", b"{}", b"[]", b"[" * 50_000, b'{"command":"explode"}', b'{"command":7}',
            b'{"command":"interrupt","reason":"%s"}' % (b"x" * 201),
            b'{"command":"interrupt","session_id":"another-session"}',
            b'{"command":"configure","settings":7}', b'{"command":"configure"}',
            b'{"command":"configure","settings":{"volume":NaN}}',
            b'{"command":"close","reason":{}}',
        ):  # fmt: skip
            answer = await broker.client.request(voice_control_subject(key), request, timeout=30)
            reply = VoiceReply.model_validate_json(answer.data)
            assert not reply.ok, request
            assert reply.error, request
        await application.say(sentences(WORDS[10:15]), end=True)
        assert (await application.closed()).reason == "end of text"
        assert player.words == WORDS[:15]
        await other.closed()
        assert beside.words == WORDS[:30]
    assert [end.event for end in await application.ends()] == ["finished", "finished"]
    assert worker.running


async def test_a_report_beyond_the_audio_counts_to_its_end_only(
    broker: Broker, start: Start
) -> None:
    await start(TONES_PACE="2", WORKER_VOICE_AHEAD_SECONDS="2")
    application = Raw(broker)
    await application.open()
    await application.say(sentences(WORDS), end=True)
    await spoken_chunks(application, 2)
    report = {"session_id": application.spec.session_id, "utterance": 0, "position": HUGE,
              "state": "playing"}  # fmt: skip
    await broker.client.publish(played_subject(application.spec.key), json.dumps(report).encode())
    reply = await application.request("interrupt")
    assert reply.position is not None
    assert reply.position < len(WORDS) * 0.4
    (end,) = await application.ends()
    assert end.end == reply.position


async def test_forged_speech_costs_no_word_of_the_session(broker: Broker, start: Start) -> None:
    """Only workers may publish there. If another does, the session goes on after its chunks."""
    await start(TONES_PACE="6")
    application = Raw(broker)
    await application.open()
    subject = speech_subject(application.spec.key)
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:30], 7), end=True)
        await spoken_chunks(application, 5)
        common = {"Epoch": "1", "Utterance": "0", "Audio-Seq": "0", "Sample-Rate": str(RATE)}
        js = broker.client.jetstream()
        await js.publish(subject, b"\x00" * 20, headers={
            **common, "Session-Id": "somebody-else", "Audio-Pos": str(HUGE)})  # fmt: skip
        await js.publish(subject, b"odd", headers={"Session-Id": application.spec.session_id})
        await js.publish(subject, b"")
        assert (await application.closed()).reason == "end of text"
        assert player.words == WORDS[:30]
    assert [end.event for end in await application.ends()] == ["finished"]


async def test_requests_that_cannot_be_are_refused_with_a_reason(
    broker: Broker, start: Start
) -> None:
    await start()
    js = broker.client.jetstream()
    good = Application(broker, conversation="good").spec
    cases: list[tuple[dict[str, object], str]] = [
        ({"sample_rate": 1}, "sample_rate"), ({"sample_rate": 10**30}, "sample_rate"),
        ({"sample_rate": "fast"}, "sample_rate"), ({"voice": ["tones"] * 9}, "voice"),
        ({"options": 7}, "options"), ({"labels": {"a": 1}}, "labels"),
        ({"interrupt_on": "a b"}, "interrupt_on"),
        ({"interrupt_on": "other.c.caller"}, "another tenant"), ({"speaker": "x"}, "its key is"),
        ({"opened_at": "never"}, "opened_at"), ({"model": "x" * 129}, "model"),
    ]  # fmt: skip
    for number, (wrong, reason) in enumerate(cases):
        application = Raw(broker, conversation=f"c{number}")
        content: dict[str, object] = {**json.loads(application.spec.encode()), **wrong}
        subject = voice_session_subject(application.spec.key)
        await js.publish(subject, json.dumps(content).encode())
        closing = await application.closed()
        assert closing.state == "failed"
        assert (closing.reason or "").startswith("bad request"), wrong
        assert reason in (closing.reason or "")
    for subject, payload in (
        (voice_session_subject(good.key), b"[" * 50_000), (voice_session_subject(good.key), b""),
        ("tts.session.a", b"{}"), ("tts.session.a.b.c.d", b"{}"), ("tts.session.a.b.$c", b"{}"),
    ):  # fmt: skip
        await broker.client.publish(subject, payload)

    async def empty() -> bool:
        return bool((await js.stream_info(streams.VOICE_SESSIONS)).state.messages == 0)

    await until(empty, "no request blocks the queue", 30)


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 47_999])
async def test_a_rate_that_the_voice_lacks_is_made(broker: Broker, start: Start, rate: int) -> None:
    await start(TONES_RATE="24000")
    application = Raw(broker, sample_rate=rate)
    await application.open()
    async with playing(broker, application.spec):
        await application.say(sentences(WORDS[:10]), end=True)
        await application.closed()
    chunks = await application.stored_chunks()
    assert {header.sample_rate for header, _ in chunks} == {rate}
    seconds = sum(len(audio) for _, audio in chunks) / 2 / rate
    assert seconds == pytest.approx(10 * 0.32, abs=0.4)
    if rate == 8000:  # the decoder has few rates
        audio = b"".join(audio for _, audio in chunks)
        decoder = tones.Decoder(rate)
        words = [word.word for word in [*decoder.feed(audio), *decoder.flush()]]
        assert words == WORDS[:10]


async def test_ten_thousand_pieces_of_a_character_are_one_utterance(
    broker: Broker, start: Start
) -> None:
    await start(TONES_PACE="200", WORKER_VOICE_AHEAD_SECONDS="60")
    application = Raw(broker)
    await application.open()
    text = sentences([*WORDS, *WORDS] * 15)[:10_000]
    async with playing(broker, application.spec, speed=100) as player:
        for number, character in enumerate(text):
            payload = {"session_id": application.spec.session_id, "utterance": 0, "piece": number,
                       "text": character, "flush": number == len(text) - 1}  # fmt: skip
            await broker.client.publish(
                text_subject(application.spec.key), json.dumps(payload).encode()
            )
        await application.piece(1, 0, "", flush=True, end=True)
        await application.closed(120)
        expected = tone_words(text)
        assert tones.compare(expected, player.words) == tones.Counts()
    assert (await application.ends())[0].text_spoken == text


async def test_a_megabyte_of_text_is_spoken_until_it_is_interrupted(
    broker: Broker, start: Start
) -> None:
    """Its event is made as small as the broker accepts; other sessions go on meanwhile."""
    await start(TONES_PACE="60")
    application, other = Raw(broker), Application(broker, conversation="other")
    await application.open()
    await other.open()
    part = (sentences(WORDS) + " ") * 230
    async with playing(broker, application.spec) as player, playing(broker, other.spec) as beside:
        for number in range(14):
            await application.piece(0, number, part, flush=number == 13)
        application.said.append(part * 14)
        await until(lambda: player.position > 3 * RATE, "it is spoken", 60)
        await other.say(sentences(WORDS[:20]), end=True)
        assert (await application.request("interrupt")).utterance == 0
        await application.say("Able about above.", end=True)
        assert (await application.closed()).reason == "end of text"
        assert player.words[-2:] == ["about", "above"]
        await other.closed()
        assert beside.words == WORDS[:20]
    first, second = await application.ends()
    assert (first.event, first.reason, second.event) == ("interrupted", "request", "finished")
    assert first.text_spoken
    assert part.startswith(first.text_spoken[:1000])
    assert first.text_remaining

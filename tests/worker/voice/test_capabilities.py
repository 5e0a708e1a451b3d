"""Voices can do more than speak, through a worker: report the text that was spoken, change
settings, keep a stream for a limited time."""

from __future__ import annotations

import itertools
import signal

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux_speak import DeepgramFluxSpeakEmulator
from natterjack.voice.events import UtteranceEvent, VoiceStatusEvent
from tests.waiting import until

from .conftest import Start
from .player import RATE, Application, Player, playing
from .test_session import WORDS, interruption, sentences
from .tone_worker import ToneWorker

pytestmark = pytest.mark.process


async def interrupted(application: Application, player: Player, at: float) -> UtteranceEvent:
    """Interrupt the first utterance when so many seconds of it were played, and end the session
    with other words."""
    await until(lambda: player.position > at * RATE, "some of it is played", 60)
    assert (await application.request("interrupt")).ok
    event = await interruption(application)
    await application.say(sentences(WORDS[50:55]), end=True)
    await application.closed()
    return event


async def test_marks_of_words_say_exactly_what_was_heard(broker: Broker, start: Start) -> None:
    await start(TONES_MARKS="1", TONES_PACE="6")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=1) as player:
        await application.say(sentences(WORDS[:40], 14))
        event = await interrupted(application, player, 3)
    heard = [word for word in player.words if word in WORDS[:40]]
    assert len(heard) >= 8
    assert not event.estimated
    assert tones.words_of(event.text_spoken or "") == heard


async def test_a_voice_that_says_what_it_has_spoken_says_exactly_what_was_heard(
    broker: Broker, start: Start
) -> None:
    """It knows only its current phrase: within an earlier one, what was heard is estimated."""
    async with DeepgramFluxSpeakEmulator(speech_pace=1.1) as emulator:
        await start(WORKER_VOICE="deepgram-flux-voice", DEEPGRAM_URL=emulator.url)
        for conversation, seconds, exact in (("long", 4, True), ("ahead", 1, False)):
            application = Application(broker, conversation=conversation)
            await application.open()
            async with playing(broker, application.spec, speed=1) as player:
                text = sentences(WORDS[:40], 40 if exact else 6)
                if not exact:
                    await emulator.set(speech_pace=8)
                await application.say(text)
                event = await interrupted(application, player, seconds)
            heard = [word for word in player.words if word in WORDS[:40]]
            spoken = tones.words_of(event.text_spoken or "")
            assert event.estimated is not exact
            assert abs(len(spoken) - len(heard)) <= (0 if exact else 2), (spoken, heard)
            assert spoken == WORDS[: len(spoken)]


async def test_changed_settings_stay_for_later_streams_and_workers(
    broker: Broker, start: Start
) -> None:
    first = await start()
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.say(sentences(WORDS[:5]))
        await until(lambda: len(player.words) == 5, "it is played", 30)
        reply = await application.request("configure", settings={"speed": 1.5})
        assert (reply.ok, reply.configure) == (True, ["speed"])
        refused = await application.request("configure", settings={"color": "red"})
        assert refused.error == "tones: no setting color to change mid-stream"
        first.signal(signal.SIGKILL)
        second = await start()
        await application.say(sentences(WORDS[5:10]), end=True)
        await application.closed()
        assert player.words == WORDS[:10]
    assert options(first) == ["{}"]
    assert options(second) == ['{"speed": 1.5}']


def options(worker: ToneWorker) -> list[str]:
    """The options of the streams that a worker has opened."""
    references = [str(entry.get("reference", "")) for entry in worker.log]
    return [one.partition(" ")[2] for one in references if one.startswith("stream-")]


async def test_a_stream_is_replaced_between_phrases_before_the_provider_ends_it(
    broker: Broker, start: Start
) -> None:
    """Also if the next phrase is always sent before the one before it has ended."""
    await start(TONES_MAX_SECONDS="2", TONES_PACE="2")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=2) as player:
        await application.say(sentences(WORDS), end=True)
        await application.closed()
        assert tones.compare(WORDS, player.words) == tones.Counts()
    states = [e.state for e in await application.events() if isinstance(e, VoiceStatusEvent)]
    assert states.count("streaming") >= 2
    assert "recovering" not in states
    assert (await application.usage()).repeated_characters == 0


async def voices_of(application: Application) -> list[str | None]:
    """The voices of a session, in the order in which they spoke."""
    statuses = [e for e in await application.events() if isinstance(e, VoiceStatusEvent)]
    voices = [event.provider for event in statuses if event.state == "streaming"]
    return [voice for voice, _ in itertools.groupby(voices)]


async def test_another_voice_goes_on_between_two_words(broker: Broker, start: Start) -> None:
    """It speaks more slowly, so what is published of the phrase says nothing about its audio."""
    await start(
        WORKER_VOICE="tones,other", TONES_DROPS="9", TONES_DROP_AFTER="2",
        WORKER_REPEATED_FAILURES="2", WORKER_BACKOFF_SECONDS="0.05",
    )  # fmt: skip
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        text = f"{sentences(WORDS[:4], 4)} {sentences(WORDS[4:40], 18)}"
        await application.say(text, end=True)
        await application.closed()
    voices = await voices_of(application)
    assert voices[:2] == ["tones", "other"]
    counts = tones.compare(WORDS[:40], player.words)
    # Where the published audio ends in the text is estimated from the pace of earlier phrases. A
    # busy machine may lose the lease, of one second: then the first voice goes on.
    off = counts.lost + counts.doubled if len(voices) == 2 else counts.lost
    assert (off <= 1, counts.out_of_order) == (True, 0), " ".join(player.words)


async def test_after_a_slower_voice_no_word_is_lost(broker: Broker, start: Start) -> None:
    """The first voice goes on after the other one, and not where it would have been itself."""
    await start(
        WORKER_VOICE="tones,other", TONES_DROPS="3", TONES_DROP_AFTER="2", OTHER_DROPS="3",
        OTHER_DROP_AFTER="4", WORKER_REPEATED_FAILURES="2", WORKER_BACKOFF_SECONDS="0.05",
    )  # fmt: skip
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        text = f"{sentences(WORDS[:4], 4)} {sentences(WORDS[4:40], 36)}"
        await application.say(text, end=True)
        await application.closed()
    assert (await voices_of(application))[:3] == ["tones", "other", "tones"]
    counts = tones.compare(WORDS[:40], player.words)
    assert (counts.lost, counts.doubled <= 8) == (0, True), " ".join(player.words)

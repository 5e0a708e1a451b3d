"""Streams against the emulator: interrupts, settings, limits, faults."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.emulators.deepgram.flux_speak import DeepgramFluxSpeakEmulator
from natterjack.emulators.spoken import tone_words
from natterjack.emulators.tones import Decoder
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import Notice
from natterjack.plugin.voice import (
    Interrupted,
    PhraseEnd,
    Speech,
    VoiceStream,
    VoiceStreamEvent,
    VoiceStreamRequest,
)
from tests.waiting import bound, until, within
from worker.voices.deepgram_flux_voice import DeepgramFluxVoice

from .conftest import Make

TEXT = "Able about above. Acorn across actor."
LONG = TEXT + f" {TEXT}" * 20
"""Text whose speech is not at its end when an interrupt comes."""
RATE = 24_000


class Listener:
    """An open stream whose events are collected."""

    def __init__(self, stream: VoiceStream) -> None:
        self.stream = stream
        self.events: list[VoiceStreamEvent] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.stream:
            self.events.append(event)

    async def say(self, text: str) -> None:
        await self.stream.speak(text)
        await self.stream.flush()

    async def until(self, kind: type[Any], count: int = 1) -> Any:
        """Wait for the event of a kind that makes `count` of them, and return it."""
        await until(lambda: self.reading.done() or len(self.of(kind)) >= count, kind.__name__)
        if len(self.of(kind)) < count:
            await self.reading  # raises
        return self.of(kind)[count - 1]

    async def end(self) -> list[VoiceStreamEvent]:
        """Finish the stream, and return all events. Raises its error."""
        await self.stream.finish()
        return await self.over()

    async def over(self) -> list[VoiceStreamEvent]:
        async with within(10):
            await self.reading
        return self.events

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def notices(self) -> list[str]:
        return [notice.code for notice in self.of(Notice)]

    @property
    def seconds(self) -> float:
        """Seconds of audio that was returned."""
        return sum(len(event.audio) for event in self.of(Speech)) / 2 / RATE

    def heard(self) -> list[str]:
        decoder = Decoder(RATE)
        audio = b"".join(event.audio for event in self.of(Speech))
        return [word.word for word in [*decoder.feed(audio), *decoder.flush()]]


@contextlib.asynccontextmanager
async def listening(voice: DeepgramFluxVoice, **options: Any) -> AsyncIterator[Listener]:
    stream = await voice.open(VoiceStreamRequest("s", "linear16", RATE, options=options))
    listener = Listener(stream)
    try:
        yield listener
    finally:
        listener.reading.cancel()
        await asyncio.wait({listener.reading})
        await stream.close()


async def refused(voice: DeepgramFluxVoice, **request: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await voice.open(VoiceStreamRequest("s", "linear16", RATE, **request))
    return caught.value


async def test_phrases_and_their_price(make: Make, emulator: DeepgramFluxSpeakEmulator) -> None:
    async with listening(make(), tag=["a", "b"], speed=1.1) as listener:
        await listener.say("<speak>Able</speak> about.")
        await listener.say(TEXT)
        await listener.say("...")
        events = await listener.end()
    ends = [event for event in events if isinstance(event, PhraseEnd)]
    assert ends == [PhraseEnd(len("Able about.")), PhraseEnd(len(TEXT)), PhraseEnd(3)]
    assert listener.notices() == ["markup_stripped", "nothing_to_speak"]
    assert listener.heard() == ["able", "about", *tone_words(TEXT)]
    (entry,) = emulator.log
    assert entry.query == {
        "model": ["flux-haley-en"], "encoding": ["linear16"], "sample_rate": ["24000"],
        "speed": ["1.1"], "tag": ["a", "b"],
    }  # fmt: skip
    assert listener.stream.reference == entry.request_id
    assert entry.texts == {"Speak": 3, "Flush": 3, "Close": 1}
    assert entry.closed == "server 1000"


@pytest.mark.parametrize("rebases", [True, False])
async def test_what_was_heard_is_what_the_provider_says(
    make: Make, emulator: DeepgramFluxSpeakEmulator, rebases: bool
) -> None:
    """Over several interrupts, with the vendor's clock rebased or not."""
    late = 20 if rebases else 0  # else it would be part of the clock
    await emulator.set(speech_pace=4, rebases=rebases, audio_after_interrupt=late)
    played = 0.0
    async with listening(make(rebased_clock=rebases)) as listener:
        for round_, word_count in enumerate((2, 1, 3), 1):
            before = listener.seconds
            await listener.say(LONG)
            wanted = word_count * 0.32 + 0.05
            await until(lambda b=before, w=wanted: listener.seconds > b + w + 0.3, "more audio")
            played += wanted
            await listener.stream.interrupt(played)
            answer = await listener.until(Interrupted, round_)
            assert answer.text_spoken is not None
            assert tone_words(answer.text_spoken) == tone_words(TEXT)[:word_count]
            assert answer.billed_characters == len(LONG)
        # A phrase that was spoken at the provider is played when the next interrupt comes.
        await listener.say("Able.")
        await listener.until(PhraseEnd)
        played += 0.1
        await listener.stream.interrupt(played)
        assert await listener.until(Interrupted, 4) == Interrupted()
        before = listener.seconds
        await listener.say(LONG)
        await until(lambda: listener.seconds > before + 0.5, "audio of the last phrase")
        await listener.stream.interrupt(played + 0.4)
        assert (await listener.until(Interrupted, 5)).text_spoken == "Able"
        await listener.end()
    assert "interrupt_ignored" not in listener.notices()


async def test_new_text_is_not_mixed_with_what_was_cancelled(
    make: Make, emulator: DeepgramFluxSpeakEmulator
) -> None:
    await emulator.set(speech_pace=4, interrupt_seconds=0.2, audio_after_interrupt=50)
    async with listening(make()) as listener:
        await listener.say(LONG)
        await listener.say(LONG)
        await listener.until(Speech)
        await listener.stream.interrupt(0.01)
        await listener.say("Album.")
        events = await listener.end()
    at = events.index(listener.of(Interrupted)[0])
    listener.events = events[at:]
    assert listener.heard() == ["album"]
    assert len(listener.of(PhraseEnd)) == 1
    assert emulator.log[0].texts == {"Speak": 2, "Flush": 2, "Interrupt": 1, "Close": 1}


@pytest.mark.parametrize(
    "code", ["NO_AUDIO_GENERATED", "INTERRUPT_IN_PROGRESS", "INVALID_INTERRUPT_OFFSET"]
)
async def test_an_interrupt_that_is_ignored(
    make: Make, emulator: DeepgramFluxSpeakEmulator, code: str
) -> None:
    await emulator.set(speech_pace=4, interrupt_answers=(code,))
    async with listening(make()) as listener:
        await listener.stream.speak(TEXT)
        await listener.until(Speech)
        await listener.stream.interrupt(0.01)
        await listener.say("Album.")
        events = await listener.end()
    assert events.count(Interrupted()) == 1
    listener.events = events[events.index(Interrupted()) :]
    assert listener.heard() == ["album"]
    assert emulator.log[0].texts["Interrupt"] == 2, "one more ended the speech"


async def test_an_interrupt_before_any_audio(
    make: Make, emulator: DeepgramFluxSpeakEmulator
) -> None:
    async with listening(make()) as listener:
        await listener.stream.speak("Able about")
        await until(lambda: emulator.log[0].texts.get("Speak"), "the text has arrived")
        await listener.stream.interrupt(0)
        await listener.say("Album.")
        await listener.end()
    assert listener.heard() == ["album"]
    assert len(listener.of(Interrupted)) == 1
    assert "interrupt_ignored" in listener.notices()


async def test_an_interrupt_that_is_not_answered(
    make: Make, emulator: DeepgramFluxSpeakEmulator
) -> None:
    await emulator.set(interrupt_answers=("none",))
    async with listening(make(interrupt_timeout_seconds=0.3)) as listener:
        await listener.stream.speak(TEXT)
        await until(lambda: listener.seconds > 3 * 0.32 - 0.01, "the first sentence")
        await listener.stream.interrupt(0.01)  # nothing else wakes the iterator
        with pytest.raises(Stalled):
            await listener.over()


async def test_a_late_answer_is_waited_for_while_nobody_reads(
    make: Make, emulator: DeepgramFluxSpeakEmulator
) -> None:
    """The time limit begins when the answer could be seen."""
    await emulator.set(speech_pace=4)
    stream = await make(interrupt_timeout_seconds=0.3).open(
        VoiceStreamRequest("s", "linear16", RATE)
    )
    await stream.speak(LONG)
    events = aiter(stream)
    while not isinstance(await anext(events), Speech):
        pass
    await stream.interrupt(0.01)
    await asyncio.sleep(0.6)  # longer than the limit: nobody reads
    async with within(5):
        while not isinstance(event := await anext(events), Interrupted):
            assert not isinstance(event, Speech)
    await stream.close()


async def test_configure(make: Make, emulator: DeepgramFluxSpeakEmulator) -> None:
    async with listening(make()) as listener:
        await listener.stream.configure({"speed": 1.15})
        await listener.stream.configure({})
        with pytest.raises(RequestRefused, match="speed"):
            await listener.stream.configure({"speed": 3})
        await listener.say(TEXT)
        await listener.until(PhraseEnd)
        assert listener.seconds == pytest.approx(6 * 0.32 / 1.15, abs=0.01)
        await emulator.set(configure_answer="not_supported")
        with pytest.raises(RequestRefused, match="SPEED_NOT_SUPPORTED"):
            await listener.stream.configure({"speed": 1.0})
        await emulator.set(configure_answer="internal")
        with pytest.raises(Unavailable):
            await listener.stream.configure({"speed": 1.0})
        await listener.say(TEXT)
        await listener.end()
        with pytest.raises(RequestRefused):
            await listener.stream.configure({"speed": 1.0})
    assert listener.notices() == ["configured", "configure_failed", "configure_failed"]
    assert emulator.log[0].texts["Configure"] == 3


async def test_an_answer_to_configure_that_does_not_come(
    make: Make, emulator: DeepgramFluxSpeakEmulator
) -> None:
    await emulator.set(configure_answer="none")
    async with listening(make(configure_timeout_seconds=0.1)) as listener:
        await listener.stream.configure({"speed": 1.15})
        waiting = asyncio.create_task(listener.stream.configure({"speed": 1.15}))
        await until(lambda: emulator.log[0].texts.get("Configure") == 2, "the second change")
        emulator.drop()
        with pytest.raises(Dropped):
            await listener.over()
        with contextlib.suppress(Dropped):  # or its time had come
            await waiting
        with pytest.raises(Dropped):
            await listener.stream.configure({"speed": 1.0})


async def test_a_reader_that_stops_holds_the_provider_back(
    make: Make, emulator: DeepgramFluxSpeakEmulator
) -> None:
    """And the connection stays: pings need no answer, and keep it from being idle."""
    idle = bound(0.7)
    await emulator.set(speech_pace=1000, inactive_seconds=idle)
    text = "able about above acorn " * 80
    stream = await make(ping_seconds=idle / 10).open(VoiceStreamRequest("s", "linear16", RATE))
    for _ in range(3):
        await stream.speak(text)
        await stream.flush()
    await stream.finish()
    events: list[VoiceStreamEvent] = []
    async for event in stream:
        events.append(event)
        if len(events) == 5:
            await asyncio.sleep(1.5 * idle)  # longer than an idle connection is kept
            assert emulator.log[0].texts == {"Speak": 1, "Flush": 1}, "the rest waits here"
    await stream.close()
    assert sum(isinstance(event, PhraseEnd) for event in events) == 3
    decoder = Decoder(RATE)
    audio = b"".join(event.audio for event in events if isinstance(event, Speech))
    assert [word.word for word in decoder.feed(audio)] == tone_words(text) * 3


async def test_pings_keep_an_idle_stream(make: Make, emulator: DeepgramFluxSpeakEmulator) -> None:
    idle = bound(0.35)
    await emulator.set(inactive_seconds=idle)
    async with listening(make(ping_seconds=idle / 5)) as listener:
        await until(lambda: emulator.log[0].id == 0, "open")
        await asyncio.sleep(2 * idle)  # twice as long as an idle connection is kept
        await listener.say(TEXT)
        await listener.end()
    async with listening(make(ping_seconds=50)) as listener:
        with pytest.raises(Dropped, match="NET-0004"):
            await listener.over()


async def test_the_limit_of_a_session(make: Make, emulator: DeepgramFluxSpeakEmulator) -> None:
    await emulator.set(session_seconds=0.3)
    async with listening(make()) as listener:
        with pytest.raises(Dropped, match="NET-0003"):
            await listener.over()


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ({"synthesis_retries": 2, "synthesis_fails": True}, Unavailable),
        ({"error_after_seconds": 0.5, "error_code": "NET-0001"}, Dropped),
        ({"error_after_seconds": 0.5, "error_code": "DATA-0000"}, RequestRefused),
        ({"drop_after_seconds": 0.5}, Dropped),
        ({"drop_mid_word": 2}, Dropped),
        ({"close_after_seconds": 0.5, "close_code": 1011}, Dropped),
        ({"close_after_seconds": 0.5, "close_code": 1000}, Dropped),
    ],
)
async def test_faults_in_a_turn(
    make: Make, emulator: DeepgramFluxSpeakEmulator, faults: dict[str, Any], kind: type[Any]
) -> None:
    await emulator.set(speech_pace=4, **faults)
    async with listening(make()) as listener:
        await listener.say(TEXT)
        with pytest.raises(kind):
            await listener.over()
        assert not listener.of(PhraseEnd)
        if "synthesis_retries" in faults:
            assert listener.notices() == ["retrying", "retrying"]


async def test_synthesis_that_is_retried_goes_on(
    make: Make, emulator: DeepgramFluxSpeakEmulator
) -> None:
    await emulator.set(synthesis_retries=1)
    async with listening(make()) as listener:
        await listener.say(TEXT)
        await listener.end()
    assert listener.heard() == tone_words(TEXT)
    assert listener.notices() == ["retrying"]


async def test_a_pause_in_the_text_is_refused(make: Make) -> None:
    """It is for batch only, and the vendor ends the stream."""
    async with listening(make()) as listener:
        await listener.say("Able \\{pause:500\\} about.")
        with pytest.raises(RequestRefused, match="DATA-0002"):
            await listener.over()


async def test_an_end_without_session_metadata(
    make: Make, emulator: DeepgramFluxSpeakEmulator
) -> None:
    """All turns had ended before Close, so nothing is missing."""
    await emulator.set(drop_before_summary=True)
    async with listening(make()) as listener:
        await listener.say(TEXT)
        await listener.end()
    assert listener.heard() == tone_words(TEXT)


async def test_an_end_that_is_not_answered(make: Make, emulator: DeepgramFluxSpeakEmulator) -> None:
    async with listening(make(close_timeout_seconds=0.2)) as listener:
        await listener.say(TEXT)
        await listener.until(PhraseEnd)
        await emulator.set(mute_after_seconds=0)
        await until(lambda: emulator.log[0].fault, "the server is mute")
        await listener.end()
    assert listener.heard() == tone_words(TEXT)


async def test_refusals(make: Make, emulator: DeepgramFluxSpeakEmulator) -> None:
    error = await refused(make("wrong"))
    assert (type(error), error.cause) == (RequestRefused, "auth")
    error = await refused(make(), model="flux-nobody-en")
    assert (type(error), error.cause) == (RequestRefused, "request")
    for status, kind in ((402, RequestRefused), (429, Unavailable), (503, Unavailable)):
        await emulator.set(handshake_status=status)
        assert type(await refused(make())) is kind
    await emulator.set(handshake_status=None, no_connected=True)
    error = await refused(make(connected_timeout_seconds=0.2))
    assert (type(error), error.cause) == (Unavailable, "connect")
    await until(lambda: not emulator.open_connections, "no connection is left")
    await emulator.set(session_seconds=0.1)
    assert type(await refused(make())) is Dropped


async def test_misuse(make: Make) -> None:
    async with listening(make()) as listener:
        await listener.end()
        with pytest.raises(RuntimeError):
            await listener.stream.speak("Able")
        with pytest.raises(RuntimeError):
            await listener.stream.flush()

"""Streams against the emulator: what only this voice does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.emulators.deepgram.speak import DeepgramSpeakEmulator
from natterjack.emulators.spoken import check_tones
from natterjack.plugin import (
    Dropped,
    Interrupted,
    Notice,
    PhraseEnd,
    ProviderError,
    RequestRefused,
    Speech,
    Stalled,
    Unavailable,
    VoiceStream,
    VoiceStreamEvent,
    VoiceStreamRequest,
)
from natterjack.plugin.contract.voice_case import audio_of, phrases
from tests.waiting import bound, soon, until
from worker.voices.deepgram_aura import DeepgramAura

from .conftest import Make

TEXT = "The quick brown fox jumps over the lazy dog. Twice."
REQUEST = VoiceStreamRequest("s", "linear16", 24_000)


@contextlib.asynccontextmanager
async def opened(voice: DeepgramAura, **changes: Any) -> AsyncIterator[VoiceStream]:
    stream = await voice.open(VoiceStreamRequest("s", "linear16", 24_000, **changes))
    try:
        yield stream
    finally:
        await stream.close()


async def collect(
    stream: VoiceStream, into: list[VoiceStreamEvent] | None = None
) -> list[VoiceStreamEvent]:
    events = [] if into is None else into
    async for event in stream:
        events.append(event)
    return events


async def test_a_stream(make: Make, emulator: DeepgramSpeakEmulator) -> None:
    async with opened(make(), options={"speed": 1.2}) as stream:
        await stream.speak(TEXT)
        await stream.flush()
        await stream.finish()
        events = await soon(collect(stream), 20)
        assert stream.reference == emulator.log[0].request_id
    check_tones(TEXT, audio_of(events), REQUEST)
    assert events[-1] == PhraseEnd(len(TEXT))
    assert emulator.log[0].query["speed"] == ["1.2"]
    assert emulator.log[0].texts == {"Speak": 1, "Flush": 1, "Close": 1}
    assert emulator.log[0].closed == "server 1000"


async def test_long_text_is_sent_in_pieces(make: Make, emulator: DeepgramSpeakEmulator) -> None:
    text = ("able about above acorn. " * 100)[:2350]
    async with opened(make()) as stream:
        await stream.speak(text)
        await until(lambda: emulator.sessions[0].text_received == text, "it has arrived")
        assert emulator.log[0].texts["Speak"] == 2


async def test_text_over_the_limit_waits_until_an_interrupt_drops_it(
    make: Make, emulator: DeepgramSpeakEmulator
) -> None:
    async with opened(make(characters_per_minute=300)) as stream:
        await stream.speak("able " * 50)
        waiting = asyncio.create_task(stream.speak("about " * 40))
        await until(lambda: len(emulator.sessions[0].text_received) == 250, "there is room for 50")
        await asyncio.sleep(0.1)  # longer than it would take to send more
        assert not waiting.done()
        await stream.interrupt()
        await soon(waiting, 5)
        assert "about" not in emulator.sessions[0].text_received
        waiting = asyncio.create_task(stream.speak("acorn " * 30))
        await asyncio.sleep(0)
        await stream.close()
        with pytest.raises(Dropped):
            await soon(waiting, 5)


async def test_an_interrupt_drops_text_that_the_server_does_not_read(
    make: Make, emulator: DeepgramSpeakEmulator
) -> None:
    await emulator.set(stop_reading_after_seconds=0, character_limit=10**9)
    text = "able " * 100_000
    async with opened(make(characters_per_minute=10**9)) as stream:
        speaking = asyncio.create_task(stream.speak(text))
        await asyncio.wait({speaking}, timeout=bound(0.5))
        assert not speaking.done(), "all of it was sent"
        interrupting = asyncio.create_task(stream.interrupt())
        await asyncio.sleep(0)
        await emulator.set(stop_reading_after_seconds=None)
        await soon(asyncio.gather(speaking, interrupting), 20)
        await until(lambda: emulator.log[0].texts.get("Clear"), "the interrupt has arrived")
        await stream.speak("about")
        await until(lambda: emulator.sessions[0].text_received.endswith("about"), "it goes on")
        assert len(emulator.sessions[0].text_received) < len(text)


async def test_flushes_over_the_limit_wait_until_an_interrupt_drops_them(
    make: Make, emulator: DeepgramSpeakEmulator
) -> None:
    await emulator.set(flush_limit=3)
    async with opened(make(flushes_per_minute=3)) as stream:
        events: list[VoiceStreamEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        for _ in range(3):
            await stream.speak("able")
            await stream.flush()
            await stream.flush()  # has nothing to speak, so it does not count
        await stream.speak("about")
        waiting = asyncio.create_task(stream.flush())
        await until(lambda: len(phrases(events)) == 6, "what was flushed was spoken")
        assert not waiting.done()
        await stream.interrupt()
        await soon(waiting, 5)
        await until(lambda: any(isinstance(e, Interrupted) for e in events), "it is answered")
        collecting.cancel()
    assert not [event for event in events if isinstance(event, Notice)]
    assert emulator.log[0].texts["Flush"] == 3


@pytest.mark.parametrize("keys", ["current", "old", "both"])
async def test_an_ignored_flush_ends_the_stream_after_what_was_spoken(
    make: Make, emulator: DeepgramSpeakEmulator, keys: str
) -> None:
    await emulator.set(flush_limit=1, warning_keys=keys)
    async with opened(make()) as stream:
        for text in ("able", "about"):
            await stream.speak(text)
            await stream.flush()
        events: list[VoiceStreamEvent] = []
        with pytest.raises(Unavailable, match="Too many flush") as caught:
            await soon(collect(stream, events), 20)
    assert caught.value.cause == "rate_limit"
    (audio,) = phrases(events)
    check_tones("able", audio, REQUEST)


async def test_an_interrupt_that_is_not_answered_ends_the_stream(
    make: Make, emulator: DeepgramSpeakEmulator
) -> None:
    await emulator.set(mute_on_clear=True)
    async with opened(make(clear_timeout_seconds=0.2)) as stream:
        await stream.speak(TEXT)
        await stream.flush()
        await stream.interrupt()
        await asyncio.sleep(0.3)  # the answer cannot be seen while nobody reads
        events: list[VoiceStreamEvent] = []
        with pytest.raises(Stalled) as caught:
            await soon(collect(stream, events), 10)
    assert caught.value.cause == "mute"
    assert not audio_of(events)


async def test_audio_in_flight_is_discarded(make: Make, emulator: DeepgramSpeakEmulator) -> None:
    await emulator.set(stray_seconds=1.0, pace=2)
    async with opened(make()) as stream:
        events: list[VoiceStreamEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await stream.speak(TEXT)
        await stream.flush()
        await until(lambda: any(isinstance(e, Speech) for e in events), "it speaks")
        await stream.interrupt()
        events.clear()
        await until(lambda: any(isinstance(e, Interrupted) for e in events), "it is answered")
        assert not audio_of(events)
        assert events == [Interrupted(None, len(TEXT))]
        collecting.cancel()


@pytest.mark.parametrize(
    ("switches", "kind"),
    [
        ({"drop_mid_word": 3, "pace": 4}, Dropped),
        ({"drop_after_seconds": 1, "pace": 4}, Dropped),
        ({"lifetime_seconds": 0.2, "pace": 2}, Dropped),
        ({"close_after_seconds": 0.5, "pace": 4, "close_code": 1011, "close_reason": "NET-0000"},
         Dropped),
        ({"close_after_seconds": 0.5, "pace": 4, "close_code": 1000}, Dropped),
        ({"close_after_seconds": 0.5, "pace": 4, "close_code": 1008,
          "close_reason": "DATA-0001"}, Unavailable),
        ({"character_limit": 40}, Unavailable),
        ({"error": True}, Unavailable),
    ],
    ids=str,
)  # fmt: skip
async def test_faults_within_a_phrase(
    make: Make,
    emulator: DeepgramSpeakEmulator,
    switches: dict[str, Any],
    kind: type[ProviderError],
) -> None:
    await emulator.set(**switches)
    async with opened(make()) as stream:
        events: list[VoiceStreamEvent] = []
        with contextlib.suppress(Dropped):  # the connection may be gone already
            await stream.speak(TEXT)
            await stream.flush()
            await stream.finish()
        with pytest.raises(kind):
            await soon(collect(stream, events), 20)
    assert not phrases(events), "the phrase has no end"


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [(400, RequestRefused, "request"), (402, RequestRefused, "credit"),
     (403, RequestRefused, "auth"), (429, Unavailable, "rate_limit"),
     (503, Unavailable, "server_error")],
)  # fmt: skip
async def test_refused_handshakes(
    make: Make,
    emulator: DeepgramSpeakEmulator,
    status: int,
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(handshake_status=status)
    with pytest.raises(kind) as caught:
        await make().open(REQUEST)
    assert caught.value.cause == cause


async def test_an_unknown_voice_is_refused(make: Make) -> None:
    with pytest.raises(RequestRefused, match="No such model"):
        async with opened(make(), model="aura-2-nobody-en"):
            pass


async def test_a_server_that_does_not_answer(make: Make, emulator: DeepgramSpeakEmulator) -> None:
    await emulator.set(handshake_delay_seconds=5)
    with pytest.raises(Unavailable) as caught:
        await make(connect_timeout_seconds=0.1).open(REQUEST)
    assert caught.value.cause == "connect"


async def test_a_closed_stream_is_closed_at_the_server(
    make: Make, emulator: DeepgramSpeakEmulator
) -> None:
    """Its text is dropped, so that the server does not go on speaking."""
    await emulator.set(pace=1)
    async with opened(make()) as stream:
        await stream.speak(TEXT)
        await stream.flush()
    await until(lambda: emulator.log[0].closed, "the connection has ended")
    assert emulator.log[0].texts == {"Speak": 1, "Flush": 1, "Clear": 1, "Close": 1}


async def test_a_summary_that_never_comes_is_not_waited_for(
    make: Make, emulator: DeepgramSpeakEmulator
) -> None:
    async with opened(make(close_timeout_seconds=0.1)) as stream:
        await stream.speak("able")
        await stream.flush()
        events: list[VoiceStreamEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await until(lambda: phrases(events), "it has spoken")
        await emulator.set(mute_after_seconds=0)
        await stream.finish()
        await soon(collecting, bound(2))


async def test_a_stream_that_is_not_read_holds_the_server_back(
    make: Make, emulator: DeepgramSpeakEmulator
) -> None:
    await emulator.set(pace=1000)
    text = "able about above acorn " * 80
    async with opened(make(ping_seconds=0.05), options={}) as stream:
        await stream.speak(text)
        await stream.flush()
        await stream.finish()
        await until(lambda: emulator.sessions[0].seconds > 90, "the server has made everything")
        await asyncio.sleep(0.3)  # several pings, whose pongs wait behind the audio
        check_tones(text, audio_of(await soon(collect(stream), 30)), REQUEST)

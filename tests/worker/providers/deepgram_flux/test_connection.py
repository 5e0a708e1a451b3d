"""Streams against the emulator: turns, silence and changes while a stream is open."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux import DeepgramFluxEmulator
from natterjack.plugin.errors import Dropped, RequestRefused, Stalled
from natterjack.plugin.provider import Interim, ProviderEvent, Turn
from tests.waiting import bound, lateness, soon, until
from worker.providers.deepgram_flux import DeepgramFluxProvider, open_turn

from ..emulated.streams import (
    AUDIO,
    PLACES,
    WORDS,
    codes,
    collect,
    final_words,
    finals,
    opened,
    send,
    transcribe,
    transcribed,
    turns,
)
from .speech import EARLY, LONG, MONOLOGUE, Make


async def test_a_stream(provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator) -> None:
    async with opened(provider) as stream:
        events = await transcribed(stream, AUDIO)
        assert stream.reference == emulator.log[0].request_id
    assert final_words(events) == WORDS
    assert turns(events) == ["started", "ended"] * 3
    texts = [e.text for e in events if isinstance(e, Interim)]
    assert "" in texts
    assert any(text and text[0].isupper() for text in texts)
    words = [word for final in finals(events) for word in final.words]
    for word, place in zip(words, PLACES, strict=True):
        assert word.start == pytest.approx(place.start, abs=0.011)
        assert word.end == pytest.approx(place.end, abs=0.011)
    assert words[3].text == "acorn."
    assert finals(events)[-1].end == pytest.approx(len(AUDIO) / 32000)
    assert not codes(events)
    await until(lambda: emulator.log[0].closed, "the connection was closed")
    assert emulator.log[0].closed == "server 1005"
    assert emulator.log[0].texts == {"CloseStream": 1}, "the last turn had ended by itself"


@pytest.mark.parametrize("tail", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("lag", [0.0, 0.1, 0.5])
async def test_the_last_word_is_transcribed(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator, tail: float, lag: float
) -> None:
    """However soon the audio ends after the word, and however late the provider decodes it."""
    await emulator.set(decode_lag_seconds=lag)
    audio = tones.encode(WORDS[:3], tail_seconds=tail)
    events = await transcribe(provider, audio)
    assert final_words(events) == WORDS[:3]
    assert turns(events) == ["started", "ended"]
    assert finals(events)[-1].end == pytest.approx(len(audio) / 32000)
    assert emulator.log[0].texts.get("ForceEndTurn", 0) <= 1


async def test_a_long_turn_is_made_final_in_pieces(
    make: Make, emulator: DeepgramFluxEmulator
) -> None:
    events = await transcribe(make(**EARLY), MONOLOGUE)
    assert final_words(events) == LONG
    assert turns(events) == ["started", "ended"]
    with_text = [final for final in finals(events) if final.text]
    assert len(with_text) >= 4
    for before, after in itertools.pairwise(with_text):
        assert before.end <= after.start
    (ended,) = [e for e in events if isinstance(e, Turn) and e.event == "ended"]
    assert tones.words_of(ended.text or "") == LONG


async def test_eager_ends(provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator) -> None:
    audio = tones.encode(WORDS[:6], phrase_words=3, pause_seconds=0.45, tail_seconds=1.5)
    options = {"eager_eot_threshold": 0.4, "eot_threshold": 0.8}
    events = await transcribe(provider, audio, options=options)
    assert turns(events) == ["started", "eager_end", "resumed", "eager_end", "ended"]
    assert final_words(events) == WORDS[:6]
    eager = next(e for e in events if isinstance(e, Turn) and e.event == "eager_end")
    assert tones.words_of(eager.text or "") == WORDS[:3]
    assert eager.at == pytest.approx(3 * 0.32 - 0.08, abs=0.02)
    assert eager.confidence is not None
    assert eager.confidence >= 0.4


async def test_finalize_ends_the_turn(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await stream.finalize()
        await until(lambda: "warning" in codes(events), "the server reports that no turn is open")
        await send(stream, tones.encode(WORDS[:4], tail_seconds=0.3))
        await until(lambda: "started" in turns(events), "a turn is open")
        await stream.finalize()
        await until(lambda: "ended" in turns(events), "the turn ended")
        assert final_words(events) == WORDS[:4]
        await stream.finish()
        await soon(collecting, 5)
        await stream.finalize()  # there is no turn to end
    assert emulator.log[0].texts == {"ForceEndTurn": 2, "CloseStream": 1}


async def test_audio_not_decoded_at_finalize_starts_the_next_turn(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(decode_lag_seconds=0.7)
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await send(stream, tones.encode(WORDS[:5]))
        await until(lambda: "started" in turns(events), "a turn is open")
        await stream.finalize()
        await until(lambda: "ended" in turns(events), "the turn ended")
        assert final_words(events) == WORDS[:3]
        await send(stream, tones.encode(WORDS[5:], tail_seconds=1))
        await stream.finish()
        await soon(collecting, 5)
    assert final_words(events) == WORDS
    assert turns(events) == ["started", "ended"] * 2


async def test_audio_that_stops_in_a_turn_is_followed_by_silence(
    make: Make, emulator: DeepgramFluxEmulator
) -> None:
    """The turn ends, and the silence does not change the positions of later audio."""
    provider = make(silence_seconds=0.1)
    audio = tones.encode(WORDS[:4], lead_seconds=0.3, tail_seconds=0.02)
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await send(stream, audio)
        await until(lambda: "ended" in turns(events), "the turn ended")
        assert final_words(events) == WORDS[:4]
        given = emulator.log[0].audio_seconds
        await send(stream, audio)
        await until(lambda: turns(events).count("ended") == 2, "the second turn ended")
        await stream.finish()
        await soon(collecting, 5)
    assert given > len(audio) / 32000 + 0.4
    words = [word for final in finals(events) for word in final.words]
    places = tones.places(WORDS[:4], lead_seconds=0.3)
    for word, place in zip(words, places * 2, strict=True):
        shift = len(audio) / 32000 if words.index(word) >= 4 else 0
        assert word.start == pytest.approx(place.start + shift, abs=0.011)
    assert finals(events)[-1].end == pytest.approx(2 * len(audio) / 32000)
    for before, after in itertools.pairwise(finals(events)):
        assert before.end <= after.start + 1e-9


async def test_no_silence_while_audio_flows(make: Make, emulator: DeepgramFluxEmulator) -> None:
    provider = make(silence_seconds=0.4, keepalive_seconds=0.4)
    async with opened(provider) as stream, lateness() as late:
        for _ in range(12):
            await stream.send(tones.silence(0.08))
            await asyncio.sleep(0.08)  # the pace of audio
        assert emulator.log[0].audio_frames == 12 or late.seconds > 0.2, "audio was late"


async def test_an_idle_stream_is_kept_alive(make: Make, emulator: DeepgramFluxEmulator) -> None:
    """Silence or pings keep it open while there is no audio."""
    interval = min(bound(0.3), 4)  # a PONG is waited for half as long
    inactive = 5 * interval
    never = 59  # the longest of both settings, and longer than the pauses below
    await emulator.set(inactive_seconds=inactive)
    for keepalive, ping in ((interval, never), (never, interval)):
        emulator.log.clear()
        async with opened(make(keepalive_seconds=keepalive, ping_seconds=ping)) as stream:
            await asyncio.sleep(1.3 * inactive)  # longer than the server waits
            assert emulator.log[0].closed is None
            assert bool(emulator.log[0].audio_frames) == (keepalive < ping)
            assert final_words(await transcribed(stream, AUDIO)) == WORDS


# ---- changes while a stream is open ---------------------------------------------------------


async def test_configure(provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator) -> None:
    """A change applies to audio that is sent after it: pauses end no more turns."""
    audio = tones.encode(WORDS[:8], phrase_words=4, pause_seconds=0.8, tail_seconds=0.8)
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await send(stream, audio)
        await until(lambda: turns(events) == ["started", "ended"] * 2, "two turns")
        await stream.configure({"eot_threshold": 1.0, "eot_timeout_ms": 60_000})
        await send(stream, audio)
        await stream.finish()
        await soon(collecting, 5)
    assert turns(events) == ["started", "ended"] * 3
    assert final_words(events) == WORDS[:8] * 2
    assert codes(events) == ["configured"]


async def test_a_refused_configure(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    async with opened(provider) as stream:
        collecting = asyncio.create_task(collect(stream))
        with pytest.raises(RequestRefused, match="less than or equal") as refused:
            await stream.configure({"eager_eot_threshold": 0.9})
        assert "INVALID_THRESHOLD" in str(refused.value)
        with pytest.raises(RequestRefused, match="smart_format"):
            await stream.configure({"smart_format": True})
        await send(stream, AUDIO)
        await stream.finish()
        events = await soon(collecting, 5)
        with pytest.raises(RequestRefused, match="finished"):
            await stream.configure({"numerals": True})
    assert final_words(events) == WORDS
    assert emulator.log[0].texts["Configure"] == 1


async def test_changes_made_together_are_sent_together(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    """The server refuses a change until it has answered the one before."""
    await emulator.set(configure_delay_seconds=1)
    async with opened(provider) as stream:
        collecting = asyncio.create_task(collect(stream))
        changes = [asyncio.create_task(stream.configure({"keyterms": [str(n)]})) for n in range(10)]
        await until(lambda: emulator.log[0].texts.get("Configure"), "the first was sent")
        changes += [
            asyncio.create_task(stream.configure({"numerals": bool(n % 2)})) for n in range(10)
        ]
        await send(stream, AUDIO)
        await until(lambda: emulator.log[0].texts["Configure"] == 2, "the others were sent")
        await send(stream, AUDIO)
        await soon(asyncio.gather(*changes), 5)
        await stream.finish()
        assert final_words(await soon(collecting, 5)) == WORDS * 2
    assert emulator.log[0].texts["Configure"] == 2


async def test_a_configure_without_a_response(make: Make, emulator: DeepgramFluxEmulator) -> None:
    await emulator.set(configure_answer="none")
    async with opened(make(configure_timeout_seconds=1)) as stream:
        collecting = asyncio.create_task(collect(stream))
        with pytest.raises(Stalled, match="no response"):
            await soon(stream.configure({"numerals": True}), 5)
        await emulator.set(configure_answer="bare")
        await stream.configure({"numerals": False})
        await send(stream, AUDIO)
        await stream.finish()
        events = await soon(collecting, 5)
    assert final_words(events) == WORDS
    assert not [code for code in codes(events) if code == "sequence_gap"]


async def test_a_configure_whose_stream_breaks(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(configure_answer="none")
    async with opened(provider) as stream:
        collecting = asyncio.create_task(collect(stream))
        change = asyncio.create_task(stream.configure({"numerals": True}))
        await until(lambda: emulator.log[0].texts.get("Configure"), "it was sent")
        emulator.drop()
        for task in (collecting, change):
            with pytest.raises(Dropped):
                await soon(task, 5)
        with pytest.raises(Dropped):
            await stream.configure({"numerals": True})


@pytest.mark.parametrize("how", ["no", "options", "configure"])
async def test_no_part_of_a_turn_ends_next_to_a_number(
    make: Make, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If every word counts as a number, nothing is final before the end of the turn."""
    monkeypatch.setattr(open_turn, "is_number", lambda _: True)
    options = {"numerals": True} if how == "options" else {}
    async with opened(make(**EARLY), options=options) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        if how == "configure":
            await soon(stream.configure({"numerals": True}), 5)
        await send(stream, MONOLOGUE)
        await stream.finish()
        await soon(collecting, 15)
    assert final_words(events) == LONG
    spoken = [final for final in finals(events) if final.text]
    assert (len(spoken) == 1) is (how != "no")

"""The socket, against the emulator: what goes well, and changes in mid-stream."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from natterjack.audio import AudioFormat, Encoding
from natterjack.plugin.errors import Dropped, RequestRefused, Stalled, Unavailable
from natterjack.plugin.provider import Interim, ProviderEvent, Turn
from tests.emulators import tones
from tests.emulators.deepgram_flux import DeepgramFluxEmulator
from tests.waiting import lateness, soon, until
from worker.providers.deepgram_flux import DeepgramFluxProvider, open_turn

from .conftest import (
    AUDIO,
    EARLY,
    LONG,
    MONOLOGUE,
    WORDS,
    Make,
    codes,
    finals,
    hear,
    opened,
    request,
    said,
    send,
    transcribed,
    turns,
)

# ---- what goes well -------------------------------------------------------------------------


async def test_a_stream(provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator) -> None:
    async with opened(provider) as stream:
        events = await transcribed(stream, AUDIO)
        assert stream.reference == emulator.log[0].request_id
    assert said(events) == WORDS
    assert turns(events) == ["started", "ended"] * 3
    texts = [e.text for e in events if isinstance(e, Interim)]
    assert "" in texts
    assert any(text and text[0].isupper() for text in texts)
    heard = [word for final in finals(events) for word in final.words]
    for word, place in zip(
        heard, tones.places(WORDS, phrase_words=4, lead_seconds=0.3), strict=True
    ):
        assert word.start == pytest.approx(place.start, abs=0.011)
        assert word.end == pytest.approx(place.end, abs=0.011)
    assert heard[3].text == "acorn."
    assert finals(events)[-1].end == pytest.approx(len(AUDIO) / 32000)
    assert not codes(events)
    await until(lambda: emulator.log[0].closed, "the server saw the end")
    assert emulator.log[0].closed == "server 1005"
    assert emulator.log[0].texts == {"CloseStream": 1}, "the last turn had ended by itself"


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("encoding", ["linear16", "mulaw", "alaw"])
async def test_formats(provider: DeepgramFluxProvider, encoding: Encoding, rate: int) -> None:
    audio = tones.encode(WORDS, rate, encoding=encoding)
    frame = rate * 80 // 1000 * (2 if encoding == "linear16" else 1)
    async with opened(provider, audio_format=AudioFormat(encoding, rate, 1)) as stream:
        assert said(await transcribed(stream, audio, frame)) == WORDS


@pytest.mark.parametrize("tail", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("lag", [0.0, 0.1, 0.5])
async def test_the_last_word_comes_out(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator, tail: float, lag: float
) -> None:
    """However soon behind it the audio ends, and however late the provider decodes."""
    await emulator.set(decode_lag_seconds=lag)
    audio = tones.encode(WORDS[:3], tail_seconds=tail)
    async with opened(provider) as stream:
        events = await transcribed(stream, audio)
    assert said(events) == WORDS[:3]
    assert turns(events) == ["started", "ended"]
    assert finals(events)[-1].end == pytest.approx(len(audio) / 32000)
    assert emulator.log[0].texts.get("ForceEndTurn", 0) <= 1


async def test_a_long_turn_is_made_final_in_pieces(
    make: Make, emulator: DeepgramFluxEmulator
) -> None:
    async with opened(make(**EARLY)) as stream:
        events = await transcribed(stream, MONOLOGUE)
    assert said(events) == LONG
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
    async with opened(provider, options=options) as stream:
        events = await transcribed(stream, audio)
    assert turns(events) == ["started", "eager_end", "resumed", "eager_end", "ended"]
    assert said(events) == WORDS[:6]
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
        hearing = asyncio.create_task(hear(stream, events))
        await stream.finalize()
        await until(lambda: "warning" in codes(events), "no turn was open")
        await send(stream, tones.encode(WORDS[:4], tail_seconds=0.3))
        await until(lambda: "started" in turns(events), "a turn is open")
        await stream.finalize()
        await until(lambda: "ended" in turns(events), "it ended")
        assert said(events) == WORDS[:4]
        await stream.finish()
        await soon(hearing, 5)
        await stream.finalize()  # nothing to end any more
    assert emulator.log[0].texts == {"ForceEndTurn": 2, "CloseStream": 1}


async def test_finalize_leaves_what_is_not_decoded_to_the_next_turn(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(decode_lag_seconds=0.7)
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        hearing = asyncio.create_task(hear(stream, events))
        await send(stream, tones.encode(WORDS[:5]))
        await until(lambda: "started" in turns(events), "a turn is open")
        await stream.finalize()
        await until(lambda: "ended" in turns(events), "it ended")
        assert said(events) == WORDS[:3]
        await send(stream, tones.encode(WORDS[5:], tail_seconds=1))
        await stream.finish()
        await soon(hearing, 5)
    assert said(events) == WORDS
    assert turns(events) == ["started", "ended"] * 2


async def test_audio_that_stops_in_a_turn_is_followed_by_silence(
    make: Make, emulator: DeepgramFluxEmulator
) -> None:
    """The turn ends, and what comes later is where it was given."""
    provider = make(silence_seconds=0.1)
    audio = tones.encode(WORDS[:4], lead_seconds=0.3, tail_seconds=0.02)
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        hearing = asyncio.create_task(hear(stream, events))
        await send(stream, audio)
        await until(lambda: "ended" in turns(events), "the turn ended")
        assert said(events) == WORDS[:4]
        given = emulator.log[0].audio_seconds
        await send(stream, audio)
        await until(lambda: turns(events).count("ended") == 2, "the second turn ended")
        await stream.finish()
        await soon(hearing, 5)
    assert given > len(audio) / 32000 + 0.4
    heard = [word for final in finals(events) for word in final.words]
    places = tones.places(WORDS[:4], lead_seconds=0.3)
    for word, place in zip(heard, places * 2, strict=True):
        shift = len(audio) / 32000 if heard.index(word) >= 4 else 0
        assert word.start == pytest.approx(place.start + shift, abs=0.011)
    assert finals(events)[-1].end == pytest.approx(2 * len(audio) / 32000)
    for before, after in itertools.pairwise(finals(events)):
        assert before.end <= after.start + 1e-9


async def test_no_silence_while_audio_flows(make: Make, emulator: DeepgramFluxEmulator) -> None:
    provider = make(silence_seconds=0.4, keepalive_seconds=0.4)
    async with opened(provider) as stream, lateness() as ours:
        for _ in range(12):
            await stream.send(tones.silence(0.08))
            await asyncio.sleep(0.08)  # the pace of audio
        assert emulator.log[0].audio_frames == 12 or ours.seconds > 0.2, "it did not flow"


async def test_an_idle_stream_is_kept_alive(make: Make, emulator: DeepgramFluxEmulator) -> None:
    """Silence keeps it open, before and between audio; pings alone do, too."""
    await emulator.set(inactive_seconds=2)
    for settings in ({"keepalive_seconds": 0.1, "ping_seconds": 50}, {"ping_seconds": 0.1}):
        emulator.log.clear()
        async with opened(make(**settings)) as stream:
            opened_at = asyncio.get_running_loop().time()
            await until(
                lambda since=opened_at: asyncio.get_running_loop().time() > since + 3, "time"
            )
            assert emulator.log[0].closed is None
            assert bool(emulator.log[0].audio_frames) == ("keepalive_seconds" in settings)
            assert said(await transcribed(stream, AUDIO)) == WORDS


async def test_nothing_empty_and_nothing_late_is_sent(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    async with opened(provider) as stream:
        await stream.send(b"")
        await stream.finish()
        await stream.finish()
        with pytest.raises(RuntimeError):
            await stream.send(AUDIO)
        assert await hear(stream) == []
    assert emulator.log[0].audio_frames == 0
    assert emulator.log[0].texts == {"CloseStream": 1}


async def test_a_provider_that_was_closed_opens_no_more(provider: DeepgramFluxProvider) -> None:
    async with opened(provider):
        pass
    await provider.close()
    await provider.close()
    with pytest.raises(Unavailable):
        await provider.open(request())


# ---- changes in mid-stream ------------------------------------------------------------------


async def test_configure(provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator) -> None:
    """The change holds from where the audio is: a pause that ended turns ends none any more."""
    audio = tones.encode(WORDS[:8], phrase_words=4, pause_seconds=0.8, tail_seconds=0.8)
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        hearing = asyncio.create_task(hear(stream, events))
        await send(stream, audio)
        await until(lambda: turns(events) == ["started", "ended"] * 2, "two turns")
        await stream.configure({"eot_threshold": 1.0, "eot_timeout_ms": 60_000})
        await send(stream, audio)
        await stream.finish()
        await soon(hearing, 5)
    assert turns(events) == ["started", "ended"] * 3
    assert said(events) == WORDS[:8] * 2
    assert codes(events) == ["configured"]


async def test_a_refused_configure(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    async with opened(provider) as stream:
        hearing = asyncio.create_task(hear(stream))
        with pytest.raises(RequestRefused, match="less than or equal") as refused:
            await stream.configure({"eager_eot_threshold": 0.9})
        assert "INVALID_THRESHOLD" in str(refused.value)
        with pytest.raises(RequestRefused, match="smart_format"):
            await stream.configure({"smart_format": True})
        await send(stream, AUDIO)
        await stream.finish()
        events = await soon(hearing, 5)
        with pytest.raises(RequestRefused, match="finished"):
            await stream.configure({"numerals": True})
    assert said(events) == WORDS
    assert emulator.log[0].texts["Configure"] == 1


async def test_changes_asked_for_together_go_out_together(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    """The server refuses a second one before it has answered the first."""
    await emulator.set(configure_delay_seconds=1)
    async with opened(provider) as stream:
        hearing = asyncio.create_task(hear(stream))
        asked = [asyncio.create_task(stream.configure({"keyterms": [str(n)]})) for n in range(10)]
        await until(lambda: emulator.log[0].texts.get("Configure"), "the first went out")
        asked += [
            asyncio.create_task(stream.configure({"numerals": bool(n % 2)})) for n in range(10)
        ]
        await send(stream, AUDIO)
        await until(lambda: emulator.log[0].texts["Configure"] == 2, "the rest went out")
        await send(stream, AUDIO)
        await soon(asyncio.gather(*asked), 5)
        await stream.finish()
        assert said(await soon(hearing, 5)) == WORDS * 2
    assert emulator.log[0].texts["Configure"] == 2


async def test_a_configure_without_answer(make: Make, emulator: DeepgramFluxEmulator) -> None:
    await emulator.set(configure_answer="none")
    async with opened(make(configure_timeout_seconds=1)) as stream:
        hearing = asyncio.create_task(hear(stream))
        with pytest.raises(Stalled, match="no response"):
            await soon(stream.configure({"numerals": True}), 5)
        await emulator.set(configure_answer="bare")
        await stream.configure({"numerals": False})
        await send(stream, AUDIO)
        await stream.finish()
        events = await soon(hearing, 5)
    assert said(events) == WORDS
    assert not [code for code in codes(events) if code == "sequence_gap"]


async def test_a_configure_whose_stream_breaks(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(configure_answer="none")
    async with opened(provider) as stream:
        hearing = asyncio.create_task(hear(stream))
        asked = asyncio.create_task(stream.configure({"numerals": True}))
        await until(lambda: emulator.log[0].texts.get("Configure"), "it went out")
        emulator.drop()
        for task in (hearing, asked):
            with pytest.raises(Dropped):
                await soon(task, 5)
        with pytest.raises(Dropped):
            await stream.configure({"numerals": True})


@pytest.mark.parametrize("how", ["no", "options", "configure"])
async def test_no_head_of_a_turn_ends_next_to_a_number(
    make: Make, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here each word is taken for one: then nothing is final before the end of the turn."""
    monkeypatch.setattr(open_turn, "is_number", lambda _: True)
    options = {"numerals": True} if how == "options" else {}
    async with opened(make(**EARLY), options=options) as stream:
        events: list[ProviderEvent] = []
        hearing = asyncio.create_task(hear(stream, events))
        if how == "configure":
            await soon(stream.configure({"numerals": True}), 5)
        await send(stream, MONOLOGUE)
        await stream.finish()
        await soon(hearing, 15)
    assert said(events) == LONG
    spoken = [final for final in finals(events) if final.text]
    assert (len(spoken) == 1) is (how != "no")

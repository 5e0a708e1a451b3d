"""Open streams: formats, drops, closes, garbage, mute servers, back pressure."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from natterjack.audio import AudioFormat
from natterjack.emulators import pcm, tones
from natterjack.emulators.server import Emulator
from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.plugin.errors import Dropped
from natterjack.plugin.provider import Notice, Provider, ProviderEvent, ProviderStream, Usage
from tests.waiting import bound, soon, until

from .streams import (
    AUDIO,
    PLACES,
    WORDS,
    codes,
    collect,
    fail,
    final_words,
    finals,
    frame_bytes,
    opened,
    request,
    resume,
    send,
    transcribe,
    transcribed,
    turns,
)
from .table import (
    AGENT,
    DEEPGRAM,
    DEEPGRAM_REST,
    EXTENDED,
    FLUX,
    MANAGED,
    SPEECHMATICS,
    STREAMING,
    Emulated,
)

Make = Callable[..., Provider]


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize("case", [DEEPGRAM, FLUX, SPEECHMATICS], ids=str)
async def test_formats(provider: Provider, rate: int) -> None:
    for encoding in provider.capabilities.encodings:
        audio_format = AudioFormat(encoding, rate, 1)
        audio = tones.encode(WORDS, rate, encoding=encoding)
        size = rate * 80 // 1000 * audio_format.frame_bytes
        async with opened(provider, audio_format=audio_format) as stream:
            assert final_words(await transcribed(stream, audio, size)) == WORDS, encoding


@pytest.mark.parametrize("case", [DEEPGRAM, DEEPGRAM_REST], ids=str)
async def test_channels_are_distinguished(case: Emulated, make: Make, emulator: Emulator) -> None:
    provider = make(multichannel=True, smart_format=False)
    left, right = tones.sequence(10), tones.sequence(20)[10:]
    audio = pcm.interleave(
        tones.encode(left, phrase_words=3), tones.encode(right, lead_seconds=0.17)
    )
    events = await transcribe(provider, audio, audio_format=AudioFormat("linear16", 16000, 2))
    words = [word for final in finals(events) for word in final.words]
    assert [word.text for word in words if word.speaker == "0"] == left
    assert [word.text for word in words if word.speaker == "1"] == right
    assert all(a.end == b.start for a, b in itertools.pairwise(finals(events)))
    seconds = sum(entry.audio_seconds for entry in emulator.log)
    assert isinstance(events[-1], Usage)
    assert events[-1].audio_seconds == pytest.approx(2 * seconds, abs=0.001)


@pytest.mark.parametrize("case", [*STREAMING, DEEPGRAM_REST], ids=str)
async def test_nothing_empty_and_nothing_late_is_sent(
    case: Emulated, provider: Provider, emulator: Emulator
) -> None:
    async with opened(provider) as stream:
        await stream.send(b"")
        await stream.finish()
        await stream.finish()
        with pytest.raises(RuntimeError):
            await stream.send(AUDIO)
        events = await soon(collect(stream), 5)
    usage = [] if case in (FLUX, MANAGED) else [Usage(audio_seconds=0.0)]
    assert [event for event in events if not isinstance(event, Notice)] == usage
    # `received` stands for a message without events.
    assert bool(set(codes(events)) - {"received"}) == (case in (SPEECHMATICS, AGENT))
    assert [entry.texts for entry in emulator.log] == ([case.texts] if case.texts else [])
    if case is not MANAGED:  # for which silence takes the place of a message
        assert sum(entry.audio_frames for entry in emulator.log) == 0
    if isinstance(emulator, SpeechmaticsEmulator):
        assert emulator.sessions[0].last_seq_no == 0


@pytest.mark.parametrize(
    ("case", "fault"), [(case, fault) for case in STREAMING for fault in case.unusual], ids=str
)
async def test_unusual_messages_change_no_word(
    provider: Provider, emulator: Emulator, fault: Mapping[str, Any]
) -> None:
    await emulator.set(**fault)
    events = await transcribe(provider)
    assert final_words(events) == WORDS
    assert turns(events) == ["started", "ended"] * 3
    for final in finals(events):
        assert not [p for p in PLACES if p.start + 0.01 < final.end < p.end - 0.01]
    assert "unknown" not in codes(events)


# ---- a connection that breaks ---------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [{"drop_mid_word": 5}, {"drop_after_seconds": 2}, {"drop_after_seconds": 3}]
)
async def test_drops(provider: Provider, emulator: Emulator, fault: dict[str, Any]) -> None:
    await emulator.set(**fault, connections=1)
    events, error = await fail(provider)
    assert isinstance(error, Dropped)
    assert emulator.log[0].closed == "dropped"
    await resume(provider, events)


@pytest.mark.parametrize(
    ("case", "fault"), [(case, fault) for case in STREAMING for fault in case.unfinished], ids=str
)
async def test_an_end_that_does_not_confirm_all_audio(
    provider: Provider, emulator: Emulator, fault: Mapping[str, Any]
) -> None:
    await emulator.set(**fault)
    async with opened(provider) as stream:
        await send(stream, AUDIO, frame_bytes(provider))
        await stream.finish()
        events: list[ProviderEvent] = []
        with pytest.raises(Dropped):
            await soon(collect(stream, events), 10)
    assert final_words(events) == WORDS


@pytest.mark.parametrize(
    ("case", "code"), [(case, code) for case in STREAMING for code in case.closes], ids=str
)
async def test_closes(case: Emulated, provider: Provider, emulator: Emulator, code: int) -> None:
    await emulator.set(close_after_seconds=1, close_code=code, close_reason="for a reason")
    _, error = await fail(provider)
    assert (type(error), error.cause) == case.closes[code]
    if case not in (MANAGED, EXTENDED):  # which have names for codes
        assert error.code == str(code)
    assert "for a reason" in str(error)


async def test_garbage_is_counted_and_skipped(
    case: Emulated, provider: Provider, emulator: Emulator
) -> None:
    words = tones.sequence(60)
    audio = tones.encode(words, phrase_words=6, tail_seconds=0.5)
    async with opened(provider) as stream:
        await emulator.set(garbage=case.garbage)
        events = await transcribed(stream, audio, frame_bytes(provider))
    assert final_words(events) == words
    assert codes(events).count("unknown") == 1
    assert codes(events).count("malformed") == case.malformed
    assert codes(events).count("not_asked_for") == (case in (SPEECHMATICS, AGENT))


# ---- a server that sends or reads no more ----------------------------------------------------


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize(
    ("case", "fault"), [(case, fault) for case in STREAMING for fault in case.mute], ids=str
)
async def test_a_stream_of_a_mute_provider_can_be_closed(
    provider: Provider, emulator: Emulator, fault: Mapping[str, Any], finish: bool
) -> None:
    await emulator.set(**fault)
    stream = await provider.open(request())
    await send(stream, AUDIO, frame_bytes(provider))
    if finish:
        await stream.finish()
    collecting = asyncio.create_task(collect(stream))
    await until(lambda: emulator.log[0].audio_seconds > 5, "all audio was received")
    assert not collecting.done()
    await soon(stream.close(), 1)
    with pytest.raises(Dropped):
        await soon(collecting, 1)


async def test_sending_blocks_if_the_server_does_not_read(
    provider: Provider, emulator: Emulator
) -> None:
    """It blocks within a few seconds of audio, and the blocked stream can be closed."""
    await emulator.set(stop_reading_after_seconds=0)
    frame = bytes(frame_bytes(provider))
    sent = 0

    async def endless(stream: ProviderStream) -> None:
        nonlocal sent
        while True:
            await stream.send(frame)
            sent += len(frame)
            assert sent / 32000 < 15

    async with opened(provider) as stream:
        sending = asyncio.create_task(endless(stream))
        collecting = asyncio.create_task(collect(stream))
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(bound(0.1))  # nothing more was sent for this long
        assert not sending.done()
        await soon(stream.close(), 1)
        for task in (sending, collecting):
            with pytest.raises(Dropped):
                await soon(task, 1)


async def test_messages_wait_for_a_slow_iterator(
    case: Emulated, provider: Provider, emulator: Emulator
) -> None:
    async with opened(provider) as stream:
        await send(stream, AUDIO, frame_bytes(provider))
        await stream.finish()
        await until(lambda: emulator.log[0].audio_seconds > 5, "all audio was received")
        if case in (
            DEEPGRAM,
            EXTENDED,
            SPEECHMATICS,
            AGENT,
        ):  # the others end only during iteration
            await until(lambda: emulator.log[0].closed, "the server has closed the connection")
        assert final_words(await soon(collect(stream), 10)) == WORDS

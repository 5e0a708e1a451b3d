"""Streams against the emulator: what only this provider does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from natterjack.audio import AudioFormat
from natterjack.emulators import pcm, tones
from natterjack.emulators.deepgram.rest import DeepgramRestEmulator
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import (
    Final,
    Interim,
    ProviderEvent,
    Turn,
    Usage,
)
from tests.waiting import bound, soon, until
from worker.providers.deepgram_rest import DeepgramRestProvider

from ..emulated.streams import (
    WORDS,
    collect,
    fail,
    final_words,
    finals,
    opened,
    request,
    send,
    transcribe,
    transcribed,
    turns,
)
from ..emulated.table import HTTP_ERRORS

Make = Callable[..., DeepgramRestProvider]
HOW: dict[str, Any] = {"phrase_words": 4, "lead_seconds": 0.5}
AUDIO = tones.encode(WORDS, tail_seconds=2, **HOW)


def billed(events: list[ProviderEvent]) -> float | None:
    assert isinstance(events[-1], Usage)
    return events[-1].audio_seconds


async def test_a_stream(provider: DeepgramRestProvider, emulator: DeepgramRestEmulator) -> None:
    async with opened(provider) as stream:
        events = await transcribed(stream, AUDIO)
        # Several are posted at once: the last recording may arrive before another.
        (last,) = [entry for entry in emulator.log if entry.finals[-1:] == WORDS[-1:]]
        assert stream.reference == last.request_id
    assert final_words(events) == WORDS
    assert finals(events)[0].start == 0
    assert all(a.end == b.start for a, b in itertools.pairwise(finals(events)))
    assert finals(events)[-1].end == pytest.approx(len(AUDIO) / 32000)
    words = [word for final in finals(events) for word in final.words]
    for word, place in zip(words, tones.places(WORDS, **HOW), strict=True):
        assert word.start == pytest.approx(place.start, abs=0.01)
        assert word.end == pytest.approx(place.end, abs=0.01)
    assert turns(events) == ["started", "ended"] * 3
    ended = next(event for event in events if isinstance(event, Turn) and event.event == "ended")
    assert ended.at == pytest.approx(tones.places(WORDS, **HOW)[3].end, abs=0.01)
    assert not [event for event in events if isinstance(event, Interim)]
    posted = sum(entry.audio_seconds for entry in emulator.log)
    assert billed(events) == pytest.approx(posted, abs=0.001)
    assert posted < len(AUDIO) / 32000 - 2, "silence was posted"
    assert len(emulator.log) == 3


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
async def test_rates(provider: DeepgramRestProvider, rate: int) -> None:
    audio = tones.encode(WORDS, rate, **HOW)
    events = await transcribe(provider, audio, audio_format=AudioFormat("linear16", rate, 1))
    assert final_words(events) == WORDS
    assert finals(events)[-1].end == pytest.approx(len(audio) / 2 / rate, abs=1e-6)


async def test_long_speech_is_cut_and_is_one_turn(
    make: Make, emulator: DeepgramRestEmulator
) -> None:
    words = tones.sequence(60)
    events = await transcribe(make(max_segment_seconds=3), tones.encode(words))
    assert final_words(events) == words
    assert len(emulator.log) > 6
    assert turns(events) == ["started", "ended"]


async def test_results_keep_the_order_of_the_audio(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    """The response to the first recording comes last."""
    await emulator.set(never_answers=True, connections=1)
    async with opened(provider) as stream:
        collecting = asyncio.create_task(collect(stream))
        await send(stream, AUDIO)
        await stream.finish()
        await until(
            lambda: [entry.closed for entry in emulator.log].count("answered 200") == 2,
            "the other two are answered",
        )
        assert not collecting.done()
        await emulator.clear()
        assert final_words(await soon(collecting, 5)) == WORDS


async def test_no_more_requests_than_allowed(make: Make, emulator: DeepgramRestEmulator) -> None:
    await emulator.set(never_answers=True)
    async with opened(make(max_requests=2)) as stream:
        collecting = asyncio.create_task(collect(stream))
        sending = asyncio.create_task(send(stream, AUDIO))
        await until(lambda: len(emulator.log) == 2, "two were posted")
        await until(lambda: all(entry.words for entry in emulator.log), "and received")
        assert not sending.done()
        await emulator.clear()
        await soon(sending, 5)
        await stream.finish()
        assert final_words(await soon(collecting, 5)) == WORDS


async def test_silence_costs_nothing(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    events = await transcribe(provider, tones.silence(20))
    assert finals(events)[-1].end == 20
    assert len(finals(events)) > 10
    assert events[-1] == Usage(audio_seconds=0)
    assert emulator.log == []


# ---- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "kind", "cause"), HTTP_ERRORS)
@pytest.mark.parametrize("switch", ["handshake_status", "error_status"])
async def test_errors(
    provider: DeepgramRestProvider,
    emulator: DeepgramRestEmulator,
    switch: str,
    status: int,
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(**{switch: status})
    events, error = await fail(provider)
    assert isinstance(error, kind)
    assert (error.cause, error.code) == (cause, str(status))
    assert final_words(events) == []


async def test_results_before_a_fault_are_returned(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    """The worker resumes at the end of the finals; nothing is lost or repeated."""
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await send(stream, AUDIO[: 32000 * 3])
        await until(lambda: final_words(events), "the first words")
        await emulator.set(error_status=503)
        await send(stream, AUDIO[32000 * 3 :])
        with pytest.raises(Unavailable):
            await soon(collecting, 5)
    end = [event for event in events if isinstance(event, Final)][-1].end
    await emulator.clear()
    rest = await transcribe(provider, AUDIO[round(end * 16000) * 2 :])
    assert final_words(events) + final_words(rest) == WORDS


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        ({"refuse": True}, Unavailable, "connect"),
        ({"handshake_drop": True}, Dropped, "dropped"),
        ({"handshake_delay_seconds": 9}, Stalled, "mute"),
        ({"never_answers": True}, Stalled, "mute"),
        ({"latency_seconds": 9}, Stalled, "mute"),
        ({"drop_mid_response": True}, Dropped, "dropped"),
    ],
)
async def test_broken_requests(
    make: Make,
    emulator: DeepgramRestEmulator,
    fault: dict[str, Any],
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(**fault)
    provider = make(answer_timeout_seconds=bound(0.2))
    _, error = await fail(provider)
    assert isinstance(error, kind)
    assert error.cause == cause
    assert error.retryable
    await emulator.clear()
    assert final_words(await transcribe(provider)) == WORDS


async def test_every_malformed_response_is_an_error(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    """The audio of a malformed response is sent again."""
    for kind in emulator.bodies():
        await emulator.set(garbage=(kind,))
        events, error = await fail(provider)
        assert isinstance(error, RemoteProtocolError), kind
        assert final_words(events) == []


@pytest.mark.parametrize("fault", [{"empty_alternatives": True}, {"extra_fields": True}])
async def test_unusual_responses_change_nothing(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault)
    hum = pcm.to_linear16(pcm.to_samples(tones.silence(0.5), "linear16") + 0.05)
    assert final_words(await transcribe(provider, AUDIO + hum)) == WORDS


async def test_late_responses_are_awaited(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    await emulator.set(latency_seconds=0.3)
    assert final_words(await transcribe(provider)) == WORDS


async def test_connections_dropped_before_their_responses(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    await emulator.set(never_answers=True)
    async with opened(provider) as stream:
        collecting = asyncio.create_task(collect(stream))
        await send(stream, AUDIO)
        await until(
            lambda: len(emulator.log) == 3 and all(entry.words for entry in emulator.log),
            "all were posted",
        )
        assert emulator.drop() == 3
        with pytest.raises(Dropped):
            await soon(collecting, 5)


async def test_a_stream_without_responses_can_be_closed(
    make: Make, emulator: DeepgramRestEmulator
) -> None:
    await emulator.set(never_answers=True)
    stream = await make(max_requests=1).open(request())
    sending = asyncio.create_task(send(stream, AUDIO))
    collecting = asyncio.create_task(collect(stream))
    await until(lambda: emulator.log and emulator.log[0].words, "one was posted")
    await soon(stream.close(), 1)
    for task in (sending, collecting):
        with pytest.raises(Dropped):
            await soon(task, 1)
    await until(lambda: not emulator.open_connections, "the request was cancelled")


async def test_a_provider_that_was_closed_can_open_again(provider: DeepgramRestProvider) -> None:
    await transcribe(provider)
    await provider.close()
    await provider.close()
    assert final_words(await transcribe(provider)) == WORDS


async def test_many_streams_at_once(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    await emulator.set(latency_seconds=0.05)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(provider)) for _ in range(20)]
        transcripts = await asyncio.gather(*(transcribed(stream) for stream in streams))
    assert all(final_words(events) == WORDS for events in transcripts)

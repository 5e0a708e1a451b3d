"""Streams against the emulator: results, faults and their errors."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import (
    Final,
    Interim,
    ProviderEvent,
    ProviderStream,
    Turn,
    Usage,
)
from tests.emulators import pcm, tones
from tests.emulators.deepgram_rest import DeepgramRestEmulator
from tests.waiting import soon, until, within
from worker.providers.deepgram_rest import DeepgramRestProvider

from .conftest import SECRET, hear, opened, request, send

Make = Callable[..., DeepgramRestProvider]
WORDS = tones.sequence(12)
HOW: dict[str, Any] = {"phrase_words": 4, "lead_seconds": 0.5}
AUDIO = tones.encode(WORDS, tail_seconds=2, **HOW)


def said(events: list[ProviderEvent]) -> list[str]:
    return [w for e in events if isinstance(e, Final) for w in tones.words_of(e.text)]


def billed(events: list[ProviderEvent]) -> float | None:
    assert isinstance(events[-1], Usage)
    return events[-1].audio_seconds


async def transcribed(stream: ProviderStream, audio: bytes = AUDIO) -> list[ProviderEvent]:
    async with within(10), asyncio.TaskGroup() as tasks:
        hearing = tasks.create_task(hear(stream))
        await send(stream, audio)
        await stream.finish()
    return hearing.result()


async def collect(stream: ProviderStream, into: list[ProviderEvent]) -> None:
    async for event in stream:
        into.append(event)


async def fails(stream: ProviderStream) -> tuple[list[ProviderEvent], ProviderError]:
    """Return the events before the error that the iterator ends with, and the error."""
    heard: list[ProviderEvent] = []
    async with within(10):
        collecting = asyncio.create_task(collect(stream, heard))
        await send(stream, AUDIO)
        await stream.finish()
        with pytest.raises(ProviderError) as caught:
            await collecting
    return heard, caught.value


# ---- what goes well -------------------------------------------------------------------------


async def test_a_stream(provider: DeepgramRestProvider, emulator: DeepgramRestEmulator) -> None:
    async with opened(provider) as stream:
        events = await transcribed(stream)
        assert stream.reference == emulator.log[-1].request_id
    assert said(events) == WORDS
    finals = [event for event in events if isinstance(event, Final)]
    assert finals[0].start == 0
    assert all(a.end == b.start for a, b in itertools.pairwise(finals))
    assert finals[-1].end == pytest.approx(len(AUDIO) / 32000)
    words = [word for final in finals for word in final.words]
    for word, place in zip(words, tones.places(WORDS, **HOW), strict=True):
        assert word.start == pytest.approx(place.start, abs=0.01)
        assert word.end == pytest.approx(place.end, abs=0.01)
    turns = [event for event in events if isinstance(event, Turn)]
    assert [turn.event for turn in turns] == ["started", "ended"] * 3
    assert turns[1].at == pytest.approx(tones.places(WORDS, **HOW)[3].end, abs=0.01)
    assert not [event for event in events if isinstance(event, Interim)]
    posted = sum(entry.audio_seconds for entry in emulator.log)
    assert billed(events) == pytest.approx(posted, abs=0.001)
    assert posted < len(AUDIO) / 32000 - 2, "silence was posted"
    assert len(emulator.log) == 3


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
async def test_rates(provider: DeepgramRestProvider, rate: int) -> None:
    audio = tones.encode(WORDS, rate, **HOW)
    stream = await provider.open(request(AudioFormat("linear16", rate, 1)))
    events = await transcribed(stream, audio)
    assert said(events) == WORDS
    finals = [event for event in events if isinstance(event, Final)]
    assert finals[-1].end == pytest.approx(len(audio) / 2 / rate, abs=1e-6)
    await stream.close()


async def test_channels_are_distinguished(make: Make, emulator: DeepgramRestEmulator) -> None:
    provider = make(multichannel=True, smart_format=False)
    left, right = tones.sequence(8), tones.sequence(16)[8:]
    audio = pcm.interleave(tones.encode(left), tones.encode(right, lead_seconds=0.17))
    stream = await provider.open(request(AudioFormat("linear16", 16000, 2)))
    events = await transcribed(stream, audio)
    await stream.close()
    heard = [word for e in events if isinstance(e, Final) for word in e.words]
    assert [word.text for word in heard if word.speaker == "0"] == left
    assert [word.text for word in heard if word.speaker == "1"] == right
    posted = sum(entry.audio_seconds for entry in emulator.log)
    assert billed(events) == pytest.approx(2 * posted, abs=0.001)


async def test_long_speech_is_cut_and_is_one_turn(
    make: Make, emulator: DeepgramRestEmulator
) -> None:
    words = tones.sequence(60)
    async with opened(make(max_segment_seconds=3)) as stream:
        events = await transcribed(stream, tones.encode(words))
    assert said(events) == words
    assert len(emulator.log) > 6
    assert [e.event for e in events if isinstance(e, Turn)] == ["started", "ended"]


async def test_results_keep_the_order_of_the_audio(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    """The response to the first recording comes last."""
    await emulator.set(never_answers=True, connections=1)
    async with opened(provider) as stream:
        hearing = asyncio.create_task(hear(stream))
        await send(stream, AUDIO)
        await stream.finish()
        await until(
            lambda: [entry.closed for entry in emulator.log].count("answered 200") == 2,
            "the other two are answered",
        )
        assert not hearing.done()
        await emulator.clear()
        assert said(await soon(hearing, 5)) == WORDS


async def test_no_more_requests_than_allowed(make: Make, emulator: DeepgramRestEmulator) -> None:
    await emulator.set(never_answers=True)
    async with opened(make(max_requests=2)) as stream:
        hearing = asyncio.create_task(hear(stream))
        sending = asyncio.create_task(send(stream, AUDIO))
        await until(lambda: len(emulator.log) == 2, "two were posted")
        await until(lambda: emulator.log[1].words, "and heard")
        assert not sending.done()
        await emulator.clear()
        await soon(sending, 5)
        await stream.finish()
        assert said(await soon(hearing, 5)) == WORDS


async def test_silence_costs_nothing(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    async with opened(provider) as stream:
        events = await transcribed(stream, tones.silence(20))
    finals = [event for event in events if isinstance(event, Final)]
    assert finals[-1].end == 20
    assert len(finals) > 10
    assert events[-1] == Usage(audio_seconds=0)
    assert emulator.log == []


async def test_nothing_late_is_sent(provider: DeepgramRestProvider) -> None:
    async with opened(provider) as stream:
        await stream.finish()
        await stream.finish()
        with pytest.raises(RuntimeError):
            await stream.send(AUDIO)
        assert await hear(stream) == [Usage(audio_seconds=0.0)]


# ---- faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (400, RequestRefused, "request"),
        (401, RequestRefused, "auth"),
        (402, RequestRefused, "credit"),
        (403, RequestRefused, "auth"),
        (408, Unavailable, "server_error"),
        (429, Unavailable, "rate_limit"),
        (503, Unavailable, "server_error"),
        (504, Unavailable, "server_error"),
    ],
)
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
    async with opened(provider) as stream:
        heard, error = await fails(stream)
    assert isinstance(error, kind)
    assert (error.cause, error.code) == (cause, str(status))
    assert said(heard) == []


async def test_results_before_a_fault_are_returned(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    """The worker resumes at the end of the finals; nothing is lost or repeated."""
    async with opened(provider) as stream:
        heard: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, heard))
        await send(stream, AUDIO[: 32000 * 3])
        await until(lambda: said(heard), "the first words")
        await emulator.set(error_status=503)
        await send(stream, AUDIO[32000 * 3 :])
        with pytest.raises(Unavailable):
            await soon(collecting, 5)
    end = [event for event in heard if isinstance(event, Final)][-1].end
    await emulator.clear()
    async with opened(provider) as stream:
        rest = await transcribed(stream, AUDIO[round(end * 16000) * 2 :])
    assert said(heard) + said(rest) == WORDS


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
    provider = make(answer_timeout_seconds=1.5)
    async with opened(provider) as stream:
        _, error = await fails(stream)
    assert isinstance(error, kind)
    assert error.cause == cause
    assert error.retryable
    await emulator.clear()
    async with opened(provider) as stream:
        assert said(await transcribed(stream)) == WORDS


async def test_every_malformed_response_is_an_error(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    """The audio of a malformed answer must not be skipped."""
    for kind in emulator.bodies():
        await emulator.set(garbage=(kind,))
        async with opened(provider) as stream:
            heard, error = await fails(stream)
        assert isinstance(error, RemoteProtocolError), kind
        assert said(heard) == []


@pytest.mark.parametrize("fault", [{"empty_alternatives": True}, {"extra_fields": True}])
async def test_unusual_responses_change_nothing(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault)
    hum = pcm.to_linear16(pcm.to_samples(tones.silence(0.5), "linear16") + 0.05)
    async with opened(provider) as stream:
        assert said(await transcribed(stream, AUDIO + hum)) == WORDS


async def test_late_responses_are_awaited(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    await emulator.set(latency_seconds=0.3)
    async with opened(provider) as stream:
        assert said(await transcribed(stream)) == WORDS


async def test_connections_dropped_while_answers_are_due(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    await emulator.set(never_answers=True)
    async with opened(provider) as stream:
        hearing = asyncio.create_task(hear(stream))
        await send(stream, AUDIO)
        await until(lambda: len(emulator.log) == 3 and emulator.log[2].words, "all were posted")
        assert emulator.drop() == 3
        with pytest.raises(Dropped):
            await soon(hearing, 5)


async def test_a_stream_without_responses_can_be_closed(
    make: Make, emulator: DeepgramRestEmulator
) -> None:
    await emulator.set(never_answers=True)
    stream = await make(max_requests=1).open(request())
    sending = asyncio.create_task(send(stream, AUDIO))
    hearing = asyncio.create_task(hear(stream))
    await until(lambda: emulator.log and emulator.log[0].words, "one was posted")
    await soon(stream.close(), 1)
    for task in (sending, hearing):
        with pytest.raises(Dropped):
            await soon(task, 1)
    await until(lambda: not emulator.open_connections, "the request was given up")


async def test_a_wrong_key_is_never_in_an_error(
    provider: DeepgramRestProvider,
    emulator: DeepgramRestEmulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    emulator.api_key = "another"
    async with opened(provider) as stream:
        _, error = await fails(stream)
    assert isinstance(error, RequestRefused)
    shown = "".join(traceback.format_exception(error)) + repr(vars(error)) + caplog.text
    assert SECRET not in shown
    assert "Invalid credentials" in str(error)


async def test_a_misspelled_model(provider: DeepgramRestProvider) -> None:
    async with opened(provider, model="nova-9") as stream:
        _, error = await fails(stream)
    assert (error.cause, error.retryable) == ("auth", False)


async def test_no_tls_where_it_is_expected(make: Make, emulator: DeepgramRestEmulator) -> None:
    async with opened(make(url=emulator.url.replace("http://", "https://"))) as stream:
        _, error = await fails(stream)
    assert error.cause == "connect"


async def test_a_provider_that_was_closed_can_open_again(provider: DeepgramRestProvider) -> None:
    async with opened(provider) as stream:
        await transcribed(stream)
    await provider.close()
    await provider.close()
    async with opened(provider) as stream:
        assert said(await transcribed(stream)) == WORDS


async def test_many_streams_at_once(
    provider: DeepgramRestProvider, emulator: DeepgramRestEmulator
) -> None:
    await emulator.set(latency_seconds=0.05)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(provider)) for _ in range(20)]
        heard = await asyncio.gather(*(transcribed(stream) for stream in streams))
    assert all(said(events) == WORDS for events in heard)

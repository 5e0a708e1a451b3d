"""Streams against the emulator: what only this provider does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.emulators.speechmatics.faults import CLOSE_CODES
from natterjack.emulators.speechmatics.spec import REALTIME as spec
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import (
    Interim,
    ProviderEvent,
    Turn,
    Usage,
)
from tests.waiting import bound, soon, until, within
from worker.providers.speechmatics import SpeechmaticsProvider

from ..emulated.streams import (
    AUDIO,
    LINEAR_16K,
    PLACES,
    WORDS,
    codes,
    collect,
    fail,
    final_words,
    finals,
    opened,
    request,
    resume,
    send,
    transcribe,
    transcribed,
    turns,
)
from .test_failures import EXPECTED

Make = Callable[..., SpeechmaticsProvider]


async def test_a_stream(provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator) -> None:
    async with opened(provider) as stream:
        assert stream.reference == emulator.log[0].request_id
        events = await transcribed(stream)
    assert final_words(events) == WORDS
    assert events[-1] == Usage(audio_seconds=round(len(AUDIO) / 32000, 6))
    assert turns(events) == ["started", "ended"] * 3
    assert codes(events)[:2] == ["recognition_quality", "concurrent_session_usage"]
    texts = [final.text for final in finals(events) if final.text]
    assert texts[0] == "Able about above acorn."
    assert [word.text for word in finals(events)[0].words] == ["Able", "about", "above", "acorn."]
    assert finals(events)[0].confidence == 0.99
    interims = [event for event in events if isinstance(event, Interim) and event.text]
    assert interims
    assert all(word.confidence is None for interim in interims for word in interim.words)
    await until(lambda: emulator.log[0].closed, "the connection was closed")
    assert emulator.log[0].closed == "server 1000"
    assert emulator.log[0].texts == {"StartRecognition": 1, "EndOfStream": 1}
    assert emulator.log[0].finals == texts, "words are joined as the provider joins them"
    session = emulator.sessions[0]
    assert session.last_seq_no == session.frames == emulator.log[0].audio_frames


async def test_words_have_times_and_no_final_ends_within_a_word(
    provider: SpeechmaticsProvider,
) -> None:
    words = tones.sequence(60)
    # Times that are not multiples of the 10 ms that the provider rounds to.
    how: dict[str, Any] = {"phrase_words": 11, "lead_seconds": 0.3037, "gap_seconds": 0.0831}
    audio, places = tones.encode(words, **how), tones.places(words, **how)
    events = await transcribe(provider, audio, options={"max_delay": 0.7})
    timed = [word for final in finals(events) for word in final.words]
    assert final_words(events) == words
    for word, place in zip(timed, places, strict=True):
        assert word.start == pytest.approx(place.start, abs=0.008)
        assert word.end == pytest.approx(place.end, abs=0.008)
    frontier = 0.0
    for final in finals(events):
        assert frontier <= final.start <= final.end
        frontier = final.end
        assert not [p for p in places if p.start + 0.01 < frontier < p.end - 0.01]
    assert len(finals(events)) > 20


async def test_speakers(provider: SpeechmaticsProvider) -> None:
    events = await transcribe(provider, options={"diarization": "speaker"})
    speakers = [word.speaker for final in finals(events) for word in final.words]
    assert [name for name, _ in itertools.groupby(speakers)] == ["S1", "S2", "S1"]


async def test_a_language_without_delimiter(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(word_delimiter="")
    events = await transcribe(provider)
    assert finals(events)[0].text == "Ableaboutaboveacorn."
    words = [tones.plain(word.text) for final in finals(events) for word in final.words]
    assert words == WORDS
    assert [final.text for final in finals(events) if final.text] == emulator.log[0].finals


async def test_sent_messages_match_the_specification(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    options = {"additional_vocab": [{"content": "CEO", "sounds_like": ["see oh"]}]}
    async with opened(provider, keyterms=("natter jack",), options=options) as stream:
        await stream.configure({"max_delay": 1.0})
        await send(stream, AUDIO)
        await stream.finalize()
        await stream.finish()
        assert final_words(await collect(stream)) == WORDS
    received = emulator.sessions[0].received
    assert [message["message"] for message in received] == [
        "StartRecognition",
        "SetRecognitionConfig",
        "ForceEndOfUtterance",
        "EndOfStream",
    ]
    for message in received:
        assert spec.problems(message) == []


async def test_finalize_ends_the_turn(provider: SpeechmaticsProvider) -> None:
    options = {"conversation_config": {"end_of_utterance_silence_trigger": 0}, "max_delay": 4}
    async with opened(provider, options=options) as stream:
        await send(stream, tones.encode(WORDS[:2]))
        await stream.finalize()
        events = aiter(stream)
        found: list[ProviderEvent] = []
        async with within(5):
            while not (found and isinstance(found[-1], Turn) and found[-1].event == "ended"):
                found.append(await anext(events))
        assert final_words(found) == WORDS[:2]


async def test_finalize_within_a_word_loses_nothing(provider: SpeechmaticsProvider) -> None:
    at = 2 * round(16000 * (PLACES[2].start + 0.1))
    async with opened(provider) as stream:
        await send(stream, AUDIO[:at])
        await stream.finalize()
        await send(stream, AUDIO[at:])
        await stream.finish()
        events = await collect(stream)
    assert final_words(events) == WORDS
    assert [word.text for word in finals(events)[0].words] == ["Able", "about."]


async def test_configure_takes_effect(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    async with opened(provider) as stream:
        await stream.configure({"enable_partials": False})
        events = await transcribed(stream)
        assert final_words(events) == WORDS
        assert not [event for event in events if isinstance(event, Interim)]
        with pytest.raises(RequestRefused, match="language"):
            await stream.configure({"language": "de"})
    assert emulator.log[0].texts["SetRecognitionConfig"] == 1


async def test_each_connection_counts_from_zero(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    for _ in range(2):
        assert final_words(await transcribe(provider)) == WORDS
    assert [session.last_seq_no for session in emulator.sessions] == [
        entry.audio_frames for entry in emulator.log
    ]


# ---- waiting for RecognitionStarted ---------------------------------------------------------


async def test_no_audio_before_the_recognition_has_started(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """The emulator fails a stream that does not wait."""
    await emulator.set(start_delay_seconds=0.3)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        begin = loop.time()
        async with opened(provider) as stream:
            assert loop.time() - begin >= 0.3
            assert final_words(await transcribed(stream)) == WORDS


@pytest.mark.parametrize("in_band", [True, False])
@pytest.mark.parametrize("kind", EXPECTED)
async def test_errors_at_the_start(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator, kind: str, in_band: bool
) -> None:
    await emulator.set(error_type=kind, error_in_band=in_band, connections=1)
    with pytest.raises(ProviderError) as caught:
        await provider.open(request())
    assert (type(caught.value), caught.value.cause) == EXPECTED[kind]
    assert caught.value.code == (kind if in_band else str(CLOSE_CODES[kind]))
    async with opened(provider):
        pass


async def test_a_full_quota_delays_the_next_attempt_of_the_session(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(quota=1)
    provider = make(retry_seconds=0.5)
    loop = asyncio.get_running_loop()
    async with opened(provider):
        with pytest.raises(Unavailable, match="Quota") as caught:
            await provider.open(request(session_id="other"))
        assert caught.value.cause == "rate_limit"
        failed = loop.time()
    await until(lambda: not emulator.open_connections, "the quota is free")
    async with opened(provider, session_id="other"):
        assert loop.time() - failed >= 0.49
    begin = loop.time()
    async with opened(provider, session_id="a third"):
        assert loop.time() - begin < bound(0.4), "other sessions do not wait"


async def test_garbage_before_the_start_is_counted(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(garbage=("not_json", "unsent_frame"))
    events = await transcribe(provider)
    assert final_words(events) == WORDS
    assert codes(events).count("malformed") == 2


# ---- no connection --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"language": "xx"}, "invalid_language"),
        ({"options": {"domain": "finance"}}, None),
    ],
)
async def test_the_server_checks_the_request(
    provider: SpeechmaticsProvider, changes: dict[str, Any], reason: str | None
) -> None:
    if reason is None:
        async with opened(provider, **changes):
            return
    with pytest.raises(RequestRefused, match=reason) as caught:
        await provider.open(request(**changes))
    assert caught.value.cause == "request"


@pytest.mark.parametrize("suffix", ["/v2", "/v2/", "/v2/en"])
async def test_addresses(make: Make, emulator: SpeechmaticsEmulator, suffix: str) -> None:
    async with opened(make(url=emulator.url + suffix)):
        assert emulator.log[0].path == suffix
    with pytest.raises(RequestRefused) as caught:
        await make(url=f"{emulator.url}/v1").open(request())
    assert caught.value.code == "404"


# ---- faults of an open stream ---------------------------------------------------------------


@pytest.mark.parametrize("in_band", [True, False])
@pytest.mark.parametrize("kind", EXPECTED)
async def test_errors_in_the_middle(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator, kind: str, in_band: bool
) -> None:
    await emulator.set(error_type=kind, error_after_seconds=1.5, error_in_band=in_band)
    _, error = await fail(provider)
    assert (type(error), error.cause) == EXPECTED[kind]
    assert emulator.log[0].closed == f"server {CLOSE_CODES[kind]}"


async def test_send_raises_the_error_of_the_stream(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """The iterator raises it, too; the session uses whichever comes first."""
    await emulator.set(error_type="timelimit_exceeded", error_after_seconds=0.5)
    async with opened(provider) as stream:
        with pytest.raises(RequestRefused) as caught:
            await soon(send(stream, AUDIO * 1000), 10)
        assert caught.value.cause == "credit"


async def test_end_of_transcript_that_never_comes(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """The session limits the wait, and the stream can be closed."""
    await emulator.set(end_of_transcript="missing")
    stream = await provider.open(request())
    events: list[ProviderEvent] = []
    collecting = asyncio.create_task(collect(stream, events))
    await send(stream, AUDIO)
    await stream.finish()
    await until(lambda: final_words(events) == WORDS, "all words are final")
    assert not collecting.done()
    await soon(stream.close(), 1)
    with pytest.raises(Dropped):
        await collecting


async def test_the_duration_limit(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """The rest of the audio needs another stream, even after a normal end of this one."""
    await emulator.set(duration_limit_seconds=2.5, connections=1)
    events, error = await fail(provider)
    assert isinstance(error, Dropped)
    assert error.code == "duration_limit_exceeded"
    assert "duration_limit_exceeded" in codes(events)
    assert 0 < len(final_words(events)) < len(WORDS)
    await resume(provider, events)


@pytest.mark.parametrize(
    "kind",
    ["idle_timeout", "session_timeout", "speaker_id", "add_audio_after_eos", "weather"],
)
async def test_warnings_are_notices(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator, kind: str
) -> None:
    await emulator.set(warning_type=kind, warning_after_seconds=1)
    events = await transcribe(provider)
    assert final_words(events) == WORDS
    assert codes(events).count("warning" if kind == "weather" else kind) == 1


async def test_words_that_never_become_final(make: Make, emulator: SpeechmaticsEmulator) -> None:
    await emulator.set(no_transcripts_after_seconds=1.5)
    _, error = await fail(make(final_timeout_seconds=3), AUDIO + tones.silence(5))
    assert isinstance(error, Stalled)
    assert error.cause == "mute"


async def test_an_idle_connection_is_kept_alive(make: Make, emulator: SpeechmaticsEmulator) -> None:
    """Pings keep it open. The server's clock is so fast that it drops idle clients after 1.5 s,
    more on a busy machine: five pings, whose PONGs are waited for half as long."""
    interval = bound(0.3)
    dropped_after = 5 * interval
    await emulator.set(clock_rate=180 / dropped_after)
    loop = asyncio.get_running_loop()
    async with opened(make(ping_seconds=interval)) as stream:
        idle_until = loop.time() + 1.3 * dropped_after
        await until(lambda: loop.time() > idle_until or emulator.log[0].closed, "time has passed")
        assert emulator.log[0].closed is None
        await emulator.set(clock_rate=1)
        assert final_words(await transcribed(stream)) == WORDS
    await emulator.set(clock_rate=1000)
    _, error = await fail(make(ping_seconds=60), b"")
    assert isinstance(error, Unavailable)
    assert error.code == "1011"


async def test_an_hour_without_audio_ends_the_stream(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    # The 180 s without a ping that the server allows are 0.18 s here, more on a busy machine.
    slower = bound(1)
    await emulator.set(clock_rate=1_000 / slower)
    events: list[ProviderEvent] = []
    async with opened(make(ping_seconds=0.05 * slower)) as stream:
        with pytest.raises(Dropped) as caught:
            await soon(collect(stream, events), 20)
    assert caught.value.code == "idle_timeout"
    assert codes(events).count("idle_timeout") == 3


async def test_the_audio_of_a_malformed_final_is_sent_again(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(unreadable_final_after_seconds=3, connections=1)
    events, error = await fail(provider)
    assert isinstance(error, RemoteProtocolError)
    assert "without readable results" in str(error)
    assert error.retryable
    assert finals(events)
    await resume(provider, events)


async def test_audio_is_sent_again_if_the_clock_starts_anew(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(parks_after_seconds=3, connections=1)
    events, error = await fail(provider)
    assert isinstance(error, RemoteProtocolError)
    assert "clock went back" in str(error)
    await resume(provider, events)
    await emulator.set(clock_after_parking="continue", connections=None)
    assert final_words(await transcribe(provider)) == WORDS


def test_the_tests_use_a_format_of_the_provider() -> None:
    assert LINEAR_16K.encoding in SpeechmaticsProvider.capabilities.encodings

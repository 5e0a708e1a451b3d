"""The socket, against the emulator: what goes well, and every fault told apart."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from natterjack.audio import AudioFormat, Encoding
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
    Notice,
    ProviderEvent,
    ProviderStream,
    Turn,
    Usage,
)
from tests.emulators import speechmatics_spec as spec
from tests.emulators import tones
from tests.emulators.faults import GARBAGE
from tests.emulators.speechmatics import SpeechmaticsEmulator
from tests.emulators.speechmatics_faults import CLOSE_CODES
from tests.waiting import bound, soon, until, within
from worker.providers.speechmatics import SpeechmaticsProvider

from .conftest import LINEAR_16K, SECRET, hear, opened, request, send
from .test_failures import EXPECTED

Make = Callable[..., SpeechmaticsProvider]
WORDS = tones.sequence(12)
AUDIO = tones.encode(WORDS, phrase_words=4, lead_seconds=0.3, tail_seconds=1)
PLACES = tones.places(WORDS, phrase_words=4, lead_seconds=0.3)


def finals(events: list[ProviderEvent]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def said(events: list[ProviderEvent]) -> list[str]:
    return [w for final in finals(events) for w in tones.words_of(final.text)]


def notices(events: list[ProviderEvent]) -> list[str]:
    return [event.code for event in events if isinstance(event, Notice)]


async def transcribed(stream: ProviderStream, audio: bytes = AUDIO) -> list[ProviderEvent]:
    async with within(10), asyncio.TaskGroup() as tasks:
        hearing = tasks.create_task(hear(stream))
        await send(stream, audio)
        await stream.finish()
    return hearing.result()


async def collect(stream: ProviderStream, into: list[ProviderEvent]) -> None:
    async for event in stream:
        into.append(event)


async def fails(stream: ProviderStream, audio: bytes = AUDIO) -> ProviderError:
    """The error that the iterator ends with."""
    async with within(10):
        iterating = asyncio.create_task(hear(stream))
        with contextlib.suppress(ProviderError):
            await send(stream, audio)
        with pytest.raises(ProviderError) as caught:
            await iterating
    return caught.value


# ---- what goes well -------------------------------------------------------------------------


async def test_a_stream(provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator) -> None:
    async with opened(provider) as stream:
        assert stream.reference == emulator.log[0].request_id
        events = await transcribed(stream)
    assert said(events) == WORDS
    assert events[-1] == Usage(audio_seconds=round(len(AUDIO) / 32000, 6))
    assert [e.event for e in events if isinstance(e, Turn)] == ["started", "ended"] * 3
    assert notices(events)[:2] == ["recognition_quality", "concurrent_session_usage"]
    texts = [final.text for final in finals(events) if final.text]
    assert texts[0] == "Able about above acorn."
    assert [word.text for word in finals(events)[0].words] == ["Able", "about", "above", "acorn."]
    assert finals(events)[0].confidence == 0.99
    interims = [event for event in events if isinstance(event, Interim) and event.text]
    assert interims
    assert all(word.confidence is None for interim in interims for word in interim.words)
    await until(lambda: emulator.log[0].closed, "the server saw the end")
    assert emulator.log[0].closed == "server 1000"
    assert emulator.log[0].texts == {"StartRecognition": 1, "EndOfStream": 1}
    assert emulator.log[0].finals == texts, "joined as the provider itself joins"
    session = emulator.sessions[0]
    assert session.last_seq_no == session.frames == emulator.log[0].audio_frames


async def test_words_have_their_times_and_finals_end_in_none(
    provider: SpeechmaticsProvider,
) -> None:
    words = tones.sequence(60)
    # Off the hundredths of a second that the provider rounds to.
    how: dict[str, Any] = {"phrase_words": 11, "lead_seconds": 0.3037, "gap_seconds": 0.0831}
    audio, places = tones.encode(words, **how), tones.places(words, **how)
    async with opened(provider, options={"max_delay": 0.7}) as stream:
        events = await transcribed(stream, audio)
    heard = [word for final in finals(events) for word in final.words]
    assert said(events) == words
    for word, place in zip(heard, places, strict=True):
        assert word.start == pytest.approx(place.start, abs=0.008)
        assert word.end == pytest.approx(place.end, abs=0.008)
    frontier = 0.0
    for final in finals(events):
        assert frontier <= final.start <= final.end
        frontier = final.end
        assert not [p for p in places if p.start + 0.01 < frontier < p.end - 0.01]
    assert len(finals(events)) > 20


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("encoding", ["linear16", "mulaw"])
async def test_formats(provider: SpeechmaticsProvider, encoding: Encoding, rate: int) -> None:
    audio = tones.encode(WORDS, rate, encoding=encoding)
    async with opened(provider, audio_format=AudioFormat(encoding, rate, 1)) as stream:
        assert said(await transcribed(stream, audio)) == WORDS


async def test_speakers(provider: SpeechmaticsProvider) -> None:
    async with opened(provider, options={"diarization": "speaker"}) as stream:
        events = await transcribed(stream)
    speakers = [word.speaker for final in finals(events) for word in final.words]
    assert [name for name, _ in itertools.groupby(speakers)] == ["S1", "S2", "S1"]


async def test_a_language_without_delimiter(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(word_delimiter="")
    async with opened(provider) as stream:
        events = await transcribed(stream)
    assert finals(events)[0].text == "Ableaboutaboveacorn."
    heard = [tones.plain(word.text) for final in finals(events) for word in final.words]
    assert heard == WORDS
    assert [final.text for final in finals(events) if final.text] == emulator.log[0].finals


async def test_our_messages_fit_the_specification(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    options = {"additional_vocab": [{"content": "CEO", "sounds_like": ["see oh"]}]}
    async with opened(provider, keyterms=("natter jack",), options=options) as stream:
        await stream.configure({"max_delay": 1.0})
        await send(stream, AUDIO)
        await stream.finalize()
        await stream.finish()
        assert said(await hear(stream)) == WORDS
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
        assert said(found) == WORDS[:2]


async def test_a_word_being_spoken_survives_finalize(provider: SpeechmaticsProvider) -> None:
    at = 2 * round(16000 * (PLACES[2].start + 0.1))
    async with opened(provider) as stream:
        await send(stream, AUDIO[:at])
        await stream.finalize()
        await send(stream, AUDIO[at:])
        await stream.finish()
        events = await hear(stream)
    assert said(events) == WORDS
    assert [word.text for word in finals(events)[0].words] == ["Able", "about."]


async def test_configure_takes_effect(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    async with opened(provider) as stream:
        await stream.configure({"enable_partials": False})
        events = await transcribed(stream)
        assert said(events) == WORDS
        assert not [event for event in events if isinstance(event, Interim)]
        with pytest.raises(RequestRefused, match="language"):
            await stream.configure({"language": "de"})
    assert emulator.log[0].texts["SetRecognitionConfig"] == 1


async def test_nothing_empty_and_nothing_late_is_sent(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    async with opened(provider) as stream:
        await stream.send(b"")
        await stream.finish()
        await stream.finish()
        with pytest.raises(RuntimeError):
            await stream.send(AUDIO)
        assert (await hear(stream))[-1] == Usage(audio_seconds=0.0)
    assert emulator.log[0].audio_frames == 0
    assert emulator.sessions[0].last_seq_no == 0


async def test_each_connection_counts_anew(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    for _ in range(2):
        async with opened(provider) as stream:
            assert said(await transcribed(stream)) == WORDS
    assert [session.last_seq_no for session in emulator.sessions] == [
        entry.audio_frames for entry in emulator.log
    ]


async def test_more_streams_than_a_pool_would_hold(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    async with within(20):
        streams = await asyncio.gather(*(provider.open(request()) for _ in range(120)))
    assert emulator.open_connections == 120
    await asyncio.gather(*(stream.close() for stream in streams))
    await until(lambda: not emulator.open_connections, "all connections are gone")


# ---- waiting for RecognitionStarted ---------------------------------------------------------


async def test_no_audio_before_the_recognition_has_started(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """On every connection anew: the emulator fails a stream that does not wait."""
    await emulator.set(start_delay_seconds=0.3)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        begin = loop.time()
        async with opened(provider) as stream:
            assert loop.time() - begin >= 0.3
            assert said(await transcribed(stream)) == WORDS


async def test_the_wait_is_bounded(make: Make, emulator: SpeechmaticsEmulator) -> None:
    await emulator.set(no_recognition_started=True, connections=1)
    provider = make(start_timeout_seconds=1.5)
    with pytest.raises(Unavailable, match=r"no RecognitionStarted within 1\.5 s") as caught:
        await provider.open(request())
    assert caught.value.cause == "server_error"
    await until(lambda: not emulator.open_connections, "the connection was let go")
    async with opened(provider):
        pass


async def test_a_cancelled_wait_lets_go(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(no_recognition_started=True)
    opening = asyncio.create_task(provider.open(request()))
    await until(lambda: emulator.log and emulator.log[0].texts, "it has been asked")
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: not emulator.open_connections, "the connection was let go")


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


async def test_a_full_quota_is_told_after_the_handshake_and_waited_for(
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
        assert loop.time() - begin < bound(0.4), "nobody else has to wait"


async def test_what_is_said_before_is_passed_on_or_counted(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(garbage=("not_json", "unsent_frame"))
    async with opened(provider) as stream:
        events = await transcribed(stream)
    assert said(events) == WORDS
    assert notices(events).count("malformed") == 2


# ---- no connection --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (400, RequestRefused, "request"),
        (401, RequestRefused, "auth"),
        (402, RequestRefused, "credit"),
        (403, RequestRefused, "auth"),
        (404, RequestRefused, "request"),
        (405, RequestRefused, "request"),
        (429, Unavailable, "rate_limit"),
        (503, Unavailable, "server_error"),
    ],
)
async def test_refused_handshakes(
    provider: SpeechmaticsProvider,
    emulator: SpeechmaticsEmulator,
    status: int,
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(handshake_status=status, handshakes=1)
    with pytest.raises(kind) as caught:
        await provider.open(request())
    assert (caught.value.cause, caught.value.code) == (cause, str(status))
    async with opened(provider):
        pass


@pytest.mark.parametrize("in_band", [False, True])
async def test_the_wrong_key_shows_nowhere(
    make: Make, emulator: SpeechmaticsEmulator, caplog: pytest.LogCaptureFixture, in_band: bool
) -> None:
    caplog.set_level("DEBUG")
    emulator.api_key = "another"
    await emulator.set(auth_in_band=in_band)
    with pytest.raises(RequestRefused) as caught:
        await make().open(request())
    assert caught.value.cause == "auth"
    shown = "".join(traceback.format_exception(caught.value))
    error: BaseException | None = caught.value
    while error is not None:
        shown += repr(error) + repr(vars(error))
        error = error.__cause__
    assert SECRET not in shown + caplog.text


@pytest.mark.parametrize(
    "fault", [{"refuse": True}, {"handshake_drop": True}, {"handshake_delay_seconds": 9}]
)
async def test_unreachable(
    make: Make, emulator: SpeechmaticsEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault)
    provider = make(connect_timeout_seconds=1.5)
    with pytest.raises(Unavailable) as caught:
        await provider.open(request())
    assert caught.value.cause == "connect"
    await emulator.clear()
    async with opened(provider):
        pass


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"language": "xx"}, "invalid_language"),
        ({"options": {"domain": "finance"}}, None),
    ],
)
async def test_the_server_judges_the_request(
    provider: SpeechmaticsProvider, changes: dict[str, Any], says: str | None
) -> None:
    if says is None:
        async with opened(provider, **changes):
            return
    with pytest.raises(RequestRefused, match=says) as caught:
        await provider.open(request(**changes))
    assert caught.value.cause == "request"


@pytest.mark.parametrize("suffix", ["/v2", "/v2/", "/v2/en"])
async def test_addresses(make: Make, emulator: SpeechmaticsEmulator, suffix: str) -> None:
    async with opened(make(url=emulator.url + suffix)):
        assert emulator.log[0].path == suffix
    with pytest.raises(RequestRefused) as caught:
        await make(url=f"{emulator.url}/v1").open(request())
    assert caught.value.code == "404"


# ---- acknowledgements -----------------------------------------------------------------------


async def test_sending_waits_for_acknowledgements(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(withhold_acks_after_seconds=1.0)
    provider = make(max_unacknowledged_seconds=2.0)
    stream = await provider.open(request())
    sending = asyncio.create_task(send(stream, tones.silence(60)))
    hearing = asyncio.create_task(hear(stream))
    await until(lambda: emulator.log[0].audio_seconds >= 2.9, "the window is full")
    assert not sending.done()
    assert emulator.log[0].audio_seconds <= 3.1
    await soon(stream.close(), 1)
    for task in (sending, hearing):
        with pytest.raises(Dropped):
            await soon(task, 1)


async def test_acknowledgements_are_known_of_while_nobody_iterates(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    async with opened(make(max_unacknowledged_seconds=1.0)) as stream:
        async with within(10):
            await send(stream, AUDIO)
        await stream.finish()
        await until(lambda: emulator.log[0].closed, "the server is done")
        assert said(await hear(stream)) == WORDS


async def test_the_window_is_counted_in_frames_as_well(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(withhold_acks_after_seconds=0)
    async with opened(make(max_unacknowledged_frames=5)) as stream:
        sending = asyncio.create_task(send(stream, AUDIO))
        await until(lambda: emulator.log[0].audio_frames == 5, "five frames are on their way")
        assert not sending.done()
        sending.cancel()


async def test_a_slow_server_is_not_run_over(make: Make, emulator: SpeechmaticsEmulator) -> None:
    """Audio sent as fast as it is taken, to a server that reads at ten times real time."""
    await emulator.set(pace=10.0)
    async with opened(make(max_unacknowledged_seconds=1.0)) as stream:
        ahead: list[float] = []
        hearing = asyncio.create_task(hear(stream))
        for at in range(0, len(AUDIO), 2560):
            await stream.send(AUDIO[at : at + 2560])
            ahead.append((at + 2560) / 32000 - emulator.log[0].audio_seconds)
        await stream.finish()
        async with within(10):
            assert said(await hearing) == WORDS
    assert max(ahead) < 1.3


async def test_silence_is_answered(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """At least acknowledgements arrive, so a session can tell silence from a dead server."""
    await emulator.set(quiet_in_silence=True)
    async with opened(provider) as stream:
        events = await transcribed(stream, tones.silence(20))
    assert finals(events) == []
    assert notices(events).count("audio_added") >= 18


async def test_words_that_never_become_final(make: Make, emulator: SpeechmaticsEmulator) -> None:
    await emulator.set(no_transcripts_after_seconds=1.5)
    async with opened(make(final_timeout_seconds=3)) as stream:
        error = await fails(stream, AUDIO + tones.silence(5))
    assert isinstance(error, Stalled)
    assert error.cause == "mute"


async def test_sending_blocks_when_nobody_reads(make: Make, emulator: SpeechmaticsEmulator) -> None:
    await emulator.set(stop_reading_after_seconds=0)
    stream = await make().open(request())
    sending = asyncio.create_task(send(stream, tones.silence(60)))
    hearing = asyncio.create_task(hear(stream))
    before, window = -1, stream._state._window  # type: ignore[attr-defined]
    while before != window.frames:
        before = window.frames
        await asyncio.sleep(bound(0.1))  # so long nothing more was taken
    assert not sending.done()
    assert window.seconds < 15
    await soon(stream.close(), 1)
    for task in (sending, hearing):
        with pytest.raises(Dropped):
            await soon(task, 1)


# ---- faults of a connection that stands -----------------------------------------------------


@pytest.mark.parametrize("fault", [{"drop_mid_word": 5}, {"drop_after_seconds": 2}])
async def test_drops(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault, connections=1)
    async with opened(provider) as stream:
        assert isinstance(await fails(stream), Dropped)
    assert emulator.log[0].closed == "dropped"
    async with opened(provider) as stream:
        assert said(await transcribed(stream)) == WORDS


@pytest.mark.parametrize("in_band", [True, False])
@pytest.mark.parametrize("kind", EXPECTED)
async def test_errors_in_the_middle(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator, kind: str, in_band: bool
) -> None:
    await emulator.set(error_type=kind, error_after_seconds=1.5, error_in_band=in_band)
    async with opened(provider) as stream:
        error = await fails(stream)
    assert (type(error), error.cause) == EXPECTED[kind]
    assert emulator.log[0].closed == f"server {CLOSE_CODES[kind]}"


async def test_sending_tells_the_reason_of_an_end(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """Not only the iterator: whoever of the two fails first ends the session's stream."""
    await emulator.set(error_type="timelimit_exceeded", error_after_seconds=0.5)
    async with opened(provider) as stream:
        with pytest.raises(RequestRefused) as caught:
            await soon(send(stream, AUDIO * 1000), 10)
        assert caught.value.cause == "credit"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, Dropped),
        (1001, Dropped),
        (1011, Unavailable),
        (1008, Dropped),
        (4001, RequestRefused),
    ],
)
async def test_closes(
    provider: SpeechmaticsProvider,
    emulator: SpeechmaticsEmulator,
    code: int,
    kind: type[ProviderError],
) -> None:
    await emulator.set(close_after_seconds=1, close_code=code, close_reason="for a reason")
    async with opened(provider) as stream:
        error = await fails(stream)
    assert isinstance(error, kind)
    assert error.code == str(code)
    assert "for a reason" in str(error)


@pytest.mark.parametrize("fault", [{"drop_before_summary": True}, {"end_of_transcript": "close"}])
async def test_an_end_without_end_of_transcript_is_a_loss(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault)
    async with opened(provider) as stream:
        await send(stream, AUDIO)
        await stream.finish()
        heard: list[ProviderEvent] = []
        with pytest.raises(Dropped):
            await collect(stream, heard)
        assert said(heard) == WORDS


async def test_end_of_transcript_that_never_comes(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """The session bounds the wait; the stream can be closed."""
    await emulator.set(end_of_transcript="missing")
    stream = await provider.open(request())
    heard: list[ProviderEvent] = []
    hearing = asyncio.create_task(collect(stream, heard))
    await send(stream, AUDIO)
    await stream.finish()
    await until(lambda: said(heard) == WORDS, "all was said")
    assert not hearing.done()
    await soon(stream.close(), 1)
    with pytest.raises(Dropped):
        await hearing


async def test_the_duration_limit(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """The rest of the audio needs another stream, even if this one was finished in order."""
    await emulator.set(duration_limit_seconds=2.5, connections=1)
    async with opened(provider) as stream:
        heard: list[ProviderEvent] = []
        hearing = asyncio.create_task(collect(stream, heard))
        with contextlib.suppress(ProviderError):
            await send(stream, AUDIO)
        with pytest.raises(Dropped) as caught:
            await soon(hearing, 10)
    assert caught.value.code == "duration_limit_exceeded"
    assert "duration_limit_exceeded" in notices(heard)
    done = said(heard)
    assert 0 < len(done) < len(WORDS)
    at = round(16000 * finals(heard)[-1].end) * 2
    async with opened(provider) as stream:
        assert done + said(await transcribed(stream, AUDIO[at:])) == WORDS


@pytest.mark.parametrize(
    "kind",
    ["idle_timeout", "session_timeout", "speaker_id", "add_audio_after_eos", "weather"],
)
async def test_warnings_are_notices(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator, kind: str
) -> None:
    await emulator.set(warning_type=kind, warning_after_seconds=1)
    async with opened(provider) as stream:
        events = await transcribed(stream)
    assert said(events) == WORDS
    assert notices(events).count("warning" if kind == "weather" else kind) == 1


async def test_an_idle_connection_is_kept_alive(make: Make, emulator: SpeechmaticsEmulator) -> None:
    """Pings keep it open: with a 1000-fold clock, the server drops an idle client in 0.18 s."""
    await emulator.set(clock_rate=1000)
    loop = asyncio.get_running_loop()
    async with opened(make(ping_seconds=0.05)) as stream:
        idle_until = loop.time() + 0.6
        await until(lambda: loop.time() > idle_until or emulator.log[0].closed, "time has passed")
        assert emulator.log[0].closed is None
        await emulator.set(clock_rate=1)
        assert said(await transcribed(stream)) == WORDS
    await emulator.set(clock_rate=1000)
    async with opened(make(ping_seconds=60)) as stream:
        error = await fails(stream, b"")
    assert isinstance(error, Unavailable)
    assert error.code == "1011"


async def test_an_hour_without_audio_ends_the_stream(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    # Its three minutes without a ping are 0.18 s here, and more on a busy machine.
    await emulator.set(clock_rate=1_000 / bound(1))
    heard: list[ProviderEvent] = []
    async with opened(make(ping_seconds=0.05)) as stream:
        with pytest.raises(Dropped) as caught:
            await soon(collect(stream, heard), 20)
    assert caught.value.code == "idle_timeout"
    assert notices(heard).count("idle_timeout") == 3


async def test_garbage_is_counted_and_skipped(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(garbage=("all",))
    words = tones.sequence(60)
    async with opened(provider) as stream:
        events = await transcribed(stream, tones.encode(words, tail_seconds=0.5))
    assert said(events) == words
    # Six more kinds are this protocol's own; one of them is well-formed, as is an unknown type.
    assert notices(events).count("unknown") == 1
    assert notices(events).count("not_asked_for") == 1
    assert notices(events).count("malformed") == len(GARBAGE) + 6 - 2


async def test_a_final_that_cannot_be_read_is_heard_again(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(unreadable_final_after_seconds=3, connections=1)
    heard: list[ProviderEvent] = []
    async with opened(provider) as stream:
        hearing = asyncio.create_task(collect(stream, heard))
        with contextlib.suppress(ProviderError):
            await send(stream, AUDIO)
        with pytest.raises(RemoteProtocolError, match="malformed final") as caught:
            await soon(hearing, 10)
    assert caught.value.retryable
    at = round(16000 * finals(heard)[-1].end) * 2
    async with opened(provider) as stream:
        assert said(heard) + said(await transcribed(stream, AUDIO[at:])) == WORDS


@pytest.mark.parametrize(
    "fault",
    [
        {"language_info": True},
        {"late_punctuation": True},
        {"overreaching_finals": True},
        {"quiet_in_silence": True},
        {"extra_fields": True},
        {"latency_seconds": 0.1},
    ],
)
async def test_oddities_change_no_word(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault)
    async with opened(provider) as stream:
        events = await transcribed(stream)
    assert said(events) == WORDS
    assert [event.event for event in events if isinstance(event, Turn)] == ["started", "ended"] * 3
    for final in finals(events):
        assert not [p for p in PLACES if p.start + 0.01 < final.end < p.end - 0.01]
    assert "unknown" not in notices(events)


async def test_a_provider_that_is_mute_can_be_closed(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(mute_after_seconds=0)
    stream = await provider.open(request())
    await send(stream, AUDIO)
    await stream.finish()
    hearing = asyncio.create_task(hear(stream))
    await until(lambda: emulator.log[0].audio_seconds > 5, "all audio was heard")
    assert not hearing.done()
    await soon(stream.close(), 1)
    with pytest.raises(Dropped):
        await hearing


async def test_an_iterator_that_is_slow_holds_the_server_back(
    make: Make, emulator: SpeechmaticsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that wait are bounded; none is lost."""
    monkeypatch.setattr("worker.providers.speechmatics.connection._MAX_EVENTS", 5)
    async with opened(make(max_unacknowledged_seconds=1.0)) as stream:
        sending = asyncio.create_task(send(stream, AUDIO))
        await until(lambda: len(stream._events) >= 5, "events wait")  # type: ignore[attr-defined]
        assert not sending.done()
        events = aiter(stream)
        found = [await anext(events)]
        hearing = asyncio.create_task(_rest(events, found))
        await sending
        await stream.finish()
        await soon(hearing, 10)
        assert said(found) == WORDS


async def _rest(events: Any, found: list[ProviderEvent]) -> None:
    async for event in events:
        found.append(event)


def test_the_format_of_the_tests_is_one_that_needs_no_conversion() -> None:
    assert LINEAR_16K.encoding in SpeechmaticsProvider.capabilities.encodings

"""The stream against the emulator: faults and their errors."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import pytest

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import ProviderEvent, ProviderStream
from tests.emulators import tones
from tests.emulators.deepgram_flux import DeepgramFluxEmulator, FluxSession
from tests.emulators.faults import GARBAGE
from tests.waiting import bound, soon, until, within
from worker.providers.deepgram_flux import DeepgramFluxProvider

from .conftest import (
    AUDIO,
    EARLY,
    LONG,
    MONOLOGUE,
    WORDS,
    Make,
    codes,
    fails,
    finals,
    hear,
    opened,
    request,
    said,
    send,
    transcribed,
    turns,
)

# ---- no connection --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (400, RequestRefused, "request"),
        (401, RequestRefused, "auth"),
        (402, RequestRefused, "credit"),
        (403, RequestRefused, "auth"),
        (404, RequestRefused, "request"),
        (408, Unavailable, "server_error"),
        (429, Unavailable, "rate_limit"),
        (503, Unavailable, "server_error"),
    ],
)
async def test_refused_handshakes(
    provider: DeepgramFluxProvider,
    emulator: DeepgramFluxEmulator,
    status: int,
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(handshake_status=status, handshakes=1)
    with pytest.raises(kind) as caught:
        await provider.open(request())
    assert (caught.value.cause, caught.value.code) == (cause, str(status))
    assert caught.value.provider == "deepgram-flux"
    async with opened(provider):
        pass


@pytest.mark.parametrize(
    "fault",
    [
        {"refuse": True},
        {"handshake_drop": True},
        {"handshake_delay_seconds": 9},
        {"no_connected": True},
        {"latency_seconds": 9},
    ],
)
async def test_unreachable(
    make: Make, emulator: DeepgramFluxEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault)
    provider = make(connect_timeout_seconds=1.5, connected_timeout_seconds=1.5)
    with pytest.raises(Unavailable) as caught:
        await soon(provider.open(request()), 5)
    assert caught.value.cause == "connect"
    await until(lambda: not emulator.open_connections, "nothing is left open")
    await emulator.clear()
    async with opened(provider):
        pass


async def test_garbage_before_connected(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(garbage=("not_json",))
    async with opened(provider) as stream:
        assert said(await transcribed(stream, AUDIO)) == WORDS


async def test_an_end_before_connected(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(no_connected=True, inactive_seconds=0.05)
    with pytest.raises(Dropped, match="INACTIVE_CLIENT"):
        await provider.open(request())
    await emulator.clear()
    await until(lambda: not emulator.open_connections, "that one is gone")
    await emulator.set(no_connected=True)
    opening = asyncio.create_task(provider.open(request()))
    await until(lambda: emulator.open_connections, "connected")
    emulator.drop()
    with pytest.raises(Dropped):
        await soon(opening, 2)


# ---- faults of a connection that stands -----------------------------------------------------


@pytest.mark.parametrize("fault", [{"drop_mid_word": 5}, {"drop_after_seconds": 2}])
async def test_drops(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault, connections=1)
    async with opened(provider) as stream:
        assert isinstance(await fails(stream, AUDIO), Dropped)
    assert emulator.log[0].closed == "dropped"
    async with opened(provider) as stream:
        assert said(await transcribed(stream, AUDIO)) == WORDS


async def test_a_drop_before_the_close(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    """Only a close without a status confirms that all audio was transcribed."""
    await emulator.set(drop_before_summary=True)
    async with opened(provider) as stream:
        await send(stream, AUDIO)
        await stream.finish()
        heard: list[ProviderEvent] = []
        with pytest.raises(Dropped):
            await hear(stream, heard)
        assert said(heard) == WORDS


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1000, Dropped), (1001, Dropped), (1011, Dropped), (1008, RequestRefused)],
)
async def test_closes(
    provider: DeepgramFluxProvider,
    emulator: DeepgramFluxEmulator,
    code: int,
    kind: type[ProviderError],
) -> None:
    await emulator.set(close_after_seconds=1, close_code=code, close_reason="for a reason")
    async with opened(provider) as stream:
        error = await fails(stream, AUDIO)
    assert isinstance(error, kind)
    assert error.code == str(code)
    assert "for a reason" in str(error)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INTERNAL_SERVER_ERROR", Unavailable),
        ("INACTIVE_CLIENT", Dropped),
        ("UNPARSABLE_CLIENT_MESSAGE", RequestRefused),
    ],
)
async def test_fatal_errors(
    provider: DeepgramFluxProvider,
    emulator: DeepgramFluxEmulator,
    code: str,
    kind: type[ProviderError],
) -> None:
    await emulator.set(error_after_seconds=2, error_code=code)
    for _ in range(2):
        async with opened(provider) as stream:
            error = await fails(stream, AUDIO)
        assert type(error) is kind
        assert error.code == code


async def test_an_unknown_error_is_retried_once(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(error_after_seconds=0.1, error_code="MOON")
    kinds = []
    for session in ("a", "b", "a", "b"):
        async with opened(provider, session_id=session) as stream:
            kinds.append(type(await fails(stream, AUDIO)))
    assert kinds == [Unavailable, Unavailable, RequestRefused, RequestRefused]
    # A stream that made words final was one that worked.
    await emulator.set(error_after_seconds=4)
    async with opened(provider, session_id="a") as stream:
        assert type(await fails(stream, AUDIO)) is Unavailable


async def test_a_stream_that_was_forgotten(make: Make, emulator: DeepgramFluxEmulator) -> None:
    await emulator.set(inactive_seconds=0.3)
    provider = make(keepalive_seconds=50, ping_seconds=50)
    async with opened(provider) as stream:
        error = await fails(stream, b"")
    assert isinstance(error, Dropped)
    assert error.code == "INACTIVE_CLIENT"


async def test_garbage_is_counted_and_skipped(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    async with opened(provider) as stream:
        await emulator.set(garbage=("all",))
        events = await transcribed(stream, AUDIO)
    assert said(events) == WORDS
    # An unknown type is well-formed. Six more kinds are this protocol's own.
    assert codes(events).count("unknown") == 1
    assert codes(events).count("malformed") == len(GARBAGE) + 6 - 1


@pytest.mark.parametrize("field", ["audio_window_end", "words", "turn_index"])
async def test_a_malformed_end_of_turn_ends_the_stream(
    provider: DeepgramFluxProvider,
    emulator: DeepgramFluxEmulator,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
) -> None:
    """Otherwise the next final would cover its words, which no other message repeats."""
    dress = FluxSession._outgoing

    def distorted(self: FluxSession, messages: list[dict[str, Any]]) -> list[Any]:
        return dress(self, [m | {field: "?"} if second(m) else m for m in messages])

    def second(message: dict[str, Any]) -> bool:
        return message.get("event") == "EndOfTurn" and message["turn_index"] == 1

    monkeypatch.setattr(FluxSession, "_outgoing", distorted)
    events: list[ProviderEvent] = []
    async with opened(provider) as stream:
        with pytest.raises(RemoteProtocolError, match=field) as caught:
            await first_error(stream, AUDIO, events)
    assert caught.value.retryable
    assert said(events) == WORDS[:4]
    # Who goes on from the last final misses nothing.
    monkeypatch.undo()
    async with opened(provider) as stream:
        rest = await transcribed(stream, AUDIO[2 * round(16000 * finals(events)[-1].end) :])
    assert said(rest) == WORDS[4:]


async def first_error(stream: ProviderStream, audio: bytes, events: list[ProviderEvent]) -> None:
    """Append the events to `events`, and raise the error that the iterator ends with."""
    async with within(15):
        iterating = asyncio.create_task(hear(stream, events))
        with contextlib.suppress(ProviderError):
            await send(stream, audio)
        await iterating


@pytest.mark.parametrize(
    "fault",
    [
        {"decode_lag_seconds": 0.0},
        {"decode_lag_seconds": 0.6},
        {"resume_after_eager": True},
        {"words_without_times": "end_of_turn"},
        {"words_without_times": "always"},
        {"no_words": True},
        {"legacy_close": True},
        {"missing_start": True},
        {"unknown_events": True},
        {"unknown_trigger": True},
        {"extra_fields": True},
        {"latency_seconds": 0.1},
        {"lost_end_of_turn": True},
        {"sequence_gap_after": 5},
    ],
)
@pytest.mark.parametrize("eager", [False, 0.4])
async def test_unusual_messages_lose_no_word(
    provider: DeepgramFluxProvider,
    emulator: DeepgramFluxEmulator,
    fault: dict[str, Any],
    eager: float | bool,
) -> None:
    await emulator.set(**fault)
    async with opened(provider, options={"eager_eot_threshold": eager}) as stream:
        events = await transcribed(stream, AUDIO)
    assert said(events) == WORDS
    assert [kind for kind in turns(events) if kind in ("started", "ended")] == [
        *("started", "ended") * 3
    ]
    assert (codes(events) == ["sequence_gap"]) == ("sequence_gap_after" in fault)
    for before, after in itertools.pairwise(finals(events)):
        assert before.end <= after.start + 1e-9
    for final in finals(events):
        assert all(word.start is not None for word in final.words)
    if "resume_after_eager" in fault and eager:
        assert turns(events).count("resumed") == 3


async def test_finals_never_change(make: Make, emulator: DeepgramFluxEmulator) -> None:
    """Later messages do not change them; the words after them appear once."""
    await emulator.set(contradict_after_seconds=4)
    async with opened(make(**EARLY)) as stream:
        events = await transcribed(stream, MONOLOGUE)
    assert said(events) == LONG
    await emulator.set(contradict_after_seconds=1)
    async with opened(make(**EARLY)) as stream:
        events = await transcribed(stream, MONOLOGUE)
    assert [word if word in LONG else word[::-1] for word in said(events)] == LONG


async def test_a_long_turn_without_times(make: Make, emulator: DeepgramFluxEmulator) -> None:
    """It cannot be made final in pieces, and loses nothing."""
    await emulator.set(words_without_times="always")
    async with opened(make(**EARLY)) as stream:
        events = await transcribed(stream, MONOLOGUE)
    assert said(events) == LONG
    (final,) = [final for final in finals(events) if final.text]
    assert final.times_estimated


@pytest.mark.parametrize("fault", [{"mute_after_seconds": 0}, {"mute_in_turn_words": 2}])
async def test_a_stream_of_a_mute_provider_can_be_closed(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault)
    stream = await provider.open(request())
    await send(stream, AUDIO)
    hearing = asyncio.create_task(hear(stream))
    await until(lambda: emulator.log[0].audio_seconds > 5, "all audio was heard")
    assert not hearing.done()
    await soon(stream.close(), 1)
    with pytest.raises(Dropped):
        await hearing


async def test_the_end_of_a_stream_that_is_mute_in_a_turn(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    """It is asked to end the turn and the stream all the same. That its close is in order does not
    mean that all was said."""
    await emulator.set(mute_in_turn_words=3)
    async with opened(provider) as stream:
        await send(stream, tones.encode(WORDS[:8], tail_seconds=1))
        await stream.finish()
        heard: list[ProviderEvent] = []
        with pytest.raises(Stalled, match=r"the last 2\.\d s") as stalled:
            await soon(hear(stream, heard), 10)
        assert stalled.value.cause == "mute"
    assert not said(heard)
    assert emulator.log[0].texts == {"ForceEndTurn": 1, "CloseStream": 1}


async def test_sending_blocks_if_the_server_does_not_read(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    """It blocks within a few seconds of audio, and the blocked stream can be closed."""
    await emulator.set(stop_reading_after_seconds=0)
    stream = await provider.open(request())
    sent = 0

    async def endless() -> None:
        nonlocal sent
        while True:
            await stream.send(tones.silence(0.08))
            sent += 1

    sending = asyncio.create_task(endless())
    hearing = asyncio.create_task(hear(stream))
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(bound(0.1))  # so long nothing more was taken
    assert sent * 0.08 < 15
    await soon(stream.close(), 1)
    for task in (sending, hearing):
        with pytest.raises(Dropped):
            await soon(task, 1)


async def test_an_unread_server_keeps_its_word(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    """Messages that arrive while the iterator is slow are not lost."""
    async with opened(provider) as stream:
        await send(stream, AUDIO)
        await stream.finish()
        await until(lambda: emulator.log[0].audio_seconds > 5, "the server has heard it")
        assert said(await hear(stream)) == WORDS


async def test_more_streams_than_a_pool_would_hold(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    async with within(20):
        streams = await asyncio.gather(*(provider.open(request()) for _ in range(120)))
    assert emulator.open_connections == 120
    await asyncio.gather(*(stream.close() for stream in streams))
    await until(lambda: not emulator.open_connections, "all connections are gone")

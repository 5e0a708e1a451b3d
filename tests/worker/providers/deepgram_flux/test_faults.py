"""The stream against the emulator: faults and their errors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux import DeepgramFluxEmulator, FluxSession
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import ProviderEvent
from tests.waiting import soon
from worker.providers.deepgram_flux import DeepgramFluxProvider

from ..emulated.streams import (
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
    turns,
)
from .speech import EARLY, LONG, MONOLOGUE, Make

# ---- no connection --------------------------------------------------------------------------


async def test_an_end_before_connected(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(no_connected=True, inactive_seconds=0.05)
    with pytest.raises(Dropped, match="INACTIVE_CLIENT"):
        await provider.open(request())


# ---- faults of an open stream ---------------------------------------------------------------


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
        _, error = await fail(provider)
        assert type(error) is kind
        assert error.code == code


async def test_an_unknown_error_is_retried_once(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator
) -> None:
    await emulator.set(error_after_seconds=0.1, error_code="MOON")
    kinds = []
    for session in ("a", "b", "a", "b"):
        kinds.append(type((await fail(provider, session_id=session))[1]))
    assert kinds == [Unavailable, Unavailable, RequestRefused, RequestRefused]
    # The stream worked, since it made words final.
    await emulator.set(error_after_seconds=4)
    _, error = await fail(provider, session_id="a")
    assert type(error) is Unavailable


async def test_an_inactive_stream_is_ended(make: Make, emulator: DeepgramFluxEmulator) -> None:
    await emulator.set(inactive_seconds=0.3)
    provider = make(keepalive_seconds=50, ping_seconds=50)
    _, error = await fail(provider, b"")
    assert isinstance(error, Dropped)
    assert error.code == "INACTIVE_CLIENT"


def changing_the_second_end(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have the server change the EndOfTurn of the second turn."""
    outgoing = FluxSession._outgoing

    def changed(self: FluxSession, messages: list[dict[str, Any]]) -> list[Any]:
        return outgoing(self, [m | changes if second(m) else m for m in messages])

    def second(message: dict[str, Any]) -> bool:
        return message.get("event") == "EndOfTurn" and message["turn_index"] == 1

    monkeypatch.setattr(FluxSession, "_outgoing", changed)


async def test_an_end_of_turn_that_cannot_be_read_ends_the_stream(
    provider: DeepgramFluxProvider,
    emulator: DeepgramFluxEmulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the next final would cover its words, which no other message repeats."""
    changing_the_second_end(monkeypatch, transcript=7, words=[7])
    events, error = await fail(provider)
    assert isinstance(error, RemoteProtocolError)
    assert error.retryable
    assert final_words(events) == WORDS[:4]
    monkeypatch.undo()
    await resume(provider, events)


@pytest.mark.parametrize(
    "changes", [{"audio_window_end": "?"}, {"words": "?"}, {"transcript": 7}, {"turn_index": None}]
)
async def test_a_bad_field_of_an_end_of_turn_loses_no_word(
    provider: DeepgramFluxProvider,
    emulator: DeepgramFluxEmulator,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    changing_the_second_end(monkeypatch, **changes)
    assert final_words(await transcribe(provider)) == WORDS


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
    events = await transcribe(provider, options={"eager_eot_threshold": eager})
    assert final_words(events) == WORDS
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
    events = await transcribe(make(**EARLY), MONOLOGUE)
    assert final_words(events) == LONG
    await emulator.set(contradict_after_seconds=1)
    events = await transcribe(make(**EARLY), MONOLOGUE)
    assert [word if word in LONG else word[::-1] for word in final_words(events)] == LONG


async def test_a_long_turn_without_times(make: Make, emulator: DeepgramFluxEmulator) -> None:
    """It cannot be made final in pieces, and loses nothing."""
    await emulator.set(words_without_times="always")
    events = await transcribe(make(**EARLY), MONOLOGUE)
    assert final_words(events) == LONG
    (final,) = [final for final in finals(events) if final.text]
    assert final.times_estimated


async def test_the_end_of_a_stream_that_is_mute_in_a_turn(
    provider: DeepgramFluxProvider, emulator: DeepgramFluxEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client ends the turn and the stream anyway. A normal close does not mean that everything
    was transcribed."""
    monkeypatch.setattr("worker.providers.deepgram_flux.upkeep._ANSWER_SECONDS", 0.2)
    await emulator.set(mute_in_turn_words=3)
    async with opened(provider) as stream:
        await send(stream, tones.encode(WORDS[:8], tail_seconds=1))
        await stream.finish()
        events: list[ProviderEvent] = []
        with pytest.raises(Stalled, match=r"the last 2\.\d s") as stalled:
            await soon(collect(stream, events), 10)
        assert stalled.value.cause == "mute"
    assert not final_words(events)
    assert emulator.log[0].texts == {"ForceEndTurn": 1, "CloseStream": 1}

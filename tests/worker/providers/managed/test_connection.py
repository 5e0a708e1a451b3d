"""The socket, against the emulator: what goes well, and every fault told apart."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import traceback
from collections.abc import Callable
from typing import Any, cast

import pytest
from aiohttp import web

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
    Usage,
)
from tests.emulators import tones
from tests.emulators.faults import GARBAGE
from tests.emulators.managed import ManagedEmulator, ManagedFaults, ManagedSession
from tests.emulators.session import Outgoing, Session
from tests.waiting import bound, soon, until, within
from worker.providers.managed import ManagedProvider, protocol
from worker.providers.managed.connection import ManagedStream
from worker.providers.managed.memory import MuteMemory
from worker.providers.managed.protocol import Transcript

from .conftest import TOKEN, hear, opened, request, send

Make = Callable[..., ManagedProvider]
WORDS = tones.sequence(12)
AUDIO = tones.encode(WORDS, phrase_words=4, lead_seconds=0.3, tail_seconds=1)


def said(events: list[ProviderEvent]) -> list[str]:
    return [w for e in events if isinstance(e, Final) for w in tones.words_of(e.text)]


def extended(emulator: ManagedEmulator) -> bool:
    return cast(ManagedFaults, emulator.faults).extended


async def transcribed(stream: ProviderStream, audio: bytes = AUDIO) -> list[ProviderEvent]:
    async with within(15), asyncio.TaskGroup() as tasks:
        hearing = tasks.create_task(hear(stream))
        await send(stream, audio)
        await stream.finish()
    return hearing.result()


async def collect(stream: ProviderStream, into: list[ProviderEvent]) -> None:
    async for event in stream:
        into.append(event)


async def fails(
    stream: ProviderStream, audio: bytes = AUDIO
) -> tuple[list[ProviderEvent], ProviderError]:
    """Return the events before the error that the iterator ends with, and the error."""
    heard: list[ProviderEvent] = []
    async with within(15):
        iterating = asyncio.create_task(collect(stream, heard))
        with contextlib.suppress(ProviderError):
            await send(stream, audio)
        with pytest.raises(ProviderError) as caught:
            await iterating
    return heard, caught.value


async def fails_at_end(stream: ProviderStream) -> tuple[list[ProviderEvent], ProviderError]:
    """Do the same as `fails` after `finish`."""
    await send(stream, AUDIO)
    await stream.finish()
    return await fails(stream, b"")


async def goes_on(provider: ManagedProvider, heard: list[ProviderEvent]) -> None:
    """Where the finals end, as the worker does: nothing is lost or doubled."""
    end = max((event.end for event in heard if isinstance(event, Final)), default=0.0)
    async with opened(provider) as stream:
        rest = await transcribed(stream, AUDIO[round(end * 16000) * 2 :])
    assert said(heard) + said(rest) == WORDS


# ---- what goes well -------------------------------------------------------------------------


async def test_a_stream(provider: ManagedProvider, emulator: ManagedEmulator) -> None:
    async with opened(provider, language="de", model="nova-3") as stream:
        events = await transcribed(stream)
        assert stream.reference == (emulator.log[0].request_id if extended(emulator) else None)
    assert said(events) == WORDS
    finals = [event for event in events if isinstance(event, Final)]
    assert all(a.end <= b.start for a, b in itertools.pairwise(finals))
    assert finals[-1].end <= len(AUDIO) / 32000
    words = [word for final in finals for word in final.words]
    for word, place in zip(
        words, tones.places(WORDS, phrase_words=4, lead_seconds=0.3), strict=True
    ):
        assert word.start == pytest.approx(place.start, abs=0.2)
    assert [event for event in events if isinstance(event, Interim)]
    await until(lambda: emulator.log[0].closed, "the server saw the end")
    if extended(emulator):
        assert Usage(audio_seconds=round(len(AUDIO) / 32000, 3)) in events
        assert emulator.log[0].texts == {"auth": 1, "end": 1}
        assert emulator.log[0].closed == "server 1000"
    else:
        assert emulator.log[0].texts == {"auth": 1}
        assert emulator.log[0].closed == "client 1000"
        # The silence that ends the last utterance is no part of the stream's audio.
        assert emulator.log[0].audio_seconds > len(AUDIO) / 32000


async def test_the_first_frame_is_what_the_sheet_says(make: Make) -> None:
    """Letter by letter, as a server sees it."""
    frames: list[str] = []

    class ListeningSession(ManagedSession):
        def text(self, message: str) -> list[Outgoing]:
            frames.append(message)
            return super().text(message)

    class Listening(ManagedEmulator):
        def admit(self, request: web.Request) -> Session:
            assert not {"Authorization", "Sec-WebSocket-Protocol"} & set(request.headers)
            assert request.query_string == ""
            return ListeningSession(self.faults, self.api_key)

    async with Listening(api_key=TOKEN) as emulator, opened(make(url=emulator.url)):
        pass
    assert json.loads(frames[0]) == {
        "type": "auth",
        "token": TOKEN,
        "config": {
            "model": "nova-2",
            "language": "en-US",
            "sample_rate": 16000,
            "channels": 1,
            "encoding": "linear16",
            "interim_results": True,
        },
    }


@pytest.mark.parametrize("switches", [{"blanks": False}, {"interims": False}])
async def test_proxies_that_pass_on_less(
    provider: ManagedProvider, emulator: ManagedEmulator, switches: dict[str, Any]
) -> None:
    await emulator.set(**switches)
    async with opened(provider) as stream:
        assert said(await transcribed(stream)) == WORDS


async def test_extensions_as_set(make: Make, emulator: ManagedEmulator) -> None:
    async with opened(make(extensions="off")) as stream:
        assert said(await transcribed(stream)) == WORDS
    assert emulator.log[0].texts == {"auth": 1}
    if not extended(emulator):
        return
    provider = make(extensions="on")
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await send(stream, tones.encode(WORDS[:2], tail_seconds=0.1))
        await stream.finalize()
        await until(lambda: said(events) == WORDS[:2], "what was said is final")
        await stream.finish()
        await soon(collecting, 5)
    assert emulator.log[1].texts == {"auth": 1, "finalize": 1, "end": 1}


async def test_ready_again_changes_nothing(
    provider: ManagedProvider, emulator: ManagedEmulator
) -> None:
    await emulator.set(ready_again_after_seconds=1)
    async with opened(provider) as stream:
        events = await transcribed(stream)
    assert said(events) == WORDS
    assert emulator.log[0].messages["ready"] == 2
    assert not [event for event in events if isinstance(event, Notice)]


async def test_low_credit(provider: ManagedProvider, emulator: ManagedEmulator) -> None:
    await emulator.set(credits_seconds=61)
    async with opened(provider) as stream:
        events = await transcribed(stream)
    usage = [event for event in events if isinstance(event, Usage) and event.low]
    assert [event.credits_remaining_seconds for event in usage] == [61, 60]
    assert said(events) == WORDS


async def test_nothing_late_is_sent(provider: ManagedProvider) -> None:
    async with opened(provider) as stream:
        await stream.finish()
        await stream.finish()
        with pytest.raises(RuntimeError):
            await stream.send(AUDIO)
        events = await soon(hear(stream), 5)
    assert not said(events)


async def test_the_last_texts_are_waited_for(
    provider: ManagedProvider, emulator: ManagedEmulator
) -> None:
    """Speech that nothing was said about is owed an answer, however late."""
    await emulator.set(latency_seconds=2)
    async with opened(provider) as stream:
        assert said(await transcribed(stream)) == WORDS


async def test_the_wait_for_the_last_texts_is_bounded(
    make: Make, emulator: ManagedEmulator
) -> None:
    await emulator.set(mute_after_seconds=1)
    stream = await make(end_wait_seconds=0.5).open(request())
    await send(stream, AUDIO)
    await stream.finish()
    if extended(emulator):
        # A proxy that takes `end` will close; the worker bounds that wait.
        hearing = asyncio.create_task(hear(stream))
        await until(lambda: emulator.log[0].texts.get("end"), "it was told")
        assert not hearing.done()
        await stream.close()
        with pytest.raises(Dropped):
            await hearing
    else:
        with pytest.raises(Stalled) as caught:
            await soon(hear(stream), 3)
        assert caught.value.cause == "finish"
    await stream.close()


@pytest.mark.parametrize("emulator", [False], indirect=True, ids=["plain"])
async def test_what_nothing_is_said_about_twice_ends_the_stream(
    make: Make, emulator: ManagedEmulator
) -> None:
    """Else noise at the end would be sent again for ever. Another session is another matter."""
    await emulator.set(mute_after_seconds=0)
    provider = make(end_wait_seconds=0.5)
    async with opened(provider) as stream:
        _, error = await fails_at_end(stream)
    assert error.cause == "finish"
    other = await provider.open(dataclasses.replace(request(), session_id="other"))
    _, error = await fails_at_end(other)
    assert error.cause == "finish"
    await other.close()
    async with opened(provider) as stream:
        events = await transcribed(stream)
    (event,) = [event for event in events if isinstance(event, Final)]
    assert (event.text, event.end) == ("", len(AUDIO) / 32000)
    async with opened(provider) as stream:  # remembered once
        _, error = await fails_at_end(stream)
    assert error.cause == "finish"


@pytest.mark.parametrize("emulator", [False], indirect=True, ids=["plain"])
async def test_texts_after_the_end_are_not_final_before_all_was_said(
    make: Make, emulator: ManagedEmulator
) -> None:
    """The proxy dies while it says the rest: all that is said again was not final."""
    await emulator.set(mute_after_seconds=3, latency_seconds=0.5)
    provider = make(end_wait_seconds=1)
    async with opened(provider) as stream:
        heard, error = await fails_at_end(stream)
    assert isinstance(error, Stalled)
    assert error.cause == "finish"
    assert said(heard) != WORDS
    await emulator.clear()
    await goes_on(provider, heard)


@pytest.mark.parametrize("emulator", [False], indirect=True, ids=["plain"])
async def test_texts_that_keep_coming_are_waited_for(make: Make, emulator: ManagedEmulator) -> None:
    """The bound is of the time since the last text, not since the end of audio."""
    pause = bound(0.3)
    stream = await make(end_wait_seconds=3 * pause).open(request())
    heard: list[ProviderEvent] = []
    await emulator.set(mute_after_seconds=0)
    audio = tones.encode(WORDS * 2, phrase_words=1, pause_seconds=1, tail_seconds=0.5)
    await send(stream, audio)
    await stream.finish()
    collecting = asyncio.create_task(collect(stream, heard))
    assert isinstance(stream, ManagedStream)
    for word in WORDS[:4]:
        await asyncio.sleep(pause)  # four of them are longer than the bound
        assert not collecting.done()
        heard += stream._hold_back(stream.decode(protocol.encode_server(Transcript(word, True))))
    assert not said(heard), "not final before all was said"
    assert [event for event in heard if isinstance(event, Interim)][-1].text.split() == WORDS[:4]
    with pytest.raises(Stalled):
        await soon(collecting, 15)
    await stream.close()


async def test_a_mute_proxy_is_found_out(make: Make, emulator: ManagedEmulator) -> None:
    """Its upstream is gone: nothing after the last text becomes final, and a second stream is
    asked; what that has no answer to either is passed over, so that noise does not loop."""
    await emulator.set(mute_after_seconds=0)
    provider = make(quiet_seconds=1)
    audio = AUDIO + tones.silence(2)
    async with opened(provider) as stream:
        heard, error = await fails(stream, audio)
    assert isinstance(error, Stalled)
    assert error.cause == "mute"
    await emulator.clear()
    await goes_on(provider, heard)

    await emulator.set(mute_after_seconds=0)
    async with opened(provider) as stream:
        heard, error = await fails(stream, audio)
    assert error.cause == "mute"
    assert not [event for event in heard if isinstance(event, Final) and event.end > 0.5]
    async with opened(provider) as stream:
        again: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, again))
        await send(stream, audio)
        await until(
            lambda: any(isinstance(event, Final) and event.end > 4 for event in again),
            "it was passed over",
        )
        await stream.close()
        with pytest.raises(Dropped):
            await collecting
    assert not said(again)


def test_the_memory_of_mute_streams_is_bounded() -> None:
    memory = MuteMemory()
    for number in range(3000):
        memory.note(str(number), 20.0, now=0.0)
    assert memory.take("0", 1.0) == 0.0
    assert memory.take("2999", 1.0) == 20.0
    assert memory.take("2999", 1.0) == 0.0
    assert memory.take("2998", 1000.0) == 0.0, "another provider may have gone on meanwhile"


# ---- not ready ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        ("bad_request", RequestRefused, "request"),
        ("auth_failed", RequestRefused, "auth"),
        ("credits_exhausted", RequestRefused, "credit"),
        ("too_many_sessions", Unavailable, "rate_limit"),
        ("upstream_unavailable", Unavailable, "server_error"),
        ("internal", Unavailable, "server_error"),
        ("never_heard_of", Unavailable, "server_error"),
    ],
)
async def test_errors_before_ready(
    provider: ManagedProvider,
    emulator: ManagedEmulator,
    code: str,
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(auth_error=code)
    with pytest.raises(kind) as caught:
        await provider.open(request())
    assert (caught.value.cause, caught.value.code) == (cause, code)
    assert "refused by a switch" in str(caught.value)
    await emulator.clear()
    async with opened(provider):
        pass


async def test_the_wrong_token_shows_nowhere(
    provider: ManagedProvider, emulator: ManagedEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    emulator.api_key = "another"
    with pytest.raises(RequestRefused, match=r"Token is invalid.*auth_failed") as caught:
        await provider.open(request())
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert TOKEN not in shown + caplog.text


async def test_no_reply(make: Make, emulator: ManagedEmulator) -> None:
    await emulator.set(first_reply="none")
    with pytest.raises(Stalled) as caught:
        await make(ready_timeout_seconds=0.2).open(request())
    assert caught.value.cause == "mute"
    await until(lambda: not emulator.open_connections, "the connection is let go of")


@pytest.mark.parametrize("reply", ["transcript", "unknown"])
async def test_another_first_reply(
    provider: ManagedProvider, emulator: ManagedEmulator, reply: str
) -> None:
    await emulator.set(first_reply=reply)
    with pytest.raises(RemoteProtocolError):
        await provider.open(request())
    await until(lambda: not emulator.open_connections, "the connection is let go of")


async def test_dropped_before_ready(make: Make, emulator: ManagedEmulator) -> None:
    await emulator.set(first_reply="none")
    opening = asyncio.create_task(make().open(request()))
    await until(lambda: emulator.log and emulator.log[0].texts, "the token was sent")
    emulator.drop()
    with pytest.raises(Dropped):
        await soon(opening, 5)


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [(401, RequestRefused, "auth"), (404, RequestRefused, "request"), (503, Unavailable, None)],
)
async def test_refused_handshakes(
    provider: ManagedProvider,
    emulator: ManagedEmulator,
    status: int,
    kind: type[ProviderError],
    cause: str | None,
) -> None:
    await emulator.set(handshake_status=status, handshakes=1)
    with pytest.raises(kind) as caught:
        await provider.open(request())
    assert caught.value.cause == (cause or "server_error")
    async with opened(provider):
        pass


@pytest.mark.parametrize(
    "fault", [{"refuse": True}, {"handshake_drop": True}, {"handshake_delay_seconds": 9}]
)
async def test_unreachable(make: Make, emulator: ManagedEmulator, fault: dict[str, Any]) -> None:
    await emulator.set(**fault)
    with pytest.raises(Unavailable) as caught:
        await make(connect_timeout_seconds=0.3).open(request())
    assert caught.value.cause == "connect"


# ---- faults of a session --------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"drop_mid_word": 5}, {"drop_after_seconds": 3}])
async def test_drops(
    provider: ManagedProvider, emulator: ManagedEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault, connections=1)
    async with opened(provider) as stream:
        heard, error = await fails(stream)
    assert isinstance(error, Dropped)
    await goes_on(provider, heard)


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        ("credits_exhausted", RequestRefused, "credit"),
        ("upstream_unavailable", Unavailable, "server_error"),
        ("internal", Unavailable, "server_error"),
        ("session_limit", Dropped, "dropped"),
    ],
)
async def test_errors_that_end_the_session(
    provider: ManagedProvider,
    emulator: ManagedEmulator,
    code: str,
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(error_after_seconds=2.5, error_code=code)
    async with opened(provider) as stream:
        heard, error = await fails(stream)
    assert isinstance(error, kind)
    assert (error.cause, error.code) == (cause, code)
    assert Notice("provider_error", f"[{code}] by a switch") in heard
    if extended(emulator):
        assert said(heard) == WORDS[:4]
    # Else a text may be kept whose place was not certain yet: it will be said again.
    await emulator.clear()
    await goes_on(provider, heard)


async def test_a_fatal_error_that_no_close_follows(
    provider: ManagedProvider, emulator: ManagedEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.managed.connection._GRACE_SECONDS", 0.2)
    await emulator.set(error_after_seconds=1, error_closes=False)
    async with opened(provider) as stream:
        _, error = await fails(stream)
    assert isinstance(error, Unavailable)


@pytest.mark.parametrize("code", [None, "display_only"])
async def test_other_errors_are_only_told(
    provider: ManagedProvider, emulator: ManagedEmulator, code: str | None
) -> None:
    await emulator.set(error_after_seconds=1, error_code=code, error_closes=False)
    async with opened(provider) as stream:
        events = await transcribed(stream)
    assert said(events) == WORDS
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.code == "provider_error"


async def test_credits_run_out(provider: ManagedProvider, emulator: ManagedEmulator) -> None:
    """Words received up to that point are still reported."""
    await emulator.set(credits_seconds=2.5)
    async with opened(provider) as stream:
        heard, error = await fails(stream)
    assert isinstance(error, RequestRefused)
    assert error.cause == "credit"
    assert any(isinstance(e, Usage) and e.audio_seconds is not None for e in heard)
    if extended(emulator):
        assert said(heard)[:4] == WORDS[:4]


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        (1000, Dropped, "dropped"),
        (1001, Dropped, "dropped"),
        (1008, RequestRefused, "request"),
        (1011, Unavailable, "server_error"),
        (4401, RequestRefused, "auth"),
    ],
)
async def test_closes_without_an_error(
    provider: ManagedProvider,
    emulator: ManagedEmulator,
    code: int,
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(close_after_seconds=1, close_code=code, close_reason="for a reason")
    async with opened(provider) as stream:
        _, error = await fails(stream)
    assert isinstance(error, kind)
    assert error.cause == cause
    assert "for a reason" in str(error)


async def test_garbage_is_counted_and_skipped(make: Make, emulator: ManagedEmulator) -> None:
    async with opened(make()) as stream:
        # Not `backwards`, which is a text (test_protocol): a stray one upsets the places.
        own = ("text_no_text", "no_seconds", "not_a_number")
        await emulator.set(garbage=(*GARBAGE, *own))
        words = tones.sequence(60)
        audio = tones.encode(words, phrase_words=6, tail_seconds=0.5)
        events = await transcribed(stream, audio)
    assert said(events) == words
    notices = [event.code for event in events if isinstance(event, Notice)]
    assert notices.count("unknown") == 1
    assert notices.count("malformed") == len(GARBAGE) + 3 - 1


async def test_nonsense_before_ready_is_passed_over(
    provider: ManagedProvider, emulator: ManagedEmulator
) -> None:
    await emulator.set(garbage=("not_json",))
    async with opened(provider) as stream:
        assert said(await transcribed(stream)) == WORDS


async def test_a_provider_that_is_mute_can_be_closed(
    provider: ManagedProvider, emulator: ManagedEmulator
) -> None:
    await emulator.set(mute_after_seconds=0)
    stream = await provider.open(request())
    hearing = asyncio.create_task(hear(stream))
    await send(stream, AUDIO)
    await until(lambda: emulator.log[0].audio_seconds > 5, "all audio was heard")
    assert not hearing.done()
    await soon(stream.close(), 1)
    with pytest.raises(Dropped):
        await hearing


async def test_sending_blocks_when_nobody_reads(
    provider: ManagedProvider, emulator: ManagedEmulator
) -> None:
    await emulator.set(stop_reading_after_seconds=0)
    stream = await provider.open(request())
    sending = asyncio.create_task(send(stream, tones.silence(600)))
    hearing = asyncio.create_task(hear(stream))
    done, _ = await asyncio.wait({sending}, timeout=1)
    assert not done
    await soon(stream.close(), 1)
    for task in (sending, hearing):
        with pytest.raises(Dropped):
            await soon(task, 1)


async def test_a_provider_that_was_closed_opens_no_more(provider: ManagedProvider) -> None:
    async with opened(provider):
        pass
    await provider.close()
    await provider.close()
    with pytest.raises(Unavailable):
        await provider.open(request())

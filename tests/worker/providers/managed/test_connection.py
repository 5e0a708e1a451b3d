"""Streams against the emulator: what only this provider does."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from aiohttp import web

from natterjack.emulators import tones
from natterjack.emulators.managed import ManagedEmulator, ManagedFaults, ManagedSession
from natterjack.emulators.session import Outgoing, Session
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
    Usage,
)
from tests.waiting import bound, soon, until
from worker.providers.managed import ManagedProvider, protocol
from worker.providers.managed.connection import ManagedStream
from worker.providers.managed.memory import MuteMemory
from worker.providers.managed.protocol import Transcript

from ..emulated.streams import (
    AUDIO,
    PLACES,
    WORDS,
    Failure,
    collect,
    fail,
    failure,
    final_words,
    finals,
    opened,
    request,
    resume,
    send,
    transcribe,
    transcribed,
)
from ..emulated.table import MANAGED

Make = Callable[..., ManagedProvider]
FRAME = 2048
"""64 ms."""


def extended(emulator: ManagedEmulator) -> bool:
    return cast(ManagedFaults, emulator.faults).extended


async def failure_after_finish(provider: ManagedProvider, session_id: str = "test") -> Failure:
    """Send all audio and finish, and return the events until iteration fails and its error."""
    async with opened(provider, session_id=session_id) as stream:
        await send(stream, AUDIO, FRAME)
        await stream.finish()
        return await failure(stream, b"")


async def test_a_stream(provider: ManagedProvider, emulator: ManagedEmulator) -> None:
    async with opened(provider, language="de", model="nova-3") as stream:
        events = await transcribed(stream, AUDIO, FRAME)
        assert stream.reference == (emulator.log[0].request_id if extended(emulator) else None)
    assert final_words(events) == WORDS
    assert all(a.end <= b.start for a, b in itertools.pairwise(finals(events)))
    assert finals(events)[-1].end <= len(AUDIO) / 32000
    words = [word for final in finals(events) for word in final.words]
    for word, place in zip(words, PLACES, strict=True):
        assert word.start == pytest.approx(place.start, abs=0.2)
    assert [event for event in events if isinstance(event, Interim)]
    await until(lambda: emulator.log[0].closed, "the connection was closed")
    if extended(emulator):
        assert Usage(audio_seconds=round(len(AUDIO) / 32000, 3)) in events
        assert emulator.log[0].texts == {"auth": 1, "end": 1}
        assert emulator.log[0].closed == "server 1000"
    else:
        assert emulator.log[0].texts == {"auth": 1}
        assert emulator.log[0].closed == "client 1000"
        # The silence that ends the last utterance is no part of the stream's audio.
        assert emulator.log[0].audio_seconds > len(AUDIO) / 32000


async def test_the_first_frame_is_that_of_the_fact_sheet(make: Make) -> None:
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

    async with Listening(api_key=MANAGED.secret) as emulator, opened(make(url=emulator.url)):
        pass
    assert json.loads(frames[0]) == {
        "type": "auth",
        "token": MANAGED.secret,
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
    assert final_words(await transcribe(provider)) == WORDS


async def test_extensions_as_set(make: Make, emulator: ManagedEmulator) -> None:
    assert final_words(await transcribe(make(extensions="off"))) == WORDS
    assert emulator.log[0].texts == {"auth": 1}
    if not extended(emulator):
        return
    provider = make(extensions="on")
    async with opened(provider) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await send(stream, tones.encode(WORDS[:2], tail_seconds=0.1))
        await stream.finalize()
        await until(lambda: final_words(events) == WORDS[:2], "the words are final")
        await stream.finish()
        await soon(collecting, 5)
    assert emulator.log[1].texts == {"auth": 1, "finalize": 1, "end": 1}


async def test_ready_again_changes_nothing(
    provider: ManagedProvider, emulator: ManagedEmulator
) -> None:
    await emulator.set(ready_again_after_seconds=1)
    events = await transcribe(provider)
    assert final_words(events) == WORDS
    assert emulator.log[0].messages["ready"] == 2
    assert not [event for event in events if isinstance(event, Notice)]


async def test_low_credit(provider: ManagedProvider, emulator: ManagedEmulator) -> None:
    await emulator.set(credits_seconds=61)
    events = await transcribe(provider)
    usage = [event for event in events if isinstance(event, Usage) and event.low]
    assert [event.credits_remaining_seconds for event in usage] == [61, 60]
    assert final_words(events) == WORDS


async def test_the_last_texts_are_awaited(
    provider: ManagedProvider, emulator: ManagedEmulator
) -> None:
    """A stream does not end while speech has no text yet."""
    await emulator.set(latency_seconds=0.5)
    assert final_words(await transcribe(provider)) == WORDS


async def test_the_wait_for_the_last_texts_is_bounded(
    make: Make, emulator: ManagedEmulator
) -> None:
    await emulator.set(mute_after_seconds=1)
    stream = await make(end_wait_seconds=0.5).open(request())
    await send(stream, AUDIO, FRAME)
    await stream.finish()
    if extended(emulator):
        # A proxy that takes `end` will close; the worker bounds that wait.
        collecting = asyncio.create_task(collect(stream))
        await until(lambda: emulator.log[0].texts.get("end"), "`end` was sent")
        assert not collecting.done()
        await stream.close()
        with pytest.raises(Dropped):
            await collecting
    else:
        with pytest.raises(Stalled) as caught:
            await soon(collect(stream), 3)
        assert caught.value.cause == "finish"
    await stream.close()


@pytest.mark.parametrize("case", [MANAGED], ids=["plain"])
async def test_audio_without_text_on_two_streams_is_final(
    make: Make, emulator: ManagedEmulator
) -> None:
    """Otherwise noise at the end would be sent again forever. Each session has its own memory."""
    await emulator.set(mute_after_seconds=0)
    provider = make(end_wait_seconds=0.5)
    for session_id in ("test", "other"):
        _, error = await failure_after_finish(provider, session_id)
        assert error.cause == "finish"
    events = await transcribe(provider)
    (event,) = finals(events)
    assert (event.text, event.end) == ("", len(AUDIO) / 32000)
    _, error = await failure_after_finish(provider)
    assert error.cause == "finish", "the memory is used once"


@pytest.mark.parametrize("case", [MANAGED], ids=["plain"])
async def test_texts_after_finish_are_not_final_before_the_last(
    make: Make, emulator: ManagedEmulator
) -> None:
    """The proxy stops while it sends the last texts. Texts that will be sent again are not
    final."""
    await emulator.set(mute_after_seconds=3, latency_seconds=0.5)
    provider = make(end_wait_seconds=1)
    events, error = await failure_after_finish(provider)
    assert isinstance(error, Stalled)
    assert error.cause == "finish"
    assert final_words(events) != WORDS
    await emulator.clear()
    await resume(provider, events)


@pytest.mark.parametrize("case", [MANAGED], ids=["plain"])
async def test_texts_that_keep_arriving_are_awaited(make: Make, emulator: ManagedEmulator) -> None:
    """The wait is limited since the last text, not since the end of audio."""
    pause = bound(0.08)
    stream = await make(end_wait_seconds=3 * pause).open(request())
    events: list[ProviderEvent] = []
    await emulator.set(mute_after_seconds=0)
    audio = tones.encode(WORDS * 2, phrase_words=1, pause_seconds=1, tail_seconds=0.5)
    await send(stream, audio, FRAME)
    await stream.finish()
    collecting = asyncio.create_task(collect(stream, events))
    assert isinstance(stream, ManagedStream)
    for word in WORDS[:4]:
        await asyncio.sleep(pause)  # four pauses are longer than the limit
        assert not collecting.done()
        events += stream._hold_back(stream.decode(protocol.encode_server(Transcript(word, True))))
    assert not final_words(events), "not final before the last text"
    assert [event for event in events if isinstance(event, Interim)][-1].text.split() == WORDS[:4]
    with pytest.raises(Stalled):
        await soon(collecting, 15)
    await stream.close()


async def test_a_mute_proxy_is_detected(make: Make, emulator: ManagedEmulator) -> None:
    """Its upstream is gone. Audio after the last text is sent again on a second stream; if that has
    no text either, it becomes final, so that noise is not sent again forever."""
    await emulator.set(mute_after_seconds=0)
    provider = make(quiet_seconds=1)
    audio = AUDIO + tones.silence(2)
    events, error = await fail(provider, audio)
    assert isinstance(error, Stalled)
    assert error.cause == "mute"
    await emulator.clear()
    await resume(provider, events)

    await emulator.set(mute_after_seconds=0)
    events, error = await fail(provider, audio)
    assert error.cause == "mute"
    assert not [event for event in events if isinstance(event, Final) and event.end > 0.5]
    async with opened(provider) as stream:
        again: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, again))
        await send(stream, audio, FRAME)
        await until(
            lambda: any(isinstance(event, Final) and event.end > 4 for event in again),
            "the audio became final without text",
        )
        await stream.close()
        with pytest.raises(Dropped):
            await collecting
    assert not final_words(again)


def test_the_memory_of_mute_streams_is_bounded() -> None:
    memory = MuteMemory()
    for number in range(3000):
        memory.note(str(number), 20.0, now=0.0)
    assert memory.take("0", 1.0) == 0.0
    assert memory.take("2999", 1.0) == 20.0
    assert memory.take("2999", 1.0) == 0.0
    assert memory.take("2998", 1000.0) == 0.0, "another provider may have continued meanwhile"


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


@pytest.mark.parametrize("reply", ["transcript", "unknown"])
async def test_another_first_reply(
    provider: ManagedProvider, emulator: ManagedEmulator, reply: str
) -> None:
    await emulator.set(first_reply=reply)
    with pytest.raises(RemoteProtocolError):
        await provider.open(request())
    await until(lambda: not emulator.open_connections, "the connection is closed")


# ---- faults of a session --------------------------------------------------------------------


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
    events, error = await fail(provider)
    assert isinstance(error, kind)
    assert (error.cause, error.code) == (cause, code)
    assert Notice("provider_error", f"[{code}] by a switch") in events
    if extended(emulator):
        assert final_words(events) == WORDS[:4]
    # Otherwise, a text whose position is not certain yet is not final. It is sent again.
    await emulator.clear()
    await resume(provider, events)


async def test_a_fatal_error_that_no_close_follows(
    provider: ManagedProvider, emulator: ManagedEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.managed.connection._GRACE_SECONDS", 0.2)
    await emulator.set(error_after_seconds=1, error_closes=False)
    _, error = await fail(provider)
    assert isinstance(error, Unavailable)


@pytest.mark.parametrize("code", [None, "display_only"])
async def test_other_errors_are_notices(
    provider: ManagedProvider, emulator: ManagedEmulator, code: str | None
) -> None:
    await emulator.set(error_after_seconds=1, error_code=code, error_closes=False)
    events = await transcribe(provider)
    assert final_words(events) == WORDS
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.code == "provider_error"


async def test_credits_run_out(provider: ManagedProvider, emulator: ManagedEmulator) -> None:
    """Words received up to that point are still reported."""
    await emulator.set(credits_seconds=2.5)
    events, error = await fail(provider)
    assert isinstance(error, RequestRefused)
    assert error.cause == "credit"
    assert any(isinstance(e, Usage) and e.audio_seconds is not None for e in events)
    if extended(emulator):
        assert final_words(events)[:4] == WORDS[:4]

"""Server messages that the emulator never sends, from a scripted server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
)
from natterjack.plugin.provider import (
    Final,
    Notice,
    ProviderEvent,
    ProviderStream,
    Turn,
    Usage,
)
from tests.waiting import soon, until, within
from worker.providers.deepgram import DeepgramProvider, connection

from ..emulated.streams import collect, opened, request
from ..emulated.table import DEEPGRAM

Make = Callable[..., DeepgramProvider]
Script = Callable[[web.WebSocketResponse, dict[str, Any]], Awaitable[None]]
"""The server's reaction to a text message. A synthetic message of type `Opened` comes first."""
BYTES_PER_SECOND = 32_000
UNANSWERED = "configure_unanswered"
SUMMARY = {"type": "Metadata", "duration": 3.0, "channels": 1}


@asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def scripted(make: Make, script: Script, **settings: Any) -> AsyncIterator[ProviderStream]:
    """Open a stream to a scripted server."""

    async def handler(asked: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(asked)
        await script(socket, {"type": "Opened"})
        async for message in socket:
            if message.type is web.WSMsgType.TEXT:
                await script(socket, json.loads(message.data))
        return socket

    async with serving(handler) as url, opened(make(url=url, **settings)) as stream:
        await stream.send(bytes(10 * BYTES_PER_SECOND))  # the audio that the messages are about
        yield stream


def results(
    start: float, end: float, *words: str, final: bool = True, **more: Any
) -> dict[str, Any]:
    step = (end - start) / (len(words) or 1)
    timed = [
        {"word": word, "start": start + i * step, "end": start + (i + 1) * step, "confidence": 1}
        for i, word in enumerate(words)
    ]
    best = {"transcript": " ".join(words), "confidence": 1, "words": timed}
    return {
        "type": "Results",
        "channel_index": [0, 1],
        "start": start,
        "duration": end - start,
        "is_final": final,
        "channel": {"alternatives": [best]},
        **more,
    }


def says(*messages: dict[str, Any]) -> Script:
    """A script that sends all messages at once, and ends normally on request."""

    async def script(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if message["type"] == "Opened":
            for content in messages:
                await socket.send_json(content)
        if message["type"] == "CloseStream":
            await socket.send_json(SUMMARY)
            await socket.close(code=1000)

    return script


async def ends(stream: ProviderStream) -> tuple[list[ProviderEvent], ProviderError | None]:
    """Collect the events until the stream ends, and the error it ends with."""
    events: list[ProviderEvent] = []
    try:
        async with within(5):
            async for event in stream:
                events.append(event)
    except ProviderError as error:
        return events, error
    return events, None


def texts(events: list[ProviderEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Final)]


def codes(events: list[ProviderEvent]) -> list[str]:
    """The codes of the notices, without those of messages that have no events."""
    found = [event.code for event in events if isinstance(event, Notice)]
    return [code for code in found if code != "received"]


# ---- finals that cannot be read -------------------------------------------------------------


def unreadable(final: bool) -> dict[str, Any]:
    message = results(1, 2, "two", final=final)
    del message["channel"]["alternatives"]
    return message


async def test_a_malformed_final_ends_the_stream(make: Make) -> None:
    """The next one would cover its audio without its words; the worker sends the audio again."""
    script = says(results(0, 1, "one"), unreadable(True), results(2, 3, "three"))
    async with scripted(make, script) as stream:
        await stream.finish()
        events, error = await ends(stream)
    assert texts(events) == ["one"]
    assert isinstance(error, RemoteProtocolError)
    assert error.retryable


async def test_without_interims_every_result_is_a_final(make: Make) -> None:
    script = says(results(0, 1, "one", final=False), unreadable(False), results(2, 3, "three"))
    async with scripted(make, script, interim_results=False) as stream:
        await stream.finish()
        events, error = await ends(stream)
    assert texts(events) == ["one"]
    assert isinstance(error, RemoteProtocolError)


async def test_a_malformed_interim_is_counted_and_skipped(make: Make) -> None:
    script = says(results(0, 1, "one"), unreadable(False), results(1, 3, "two", "three"))
    async with scripted(make, script) as stream:
        await stream.finish()
        events, error = await ends(stream)
    assert (texts(events), codes(events), error) == (["one", "two three"], ["malformed"], None)


# ---- the end --------------------------------------------------------------------------------


async def test_words_of_an_interim_must_become_final(make: Make) -> None:
    script = says(results(0, 2, "hello"), results(2, 3, "goodbye", final=False))
    async with scripted(make, script) as stream:
        await stream.finish()
        events, error = await ends(stream)
    assert texts(events) == ["hello"]
    assert not [event for event in events if isinstance(event, Turn) and event.event == "ended"]
    assert Usage(audio_seconds=3) in events
    assert isinstance(error, RemoteProtocolError)
    assert "3.0 s" in str(error)
    assert error.readable == Final("goodbye", 2, 3), "it is published if it comes again and again"


async def test_pending_words_come_before_the_usage(make: Make) -> None:
    script = says(
        results(0, 3.26, "bye", channel_index=[0, 2]), results(0, 3.24, channel_index=[1, 2])
    )
    async with scripted(make, script, multichannel=True) as stream:
        stream._transcript = connection.Transcript(interims=True, channels=2)  # type: ignore[attr-defined]
        await stream.finish()
        events, error = await ends(stream)
    assert error is None
    assert texts(events)[-1] == "bye"
    assert isinstance(events[-1], Usage)


async def closes_unasked(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
    if message["type"] == "Opened":
        await socket.send_json(results(0, 1, "one"))
        await socket.send_json(SUMMARY)
        # Send only the frame; `close` would also read until the client has closed.
        await socket._writer.close(1000, b"bye")  # type: ignore[union-attr]


async def test_an_unrequested_close_is_not_normal(make: Make) -> None:
    """It was sent before `finish`, even if it is read later."""
    async with scripted(make, closes_unasked) as stream:
        await until(lambda: stream.socket.close_received, "the close has arrived")  # type: ignore[attr-defined]
        await stream.finish()
        events, error = await ends(stream)
    assert texts(events) == ["one"]
    assert isinstance(error, Dropped)
    assert error.code == "1000"


async def test_a_close_while_finish_is_being_sent_is_not_normal(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()
    async with scripted(make, closes_unasked) as stream:

        async def blocked(data: str) -> None:
            await release.wait()

        monkeypatch.setattr(stream.socket, "send", blocked)  # type: ignore[attr-defined]
        finishing = asyncio.create_task(stream.finish())
        await asyncio.sleep(0)
        _, error = await ends(stream)
        assert isinstance(error, Dropped)
        release.set()
        await finishing


async def test_a_normal_close_needs_no_usage(make: Make) -> None:
    async def script(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if message["type"] == "CloseStream":
            await socket.send_json(results(0, 1, "one"))
            await socket.close(code=1000)

    async with scripted(make, script) as stream:
        await stream.finish()
        assert texts(await collect(stream)) == ["one"]


# ---- redirects ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(make: Make, status: int) -> None:
    """Neither the key nor audio reaches the target."""
    reached: list[str] = []

    async def other(asked: web.Request) -> web.StreamResponse:
        reached.append(asked.path)
        socket = web.WebSocketResponse()
        await socket.prepare(asked)
        async for message in socket:
            reached.append(str(message.data))
        return socket

    async with serving(other) as elsewhere:

        async def redirect(asked: web.Request) -> web.StreamResponse:
            assert asked.headers["Authorization"] == f"Token {DEEPGRAM.secret}"
            location = f"{elsewhere.replace('ws', 'http', 1)}{asked.path_qs}"
            return web.Response(status=status, headers={"Location": location})

        async with serving(redirect) as url:
            for _ in range(2):
                with pytest.raises(RemoteProtocolError, match="redirect") as caught:
                    await make(url=url).open(request())
                assert caught.value.code == str(status)
                assert DEEPGRAM.secret not in repr(caught.value) + str(caught.value)
    assert reached == []


# ---- configure ------------------------------------------------------------------------------


@asynccontextmanager
async def collecting(stream: ProviderStream) -> AsyncIterator[list[ProviderEvent]]:
    """Collect the stream's events inside the block."""
    events: list[ProviderEvent] = []

    async def listen() -> None:
        async for event in stream:
            events.append(event)

    task = asyncio.create_task(listen())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.wait([task])


def answering(*answers: dict[str, Any] | None, into: list[dict[str, Any]]) -> Script:
    """A script that responds to one Configure after another; None for no response."""
    left = list(answers)

    async def script(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if message["type"] == "Configure":
            into.append(message)
            if (answer := left.pop(0)) is not None:
                await socket.send_json(answer)
        elif message["type"] == "CloseStream":
            await socket.send_json(SUMMARY)
            await socket.close(code=1000)

    return script


async def test_a_rejected_change_gives_the_reason(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    async with opened(provider) as stream, collecting(stream) as events:
        terms = [f"term number {i}" for i in range(300)]
        with pytest.raises(RequestRefused, match="CONFIGURE_KEYTERM_LIMIT_EXCEEDED"):
            await stream.configure({"keyterms": terms})
        assert codes(events) == ["configure_failed"]
        await stream.configure({"keyterms": ["toad"]})
        await stream.send(bytes(3200))
        await stream.finish()
        await until(lambda: Usage(audio_seconds=0.1) in events, "the stream went on")
    assert codes(events) == ["configure_failed", "configured"]
    assert emulator.log[0].texts == {"Configure": 2, "CloseStream": 1}


async def test_an_error_rejects_the_change(make: Make) -> None:
    """Servers from before ConfigureFailure send Error."""
    sent: list[dict[str, Any]] = []
    about_another = {"variant": "SchemaError", "description": "x", "message": '{"type": "Fly"}'}
    error = {"variant": "InvalidConfigureMessage", "description": "not this model"}
    script = answering({"type": "Error", **error}, into=sent)

    async def both(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if message["type"] == "Configure":
            await socket.send_json({"type": "Error", **about_another})
        await script(socket, message)

    async with scripted(make, both) as stream, collecting(stream) as events:
        with pytest.raises(RequestRefused, match="not this model"):
            await stream.configure({"numerals": True})
    assert codes(events) == ["provider_error"] * 2


async def test_no_response_counts_as_success_with_a_notice(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.1)
    sent: list[dict[str, Any]] = []
    async with (
        scripted(make, answering(None, None, into=sent)) as stream,
        collecting(stream) as events,
    ):
        async with within(3):
            await stream.configure({"numerals": True})
        monkeypatch.setattr(stream._configuring, "_timeout", 60)  # type: ignore[attr-defined]
        asking = asyncio.create_task(stream.configure({"numerals": False}))
        await until(lambda: len(sent) == 2, "it is sent")
        await stream.finish()
        # The server handles messages in order, so no response follows.
        await soon(asking, 3)
        await until(lambda: Usage(audio_seconds=3) in events, "it has ended")
        with pytest.raises(ProviderError):
            await stream.configure({"numerals": True})
    assert codes(events) == [UNANSWERED] * 2
    assert [message["features"]["numerals"] for message in sent] == [True, False]


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_the_end_of_the_stream_ends_the_wait(make: Make, how: str) -> None:
    sent: list[dict[str, Any]] = []
    async with scripted(make, answering(None, into=sent)) as stream, collecting(stream):
        asking = asyncio.create_task(stream.configure({"numerals": True}))
        await until(lambda: len(sent) == 1, "it is sent")
        if how == "close":
            await stream.close()
        else:
            stream.socket.abort()  # type: ignore[attr-defined]
        with pytest.raises(Dropped):
            await soon(asking, 1)
        with pytest.raises(Dropped):
            await stream.configure({"numerals": True})

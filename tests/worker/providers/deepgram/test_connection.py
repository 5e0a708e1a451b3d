"""Streams against the emulator: what only this provider does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.plugin.errors import (
    Dropped,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    Usage,
)
from tests.waiting import lateness, soon, until
from worker.providers.deepgram import DeepgramProvider

from ..emulated.streams import (
    AUDIO,
    WORDS,
    collect,
    fail,
    final_words,
    opened,
    request,
    send,
    transcribed,
    turns,
)

Make = Callable[..., DeepgramProvider]


async def test_a_stream(provider: DeepgramProvider, emulator: DeepgramEmulator) -> None:
    async with opened(provider) as stream:
        events = await transcribed(stream)
        assert stream.reference == emulator.log[0].request_id
    assert final_words(events) == WORDS
    assert events[-1] == Usage(audio_seconds=round(len(AUDIO) / 32000, 6))
    assert turns(events) == ["started", "ended"] * 3
    texts = [e.text for e in events if isinstance(e, Interim)]
    assert any(text and text[0].isupper() for text in texts)
    first = next(e for e in events if isinstance(e, Final) and e.text)
    place = tones.places(WORDS, lead_seconds=0.3)[0]
    assert first.words[0].text == "Able"
    assert first.words[0].start == pytest.approx(place.start, abs=0.01)
    assert first.words[0].end == pytest.approx(place.end, abs=0.01)
    assert first.words[0].confidence == first.confidence == 0.99
    await until(lambda: emulator.log[0].closed, "the server has closed the connection")
    assert emulator.log[0].closed == "server 1000"
    assert emulator.log[0].texts == {"CloseStream": 1}


async def test_an_idle_stream_is_kept_alive(make: Make) -> None:
    """There is no audio for longer than the server waits. Later words are transcribed."""
    async with DeepgramEmulator(receive_timeout_seconds=2) as emulator:
        provider = make(url=emulator.url, keepalive_seconds=0.1)
        async with opened(provider) as stream:
            await send(stream, AUDIO)
            await until(
                lambda: emulator.log[0].texts.get("KeepAlive", 0) > 25, "keepalives were sent"
            )
            assert emulator.log[0].closed is None
            assert final_words(await transcribed(stream)) == WORDS * 2


async def test_no_keepalive_while_audio_flows(make: Make, emulator: DeepgramEmulator) -> None:
    async with opened(make(keepalive_seconds=0.5)) as stream, lateness() as late:
        for _ in range(14):
            await stream.send(tones.silence(0.05))
            await asyncio.sleep(0.05)  # the pace of audio
        assert emulator.log[0].texts == {} or late.seconds > 0.3, "audio was late"


async def test_finalize_and_configure(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    async with opened(provider, options={"endpointing": False}) as stream:
        events: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, events))
        await send(stream, tones.encode(WORDS[:2]))
        await stream.configure({"keyterms": ["natterjack"], "numerals": True})
        await stream.finalize()
        await until(lambda: final_words(events) == WORDS[:2], "the words are final")
        assert Notice("configured") in events
        with pytest.raises(RequestRefused, match="punctuate"):
            await stream.configure({"punctuate": True})
        collecting.cancel()
    assert emulator.log[0].texts == {"Configure": 1, "Finalize": 1}


# ---- no connection --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def plain_server(
    answer: Callable[[bytes], bytes],
) -> AsyncIterator[str]:
    """A TCP server that answers the head of a request and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(head))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_answer_that_is_no_upgrade(make: Make) -> None:
    async with plain_server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as url:
        with pytest.raises(RemoteProtocolError):
            await make(url=url).open(request())


async def test_an_answer_that_is_no_http(make: Make) -> None:
    async with plain_server(lambda _: b"SSH-2.0-OpenSSH_9.6\r\n") as url:
        with pytest.raises(Unavailable) as caught:
            await make(url=url).open(request())
    assert caught.value.cause == "connect"


def upgraded(head: bytes) -> bytes:
    (key,) = [
        line.partition(b":")[2].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    ]
    magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + magic).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


async def test_a_tcp_close_without_a_close_frame_is_a_drop(make: Make) -> None:
    """Only a close frame confirms that all audio was transcribed."""
    async with plain_server(upgraded) as url:
        stream = await make(url=url).open(request())
        with contextlib.suppress(Dropped):
            await stream.finish()
        with pytest.raises(Dropped):
            await collect(stream)
        await stream.close()


# ---- faults of an open stream ---------------------------------------------------------------


async def test_a_stream_without_audio_is_dropped(make: Make) -> None:
    """Keepalives do not help, so streams are opened with the first audio."""
    async with DeepgramEmulator(receive_timeout_seconds=0.3) as emulator:
        _, error = await fail(make(url=emulator.url, keepalive_seconds=0.1), b"")
        assert isinstance(error, Dropped)
        assert "NET-0001" in str(error)
        assert emulator.log[0].texts["KeepAlive"] >= 1


async def test_a_failed_keepalive_fails_the_stream(
    make: Make, emulator: DeepgramEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(make(keepalive_seconds=0.1)) as stream:

        def broken(data: bytes | str) -> bool:
            raise Dropped("deepgram", "cannot send")

        monkeypatch.setattr(stream.socket, "send_nowait", broken)  # type: ignore[attr-defined]
        with pytest.raises(Dropped, match="cannot send"):
            await soon(collect(stream), 5)
    await until(lambda: emulator.log[0].closed, "the connection was aborted")
    assert emulator.log[0].closed == "lost"

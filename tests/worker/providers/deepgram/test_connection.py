"""The socket, against the emulator: what goes well, and every fault told apart."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from natterjack.audio import AudioFormat, Encoding
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
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
from tests.emulators import pcm, tones
from tests.emulators.deepgram import DeepgramEmulator
from tests.emulators.faults import GARBAGE
from tests.waiting import bound, lateness, soon, until, within
from worker.providers.deepgram import DeepgramProvider

from .conftest import SECRET, hear, opened, request, send

Make = Callable[..., DeepgramProvider]
WORDS = tones.sequence(12)
AUDIO = tones.encode(WORDS, phrase_words=4, lead_seconds=0.3, tail_seconds=1)


def said(events: list[ProviderEvent]) -> list[str]:
    return [w for e in events if isinstance(e, Final) for w in tones.words_of(e.text)]


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


async def test_a_stream(provider: DeepgramProvider, emulator: DeepgramEmulator) -> None:
    async with opened(provider) as stream:
        events = await transcribed(stream)
        assert stream.reference == emulator.log[0].request_id
    assert said(events) == WORDS
    assert events[-1] == Usage(audio_seconds=round(len(AUDIO) / 32000, 6))
    assert [e.event for e in events if isinstance(e, Turn)] == ["started", "ended"] * 3
    texts = [e.text for e in events if isinstance(e, Interim)]
    assert any(text and text[0].isupper() for text in texts)
    first = next(e for e in events if isinstance(e, Final) and e.text)
    place = tones.places(WORDS, lead_seconds=0.3)[0]
    assert first.words[0].text == "Able"
    assert first.words[0].start == pytest.approx(place.start, abs=0.01)
    assert first.words[0].end == pytest.approx(place.end, abs=0.01)
    assert first.words[0].confidence == first.confidence == 0.99
    await until(lambda: emulator.log[0].closed, "the server saw the end")
    assert emulator.log[0].closed == "server 1000"
    assert emulator.log[0].texts == {"CloseStream": 1}


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("encoding", ["linear16", "mulaw", "alaw"])
async def test_formats(provider: DeepgramProvider, encoding: Encoding, rate: int) -> None:
    audio = tones.encode(WORDS, rate, encoding=encoding)
    stream = await provider.open(request(AudioFormat(encoding, rate, 1)))
    assert said(await transcribed(stream, audio)) == WORDS
    await stream.close()


async def test_channels_are_told_apart(make: Make) -> None:
    provider = make(multichannel=True, smart_format=False)
    left, right = tones.sequence(10), tones.sequence(20)[10:]
    audio = pcm.interleave(
        tones.encode(left, phrase_words=3), tones.encode(right, lead_seconds=0.17)
    )
    stream = await provider.open(request(AudioFormat("linear16", 16000, 2)))
    events = await transcribed(stream, audio)
    await stream.close()
    heard = [word for e in events if isinstance(e, Final) for word in e.words]
    assert [word.text for word in heard if word.speaker == "0"] == left
    assert [word.text for word in heard if word.speaker == "1"] == right
    finals = [e for e in events if isinstance(e, Final)]
    assert all(a.end == b.start for a, b in itertools.pairwise(finals))


async def test_silence_is_kept_alive(make: Make) -> None:
    """No audio for longer than the server waits; the words after it are heard."""
    async with DeepgramEmulator(receive_timeout_seconds=2) as emulator:
        provider = make(url=emulator.url, keepalive_seconds=0.1)
        async with opened(provider) as stream:
            await send(stream, AUDIO)
            await until(lambda: emulator.log[0].texts.get("KeepAlive", 0) > 25, "keepalives came")
            assert emulator.log[0].closed is None
            assert said(await transcribed(stream)) == WORDS * 2


async def test_no_keepalive_while_audio_flows(make: Make, emulator: DeepgramEmulator) -> None:
    async with opened(make(keepalive_seconds=0.5)) as stream, lateness() as ours:
        for _ in range(14):
            await stream.send(tones.silence(0.05))
            await asyncio.sleep(0.05)  # the pace of audio
        assert emulator.log[0].texts == {} or ours.seconds > 0.3, "it did not flow"


async def test_finalize_and_configure(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    async with opened(provider, options={"endpointing": False}) as stream:
        found: list[ProviderEvent] = []
        collecting = asyncio.create_task(collect(stream, found))
        await send(stream, tones.encode(WORDS[:2]))
        await stream.configure({"keyterms": ["natterjack"], "numerals": True})
        await stream.finalize()
        await until(lambda: said(found) == WORDS[:2], "the words are final")
        assert Notice("configured") in found
        with pytest.raises(RequestRefused, match="punctuate"):
            await stream.configure({"punctuate": True})
        collecting.cancel()
    assert emulator.log[0].texts == {"Configure": 1, "Finalize": 1}


async def test_nothing_empty_and_nothing_late_is_sent(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    async with opened(provider) as stream:
        await stream.send(b"")
        await stream.finish()
        await stream.finish()
        with pytest.raises(RuntimeError):
            await stream.send(AUDIO)
        assert await hear(stream) == [Usage(audio_seconds=0.0)]
    assert emulator.log[0].audio_frames == 0
    assert emulator.log[0].texts == {"CloseStream": 1}


async def test_more_streams_than_a_pool_would_hold(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    async with within(20):
        streams = await asyncio.gather(*(provider.open(request()) for _ in range(120)))
    assert emulator.open_connections == 120
    await asyncio.gather(*(stream.close() for stream in streams))
    await until(lambda: not emulator.open_connections, "all connections are gone")


async def test_a_provider_that_was_closed_opens_no_more(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    """It would make a session that nobody closes."""
    async with opened(provider):
        pass
    await provider.close()
    await provider.close()
    with pytest.raises(Unavailable, match="closed") as caught:
        await provider.open(request())
    assert caught.value.cause == "connect"
    assert len(emulator.log) == 1


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
        (500, Unavailable, "server_error"),
        (503, Unavailable, "server_error"),
    ],
)
async def test_refused_handshakes(
    provider: DeepgramProvider,
    emulator: DeepgramEmulator,
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


async def test_the_wrong_key_shows_nowhere(
    make: Make, emulator: DeepgramEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    emulator.api_key = "another"
    provider = make()
    with pytest.raises(RequestRefused, match=r"Invalid credentials\..*401") as caught:
        await provider.open(request())
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        shown += repr(error) + repr(vars(error))
        error = error.__cause__
    assert SECRET not in shown + caplog.text


async def test_the_server_refuses_the_request(provider: DeepgramProvider) -> None:
    with pytest.raises(RequestRefused, match="does not have access") as caught:
        await provider.open(request(model="nova-9"))
    assert caught.value.cause == "auth"


@pytest.mark.parametrize(
    "fault", [{"refuse": True}, {"handshake_drop": True}, {"handshake_delay_seconds": 9}]
)
async def test_unreachable(make: Make, emulator: DeepgramEmulator, fault: dict[str, Any]) -> None:
    await emulator.set(**fault)
    provider = make(connect_timeout_seconds=1.5)
    with pytest.raises(Unavailable) as caught:
        await provider.open(request())
    assert caught.value.cause == "connect"
    await emulator.clear()
    async with opened(provider):
        pass


async def test_no_tls_where_it_is_expected(make: Make, emulator: DeepgramEmulator) -> None:
    provider = make(url=emulator.url.replace("ws://", "wss://"))
    with pytest.raises(Unavailable) as caught:
        await provider.open(request())
    assert caught.value.cause == "connect"


@contextlib.asynccontextmanager
async def plain_server(
    answer: Callable[[bytes], bytes],
) -> AsyncIterator[str]:
    """A TCP server that answers a request's head and ends the connection in order."""

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


async def test_an_end_of_tcp_in_order_is_still_a_loss(make: Make) -> None:
    """Without a closing frame the server has not said that it was done."""
    async with plain_server(upgraded) as url:
        stream = await make(url=url).open(request())
        with contextlib.suppress(Dropped):
            await stream.finish()
        with pytest.raises(Dropped):
            await hear(stream)
        await stream.close()


# ---- faults of a connection that stands -----------------------------------------------------


@pytest.mark.parametrize("fault", [{"drop_mid_word": 5}, {"drop_after_seconds": 2}])
async def test_drops(
    provider: DeepgramProvider, emulator: DeepgramEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault, connections=1)
    async with opened(provider) as stream:
        assert isinstance(await fails(stream), Dropped)
    assert emulator.log[0].closed == "dropped"
    async with opened(provider) as stream:
        assert said(await transcribed(stream)) == WORDS


async def test_a_drop_before_the_summary(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    await emulator.set(drop_before_summary=True)
    async with opened(provider) as stream:
        await send(stream, AUDIO)
        await stream.finish()
        heard: list[ProviderEvent] = []
        with pytest.raises(Dropped):
            await collect(stream, heard)
        assert said(heard) == WORDS


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1000, Dropped), (1001, Dropped), (1011, Dropped), (1008, RequestRefused)],
)
async def test_closes(
    provider: DeepgramProvider, emulator: DeepgramEmulator, code: int, kind: type[ProviderError]
) -> None:
    await emulator.set(close_after_seconds=1, close_code=code, close_reason="for a reason")
    async with opened(provider) as stream:
        error = await fails(stream)
    assert isinstance(error, kind)
    assert error.code == str(code)
    assert "for a reason" in str(error)


async def test_a_stream_without_audio_is_dropped(make: Make) -> None:
    """Keepalives do not help: this is why streams are opened at the first audio."""
    async with DeepgramEmulator(receive_timeout_seconds=0.3) as emulator:
        async with opened(make(url=emulator.url, keepalive_seconds=0.1)) as stream:
            error = await fails(stream, b"")
        assert isinstance(error, Dropped)
        assert "NET-0001" in str(error)
        assert emulator.log[0].texts["KeepAlive"] >= 1


async def test_a_failed_keepalive_fails_the_stream(
    make: Make, emulator: DeepgramEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(make(keepalive_seconds=0.1)) as stream:

        def broken(data: bytes | str) -> bool:
            raise Dropped("deepgram", "no way to send")

        monkeypatch.setattr(stream.socket, "send_nowait", broken)  # type: ignore[attr-defined]
        with pytest.raises(Dropped, match="no way to send"):
            await soon(hear(stream), 5)
    await until(lambda: emulator.log[0].closed, "the connection was cut")
    assert emulator.log[0].closed == "lost"


async def test_garbage_is_counted_and_skipped(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    await emulator.set(garbage=("all",))
    words = tones.sequence(60)
    async with opened(provider) as stream:
        events = await transcribed(stream, tones.encode(words, tail_seconds=0.5))
    assert said(events) == words
    notices = [event.code for event in events if isinstance(event, Notice)]
    # Four more kinds are this protocol's own. An unknown type is well-formed, and so is a result
    # without alternatives.
    assert notices.count("unknown") == 1
    assert notices.count("malformed") == len(GARBAGE) + 4 - 2


@pytest.mark.parametrize(
    "fault",
    [
        {"last_word_end_unknown": True},
        {"duplicate_speech_started": True},
        {"contradicting_interims": True},
        {"empty_alternatives": True},
        {"extra_fields": True},
        {"latency_seconds": 0.1},
    ],
)
async def test_oddities_change_nothing(
    provider: DeepgramProvider, emulator: DeepgramEmulator, fault: dict[str, Any]
) -> None:
    await emulator.set(**fault)
    async with opened(provider) as stream:
        events = await transcribed(stream)
    assert said(events) == WORDS
    turns = [event.event for event in events if isinstance(event, Turn)]
    assert turns == ["started", "ended"] * 3


async def test_a_provider_that_is_mute_can_be_closed(
    provider: DeepgramProvider, emulator: DeepgramEmulator
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


async def test_sending_blocks_when_nobody_reads(
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    """Within a few seconds of audio; and a stream that is blocked can be closed."""
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
    provider: DeepgramProvider, emulator: DeepgramEmulator
) -> None:
    """The iterator may be slow: what was said meanwhile is not lost."""
    async with opened(provider) as stream:
        await send(stream, AUDIO)
        await stream.finish()
        await until(lambda: emulator.log[0].closed, "the server is done")
        assert said(await hear(stream)) == WORDS

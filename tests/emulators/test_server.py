"""The base of all emulators, tested with Deepgram's: handshake, faults, log."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from tests.waiting import until, within

from .process import emulator_process
from .test_deepgram import BASE, results, session, text

AUTH = {"Authorization": "Token key"}


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator() as emulator:
        yield emulator


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=AUTH) as client:
        yield client


@contextlib.asynccontextmanager
async def connected(
    client: aiohttp.ClientSession, emulator: DeepgramEmulator, **query: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    url = f"{emulator.url}/v1/listen"
    async with client.ws_connect(url, params={**BASE, **query}) as socket:
        yield socket


async def send(socket: aiohttp.ClientWebSocketResponse, audio: bytes) -> None:
    for at in range(0, len(audio), 3200):
        await socket.send_bytes(audio[at : at + 3200])


async def rest(socket: aiohttp.ClientWebSocketResponse) -> tuple[list[Any], aiohttp.WSMessage]:
    """Return the messages up to the end, and the final frame."""
    messages: list[Any] = []
    async with within(10):
        while True:
            frame = await socket.receive()
            if frame.type is aiohttp.WSMsgType.TEXT:
                with contextlib.suppress(ValueError):
                    messages.append(json.loads(frame.data))
                    continue
            elif frame.type is not aiohttp.WSMsgType.BINARY:
                return messages, frame
            messages.append(frame.data)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Token right"}, 101),
        ({"authorization": "token right"}, 101),
        ({"Authorization": "Bearer a.b.c"}, 101),
        ({"Sec-WebSocket-Protocol": "token, right"}, 101),
        ({"Sec-WebSocket-Protocol": "bearer, a.b.c"}, 101),
        ({"Authorization": "Token wrong"}, 401),
        ({"Authorization": "Bearer right"}, 401),
        ({"Authorization": "Token a.b.c"}, 401),
        ({"Authorization": "right"}, 401),
        ({}, 401),
    ],
)
async def test_credentials(headers: dict[str, str], status: int) -> None:
    offered = [p.strip() for p in headers.get("Sec-WebSocket-Protocol", "").split(",") if p]
    headers = {name: value for name, value in headers.items() if not offered}
    async with DeepgramEmulator(api_key="right") as emulator, aiohttp.ClientSession() as client:
        url = f"{emulator.url}/v1/listen"
        connecting = client.ws_connect(url, params=BASE, headers=headers, protocols=offered)
        if status == 101:
            async with connecting as socket:
                assert socket.protocol == (offered[0] if offered else None)
            return
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connecting
        assert refused.value.status == status
        assert refused.value.headers is not None
        assert refused.value.headers["dg-error"] == "Invalid credentials."
        assert refused.value.headers["dg-request-id"]
        assert emulator.log[0].closed == f"refused {status}"


@pytest.mark.parametrize("status", [401, 402, 403, 429, 503])
async def test_http_errors_for_the_first_handshakes(
    emulator: DeepgramEmulator, client: aiohttp.ClientSession, status: int
) -> None:
    await emulator.set(handshake_status=status, handshakes=2)
    for _ in range(2):
        async with client.get(f"{emulator.url}/v1/listen", params=BASE) as response:
            assert response.status == status
            body = await response.json()
            assert body["err_msg"] == response.headers["dg-error"]
    async with connected(client, emulator) as socket:
        assert not socket.closed


async def test_tcp_is_refused_and_accepted_again(
    emulator: DeepgramEmulator, client: aiohttp.ClientSession
) -> None:
    async with connected(client, emulator) as socket:
        await emulator.set(refuse=True)
        with pytest.raises(aiohttp.ClientConnectorError):
            async with connected(client, emulator):
                pass
        # The open connection continues, and the control endpoint answers.
        await socket.send_str('{"type": "CloseStream"}')
        messages, _ = await rest(socket)
        assert messages[-1]["type"] == "Metadata"
        async with client.delete(f"{emulator.control_url}/_emulator/faults") as response:
            assert response.status == 200
    async with connected(client, emulator):
        pass


async def test_slow_and_aborted_handshakes(
    emulator: DeepgramEmulator, client: aiohttp.ClientSession
) -> None:
    await emulator.set(handshake_delay_seconds=5, handshakes=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), connected(client, emulator):
            pass
    await emulator.set(handshake_delay_seconds=0, handshake_drop=True, handshakes=None)
    with pytest.raises(aiohttp.ClientError):
        async with connected(client, emulator):
            pass
    await emulator.clear()
    async with connected(client, emulator):
        pass


async def test_drop_within_a_word_on_the_first_connection_only(
    emulator: DeepgramEmulator, client: aiohttp.ClientSession
) -> None:
    words = tones.sequence(10)
    await emulator.set(drop_mid_word=3, connections=1)
    async with connected(client, emulator) as socket:
        with contextlib.suppress(ConnectionError):
            await send(socket, tones.encode(words))
        _, frame = await rest(socket)
        assert frame.type is aiohttp.WSMsgType.CLOSED
    entry = emulator.log[0]
    assert (entry.closed, entry.fault) == ("dropped", "drop_mid_word")
    assert [word.word for word in entry.words] == words[:3]
    assert 3 * 0.32 < entry.audio_seconds < 3 * 0.32 + 0.24
    async with connected(client, emulator) as socket:
        await send(socket, tones.encode(words))
        await socket.send_str('{"type": "CloseStream"}')
        await rest(socket)
    assert [word.word for word in emulator.log[1].words] == words
    assert emulator.words == words[:3] + words


async def test_drop_after_seconds_and_at_once(
    emulator: DeepgramEmulator, client: aiohttp.ClientSession
) -> None:
    async with connected(client, emulator) as socket:
        await send(socket, tones.silence(3))
        await until(lambda: emulator.log[0].audio_seconds == 3, "three seconds are processed")
        await emulator.set(
            drop_after_seconds=2
        )  # already past it: takes effect with the next audio
        await send(socket, tones.silence(0.1))
        _, frame = await rest(socket)
    assert frame.type is aiohttp.WSMsgType.CLOSED
    await emulator.clear()
    async with connected(client, emulator) as socket:
        assert emulator.drop() == 1
        await rest(socket)
    assert [entry.closed for entry in emulator.log] == ["dropped", "dropped"]


async def test_drop_between_the_last_final_and_the_summary(
    emulator: DeepgramEmulator, client: aiohttp.ClientSession
) -> None:
    await emulator.set(drop_before_summary=True)
    async with connected(client, emulator) as socket:
        await send(socket, tones.encode(tones.sequence(4)))
        await socket.send_str('{"type": "CloseStream"}')
        messages, frame = await rest(socket)
    assert frame.type is aiohttp.WSMsgType.CLOSED
    assert tones.words_of(" ".join(text(m) for m in results(messages))) == tones.sequence(4)
    assert "Metadata" not in {m["type"] for m in messages}


async def test_close_with_a_code(emulator: DeepgramEmulator, client: aiohttp.ClientSession) -> None:
    await emulator.set(close_after_seconds=0.5, close_code=1008, close_reason="DATA-0000")
    async with connected(client, emulator) as socket:
        await send(socket, tones.silence(1))
        _, frame = await rest(socket)
    assert (frame.type, frame.data, frame.extra) == (aiohttp.WSMsgType.CLOSE, 1008, "DATA-0000")
    assert emulator.log[0].closed == "server 1008"


async def test_mute_but_alive(emulator: DeepgramEmulator, client: aiohttp.ClientSession) -> None:
    await emulator.set(mute_after_seconds=1.05)
    query = {**BASE, "interim_results": "true", "endpointing": "false"}
    url = f"{emulator.url}/v1/listen"
    async with client.ws_connect(url, params=query, autoping=False) as socket:
        await send(socket, tones.encode(tones.sequence(20)))
        await socket.send_str('{"type": "CloseStream"}')
        await until(lambda: emulator.log[0].audio_seconds > 6, "all audio is processed")
        assert (await socket.receive()).type is aiohttp.WSMsgType.TEXT
        await socket.ping()
        assert (await socket.receive()).type is aiohttp.WSMsgType.PONG
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.receive(), 0.2)
        assert emulator.log[0].messages == {"Results": 1}


async def test_a_server_that_stops_reading_blocks_the_client(
    emulator: DeepgramEmulator, client: aiohttp.ClientSession
) -> None:
    await emulator.set(stop_reading_after_seconds=0.5)
    async with connected(client, emulator) as socket:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send(socket, tones.silence(600)), 0.5)
        processed = emulator.log[0].audio_seconds
        await emulator.clear()  # resumes reading
        await until(lambda: emulator.log[0].audio_seconds > processed + 1, "reading continues")
        emulator.drop()


async def test_late_answers(emulator: DeepgramEmulator, client: aiohttp.ClientSession) -> None:
    await emulator.set(latency_seconds=0.3)
    loop = asyncio.get_running_loop()
    async with connected(client, emulator) as socket:
        began = loop.time()
        await socket.send_str('{"type": "CloseStream"}')
        await rest(socket)
        assert loop.time() - began > 0.29


async def test_pace(emulator: DeepgramEmulator, client: aiohttp.ClientSession) -> None:
    """The emulator receives audio at once and processes it at the configured pace."""
    await emulator.set(pace=5)
    loop = asyncio.get_running_loop()
    async with connected(client, emulator) as socket:
        began = loop.time()
        await send(socket, tones.silence(2.5))
        await socket.send_str('{"type": "CloseStream"}')
        assert emulator.log[0].audio_seconds < 2.5
        await rest(socket)
        assert loop.time() - began > 0.49


async def test_garbage_of_every_kind_once(
    emulator: DeepgramEmulator, client: aiohttp.ClientSession
) -> None:
    await emulator.set(garbage=("all",))
    async with connected(client, emulator, interim_results="true") as socket:
        await send(socket, tones.encode(tones.sequence(60)))
        await socket.send_str('{"type": "CloseStream"}')
        messages, _ = await rest(socket)
    kinds = session().garbage()
    sent = [m for m in messages if not (isinstance(m, dict) and "metadata" in m)]
    assert len(sent) == len(kinds) + 1  # including the summary
    assert b"\x00\xff\x00" in messages
    transcript = " ".join(text(m) for m in messages if isinstance(m, dict) and m.get("is_final"))
    assert tones.words_of(transcript) == tones.sequence(60)


@pytest.mark.parametrize("keepalives", [False, True])
async def test_a_connection_without_audio_is_closed(
    client: aiohttp.ClientSession, keepalives: bool
) -> None:
    """Keepalives alone do not keep it open."""
    async with DeepgramEmulator(receive_timeout_seconds=0.3) as emulator:
        async with connected(client, emulator) as socket:
            if keepalives:
                for _ in range(2):
                    await socket.send_str('{"type": "KeepAlive"}')
                    await asyncio.sleep(0.1)  # the keepalive interval, below the timeout
            _, frame = await rest(socket)
        assert frame.data == 1011
        assert str(frame.extra).startswith("NET-0001")


async def test_switches_are_validated(emulator: DeepgramEmulator) -> None:
    with pytest.raises(ValidationError):
        await emulator.set(no_such_switch=True)
    with pytest.raises(ValidationError):
        await emulator.set(latency_seconds=-1)


@pytest.mark.process
async def test_the_emulator_as_a_process(client: aiohttp.ClientSession) -> None:
    async with emulator_process("deepgram", "--faults", '{"connections": 0}') as emulator:
        with pytest.raises(aiohttp.ClientResponseError):
            await emulator.set(no_such_switch=1)
        await emulator.set(refuse=True)
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.ws_connect(f"{emulator.url}/v1/listen", params=BASE)
        await emulator.clear()
        async with client.ws_connect(f"{emulator.url}/v1/listen", params=BASE) as socket:
            await send(socket, tones.encode(["apple", "river"], tail_seconds=0.5))

            async def transcribed() -> bool:
                return [w["word"] for w in (await emulator.log())[0]["words"]] == ["apple", "river"]

            await until(transcribed, "two words are transcribed")
            assert await emulator.drop() == 1
            await rest(socket)
        assert (await emulator.log())[0]["closed"] == "dropped"

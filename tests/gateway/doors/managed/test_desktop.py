"""The desktop client at the door, with a real broker, worker and an emulated provider. The numbers
are those of section 8 of the fact sheet on the managed proxy."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import time
from functools import partial
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.events import FinalEvent, StatusEvent, parse_event
from tests.nats_server import NatsServer
from tests.waiting import until, within
from tests.worker.programs import holder

from ..house import House, Speech
from .desktop import Desktop, StartFailed, address

pytestmark = pytest.mark.process


def key(house: House, **fields: Any) -> str:
    return house.key(**{"doors": ("managed",), **fields})


async def stored_words(broker: Broker) -> tuple[list[str], list[StatusEvent]]:
    """The words of all stored finals, and the closing events."""
    js = broker.client.jetstream()
    info = await js.stream_info(streams.TRANSCRIPTS)
    words: list[str] = []
    closing: list[StatusEvent] = []
    for sequence in range(info.state.first_seq or 1, info.state.last_seq + 1):
        message = await js.get_msg(streams.TRANSCRIPTS, sequence)
        event = parse_event(message.data or b"")
        if isinstance(event, FinalEvent):
            words += [tones.plain(word.text) for word in event.words]
        elif isinstance(event, StatusEvent) and event.closing:
            closing.append(event)
    return words, closing


def spoke(client: Desktop, words: int) -> bool:
    return len(client.words) == words


async def closed(broker: Broker) -> list[str]:
    """The stored words, once the only session has ended."""
    found: list[str] = []

    async def look() -> bool:
        words, closing = await stored_words(broker)
        found[:] = words
        return bool(closing)

    await until(look, "the session has ended", 60)
    return found


def test_the_url_of_a_server() -> None:
    assert address("proxy.example.org") == "wss://proxy.example.org/ws/transcribe"
    assert address("ws://10.0.0.5:8080/") == "ws://10.0.0.5:8080/ws/transcribe"


async def test_1_a_normal_recording(house: House) -> None:
    token = key(house)
    await house.start("deepgram")
    speech = Speech(24)
    client = Desktop(house.gateway.ws, token)
    async with within(60):
        before = time.monotonic()
        await client.start()
        assert time.monotonic() - before < 1
        await client.record(speech.audio)
        await until(lambda: len(client.words) == 24, "all words", 30)
        speech.check(client.words)
        assert client.interims
        assert all(line.strip() for line in client.lines)  # 9
        transcripts = client.of("transcript")
        assert [message["seq"] for message in transcripts] == list(range(len(transcripts)))
        finals = [message for message in transcripts if message["is_final"]]
        assert all(a["end"] <= b["start"] + 1e-6 for a, b in itertools.pairwise(finals))
        await client.stop()
    assert client.socket.close_code == 1000
    assert not client.errors


async def test_2_a_wrong_token_is_answered_with_an_error(house: House) -> None:
    key(house)
    other_door = house.key(doors=("deepgram",))
    await house.start_gateway()
    for token, shown in (
        ("wrong", "the key is not known here"),
        ("a.b.c", "the token is not valid"),
        (other_door, "does not open this door"),
    ):
        client = Desktop(house.gateway.ws, token)
        with pytest.raises(StartFailed, match=f"Proxy auth error: .*{shown}"):
            await client.start()
        assert client.first["code"] == "auth_failed"
        assert client.close_code == 4401
    assert house.gateway.find(other_door) is None, "no secret is logged"


async def test_3_a_client_that_says_nothing_is_told_so(house: House) -> None:
    key(house)
    await house.start_gateway()
    async with within(30):
        socket = await connect(address(house.gateway.ws))
        before = time.monotonic()
        reply = json.loads(await socket.recv())
        assert 8 < time.monotonic() - before < 14
        assert (reply["type"], reply["code"]) == ("error", "bad_request")
        await socket.wait_closed()
        assert socket.close_code == 1008


async def test_5_a_provider_that_drops_is_not_noticed(house: House) -> None:
    token = key(house)
    emulator = await house.emulator("deepgram")
    await house.start("deepgram")
    await emulator.set(drop_after_seconds=5.0, connections=1)
    speech = Speech(32)
    client = Desktop(house.gateway.ws, token)
    async with within(90):
        await client.start()
        await client.record(speech.audio, 2)
        await until(lambda: len(client.words) >= 32, "all words", 40)
        speech.check(client.words)
        assert client.of("ready"), "ready is repeated when the provider is back"
        assert not client.errors
        await client.stop()
    assert len(emulator.log) == 2


async def test_a_killed_worker_is_not_noticed(house: House) -> None:
    token = key(house)
    await house.emulator("deepgram")
    await asyncio.gather(house.start_worker("deepgram"), house.start_worker("deepgram"))
    await house.start_gateway()
    speech = Speech(32)
    client = Desktop(house.gateway.ws, token)
    async with within(90):
        await client.start()
        recording = asyncio.create_task(client.record(speech.audio, 2))
        await until(lambda: bool(client.words), "the first words", 30)
        await (await holder(house.workers)).stop()
        await recording
        await until(lambda: len(client.words) >= 32, "all words", 40)
        speech.check(client.words)
        assert not client.errors
        await client.stop()


async def test_a_killed_broker_is_not_noticed(house: House, nats_server: NatsServer) -> None:
    token = key(house)
    await house.start("deepgram")
    speech = Speech(32)
    client = Desktop(house.gateway.ws, token)
    async with within(90):
        await client.start()
        recording = asyncio.create_task(client.record(speech.audio, 2))
        await until(lambda: bool(client.words), "the first words", 30)
        nats_server.kill()
        async with asyncio.timeout(5):
            await (await client.socket.ping())
        nats_server.start()
        await recording
        await until(lambda: len(client.words) >= 32, "all words", 40)
        speech.check(client.words)
        assert not client.errors
        await client.stop()


@pytest.mark.parametrize("how", ["close", "cut"])  # 6 and 7
async def test_the_tail_is_stored_although_the_client_is_gone(
    house: House, ready_broker: Broker, how: str
) -> None:
    token = key(house)
    await house.start("deepgram")
    speech = Speech(12)
    middle = (speech.places[9].start + speech.places[9].end) / 2
    client = Desktop(house.gateway.ws, token)
    async with within(60):
        await client.start()
        await client.record(speech.audio, until=middle)
        if how == "close":
            await client.stop()
        else:
            client.cut()
        words = await closed(ready_broker)
    assert words[:9] == speech.words[:9]
    assert len(words) <= 10


async def test_8_credits_run_low_and_out(house: House, ready_broker: Broker) -> None:
    token = key(house)
    await house.start("deepgram")
    js = ready_broker.client.jetstream()
    budget = streams.bucket_subject(streams.BUDGETS_BUCKET, "tenant.acme")
    await js.publish(budget, b"14")
    speech = Speech(60)
    client = Desktop(house.gateway.ws, token)
    async with within(90):
        await client.start()
        recording = asyncio.create_task(client.record(speech.audio, 2))
        assert await client.ended() == 4402
        recording.cancel()
    (low,) = client.of("credits_low")
    assert 0 < low["seconds_remaining"] <= 14
    assert any(
        error.startswith("[credits_exhausted] tenant acme has used") for error in client.errors
    )
    assert [message["type"] for message in client.messages[-2:]] == ["error", "session_end"]
    (end,) = client.of("session_end")
    assert end["seconds_used"] == pytest.approx(client.sent_seconds, abs=1)
    assert client.words == speech.words[: len(client.words)]
    assert len(client.words) > 5
    late = Desktop(house.gateway.ws, token)

    async def refused() -> bool:
        try:
            await late.start()
        except StartFailed:
            return True
        await late.stop()
        return False

    await until(refused, "the next recording is refused", 20)
    assert late.first["code"] == "credits_exhausted"


async def test_10_pings_are_answered_while_no_provider_is(house: House) -> None:
    token = key(house)
    await house.start_gateway()  # no worker at all
    client = Desktop(house.gateway.ws, token)
    speech = Speech(8)
    async with within(60):
        await client.start()
        await client.record(speech.audio)
        for _ in range(3):
            async with asyncio.timeout(5):
                await (await client.socket.ping())
        await house.start_worker("deepgram")
        await until(lambda: len(client.words) == 8, "all words", 30)
        speech.check(client.words)
        await client.stop()


async def test_extensions_finalize_and_end(house: House) -> None:
    token = key(house)
    await house.start("deepgram")
    speech = Speech(8)
    client = Desktop(house.gateway.ws, token)
    async with within(60):
        await client.start()
        await client.record(speech.audio)
        await client.socket.send('{"type": "finalize"}')
        await until(lambda: len(client.words) == 8, "all words", 10)
        await client.socket.send('{"type": "unknown"}')
        await client.socket.send('{"type": "end"}')
        assert await client.ended() == 1000
    speech.check(client.words)
    assert client.messages[-1]["type"] == "session_end"
    assert client.messages[-1]["seconds_used"] == pytest.approx(speech.seconds, abs=0.1)
    assert not client.errors


async def test_a_drain_ends_recordings_with_their_account(house: House) -> None:
    token = key(house)
    await house.start("deepgram")
    speech = Speech(16)
    client = Desktop(house.gateway.ws, token)
    async with within(60):
        await client.start()
        recording = asyncio.create_task(client.record(speech.audio))
        await until(lambda: bool(client.words), "the first words", 30)
        house.gateway.signal(signal.SIGTERM)
        assert await client.ended() == 1001
        recording.cancel()
        assert await house.gateway.wait() == 0
    assert client.messages[-1]["type"] == "session_end"
    assert client.words == speech.words[: len(client.words)]


async def test_limits_of_a_key(house: House) -> None:
    token = key(house, max_connections=1, max_session_seconds=3.0)
    await house.start("deepgram")
    speech = Speech(24)
    client, second = (Desktop(house.gateway.ws, token) for _ in range(2))
    async with within(60):
        await client.start()
        with pytest.raises(StartFailed, match="has 1 connections, its limit"):
            await second.start()
        assert (second.first["code"], second.close_code) == ("too_many_sessions", 4429)
        recording = asyncio.create_task(client.record(speech.audio))
        assert await client.ended() == 4408
        recording.cancel()
        assert client.errors[0].startswith("[session_limit] max_seconds")
        third = Desktop(house.gateway.ws, token)
        await third.start()
        await third.stop()


async def test_clients_of_one_conversation_are_speakers_of_their_own(
    house: House, ready_broker: Broker
) -> None:
    token = key(house, conversations=("stream",))
    await house.start("deepgram")
    speech = Speech(8)
    clients = [Desktop(house.gateway.ws, token) for _ in range(2)]
    async with within(60):
        for client in clients:
            await client.start()
        await asyncio.gather(*(client.record(speech.audio) for client in clients))
        for client in clients:
            await until(partial(spoke, client, 8), "all words", 30)
            speech.check(client.words)
            await client.stop()

        async def ended() -> bool:
            return len((await stored_words(ready_broker))[1]) == 2

        await until(ended, "both sessions have ended", 30)
    _, closing = await stored_words(ready_broker)
    assert {event.conversation for event in closing} == {"stream"}
    assert len({event.speaker for event in closing}) == 2


async def test_clients_that_say_nothing_do_not_keep_others_out(house: House) -> None:
    token = key(house)
    await house.start_gateway(GATEWAY_MAX_CONNECTIONS="8")
    async with within(60), contextlib.AsyncExitStack() as stack:
        silent = [
            await stack.enter_async_context(connect(address(house.gateway.ws))) for _ in range(3)
        ]
        await silent[0].wait_closed()  # the longest silent one has made room
        client = Desktop(house.gateway.ws, token)
        await client.start()
        await client.stop()


# ---- bad input ----------------------------------------------------------------------------------


async def send_bad(socket: Any, frame: str | bytes) -> tuple[dict[str, Any], int]:
    await socket.send(frame)
    reply = {}
    async for message in socket:
        reply = json.loads(message)
        if reply["type"] == "error":
            break
    await socket.wait_closed()
    return reply, socket.close_code


BAD: list[tuple[str | bytes, str, int]] = [
    (bytes(2048), "bad_request", 1008),
    ("garbage {", "bad_request", 1008),
    ("[]", "bad_request", 1008),
    ("[" * 100_000, "bad_request", 1008),
    (bytes(2 * 1024 * 1024), "bad_request", 1008),
    ('{"type": "auth", "token": "' + "x" * 1_000_000 + '"}', "auth_failed", 4401),
    ('{"type": "auth", "token": "<script>alert(1)</script>"}', "auth_failed", 4401),
]


async def test_bad_first_frames(house: House) -> None:
    key(house)
    await house.start_gateway()
    async with within(60):
        for frame, code, close in BAD:
            async with connect(address(house.gateway.ws)) as socket:
                reply, closed_with = await send_bad(socket, frame)
            assert (reply["code"], closed_with) == (code, close), frame[:40]
            assert len(json.dumps(reply)) < 1000


async def test_bad_later_frames(house: House) -> None:
    token = key(house)
    await house.start("deepgram")
    frames: list[tuple[str | bytes, str, int]] = [
        ("garbage {", "bad_request", 1008),
        ("[1, 2]", "bad_request", 1008),
        ('{"type": "auth", "token": "again"}', "bad_request", 1008),
        (bytes(2 * 1024 * 1024), "audio_too_large", 1009),
    ]
    async with within(60):
        for frame, code, close in frames:
            client = Desktop(house.gateway.ws, token)
            await client.start()
            await client.socket.send(frame)
            assert await client.ended() == close
            assert client.errors[0].startswith(f"[{code}]")
            assert client.messages[-1]["type"] == "session_end"
        # A frame that is too large to be read at all is not answered with a message.
        client = Desktop(house.gateway.ws, token)
        await client.start()
        with contextlib.suppress(ConnectionClosed):
            await client.socket.send(bytes(20 * 1024 * 1024))
        assert await client.ended() == 1009


async def test_odd_frames_are_whole_samples(house: House) -> None:
    token = key(house)
    await house.start("deepgram")
    speech = Speech(8)
    client = Desktop(house.gateway.ws, token)
    async with within(60):
        await client.start()
        for at in range(0, len(speech.audio), 1999):
            await client.socket.send(speech.audio[at : at + 1999])
        await until(lambda: len(client.words) == 8, "all words", 30)
        await client.stop()
    speech.check(client.words)

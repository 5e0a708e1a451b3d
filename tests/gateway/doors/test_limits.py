"""Clients that say nothing, read nothing or cannot be served: each learns why, within a limit."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import socket as sockets
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
import soundfile
import soxr
import websockets

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.fleet.usage import DayUsage
from natterjack.local.demo import MAX_WORD_ERROR_RATE, bundled_recording, bundled_text
from natterjack.local.wer import word_error_rate
from natterjack.values import ProviderUsage
from tests.waiting import until, within

from .house import RATE, House, Speech
from .talkers import TALKERS
from .test_audio import START, rest

pytestmark = pytest.mark.process

FLUX = f"/v2/listen?model=flux-general-en&encoding=linear16&sample_rate={RATE}"


async def test_a_flux_client_that_says_nothing_is_sent_away(house: House) -> None:
    await house.start_gateway(GATEWAY_SILENCE_SECONDS="0.5")
    async with within(30), websockets.connect(f"{house.gateway.ws}{FLUX}") as socket:
        for _ in range(4):  # pings are life
            await asyncio.sleep(1)  # twice as long as silence may last
            await (await socket.ping())
        last = (await rest(socket))[-1]
    assert (last["type"], last["code"]) == ("Error", "INACTIVE_CLIENT")
    assert socket.close_code == 1011


async def test_a_client_that_reads_nothing_is_disconnected(house: House) -> None:
    """It sends configurations, each of which is answered, and never reads."""
    await house.start_gateway(GATEWAY_SLOW_CLIENT_SECONDS="1")
    gateway = house.gateway
    raw = sockets.create_connection(("127.0.0.1", gateway.port))
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    async with within(60):
        await loop.sock_sendall(
            raw,
            f"GET {FLUX} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode(),
        )
        terms = json.dumps({"type": "Configure", "keyterms": ["x" * 100] * 50}).encode()
        frame = b"\x81\xfe" + len(terms).to_bytes(2, "big") + b"\0\0\0\0" + terms
        with contextlib.suppress(ConnectionError):
            while True:
                await loop.sock_sendall(raw, frame)
    raw.close()
    await until(lambda: gateway.find("it has read nothing"), "the log says why")

    async def counted() -> bool:
        status, text = await gateway.get("/metrics")
        assert status == 200
        return 'natterjack_gateway_slow_clients_total{door="deepgram-flux"} 1.0' in text

    await until(counted, "the metric counts it")


@pytest.mark.parametrize("client", TALKERS)
async def test_a_session_that_no_provider_takes_is_an_error(house: House, client: str) -> None:
    provider = await house.emulator("deepgram")
    await provider.set(handshake_status=400)
    await asyncio.gather(house.start_worker("deepgram"), house.start_gateway())
    talker = TALKERS[client](house)
    await talker.start()

    async def failed() -> bool:
        with contextlib.suppress(Exception):
            await talker.send(bytes(2560))
        return bool(talker.broken)

    await until(failed, "the client learns of it", 60)
    assert "400" in str(talker.broken)
    await talker.finish(0)


async def test_no_worker_is_no_error(house: House) -> None:
    """RecognitionStarted comes at once, and the words when a worker has started."""
    await house.start_gateway()
    speech, talker = Speech(8), TALKERS["speechmatics-rt"](house)
    await talker.start()
    await speech.play(talker.send, speed=8)
    await house.start_worker("speechmatics")
    await talker.finish(8)
    speech.check(talker.words)


async def test_an_end_that_takes_too_long_is_an_error(house: House) -> None:
    """Without a worker there are no finals, and the client waits without a limit."""
    await house.start_gateway(GATEWAY_FINISH_SECONDS="1")
    async with within(30), websockets.connect(f"{house.gateway.ws}/v2") as socket:
        await socket.send(json.dumps(START))
        await socket.send(bytes(3200))
        await socket.send('{"message": "EndOfStream", "last_seq_no": 1}')
        *_, error, last = await rest(socket)
    assert (error["message"], error["type"], error["code"]) == ("Error", "job_error", 4013)
    assert last == {"message": "EndOfTranscript"}
    assert socket.close_code == 4013


async def test_the_subprotocol_of_a_browser_is_echoed(house: House) -> None:
    key = house.key()
    await house.start_gateway()
    async with aiohttp.ClientSession() as http:
        for offered in (["token", key], ["bearer", key, "x-deepgram-session-id", "an-id"]):
            async with http.ws_connect(f"{house.gateway.ws}{FLUX}", protocols=offered) as socket:
                assert socket.protocol == offered[0]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with http.ws_connect(f"{house.gateway.ws}{FLUX}", protocols=["token", "wrong"]):
                pass
    assert refused.value.status == 401
    headers: Any = refused.value.headers
    assert headers["dg-error"]


@pytest.mark.parametrize("client", TALKERS)
async def test_the_embedded_engine_behind_any_door(house: House, client: str) -> None:
    """Real speech; the engine has no account and no other service behind it."""
    await house.start("sherpa")
    samples, rate = soundfile.read(bundled_recording(), dtype="int16")
    samples, said = samples[: 24 * rate], bundled_text().partition(", we were all going")[0]
    speech, talker = Speech(1), TALKERS[client](house)
    speech.audio = soxr.resample(samples, rate, RATE).tobytes()
    await talker.start()
    await speech.play(talker.send, speed=3)
    await talker.finish(len(said.split()) - 5)
    assert word_error_rate(said, " ".join(talker.words)) < MAX_WORD_ERROR_RATE, talker.words
    assert not talker.broken


async def test_clients_that_do_not_say_who_they_are_keep_nobody_out(house: House) -> None:
    """Those that were refused and do not close their connections are among them."""
    key = house.key(doors=("managed",))
    await house.start_gateway(GATEWAY_MAX_CONNECTIONS="8")
    async with within(60), contextlib.AsyncExitStack() as stack:
        silent = []
        for path in ("/v2?jwt=wrong", "/ws/transcribe", "/twilio") * 4:
            reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port)
            stack.callback(writer.close)
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            silent.append(reader)
        async with websockets.connect(f"{house.gateway.ws}/ws/transcribe") as socket:
            await socket.send(json.dumps({"type": "auth", "token": key, "config": {}}))
            assert json.loads(await socket.recv())["type"] == "ready"
        for reader in silent[:-2]:
            with contextlib.suppress(ConnectionError):
                await reader.read()


async def spend_everything(broker: Broker, tenant: str) -> None:
    """Give a tenant a budget of one second, and note that it has used two."""
    js = broker.client.jetstream()
    budget = streams.bucket_subject(streams.BUDGETS_BUCKET, f"tenant.{tenant}")
    await js.publish(budget, b"1")
    day = datetime.now(UTC).date().isoformat()
    used = DayUsage(providers={"deepgram": ProviderUsage(sent_seconds=2.0)})
    await js.publish(
        streams.bucket_subject(streams.USAGE_BUCKET, f"{day}.{tenant}.worker-1"),
        used.model_dump_json().encode(),
    )


async def test_every_door_refuses_a_tenant_whose_budget_is_used_up(
    house: House, broker: Broker
) -> None:
    await spend_everything(broker, "acme")
    key = house.key(doors=("deepgram", "speechmatics", "openai", "managed"))
    await house.start_gateway()
    http = house.gateway.http
    headers = {"Authorization": f"Bearer {key}"}
    async with within(60), aiohttp.ClientSession(headers=headers) as client:
        for path in (f"/v1/listen?encoding=linear16&sample_rate={RATE}", FLUX):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(f"{http}{path}")
            assert refused.value.status == 402
            assert refused.value.headers is not None
            assert "tenant acme has used" in refused.value.headers["dg-error"]
        for path in ("/v2", "/v2/agent"):
            async with client.ws_connect(f"{http}{path}") as socket:
                await socket.send_str(json.dumps(START))
                answer = await socket.receive_json()
                assert answer["message"] == "Error", path
        async with client.ws_connect(f"{http}/v1/realtime") as socket:
            assert (await socket.receive_json())["type"] == "session.created"
            audio = base64.b64encode(bytes(4800)).decode()
            await socket.send_json({"type": "input_audio_buffer.append", "audio": audio})
            assert (await socket.receive_json())["type"] == "error"
        form = aiohttp.FormData({"model": "any"})
        file = io.BytesIO()
        soundfile.write(file, [0.0] * RATE, RATE, format="WAV")
        form.add_field("file", file.getvalue(), filename="a.wav")
        async with client.post(f"{http}/v1/audio/transcriptions", data=form) as response:
            assert response.status == 429
            assert "tenant acme has used" in await response.text()

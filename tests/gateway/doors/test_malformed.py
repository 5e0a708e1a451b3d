"""Requests and messages that no client sends: each is refused in its own way, and none fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.waiting import within

from .house import House
from .test_audio import START

pytestmark = pytest.mark.process

DOORS = ("deepgram", "speechmatics", "openai", "managed", "twilio", "api")
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
LISTEN = b"GET /v1/listen?encoding=linear16&sample_rate=16000"
POST = b"POST /api/tokens"
HEADS = {
    "a token that is not text": (b"GET /api/me", b"Authorization: Token \xff.\xfe.\xed\r\n", b""),
    "a token of other letters": (b"GET /api/me", "Authorization: Token é.é.é\r\n".encode(), b""),
    "a session ID that is not text": (
        LISTEN, UPGRADE + KEY + b"%b" + b"x-deepgram-session-id: \xff\r\n", b"",
    ),
    "a WebSocket key that is not text": (
        b"GET /v2", UPGRADE + b"%b" + b"Sec-WebSocket-Key: \xff\r\n", b"",
    ),
    "a WebSocket key of other letters": (
        LISTEN, UPGRADE + b"%b" + "Sec-WebSocket-Key: é\r\n".encode(), b"",
    ),
    "a body that is not compressed": (
        POST, b"%b" + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n", b"abcde",
    ),
    "a body with a chunk of no size": (POST, b"%b" + b"Transfer-Encoding: chunked\r\n", b"x\r\n"),
}  # fmt: skip
HALF = '"\\ud800"'
MESSAGES: dict[str, tuple[str, str, str]] = {
    "listen": (
        "/v1/listen?encoding=linear16&sample_rate=16000", f'{{"type": {HALF}}}', "SchemaError",
    ),
    "listen, terms": (
        "/v1/listen?encoding=linear16&sample_rate=16000",
        f'{{"type": "Configure", "keyterms": [{HALF}]}}', "SchemaError",
    ),
    "speechmatics": (
        "/v2", json.dumps(START).replace('"language": "en"', f'"domain": {HALF}'),
        "invalid_message",
    ),
    "openai": (
        "/v1/realtime?intent=transcription", f'{{"type": {HALF}, "event_id": {HALF}}}',
        "invalid_json",
    ),
}  # fmt: skip


async def test_requests_that_no_client_sends(house: House, subtests: Any) -> None:
    key = house.key(doors=DOORS)
    gateway = await house.start_gateway()
    for what, (line, headers, body) in HEADS.items():
        with subtests.test(what):
            async with within(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                authorization = f"Authorization: Token {key}\r\n".encode()
                head = headers.replace(b"%b", authorization)
                writer.write(line + b" HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
                await writer.drain()
                writer.write(body)
                status = int((await reader.readline()).split()[1])
                writer.close()
            assert status in (400, 401)
    assert not [line for line in gateway.log if "exception" in line]


async def test_halves_of_characters(house: House, subtests: Any) -> None:
    """JSON can have them, and no text can be made of them."""
    key = house.key(doors=DOORS)
    gateway = await house.start_gateway()
    async with aiohttp.ClientSession(headers={"Authorization": f"Token {key}"}) as http:
        for what, (path, message, answer) in MESSAGES.items():
            with subtests.test(what):
                async with within(30), http.ws_connect(gateway.ws + path) as socket:
                    await socket.send_str(message)
                    while answer not in (await socket.receive_str()):
                        pass
    assert not [line for line in gateway.log if "exception" in line]

"""The lower bound of the cost of speech, a bare WebSocket client: `python -m bench.voice.floor`.

It sends text with aiohttp and reads the audio. With `--nats` it is a bare relay: text comes from a
core NATS subscription, and audio is published.
"""

from __future__ import annotations

import argparse
import asyncio
import json

import aiohttp
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from .peer import KEY, RATE, OnAudio, Session, serve

_QUERY = f"/v1/speak?model=aura-2-thalia-en&encoding=linear16&sample_rate={RATE}"
_FLUSH = '{"type":"Flush"}'


class _Session:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse, on_audio: OnAudio) -> None:
        self._socket = socket
        self._on_audio = on_audio
        self._reading = asyncio.create_task(self._read())

    async def say(self, text: str) -> None:
        await self._socket.send_str(json.dumps({"type": "Speak", "text": text}))
        await self._socket.send_str(_FLUSH)

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self._on_audio(message.data)


class Floor:
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def open(self, on_audio: OnAudio) -> Session:
        headers = {"Authorization": f"Token {KEY}"}
        url = self._url + _QUERY
        return _Session(await self._http.ws_connect(url, headers=headers, compress=0), on_audio)


def text_subject(number: int) -> str:
    """Return the subject on which the bare relay reads the text of session `number`."""
    return f"bench.text.s{number}"


def audio_subject(number: int) -> str:
    """Return the subject on which it publishes the audio."""
    return f"bench.audio.s{number}"


async def _relay(broker: Client, http: aiohttp.ClientSession, url: str, number: int) -> None:
    async with http.ws_connect(url + _QUERY, compress=0) as socket:

        async def forward(message: Msg) -> None:
            text = message.data.decode()
            await socket.send_str(json.dumps({"type": "Speak", "text": text}))
            await socket.send_str(_FLUSH)

        await broker.subscribe(text_subject(number), cb=forward)
        subject = audio_subject(number)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                await broker.publish(subject, message.data)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--url", required=True, help="URL of the provider without a path")
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--nats")
    arguments = parser.parse_args()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        if arguments.nats is None:
            await serve(arguments, Floor(http, arguments.url), ("aiohttp",))
            return
        broker = await nats.connect(arguments.nats)
        print('{"ready": true}', flush=True)
        numbers = range(arguments.sessions)
        await asyncio.gather(*(_relay(broker, http, arguments.url, number) for number in numbers))


if __name__ == "__main__":
    asyncio.run(main())

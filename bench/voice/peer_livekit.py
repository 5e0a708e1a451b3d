"""livekit-agents' Deepgram voice under load: `python -m bench.voice.peer_livekit` in its
environment.

It follows livekit's documentation: `tts.stream()` for each utterance, `push_text()`, and the audio
of the stream's events. It keeps the plugin's settings except for the provider's address. As in
livekit, where a session has a process of its own, each has its own TTS object, whose connection is
used again for the next utterance.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
from livekit.plugins import deepgram

from .peer import KEY, RATE, OnAudio, Session, parse, serve


class _Session:
    def __init__(self, service: Any, on_audio: OnAudio) -> None:
        self._service = service
        self._on_audio = on_audio
        self._before: asyncio.Task[None] | None = None

    async def say(self, text: str) -> None:
        self._before = asyncio.create_task(self._speak(text, self._before))

    async def _speak(self, text: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        async with self._service.stream() as stream:
            stream.push_text(text)
            stream.flush()
            stream.end_input()
            async for event in stream:
                self._on_audio(bytes(event.frame.data))


class LiveKit:
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def open(self, on_audio: OnAudio) -> Session:
        service = deepgram.TTS(
            api_key=KEY, base_url=f"{self._url}/v1/speak", sample_rate=RATE, http_session=self._http
        )
        return _Session(service, on_audio)


async def main() -> None:
    arguments = parse(__doc__)
    logging.getLogger("livekit").setLevel(logging.WARNING)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        url = arguments.url.replace("ws://", "http://")
        await serve(
            arguments, LiveKit(http, url), ("livekit-agents", "livekit-plugins-deepgram", "aiohttp")
        )


if __name__ == "__main__":
    asyncio.run(main())

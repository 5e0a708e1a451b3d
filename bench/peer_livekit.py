"""livekit-agents' STT streams under load: `python -m bench.peer_livekit` in its environment.

It follows livekit's documentation: `stt.stream()`, `push_frame()`, and the events of the stream. It
keeps the plugin's settings except for the provider's address and Speechmatics' turn detection:
`FIXED` uses the provider's, while the default `EXTERNAL` would also run livekit's voice activity
detector in the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import aiohttp
import livekit.plugins.speechmatics as speechmatics
from livekit import rtc
from livekit.agents import stt
from livekit.plugins import deepgram

from .peer import KEY, RATE, OnTranscript, parse, serve

_PACKAGES = {
    "deepgram": ("livekit-agents", "livekit-plugins-deepgram"),
    "deepgram-flux": ("livekit-agents", "livekit-plugins-deepgram"),
    "speechmatics": ("livekit-agents", "livekit-plugins-speechmatics"),
}
_TEXTS = {
    stt.SpeechEventType.INTERIM_TRANSCRIPT: False,
    stt.SpeechEventType.FINAL_TRANSCRIPT: True,
}


class _Session:
    def __init__(self, stream: Any, on_transcript: OnTranscript) -> None:
        self._stream = stream
        self._on_transcript = on_transcript
        self._listening = asyncio.create_task(self._listen())

    async def send(self, chunk: bytes) -> None:
        self._stream.push_frame(rtc.AudioFrame(chunk, RATE, 1, len(chunk) // 2))

    async def end(self) -> None:
        try:
            self._stream.end_input()
            await self._listening
        finally:
            await self._stream.aclose()

    async def _listen(self) -> None:
        async for event in self._stream:
            final = _TEXTS.get(event.type)
            if final is not None and event.alternatives:
                self._on_transcript(event.alternatives[0].text, final)


class LiveKit:
    def __init__(self, service: Callable[[], Any]) -> None:
        self._service = service

    async def open(self, on_transcript: OnTranscript) -> _Session:
        # In livekit each session has its own process and therefore its own STT object.
        return _Session(self._service().stream(), on_transcript)


async def main() -> None:
    arguments = parse(__doc__, list(_PACKAGES))
    logging.getLogger("livekit").setLevel(logging.WARNING)
    url = arguments.url
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        services: dict[str, Callable[[], Any]] = {
            "deepgram": lambda: deepgram.STT(
                api_key=KEY, base_url=f"{url}/v1/listen", http_session=http
            ),
            "deepgram-flux": lambda: deepgram.STTv2(
                api_key=KEY, base_url=f"{url}/v2/listen", http_session=http
            ),
            "speechmatics": lambda: speechmatics.STT(
                api_key=KEY,
                base_url=f"{url}/v2",
                include_partials=True,
                turn_detection_mode=speechmatics.TurnDetectionMode.FIXED,
            ),
        }
        peer = LiveKit(services[arguments.service])
        await serve(arguments, peer, _PACKAGES[arguments.service])


if __name__ == "__main__":
    asyncio.run(main())

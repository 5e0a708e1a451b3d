"""livekit's plug-in for OpenAI as a client of `/v1/realtime` and `/v1/audio/transcriptions`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc
from livekit.agents import stt
from livekit.agents.utils import http_context
from livekit.plugins import openai

from natterjack.emulators import tones
from tests.waiting import until

from ..house import House, Speech

pytestmark = pytest.mark.process

RATE = 24_000


def plugin(house: House, **settings: Any) -> Any:
    return openai.STT(base_url=f"{house.gateway.http}/v1", api_key="none", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "gpt-4o-transcribe", "use_realtime": True},
        {"model": "gpt-live-transcribe", "vad": None, "keywords": ["natterjack"]},
    ],
)
async def test_a_stream(house: House, settings: dict[str, Any]) -> None:
    await house.start("deepgram")
    speech = Speech(16, rate=RATE)
    async with http_context.open():
        heard: list[str] = []
        kinds: list[str] = []
        speech_to_text = plugin(house, **settings)
        stream = speech_to_text.stream()

        async def read() -> None:
            async for event in stream:
                kinds.append(event.type)
                if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                    heard.extend(tones.words_of(event.alternatives[0].text))

        async def send(frame: bytes) -> None:
            stream.push_frame(rtc.AudioFrame(frame, RATE, 1, len(frame) // 2))

        reading = asyncio.create_task(read())
        await speech.play(send)
        if settings.get("use_realtime"):
            await until(lambda: len(heard) >= 16, "all words")
            speech.check(heard)
            assert stt.SpeechEventType.START_OF_SPEECH in kinds
            assert stt.SpeechEventType.END_OF_SPEECH in kinds
        await until(lambda: stt.SpeechEventType.INTERIM_TRANSCRIPT in kinds, "an interim")
        reading.cancel()
        await stream.aclose()
        await speech_to_text.aclose()

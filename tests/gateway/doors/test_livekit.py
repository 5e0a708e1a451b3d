"""livekit's plug-in for Deepgram as a client of `/v1/listen` (STT) and `/v2/listen` (STTv2)."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from livekit import rtc
from livekit.agents import stt
from livekit.plugins import deepgram

from natterjack.emulators import tones
from tests.waiting import within

from .house import RATE, House, Speech

pytestmark = pytest.mark.process


async def hold(plugin: Any, speech: Speech) -> tuple[list[str], list[str]]:
    """Let a plug-in hear speech. Return the words of its finals, and the types of its events."""
    heard: list[str] = []
    kinds: list[str] = []
    stream = plugin.stream()

    async def read() -> None:
        async for event in stream:
            kinds.append(event.type)
            if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                heard.extend(tones.words_of(event.alternatives[0].text))

    async def send(frame: bytes) -> None:
        stream.push_frame(rtc.AudioFrame(frame, RATE, 1, len(frame) // 2))

    async with within(60):
        reading = asyncio.create_task(read())
        await speech.play(send)
        stream.end_input()
        await reading
    await stream.aclose()
    await plugin.aclose()
    return heard, kinds


@pytest.mark.parametrize("provider", ["deepgram-flux", "speechmatics"])
async def test_it_gets_every_turn(house: House, provider: str) -> None:
    key = house.key()
    await house.start(provider)
    speech = Speech(24)
    async with aiohttp.ClientSession() as http:
        plugin = deepgram.STTv2(
            api_key=key, base_url=f"{house.gateway.ws}/v2/listen", http_session=http,
            model="flux-general-en", eager_eot_threshold=0.4,
        )  # fmt: skip
        heard, kinds = await hold(plugin, speech)
    speech.check(heard)
    for kind in ("START_OF_SPEECH", "END_OF_SPEECH", "FINAL_TRANSCRIPT"):
        assert kinds.count(stt.SpeechEventType[kind]) == 3
    assert stt.SpeechEventType.INTERIM_TRANSCRIPT in kinds


@pytest.mark.parametrize("provider", ["deepgram", "speechmatics"])
async def test_its_older_client_gets_every_word(house: House, provider: str) -> None:
    key = house.key()
    await house.start(provider)
    speech = Speech(24)
    async with aiohttp.ClientSession() as http:
        plugin = deepgram.STT(
            api_key=key, base_url=f"{house.gateway.http}/v1/listen", http_session=http
        )
        heard, kinds = await hold(plugin, speech)
    speech.check(heard)
    assert stt.SpeechEventType.START_OF_SPEECH in kinds
    assert stt.SpeechEventType.INTERIM_TRANSCRIPT in kinds

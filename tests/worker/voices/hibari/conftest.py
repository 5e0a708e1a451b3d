"""The real engine: a voice that tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from natterjack.plugin.voice import VoiceStreamRequest
from worker.voices.hibari import HibariVoice
from worker.voices.hibari.settings import HibariSettings


@pytest.fixture(scope="package")
def voice(engine: None) -> Iterator[HibariVoice]:
    voice = HibariVoice(HibariSettings(threads=2))
    yield voice
    asyncio.run(voice.close())


def request(**fields: Any) -> VoiceStreamRequest:
    return VoiceStreamRequest(
        **{"session_id": "s", "encoding": "linear16", "sample_rate": 24_000, **fields}
    )

"""A provider that hears beeps: every loud stretch of sound is the word `beep`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.plugin.errors import Dropped, RequestRefused
from natterjack.plugin.provider import (
    Capabilities,
    Final,
    Interim,
    Provider,
    ProviderEvent,
    ProviderStream,
    ProviderWord,
    StreamRequest,
)
from natterjack.settings import described

RATE = 8000
BLOCK = RATE // 100


class BeepsSettings(BaseSettings):
    """The beeps provider."""

    model_config = SettingsConfigDict(env_prefix="BEEPS_", frozen=True, extra="ignore")

    loudness: int = described(1000, "peak of a 10 ms block from which on it is a beep", ge=1)
    api_key: SecretStr | None = described(None, "not used; a stranger's plugin has one")


class BeepsStream(ProviderStream):
    """Each beep is an interim when it begins and a final when it ends."""

    def __init__(self, loudness: int) -> None:
        self._loudness = loudness
        self._events: asyncio.Queue[ProviderEvent | None] = asyncio.Queue()
        self._rest = b""
        self._blocks = 0
        self._start: int | None = None
        self._final = 0.0
        self._finished = False
        self._closed = False

    async def send(self, audio: bytes) -> None:
        await asyncio.sleep(0)
        audio = self._rest + audio
        size = BLOCK * 2
        whole = len(audio) // size * size
        self._rest = audio[whole:]
        for i in range(0, whole, size):
            self._hear(np.frombuffer(audio[i : i + size], "<i2"))

    def _hear(self, block: np.ndarray) -> None:
        loud = int(np.abs(block.astype(np.int32)).max()) >= self._loudness
        if loud and self._start is None:
            self._start = self._blocks
            self._events.put_nowait(Interim("beep", self._final, (self._blocks + 1) / 100))
        self._blocks += 1
        if not loud and self._start is not None:
            self._end_beep(self._blocks - 1)

    def _end_beep(self, end: int) -> None:
        assert self._start is not None
        word = ProviderWord("beep", self._start / 100, end / 100)
        self._events.put_nowait(Final("beep", self._final, end / 100, (word,)))
        self._final, self._start = end / 100, None

    async def finish(self) -> None:
        if self._start is not None:
            self._end_beep(self._blocks)
        self._finished = True
        self._events.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        while (event := await self._events.get()) is not None:
            yield event
        if self._closed and not self._finished:
            raise Dropped("beeps", "closed")

    async def close(self) -> None:
        self._closed = True
        self._events.put_nowait(None)


class BeepsProvider(Provider):
    """Hears beeps."""

    name = "beeps"
    Settings = BeepsSettings
    capabilities = Capabilities(
        encodings=("linear16",), sample_rates=(RATE,), confidences=False, answers_silence=False,
        billing="none",
    )  # fmt: skip

    def __init__(self, settings: BeepsSettings) -> None:
        self._settings = settings

    async def open(self, request: StreamRequest) -> ProviderStream:
        await asyncio.sleep(0)
        if request.options:
            raise RequestRefused("beeps", "request", f"no options: {', '.join(request.options)}")
        return BeepsStream(self._settings.loudness)

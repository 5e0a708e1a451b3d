"""The recorded speech, and helpers that send it and collect the events."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from natterjack.audio import AudioFormat
from natterjack.plugin.provider import (
    Final,
    Interim,
    Provider,
    ProviderEvent,
    ProviderStream,
    StreamRequest,
    Turn,
)

FORMAT = AudioFormat("linear16", 16_000, 1)
BYTES_PER_SECOND = 32_000
CHUNK_BYTES = 2_560  # 80 ms

REFERENCE = files("natterjack").joinpath("data/two_cities.txt").read_text("utf-8")
PART_SECONDS = 13.1
"""Duration of four sentences at the beginning of the recording, with the pause after them."""
PART_REFERENCE = REFERENCE[: REFERENCE.index(", it was the season")]


def two_cities() -> bytes:
    """The recording in the wheel of the bundled model, as 16 kHz mono linear16."""
    spec = importlib.util.find_spec("moonshine_voice")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "assets" / "two_cities.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    return linear16(soxr.resample(samples, rate, FORMAT.sample_rate))


def linear16(samples: Any) -> bytes:
    """Samples from -1 to 1 as bytes."""
    scaled = np.clip(np.asarray(samples) * 32767, -32768, 32767)
    return bytes(scaled.astype("<i2"))


def seconds(start: float, end: float, audio: bytes) -> bytes:
    """The part of `audio` between two times."""
    return audio[round(start * 16_000) * 2 : round(end * 16_000) * 2]


def chunks(audio: bytes, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    for start in range(0, len(audio), size):
        yield audio[start : start + size]


def request(**fields: Any) -> StreamRequest:
    return StreamRequest(**{"session_id": "test", "format": FORMAT, **fields})


@dataclass
class Take:
    """The events of one stream, in order."""

    events: list[ProviderEvent] = field(default_factory=list)

    @property
    def finals(self) -> list[Final]:
        return [event for event in self.events if isinstance(event, Final)]

    @property
    def interims(self) -> list[Interim]:
        return [event for event in self.events if isinstance(event, Interim)]

    @property
    def turns(self) -> list[Turn]:
        return [event for event in self.events if isinstance(event, Turn)]

    @property
    def text(self) -> str:
        return " ".join(final.text for final in self.finals if final.text)


async def feed(stream: ProviderStream, audio: bytes, size: int = CHUNK_BYTES) -> None:
    """Send all of `audio` as fast as it is accepted, and finish."""
    for chunk in chunks(audio, size):
        await stream.send(chunk)
    await stream.finish()


async def take_of(
    provider: Provider, audio: bytes, *, size: int = CHUNK_BYTES, **options: Any
) -> Take:
    """Send `audio` through a stream with these options and collect its events."""
    stream = await provider.open(request(options=options))
    take = Take()
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(stream, audio, size))
        async for event in stream:
            take.events.append(event)
    await stream.close()
    return take

"""Words lost, doubled or reordered, for every provider, sample rate and channel count.

`python -m tests.worker.provider_table` prints a table: tone words through an edge, a broker, a
worker process and the provider's emulator. The worker resamples and mixes down.
docs/explanation/faults.md has its figures.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import NamedTuple

from natterjack.broker.connection import connected
from natterjack.emulators import tones
from natterjack.emulators.catalog import TRANSCRIBING, load, settings
from natterjack.emulators.server import Emulator
from natterjack.settings import BrokerSettings
from tests.nats_server import NatsServer

from .programs import Speaker, WorkerProcess, closed

RATES = (8000, 16_000, 48_000)
CHANNELS = (1, 2)
SPEED = 6.0
_WORD_SECONDS = 0.41
"""Duration of one word, pauses included."""


class Row(NamedTuple):
    provider: str
    rate: int
    channels: int
    seconds: float
    sent: int
    received: int
    counts: tones.Counts
    largest_error_ms: float | None
    """Largest error of a word's start; None if the provider gives no word times."""

    def line(self) -> str:
        """Format the row for a Markdown table."""
        error = "none given" if self.largest_error_ms is None else f"{self.largest_error_ms:.1f}"
        cells = [
            self.provider, f"{self.rate // 1000} kHz", "stereo" if self.channels == 2 else "mono",
            f"{self.seconds:.0f} s", self.sent, self.received, self.counts.lost,
            self.counts.doubled, self.counts.out_of_order + self.counts.invented, error,
        ]  # fmt: skip
        return "| " + " | ".join(map(str, cells)) + " |"


HEAD = (
    "| provider | rate | channels | audio | words sent | received | lost | doubled | wrong | "
    "largest error of a word's time, ms |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def environment(name: str, emulator: Emulator) -> dict[str, str]:
    """Settings under which a worker uses the emulator for provider `name`, and feeds it fast."""
    prefix = name.upper().replace("-", "_")
    return {**settings(name, emulator.url), f"{prefix}_CATCH_UP_RATE": str(SPEED * 2)}


async def rows(name: str, seconds: float) -> list[Row]:
    """One row for each rate and channel count, all at the same time."""
    with tempfile.TemporaryDirectory() as store:
        server = NatsServer(Path(store))
        server.start()
        try:
            settings = BrokerSettings(url=server.url)
            async with load(name)() as emulator, connected(settings, name="table") as broker:
                worker = WorkerProcess(server.url, emulator.url, **environment(name, emulator))
                await worker.start()
                try:
                    words = round(seconds / _WORD_SECONDS)
                    speakers = [
                        Speaker(
                            settings, words, speed=SPEED, sample_rate=rate, channels=channels,
                            conversation=f"{rate}-{channels}",
                        )
                        for rate in RATES for channels in CHANNELS
                    ]  # fmt: skip
                    await asyncio.gather(*(speaker.speak() for speaker in speakers))
                    found = []
                    for speaker in speakers:
                        transcript = await closed(broker, speaker.spec, 120)
                        found.append(_row(name, speaker, transcript.words, transcript.word_starts))
                    return found
                finally:
                    await worker.stop()
        finally:
            server.stop()


def _row(name: str, speaker: Speaker, heard: list[str], starts: list[float | None]) -> Row:
    errors = [
        abs(start - place.start) * 1000
        for start, place in zip(starts, speaker.places, strict=False)
        if start is not None
    ]
    return Row(
        name, speaker.spec.sample_rate, speaker.spec.channels, speaker.seconds, len(speaker.words),
        len(heard), tones.compare(speaker.words, heard), max(errors, default=None),
    )  # fmt: skip


async def _print(names: list[str], seconds: float) -> None:
    print(HEAD, flush=True)
    for name in names:
        for row in await rows(name, seconds):
            print(row.line(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("providers", nargs="*", default=sorted(TRANSCRIBING))
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    asyncio.run(_print(arguments.providers, arguments.seconds))

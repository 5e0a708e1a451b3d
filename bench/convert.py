"""Cost of converting audio in a worker: `python -m bench.convert`.

Calls `worker.audio.convert.Converter` as the worker does, for many sessions in turn so that their
state does not stay in the CPU's caches. The measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from natterjack.audio import AudioFormat
from natterjack.errors import NatterjackError, UsageError
from natterjack.process.table import table

from .processes import program, resident_bytes

SOURCES = {
    "48 kHz stereo": AudioFormat("linear16", 48_000, 2),
    "8 kHz mu-law": AudioFormat("mulaw", 8_000, 1),
}
TARGET = AudioFormat("linear16", 16_000, 1)
CHUNKS_MS = (80, 20, 200)
_SESSIONS = 50
_RUNS = 7
_NOISE_S = 0.4
"""Length of the audio that is repeated for each session."""


@dataclass
class Point:
    """Result for one source format and chunk length, converted to 16 kHz mono linear16."""

    source: str
    chunk_ms: int
    cpu_s_per_hour: float
    """CPU seconds per hour of audio: the median of the runs."""
    least: float
    most: float
    """CPU seconds per hour of audio of the fastest and the slowest run."""
    core_share: float
    """Share of one core per session."""
    kb_per_session: float
    """Resident memory of an active converter."""
    runs: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def measure(seconds: float = 1.0) -> list[Point]:
    """Measure each point for `seconds` of CPU time over all its runs.

    Raises: UsageError.
    """
    points = []
    for source in SOURCES:
        for chunk_ms in CHUNKS_MS:
            arguments = ("--inside", source, "--chunk-ms", str(chunk_ms), "--seconds", str(seconds))
            async with program("-m", "bench.convert", *arguments) as process:
                reply = await process.read_json(60 + 10 * seconds)
            if error := reply.get("error"):
                raise UsageError(error)
            points.append(Point(**reply))
    return points


def _inside(source: str, chunk_ms: int, seconds: float) -> Point:
    """Run the measurement in this process.

    Raises: ImportError.
    """
    from worker.audio.convert import Converter
    from worker.providers.sherpa import SherpaProvider

    audio_format = SOURCES[source]
    frame_ms = SherpaProvider.capabilities.frame_ms
    size = audio_format.sample_rate * chunk_ms // 1000 * audio_format.frame_bytes
    noise = random.Random(1).randbytes(round(_NOISE_S * 1000 / chunk_ms) * size)  # noqa: S311 - audio
    chunks = [noise[start : start + size] for start in range(0, len(noise), size)]

    def round_(converters: list[Converter]) -> float:
        """Convert some chunks of each session and return the seconds of audio in total."""
        for chunk in chunks:
            for converter in converters:
                for _ in converter.convert(chunk):
                    pass
        return len(chunks) * len(converters) * chunk_ms / 1000

    def run(converters: list[Converter]) -> float:
        """Return CPU seconds per hour of audio."""
        began, used, fed = time.process_time(), 0.0, 0.0
        while used < seconds / _RUNS:
            fed += round_(converters)
            used = time.process_time() - began
        return used / fed * 3600

    round_([Converter(audio_format, TARGET, frame_ms)])  # loads libraries before the measurement
    before = resident_bytes(os.getpid())
    converters = [Converter(audio_format, TARGET, frame_ms) for _ in range(_SESSIONS)]
    round_(converters)
    held = resident_bytes(os.getpid()) - before
    costs = [run(converters) for _ in range(_RUNS)]
    median = statistics.median(costs)
    return Point(
        source=source,
        chunk_ms=chunk_ms,
        cpu_s_per_hour=median,
        least=min(costs),
        most=max(costs),
        core_share=median / 3600,
        kb_per_session=held / _SESSIONS / 1024,
        runs=_RUNS,
    )


def print_points(points: Sequence[Point]) -> None:
    head = ("to 16 kHz mono from", "chunk ms", "CPU s/h", "least", "most", "core", "KB/session")
    rows = [
        (
            point.source,
            str(point.chunk_ms),
            f"{point.cpu_s_per_hour:.2f}",
            f"{point.least:.2f}",
            f"{point.most:.2f}",
            f"{point.core_share:.3%}",
            f"{point.kb_per_session:.0f}",
        )
        for point in points
    ]
    print(*table([head, *rows], right=range(1, len(head))), sep="\n")


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU time of each measurement")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--chunk-ms", type=int, default=80, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        try:
            reply = _inside(arguments.inside, arguments.chunk_ms, arguments.seconds).as_dict()
        except ImportError as error:
            reply = {"error": f"{error}: pip install 'natterjack[worker]' installs it"}
        print(json.dumps(reply), flush=True)
        return
    try:
        points = await measure(arguments.seconds)
    except NatterjackError as error:
        sys.exit(f"bench.convert: {error}")
    print_points(points)


if __name__ == "__main__":
    asyncio.run(main())

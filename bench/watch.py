"""Cost of watching the input of an edge: `python -m bench.watch`.

Feeds noise to `edge_capture.input.watch.Watch` in the blocks of a microphone. The floor, measured
beside it in turn, is the least that looks at each sample: the extremes of each second.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_capture.input.watch import Watch
from natterjack.audio import AudioFormat
from natterjack.errors import NatterjackError
from natterjack.process.table import table

SOURCES = {
    "16 kHz mono": AudioFormat("linear16", 16_000, 1),
    "48 kHz stereo": AudioFormat("linear16", 48_000, 2),
}
_BLOCK_S = 0.08
_NOISE_S = 20.0
"""Length of the audio that is repeated. It is whole seconds and whole blocks."""

Samples = npt.NDArray[np.int16]


@dataclass
class Point:
    """Result for one source."""

    source: str
    core_share: float
    """Share of one core: the median of the runs."""
    floor_share: float
    ratio: float
    """The median of the ratios of runs to the floor beside them."""
    runs: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _noise(audio: AudioFormat) -> Samples:
    """Noise as loud as speech, with another one in each channel."""
    frames = round(_NOISE_S * audio.sample_rate)
    found = np.random.default_rng(1).normal(0, 2000, (frames, audio.channels))
    return found.astype(np.int16)


def _watched(audio: AudioFormat, samples: Samples) -> None:
    """Watch `samples`, which have no finding."""
    watch, block = Watch(audio), round(_BLOCK_S * audio.sample_rate)
    found = []
    for start in range(0, len(samples), block):
        found += watch.feed(samples[start : start + block])
    if found or watch.level is None:
        raise AssertionError(f"noise is not noise: {found}")


def _floor(audio: AudioFormat, samples: Samples) -> None:
    """Find the extremes of each second, of all channels together, of what arrives in blocks."""
    block, blocks, frames = round(_BLOCK_S * audio.sample_rate), [], 0
    for start in range(0, len(samples), block):
        blocks.append(samples[start : start + block])
        frames += len(blocks[-1])
        if frames >= audio.sample_rate:
            second = np.concatenate(blocks)
            second.min()
            second.max()
            blocks, frames = [], 0


def _share(
    work: Callable[[AudioFormat, Samples], None], audio: AudioFormat, noise: Samples
) -> float:
    """CPU time for each second of audio."""
    began = time.process_time()
    work(audio, noise)
    return (time.process_time() - began) / _NOISE_S


async def measure(runs: int = 15) -> list[Point]:
    """Measure each source, with the floor before each run."""
    points = []
    for name, audio in SOURCES.items():
        noise = _noise(audio)
        _share(_watched, audio, noise)
        pairs = [
            (_share(_floor, audio, noise), _share(_watched, audio, noise)) for _ in range(runs)
        ]
        points.append(
            Point(
                name, statistics.median(watched for _, watched in pairs),
                statistics.median(floor for floor, _ in pairs),
                statistics.median(watched / floor for floor, watched in pairs), runs,
            )
        )  # fmt: skip
    return points


def print_points(points: Sequence[Point]) -> None:
    """Print a table."""
    rows = [["source", "share of a core", "floor", "ratio"]]
    rows += [
        [each.source, f"{each.core_share:.3%}", f"{each.floor_share:.3%}", f"{each.ratio:.1f}"]
        for each in points
    ]
    print(*table(rows, right=(1, 2, 3)), sep="\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    try:
        print_points(asyncio.run(measure(parser.parse_args().runs)))
    except NatterjackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Cost of the embedded engine: `python -m bench.engine`.

Runs the real provider in a process of its own and sends it the bundled recording of a reading
person in real time, in chunks of 80 ms. Concurrent streams receive different parts of the
recording.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from natterjack.audio import AudioFormat
from natterjack.errors import NatterjackError, UsageError
from natterjack.local.demo import bundled_recording
from natterjack.plugin.provider import Final, Interim, ProviderStream, StreamRequest, Turn
from natterjack.process.table import table

from .processes import program, resident_bytes

FORMAT = AudioFormat("linear16", 16_000, 1)
_CHUNK_MS = 80
_CHUNK_BYTES = FORMAT.sample_rate * _CHUNK_MS // 1000 * FORMAT.frame_bytes
_PATIENCE_S = 60.0
_END_S = 1.0
"""Silence after the speech, so that its last turn ends with a pause as the others do."""


class Case(NamedTuple):
    """Configuration of the engine."""

    streams: int = 1
    interims: bool = True
    silent: bool = False
    """Whether the audio is silence."""


CASES = (Case(), Case(streams=4), Case(interims=False), Case(silent=True))


@dataclass
class Point:
    """Result of one case. Delays are in seconds, for all streams, sorted."""

    streams: int
    interims: bool
    silent: bool
    audio_s: float
    """Audio of all streams."""
    cpu_s_per_audio_s: float
    streams_per_core: float
    final_s: list[float]
    """Delay from the detected end of speech to the turn's final, including the pause that ends a
    turn."""
    interim_s: list[float]
    """Delay from the last covered frame to the interim."""
    words: int
    load_s: float
    """Time from the start of the process to the first open stream."""
    mb_before: float
    """Resident memory before the engine is loaded."""
    mb_loaded: float
    """Resident memory with one open stream."""
    mb: float
    """Resident memory with all streams at the end."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _StreamResult:
    """Results of one stream."""

    final_s: list[float] = field(default_factory=list)
    interim_s: list[float] = field(default_factory=list)
    words: int = 0


async def measure(seconds: float = 12.0, cases: Sequence[Case] = CASES) -> list[Point]:
    """Measure each case with `seconds` of audio per stream.

    Raises: UsageError.
    """
    points = []
    for case in cases:
        arguments = ("--inside", json.dumps(case), "--seconds", str(seconds))
        async with program("-m", "bench.engine", *arguments) as process:
            reply = await process.read_json(seconds + _PATIENCE_S)
        if error := reply.get("error"):
            raise UsageError(error)
        points.append(Point(**reply))
    return points


async def _inside(case: Case, seconds: float) -> Point:
    """Run the measurement in this process.

    Raises: NatterjackError, ImportError.
    """
    from worker.providers.sherpa import SherpaProvider

    parts = _parts(case, seconds)
    before, began = resident_bytes(os.getpid()), time.monotonic()
    settings = SherpaProvider.Settings()
    options = {} if case.interims else {"interim_seconds": 0}
    provider = SherpaProvider(settings)
    requests = [StreamRequest(f"bench-{n}", FORMAT, options=options) for n in range(case.streams)]
    streams = [await provider.open(requests[0])]
    load, loaded = time.monotonic() - began, resident_bytes(os.getpid())
    streams += [await provider.open(request) for request in requests[1:]]
    heard = [_StreamResult() for _ in streams]
    used = time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for number, (stream, part) in enumerate(zip(streams, parts, strict=True)):
            began = time.monotonic() + number * _CHUNK_MS / 1000 / case.streams
            tasks.create_task(_speak(stream, part, began), name=f"speak {number}")
            tasks.create_task(_listen(stream, heard[number], began), name=f"listen {number}")
    used = time.process_time() - used
    most = resident_bytes(os.getpid())
    for stream in streams:
        await stream.close()
    await provider.close()
    audio_s = sum(len(part) for part in parts) / FORMAT.frame_bytes / FORMAT.sample_rate
    return Point(
        **case._asdict(),
        audio_s=audio_s,
        cpu_s_per_audio_s=used / audio_s,
        streams_per_core=audio_s / used,
        final_s=sorted(delay for each in heard for delay in each.final_s),
        interim_s=sorted(delay for each in heard for delay in each.interim_s),
        words=sum(each.words for each in heard),
        load_s=load,
        mb_before=before / 2**20,
        mb_loaded=loaded / 2**20,
        mb=most / 2**20,
    )


def _parts(case: Case, seconds: float) -> list[bytes]:
    """Return the audio of each stream: speech, or a third as much silence, which needs less time.

    Raises: UsageError, ImportError.
    """
    size = round(seconds * FORMAT.sample_rate) * FORMAT.frame_bytes
    if case.silent:
        return [bytes(size // _CHUNK_BYTES // 3 * _CHUNK_BYTES)] * case.streams
    import soundfile
    import soxr

    samples, rate = soundfile.read(bundled_recording(), dtype="int16")
    speech = soxr.resample(samples, rate, FORMAT.sample_rate).tobytes()
    step = len(speech) // FORMAT.frame_bytes // 4 * FORMAT.frame_bytes
    end = bytes(round(_END_S * FORMAT.sample_rate) * FORMAT.frame_bytes)
    size, around = max(0, size - len(end)), speech * (2 + size // len(speech))
    starts = [number * step % len(speech) for number in range(case.streams)]
    return [around[start : start + size] + end for start in starts]


async def _speak(stream: ProviderStream, audio: bytes, began: float) -> None:
    """Send each chunk at the time at which it would have been captured."""
    for start in range(0, len(audio), _CHUNK_BYTES):
        chunk = audio[start : start + _CHUNK_BYTES]
        captured = (start + len(chunk)) / FORMAT.frame_bytes / FORMAT.sample_rate
        await asyncio.sleep(began + captured - time.monotonic())
        await stream.send(chunk)
    await stream.finish()


async def _listen(stream: ProviderStream, heard: _StreamResult, began: float) -> None:
    final_at = 0.0
    async for event in stream:
        passed = time.monotonic() - began
        match event:
            case Interim():
                heard.interim_s.append(passed - event.end)
            case Final(text=text) if text:
                final_at = passed
                heard.words += len(text.split())
            case Turn(event="ended"):
                heard.final_s.append(final_at - event.at)


def _percentile(delays: list[float], part: float) -> str:
    """Return a percentile in milliseconds."""
    return f"{delays[round((len(delays) - 1) * part)] * 1000:.0f}" if delays else "-"


def print_points(points: Sequence[Point]) -> None:
    head = (
        *("streams", "CPU s/audio s", "per core", "final ms", "worst", "interim ms", "worst"),
        *("words", "load s", "MB before", "loaded", "end", "with"),
    )
    rows = [
        (
            str(point.streams),
            f"{point.cpu_s_per_audio_s:.3f}",
            f"{point.streams_per_core:.1f}",
            _percentile(point.final_s, 0.5),
            _percentile(point.final_s, 1),
            _percentile(point.interim_s, 0.5),
            _percentile(point.interim_s, 1),
            str(point.words),
            f"{point.load_s:.2f}",
            f"{point.mb_before:.0f}",
            f"{point.mb_loaded:.0f}",
            f"{point.mb:.0f}",
            "silence" if point.silent else "" if point.interims else "no interims",
        )
        for point in points
    ]
    print(*table([head, *rows], right=range(len(head) - 1)), sep="\n")


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="seconds of audio per stream")
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        try:
            reply = (await _inside(Case(*arguments.inside), arguments.seconds)).as_dict()
        except* ImportError as group:
            reply = {"error": f"{group.exceptions[0]}: pip install 'natterjack[local]' installs it"}
        except* NatterjackError as group:
            reply = {"error": str(group.exceptions[0])}
        print(json.dumps(reply), flush=True)
        return
    try:
        points = await measure(arguments.seconds)
    except NatterjackError as error:
        sys.exit(f"bench.engine: {error}")
    print_points(points)


if __name__ == "__main__":
    asyncio.run(main())

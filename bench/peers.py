"""Comparison with other programs that stream speech to the same providers: `python -m bench.peers`.

Measures the speech-to-text services of pipecat and livekit-agents, each in its own process and
environment (bench.peer_venvs), with the emulators that are used for natterjack. The table says why
a peer could not be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from natterjack.process.table import table
from tests.waiting import until

from .peer_losses import Loss, measure_losses, print_losses
from .peer_venvs import NotInstalled, installed
from .processes import Emulator, cpu_seconds, emulator, program, resident_bytes

SERVICES = (
    ("livekit", "deepgram"),
    ("livekit", "deepgram-flux"),
    ("livekit", "speechmatics"),
    ("pipecat", "deepgram"),
    ("pipecat", "deepgram-flux"),
)
"""Peers and their services, by natterjack's names of the providers."""
SESSIONS = (1, 100, 300)
CHUNK_MS = 80
_SETTLE_S = 2.0
_BEGIN_S = 60.0
_FULL = 0.9
"""Share of a core above which delays depend on the core rather than on the peer."""
_TOO_MUCH = 1.2
"""Estimated cores above which a point is skipped, because a process of these peers uses one."""


@dataclass
class PeerPoint:
    """One measurement, or why it was `skipped`. Delays are in milliseconds, by percentile."""

    peer: str
    service: str
    sessions: int
    versions: dict[str, str] = field(default_factory=dict)
    skipped: str = ""
    cpu_s_per_hour: float = 0.0
    """CPU seconds per hour of audio, without the cost of sending the audio."""
    giving_s_per_hour: float = 0.0
    """Cost of sending the audio: the same process with a peer that does nothing."""
    cpu_share: float = 0.0
    """Share of one core, including the cost of sending."""
    audio_ms: dict[str, float] = field(default_factory=dict)
    """Delay from sending audio to the peer until the first byte of its message is at the provider.

    livekit splits audio into 50 ms for Deepgram and 100 ms for Speechmatics, so a message that
    spans two chunks waits for the second one. Chunks of exactly that length do not wait."""
    results_ms: dict[str, float] = field(default_factory=dict)
    """Delay from the provider's message to the text in the peer's event or frame."""
    delivered: float = 0.0
    """Share of the due audio that arrived: 1 without lag."""
    kb_per_session: float = 0.0
    mb_idle: float = 0.0
    late_ms: float = 0.0
    """Maximum delay of sending audio because the process was busy."""
    broken: int = 0
    """Sessions that the peer ended."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class PeersReport:
    points: list[PeerPoint]
    losses: list[Loss]

    def as_dict(self) -> dict[str, Any]:
        return {
            "points": [point.as_dict() for point in self.points],
            "losses": [asdict(loss) for loss in self.losses],
        }


async def measure_peers(
    seconds: float = 10,
    sessions: Sequence[int] = SESSIONS,
    *,
    services: Sequence[tuple[str, str]] = SERVICES,
    chunk_ms: int = CHUNK_MS,
    verbose: bool = False,
) -> list[PeerPoint]:
    """Measure each service of each peer at each number of sessions."""
    points, giving = [], {}
    for peer, service in services:
        try:
            python = await installed(peer)
        except NotInstalled as error:
            points.append(PeerPoint(peer, service, 0, skipped=str(error)))
            continue
        each = 0.0
        for count in sorted(sessions):
            if each * count > _TOO_MUCH:
                why = f"would need {each * count:.1f} cores but has one"
                points.append(PeerPoint(peer, service, count, skipped=why))
                continue
            if count not in giving:
                nothing = await _measure(
                    sys.executable, "peer", "nothing", count, seconds, chunk_ms
                )
                giving[count] = nothing.cpu_s_per_hour
            module = f"peer_{peer}"
            try:
                point = await _measure(
                    str(python), module, service, count, seconds, chunk_ms, verbose
                )
            except (RuntimeError, TimeoutError, AssertionError) as error:
                why = f"failed: {str(error)[:200] or type(error).__name__}"
                points.append(PeerPoint(peer, service, count, skipped=why))
                continue
            point.peer, point.giving_s_per_hour = peer, giving[count]
            point.cpu_s_per_hour -= giving[count]
            if count > 1:  # a single session costs more than its share
                each = point.cpu_share / count
            points.append(point)
    return points


async def _measure(
    python: str,
    module: str,
    service: str,
    sessions: int,
    seconds: float,
    chunk_ms: int,
    verbose: bool = False,
) -> PeerPoint:
    async with (
        emulator() as provider,
        program(
            *("-m", f"bench.{module}", "--service", service, "--sessions", str(sessions)),
            *("--url", f"ws://{provider.address}", "--chunk-ms", str(chunk_ms)),
            python=python,
            quiet=not verbose,
        ) as subject,
    ):
        ready = await subject.read_json()
        idle = resident_bytes(subject.pid)
        await subject.ask("open")
        if service != "nothing":
            await _begun(provider, sessions)
        await asyncio.sleep(_SETTLE_S)
        await subject.ask("reset")
        await provider.stats(reset=True)
        before = cpu_seconds(subject.pid)
        await asyncio.sleep(seconds)
        cpu, received = cpu_seconds(subject.pid) - before, await provider.stats()
        results, loaded = await subject.ask("stats"), resident_bytes(subject.pid)
    took = received["seconds"]
    return PeerPoint(
        peer=module,
        service=service,
        sessions=sessions,
        versions=ready["versions"],
        cpu_s_per_hour=cpu / (sessions * took) * 3600,
        cpu_share=cpu / took,
        audio_ms=received["audio_delay_ms"],
        results_ms=results["result_delay_ms"],
        delivered=received["bytes"] / (took * sessions * 32_000),
        kb_per_session=(loaded - idle) / sessions / 1024,
        mb_idle=idle / 2**20,
        late_ms=results["late_ms"],
        broken=results["broken"],
    )


async def _begun(provider: Emulator, sessions: int) -> None:
    async def begun() -> bool:
        return bool((await provider.stats())["begun"] >= sessions)

    await until(begun, f"{sessions} sessions have started", _BEGIN_S)


def print_points(points: Sequence[PeerPoint]) -> None:
    head = ["peer", "sessions", "CPU s/h", "core", "audio p50/p95/p99 ms"]
    lines = [[*head, "results p50/p95/p99 ms", "KB/session", ""]]
    for point in points:
        name = f"{point.peer} {point.service}"
        if point.skipped:
            sessions = str(point.sessions or "")
            lines.append([name, sessions, *[""] * 5, f"not measured: {point.skipped}"])
            continue
        notes = [f"{point.broken} sessions broke"] if point.broken else []
        if point.cpu_share >= _FULL:
            notes.append("the core is full")
        if abs(point.delivered - 1) > 0.02:
            notes.append(f"{point.delivered:.1%} of audio delivered")
        lines.append(
            [name, str(point.sessions), f"{point.cpu_s_per_hour:.2f}", f"{point.cpu_share:.2f}",
             _three(point.audio_ms), _three(point.results_ms), f"{point.kb_per_session:.0f}",
             ", ".join(notes)]
        )  # fmt: skip
    print(*table(lines, right=range(1, 7)), sep="\n")
    versions = {name: v for point in points for name, v in point.versions.items()}
    print(", ".join(f"{name} {version}" for name, version in sorted(versions.items())))


def _three(delays: dict[str, float]) -> str:
    return "/".join(f"{delays[part]:.1f}" for part in ("p50", "p95", "p99")) if delays else "-"


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="duration of each measurement")
    parser.add_argument("--sessions", type=int, nargs="+", default=SESSIONS)
    parser.add_argument("--chunk-ms", type=int, default=CHUNK_MS)
    parser.add_argument(
        "--speech-seconds", type=float, default=24, help="seconds of speech per fault"
    )
    parser.add_argument(
        "--speakers", type=int, default=16, help="speakers per fault; 0 disables faults"
    )
    parser.add_argument("--only", choices=["cost", "losses"], help="default: both")
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    parser.add_argument("--verbose", action="store_true", help="show the logs of the peers")
    arguments = parser.parse_args()
    report = PeersReport([], [])
    if arguments.only != "losses":
        report.points = await measure_peers(
            arguments.seconds,
            arguments.sessions,
            chunk_ms=arguments.chunk_ms,
            verbose=arguments.verbose,
        )
        print_points(report.points)
    if arguments.only != "cost" and arguments.speakers:
        report.losses = await measure_losses(
            SERVICES, arguments.speech_seconds, arguments.speakers, verbose=arguments.verbose
        )
        print_losses(report.losses)
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""Run all benchmarks, one after another: `make bench`, or `python -m bench --help`.

Prints a table for each part and writes all figures, with a description of the machine, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from natterjack.errors import NatterjackError
from natterjack.local.embedded import find_binary
from natterjack.process.table import table

from . import (
    broker,
    consume,
    convert,
    edge,
    engine,
    peer_losses,
    peers,
    relay,
    scale,
    stages,
    watch,
)
from .gateway import losses as gateway_losses
from .gateway.__main__ import measure_cost as measure_gateway
from .gateway.cost import SESSIONS as GATEWAY_SESSIONS
from .processes import commit, progress
from .voice.__main__ import measure_cost, measure_latency
from .voice.cost import SESSIONS, WHO
from .voice.latency import VOICES

Part = Callable[[argparse.Namespace], Awaitable[Any]]


async def _relay(arguments: argparse.Namespace) -> Any:
    points = await relay.measure_all(arguments.seconds, arguments.runs)
    relay.print_points(points)
    return [point.as_dict() for point in points]


async def _stages(arguments: argparse.Namespace) -> Any:
    shares = await stages.measure(seconds=2 * arguments.seconds)
    print(*table([[name, f"{share:.1%}"] for name, share in shares.items()], right=(1,)), sep="\n")
    return shares


async def _capacity(arguments: argparse.Namespace) -> Any:
    points = await relay.measure_capacity(arguments.seconds)
    relay.print_points(points)
    return [point.as_dict() for point in points]


async def _convert(arguments: argparse.Namespace) -> Any:
    return _points(convert, await convert.measure())


async def _edge(arguments: argparse.Namespace) -> Any:
    return _points(edge, await edge.measure())


async def _watch(arguments: argparse.Namespace) -> Any:
    return _points(watch, await watch.measure(5 * arguments.runs))


async def _engine(arguments: argparse.Namespace) -> Any:
    return _points(engine, await engine.measure())


async def _broker(arguments: argparse.Namespace) -> Any:
    return _points(broker, await broker.measure(arguments.seconds))


async def _consume(arguments: argparse.Namespace) -> Any:
    return _points(consume, await consume.measure(runs=arguments.runs))


async def _scale(arguments: argparse.Namespace) -> Any:
    return _points(scale, await scale.measure(arguments.seconds))


async def _peers(arguments: argparse.Namespace) -> Any:
    # Publish as bench.peer does: chunks that are due within 4 ms together.
    ours = [
        await relay.measure(who, sessions, 80, arguments.seconds, slot_ms=4)
        for sessions in (100, 300)
        for who in ("floor", "worker")
    ]
    relay.print_points(ours)
    points = await peers.measure_peers(arguments.seconds, (100, 300))
    peers.print_points(points)
    return [*(point.as_dict() for point in ours), *(point.as_dict() for point in points)]


async def _losses(arguments: argparse.Namespace) -> Any:
    losses = await peer_losses.measure_losses(peers.SERVICES, 16, 8, faults=("drop", "mute"))
    peer_losses.print_losses(losses)
    return [asdict(loss) for loss in losses]


async def _voice(arguments: argparse.Namespace) -> Any:
    who = [one for one in WHO if not (arguments.no_peers and one in ("livekit", "pipecat"))]
    latency = await measure_latency(round(4 * arguments.seconds), VOICES)
    return {"latency": latency, "cost": await measure_cost(2 * arguments.seconds, 1, SESSIONS, who)}


async def _gateway(arguments: argparse.Namespace) -> Any:
    return await measure_gateway(arguments.seconds, 1, GATEWAY_SESSIONS)


async def _gateway_losses(arguments: argparse.Namespace) -> Any:
    lost = await gateway_losses.measure_all(list(gateway_losses.FAULTS), 24, 8)
    print(*table(gateway_losses.rows(lost), right=range(1, 5)), sep="\n")
    return [asdict(loss) for loss in lost]


def _points(module: Any, points: Sequence[Any]) -> Any:
    module.print_points(points)
    return [point.as_dict() for point in points]


PARTS: dict[str, tuple[str, Part]] = {
    "relay": ("a worker compared with a bare relay", _relay),
    "stages": ("CPU time of a worker by stage, 300 sessions", _stages),
    "capacity": ("maximum number of sessions of one worker", _capacity),
    "convert": ("resampling and downmixing", _convert),
    "edge": ("the edge", _edge),
    "watch": ("watching the input of an edge", _watch),
    "engine": ("the embedded engine", _engine),
    "broker": ("the broker under the load of a worker", _broker),
    "consume": ("reading 100,000 stored events", _consume),
    "scale": ("audio of many sessions in one JetStream stream, on one node and on three", _scale),
    "peers": ("other programs with the same provider emulator", _peers),
    "voice": ("voice sessions: delays of speech and of interrupts, and costs", _voice),
    "gateway": ("clients through the gateway, beside the same ones alone", _gateway),
    "gateway-losses": ("words that clients lose, alone and through the gateway", _gateway_losses),
    "losses": ("words lost when a provider drops its connection or goes mute", _losses),
}

_OPTIONAL = ("scale",)
"""Parts that take minutes and run only on request."""


def _machine() -> dict[str, Any]:
    """Describe the machine and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = ("nats-py", "aiohttp", "uvloop", "pydantic", "numpy", "soxr", "sherpa-onnx")
    server = subprocess.run([find_binary(), "-v"], capture_output=True, text=True, check=True)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 2**30),
        "load_before": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "nats_server": server.stdout.strip().rpartition(" ")[2],
        "packages": {name: version(name) for name in packages},
    }


async def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "parts", nargs="*", choices=[[], *PARTS], metavar="PART",
        help=f"one of {', '.join(PARTS)}; default: all except {', '.join(_OPTIONAL)}",
    )  # fmt: skip
    parser.add_argument("--no-peers", action="store_true", help="skip other programs")
    parser.add_argument("--seconds", type=float, default=6, help="duration of each measurement")
    parser.add_argument(
        "--runs", type=int, default=3, help="repetitions of measurements that have a target"
    )
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    names = arguments.parts or [name for name in PARTS if name not in _OPTIONAL]
    if arguments.no_peers:
        names = [name for name in names if name not in ("peers", "losses")]
    report: dict[str, Any] = {"machine": _machine()}
    print(json.dumps(report["machine"], indent=1))
    failed = False
    for number, name in enumerate(names, 1):
        what, part = PARTS[name]
        print(f"\n{what}", flush=True)
        progress(f"[{number}/{len(names)}] {name} ...")
        began = time.monotonic()
        try:
            report[name] = await part(arguments)
        except (NatterjackError, RuntimeError, TimeoutError, AssertionError) as error:
            failed = True
            report[name] = {"failed": str(error) or repr(error)}
            print(f"not measured: {report[name]['failed']}")
        progress(f"{name} took {time.monotonic() - began:.0f} s")
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nAll figures are in {arguments.json}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""Run an emulator: `python -m natterjack.emulators deepgram --port 0`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from typing import Any

from .catalog import EMULATORS, load
from .server import Emulator


async def serve(emulator: Emulator) -> None:
    """Serve until SIGINT or SIGTERM; print the addresses first."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with emulator:
        print(f"listening on {emulator.url}", flush=True)
        print(f"control on {emulator.control_url}", flush=True)
        await stop.wait()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m natterjack.emulators", description=__doc__)
    parser.add_argument("provider", choices=sorted(EMULATORS))
    parser.add_argument("--port", type=int, default=0, help="0 for a free port (default)")
    parser.add_argument("--control-port", type=int, default=0, help="0 for a free port (default)")
    parser.add_argument("--api-key", help="the only key to accept (default: any key)")
    parser.add_argument(
        "--latency-seconds", type=float, default=0.0, help="delay of all messages, in seconds"
    )
    parser.add_argument(
        "--pace", type=float, help="limit of processing speed, in multiples of real time"
    )
    parser.add_argument("--receive-timeout-seconds", type=float, default=10.0)
    parser.add_argument(
        "--faults", type=json.loads, default={}, help="initial switches, as a JSON object"
    )
    arguments = parser.parse_args(argv)
    faults: dict[str, Any] = {"latency_seconds": arguments.latency_seconds, **arguments.faults}
    if arguments.pace is not None:
        faults["pace"] = arguments.pace
    emulator = load(arguments.provider)(
        port=arguments.port,
        control_port=arguments.control_port,
        api_key=arguments.api_key,
        receive_timeout_seconds=arguments.receive_timeout_seconds,
        **faults,
    )
    asyncio.run(serve(emulator))


if __name__ == "__main__":
    main()

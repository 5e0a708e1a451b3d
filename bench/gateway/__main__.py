"""Measure the gateway: `python -m bench.gateway`, or the faults alone: `--faults`.

Costs and delays of sessions through the gateway, beside the same clients straight on the provider;
and, with `--faults`, the words that clients lose when something dies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..voice.__main__ import Print, print_markdown, print_state, print_table
from . import cost, losses


async def measure_cost(
    seconds: float, runs: int, sessions: Sequence[int], show: Print = print_table
) -> list[dict[str, Any]]:
    """Measure and print. Returns the figures, for JSON."""
    costs = await cost.measure_all(seconds, runs, sessions)
    show(cost.rows(costs))
    versions = sorted(costs[0].versions.items())
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions) + "\n")
    return [one.as_dict() for one in costs]


async def measure(arguments: argparse.Namespace) -> None:
    """Measure what is asked for, print it, and write it."""
    report: dict[str, Any] = {}
    show = print_markdown if arguments.markdown else print_table
    print_state()
    if arguments.faults is not None:
        faults = arguments.faults or list(losses.FAULTS)
        lost = await losses.measure_all(faults, arguments.speech_seconds, arguments.speakers)
        show(losses.rows(lost))
        report["losses"] = [one.as_dict() for one in lost]
    else:
        report["cost"] = await measure_cost(
            arguments.seconds, arguments.runs, arguments.sessions, show
        )
    print_state()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.gateway", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--sessions", type=int, nargs="+", default=cost.SESSIONS)
    parser.add_argument("--seconds", type=float, default=10, help="duration of each cost")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of each cost")
    parser.add_argument(
        "--faults", nargs="*", choices=losses.FAULTS, metavar="FAULT",
        help=f"measure losses instead: all, or some of {', '.join(losses.FAULTS)}",
    )  # fmt: skip
    parser.add_argument("--speech-seconds", type=float, default=30, help="speech of each fault")
    parser.add_argument("--speakers", type=int, default=8, help="speakers of each fault")
    parser.add_argument("--markdown", action="store_true", help="print tables for a page")
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()

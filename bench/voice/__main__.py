"""Measure voice sessions: `python -m bench.voice`, or a part of it: `--only latency`.

`latency`: how soon speech is heard, and how soon it is silent after an interrupt. `cost`: processor
time and memory of many utterances at once, beside other programs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from natterjack.process.table import table

from ..processes import commit
from . import cost, latency, picture

PARTS = ("latency", "cost")
Print = Callable[[list[list[str]]], None]
"""Prints the lines of a table; the first has the names of the columns."""


def print_table(rows: list[list[str]]) -> None:
    """Print the rows for a terminal."""
    print(*table(rows, right=range(1, len(rows[0]) - 1)), sep="\n")


def print_markdown(rows: list[list[str]]) -> None:
    """Print the rows as Markdown, for a page."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    print(*(f"| {' | '.join(line)} |" for line in lines), sep="\n")


def print_state() -> None:
    """Say what is measured, and how busy the machine is."""
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"commit {commit()}, load averages {loads}\n", flush=True)


async def measure_latency(
    rounds: int, voices: Sequence[str], show: Print = print_table
) -> dict[str, Any]:
    """Measure and print. Returns the figures of each voice, for JSON."""
    found = {}
    for voice in voices:
        measured = await latency.measure(rounds, voice)
        print(f"{voice}\n")
        show(latency.rows(measured))
        print(f"\n{latency.summary(measured)}\n")
        found[voice] = [one.as_dict() for one in measured]
    return found


async def measure_cost(
    seconds: float,
    runs: int,
    sessions: Sequence[int],
    who: Sequence[str],
    show: Print = print_table,
) -> list[dict[str, Any]]:
    """Measure and print. Returns the figures, for JSON."""
    costs = await cost.measure_all(seconds, runs, sessions, who)
    show(cost.rows(costs))
    print(f"\n{cost.summary(costs)}\n")
    return [one.as_dict() for one in costs]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.voice", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=PARTS, help="default: both")
    parser.add_argument("--voice", choices=latency.VOICES, nargs="+", default=latency.VOICES)
    parser.add_argument(
        "--rounds", type=int, default=100, help="interrupts of each kind with each voice"
    )
    parser.add_argument("--sessions", type=int, nargs="+", default=cost.SESSIONS)
    parser.add_argument("--who", choices=cost.WHO, nargs="+", default=cost.WHO)
    parser.add_argument("--seconds", type=float, default=20, help="duration of each cost")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of each cost")
    parser.add_argument("--markdown", action="store_true", help="print tables for a page")
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help="only draw an interrupt that is recorded"
    )
    arguments = parser.parse_args()
    if arguments.picture:
        picture.draw(arguments.picture)
    else:
        asyncio.run(measure(arguments))


async def measure(arguments: argparse.Namespace) -> None:
    """Measure what is asked for, print it, and write it."""
    report: dict[str, Any] = {}
    show = print_markdown if arguments.markdown else print_table
    print_state()
    if arguments.only != "cost":
        report["latency"] = await measure_latency(arguments.rounds, arguments.voice, show)
    if arguments.only != "latency":
        report["cost"] = await measure_cost(
            arguments.seconds, arguments.runs, arguments.sessions, arguments.who, show
        )
    print_state()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

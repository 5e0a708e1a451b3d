"""`natterjack doctor`: what works here, what does not, and the cure."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

from natterjack.doctor.finding import Finding
from natterjack.doctor.run import examine
from natterjack.settings import BrokerSettings, add_flags, load

from ..table import table

_STATES = {"ok": "ok", "warning": "warning", "failed": "FAILED", "skipped": "skipped"}


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `doctor`."""
    command = commands.add_parser(
        "doctor",
        help="check this machine, the broker, the workers and the keys of providers",
        description="Check this machine, the broker and what runs on it, and the key of each "
        "provider that has one: with a request that costs nothing. It changes nothing, prints no "
        "key, and needs neither extras nor a broker. It reads the settings that programs read, so "
        "run it where they run.",
        epilog="Exit status: 0 nothing failed; 1 something did; 2 wrong usage. Warnings and what "
        "was skipped do not count.",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="time limit of each check, in seconds (default: 10)",
    )
    add_flags(command, BrokerSettings, "nats-")


def _seconds(text: str) -> float:
    """The type of a time limit as an argument."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.1 to 600")
    return seconds


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises UsageError."""
    settings = load(BrokerSettings, flags)
    logging.disable(logging.WARNING)  # the findings say it, too
    try:
        findings = await examine(settings, os.environ, flags.timeout)
    finally:
        logging.disable(logging.NOTSET)
    if flags.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print(*lines(findings), sep="\n")
    return 1 if any(finding.state == "failed" for finding in findings) else 0


def lines(findings: Sequence[Finding]) -> list[str]:
    """The table of findings, each cure below what it is for, and a last line that sums up."""
    rows = []
    for finding in findings:
        rows.append([_STATES[finding.state], finding.check, finding.found])
        if finding.cure:
            rows.append(["", "", f"-> {finding.cure}"])
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    states = [finding.state for finding in findings]
    failures, warnings = states.count("failed"), states.count("warning")
    summary = f"{failures} of {len(findings)} checks failed" if failures else "nothing failed"
    summary += f", {warnings} with a warning" if warnings else ""
    return [*_wrapped(rows, room), "", summary]


def _wrapped(rows: list[list[str]], room: int | None) -> list[str]:
    """A table whose last column continues on further lines where the terminal ends."""
    if room is not None:
        taken = sum(max(len(row[n]) for row in rows) + 2 for n in (0, 1))
        width = max(20, room - taken)
        split: list[list[str]] = []
        for state, check, text in rows:
            parts = textwrap.wrap(text, width, subsequent_indent="   ") or [""]
            split.append([state, check, parts[0]])
            split += [["", "", part] for part in parts[1:]]
        rows = split
    return table(rows)

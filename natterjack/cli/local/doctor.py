"""`natterjack doctor`: what works here, what does not, and the cure."""

from __future__ import annotations

import argparse
import logging
import os

from natterjack.doctor.report import report, seconds
from natterjack.doctor.run import examine
from natterjack.settings import BrokerSettings, add_flags, load


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
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="time limit of each check, in seconds (default: 10)",
    )
    add_flags(command, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises UsageError."""
    settings = load(BrokerSettings, flags)
    logging.disable(logging.WARNING)  # the findings say it, too
    try:
        findings = await examine(settings, os.environ, flags.timeout)
    finally:
        logging.disable(logging.NOTSET)
    return report(findings, as_json=flags.json)

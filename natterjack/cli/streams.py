"""`natterjack streams`: bring streams, consumers and buckets in line with the settings."""

from __future__ import annotations

import argparse
import sys

from natterjack.broker import changes
from natterjack.broker.buckets import broker_of
from natterjack.broker.differences import COPIES, STORED, plain
from natterjack.errors import NatterjackError
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, StreamSettings, add_flags, load

from .arguments import add_command

_NAME = "natterjack-streams"


class WouldLose(NatterjackError):
    """A change would lose stored data, and --allow-loss was not given."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `streams` and its action."""
    about = "create or change the streams, consumers and buckets on the broker"
    command = add_command(commands, "streams", about)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    applying = actions.add_parser(
        "apply",
        help="show what differs from the settings, then change it",
        description="Create missing streams, consumers and buckets and change those that differ "
        "from the settings. The changes are shown first. Other configuration that an operator has "
        "set (placement, compression, descriptions) is kept.",
        epilog="Exit status: 0 everything is as the settings say, or --dry-run was given; 1 stored "
        "messages or replicas would be lost, so nothing was changed; 2 wrong usage, no connection "
        "to NATS, or the server refused.",
    )
    applying.add_argument(
        "--dry-run", action="store_true", help="show the changes without making them"
    )
    applying.add_argument(
        "--allow-loss",
        action="store_true",
        help="also make changes that lose stored messages or replicas: a shorter age, another "
        "storage, fewer replicas",
    )
    add_flags(applying, StreamSettings, without=("create_streams",))
    add_flags(applying, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run the action and return the exit status. Raises UsageError, BrokerError, WouldLose."""
    settings = load(StreamSettings, flags)
    async with broker_of(flags, _NAME) as broker:
        planned = await changes.plan(broker, settings)
        print(*table([line for change in planned for line in _lines(change)]), sep="\n")
        pending = [change for change in planned if change.action != "same"]
        if flags.dry_run:
            print(f"\ndry run: {_count(len(pending))} to make; nothing was changed")
            return 0
        if not flags.allow_loss and (losing := lost(pending)):
            raise WouldLose(
                f"{losing}, so nothing was changed: --allow-loss makes the changes anyway"
            )
        for change in pending:
            print(f"{change.action} {change.name} ...", file=sys.stderr)
            await changes.apply(broker, change)
    print(f"\n{_count(len(pending))} made" if pending else "\neverything is as the settings say")
    return 0


def _count(number: int) -> str:
    return f"{number} change" if number == 1 else f"{number} changes"


def lost(pending: list[changes.Change]) -> str:
    """A sentence that names what the changes would lose; empty if nothing."""
    stored = ", ".join(change.name for change in pending if change.loss == STORED)
    copies = ", ".join(change.name for change in pending if change.loss == COPIES)
    parts = [f"stored messages of {stored} would be lost"] if stored else []
    if limits := [setting for change in pending for setting in _lowered(change)]:
        parts[0] += f" (limits: {', '.join(limits)})"
    if copies:
        parts.append(
            f"replicas of {copies} on other servers would be removed "
            "(NATTERJACK_STREAM_REPLICAS sets their number)"
        )
    return ", and ".join(parts)


def _lowered(change: changes.Change) -> list[str]:
    """The settings of limits that would delete what a stream stores."""
    name = change.stream.removeprefix("STT_")
    suffixes = {"max_age": "MAX_AGE_SECONDS", "max_bytes": "MAX_BYTES"}
    return [
        f"NATTERJACK_{name}_{suffixes[difference.field]}"
        for difference in change.differences
        if difference.loss == STORED and difference.field in suffixes
    ]


def _lines(change: changes.Change) -> list[list[str]]:
    """One line for each difference: action, name, difference."""
    lines = []
    for number, difference in enumerate(change.differences):
        action, name = ("", "") if number else (change.action, change.name)
        mark = f"   LOSES {difference.loss}" if difference.loss else ""
        what = f"{difference.field} {_shown(difference.found)} -> {_shown(difference.wanted)}"
        lines.append([action, name, f"{what}{mark}"])
    return lines or [[change.action, change.name, ""]]


def _shown(value: object) -> str:
    value = plain(value)
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

"""`natterjack streams`: the streams, the consumer and the buckets as the settings say."""

from __future__ import annotations

import argparse
import sys

from natterjack.broker import changes
from natterjack.broker.buckets import broker_of
from natterjack.broker.differences import COPIES, STORED, plain
from natterjack.errors import NatterjackError
from natterjack.settings import BrokerSettings, StreamSettings, add_flags, load

_NAME = "natterjack-streams"


class WouldLose(NatterjackError):
    """A change would drop what is stored, and nobody has said that it may."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command `streams` and what is under it."""
    about = "make or change what the broker keeps: streams, queue consumer, buckets"
    command = commands.add_parser("streams", help=about)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    applying = actions.add_parser(
        "apply",
        help="show what differs from the settings, then make it so",
        description="Makes the streams, the consumer and the buckets that are missing, and "
        "changes those that differ from the settings. Shows what it will do first. What an "
        "operator has set beside the settings (placement, compression, descriptions) stays.",
        epilog="Exit status: 0 all is as the settings say, or --dry-run; 1 stored messages or "
        "copies would be lost, and nothing was changed; 2 wrong usage, no NATS, or it refuses.",
    )
    applying.add_argument("--dry-run", action="store_true", help="show it, change nothing")
    applying.add_argument(
        "--allow-loss",
        action="store_true",
        help="also where stored messages are lost, or copies of them: a shorter age, another "
        "storage, fewer replicas",
    )
    add_flags(applying, StreamSettings, without=("create_streams",))
    add_flags(applying, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Do what `flags` say; the exit status. Raises UsageError, BrokerError, WouldLose."""
    settings = load(StreamSettings, flags)
    async with broker_of(flags, _NAME) as broker:
        planned = await changes.plan(broker, settings)
        for change in planned:
            print(*_lines(change), sep="\n")
        due = [change for change in planned if change.action != "same"]
        if flags.dry_run:
            print(f"\ndry run: {_count(len(due))} to be made; nothing was changed")
            return 0
        if not flags.allow_loss and (losing := lost(due)):
            raise WouldLose(f"{losing}, so nothing was changed: --allow-loss does it all the same")
        for change in due:
            print(f"{change.action} {change.name} ...", file=sys.stderr)
            await changes.apply(broker, change)
    print(f"\n{_count(len(due))} made" if due else "\nall is as the settings say")
    return 0


def _count(number: int) -> str:
    return f"{number} change" if number == 1 else f"{number} changes"


def lost(due: list[changes.Change]) -> str:
    """What would be lost, in a sentence; nothing if nothing is."""
    stored = ", ".join(change.name for change in due if change.loses == STORED)
    copies = ", ".join(change.name for change in due if change.loses == COPIES)
    parts = [f"stored messages of {stored} would be lost"] if stored else []
    if copies:
        parts.append(
            f"copies of {copies} on other servers would be given up "
            "(NATTERJACK_STREAM_REPLICAS says how many there are to be)"
        )
    return ", and ".join(parts)


def _lines(change: changes.Change) -> list[str]:
    lines = []
    for number, difference in enumerate(change.differences):
        action, name = ("", "") if number else (change.action, change.name)
        mark = f"   LOSES {difference.loses}" if difference.loses else ""
        what = f"{difference.what} {_shown(difference.found)} -> {_shown(difference.wanted)}"
        lines.append(f"{action:8}{name:24}{what}{mark}")
    return lines or [f"{change.action:8}{change.name}"]


def _shown(value: object) -> str:
    value = plain(value)
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

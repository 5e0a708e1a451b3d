"""Adding subcommands to an argument parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from natterjack.errors import UsageError
from natterjack.transcripts.files import FORMATS

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    """Add a subcommand whose description is the sentence made from its help text `about`."""
    return commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")


def path(text: str) -> Path:
    """The type of a path as an argument. An empty one would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def duration(text: str) -> timedelta | None:
    """The duration that a text such as `90m` names, or None if it names none.

    Raises: OverflowError if it is longer than a timedelta can be.
    """
    match = _DURATION.fullmatch(text.strip())
    return match and timedelta(**{_UNITS[match[2]]: float(match[1])})


def parse_time(text: str, now: datetime) -> datetime:
    """Parse `2h`, `90m` (before `now`), or a date and time of ISO 8601; without a zone it is local.
    Raises UsageError."""
    try:
        if (span := duration(text)) is not None:
            return now - span
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--since {text}: give a time such as 2026-11-29T14:00 or 2026-11-29T14:00Z, or a "
            "duration such as 90m, 2h or 1d"
        ) from None


def number(least: int, most: int) -> Callable[[str], int]:
    """The type of a whole number as an argument."""

    def parse(text: str) -> int:
        if not (text.removeprefix("-").isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def formats(text: str) -> tuple[str, ...]:
    """The type of formats of transcripts as an argument."""
    found = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in found:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(FORMATS)}")
    return found

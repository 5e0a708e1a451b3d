"""`natterjack keys`: the keys with which clients use the gateway."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from natterjack.errors import UsageError
from natterjack.fleet.keys import (
    AUDIO_DOORS,
    DOORS,
    READ_KINDS,
    KeyRecord,
    add_key,
    make_key,
    read_keys,
    remove_keys,
)
from natterjack.process.table import table

from .arguments import add_command, duration, path

FILE_VARIABLE = "GATEWAY_KEYS_FILE"


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _doors(text: str) -> tuple[str, ...]:
    doors = _list(text)
    if doors == ("all",):
        return DOORS
    if unknown := [door for door in doors if door not in DOORS]:
        raise argparse.ArgumentTypeError(
            f"there is no door {unknown[0]!r}: choose from {', '.join(DOORS)}, or all"
        )
    return doors


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"a": 1}}')
    return value


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `keys` and its actions."""
    command = commands.add_parser(
        "keys",
        help="manage the keys with which clients use the gateway",
        description="Manage the keys with which clients use the gateway. The file has hashes, and "
        "no secret; gateways read it again when it has changed.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    adding = add_command(actions, "add", "add a key and print its secret, which is shown only once")
    adding.add_argument("--tenant", required=True, help="tenant of all sessions of the key")
    adding.add_argument("--name", default="", help="whose key it is, for lists and logs")
    adding.add_argument(
        "--doors", type=_doors, default=AUDIO_DOORS, metavar="DOOR,...",
        help="the doors that it opens: " + ", ".join(DOORS) + ", or all; `api` reads transcripts "
        "and makes tokens (default: all but api)",
    )  # fmt: skip
    adding.add_argument(
        "--kinds", type=_list, default=(), metavar="KIND,...",
        help="the kinds of event that it may read, all by default: " + ", ".join(READ_KINDS),
    )  # fmt: skip
    adding.add_argument(
        "--conversations", type=_list, default=(), metavar="PATTERN,...",
        help="the conversations that it may use, all by default; * stands for any characters",
    )  # fmt: skip
    adding.add_argument(
        "--provider", type=_list, default=(), metavar="NAME,...",
        help="provider of its sessions, or several to try in order (default: the worker's)",
    )  # fmt: skip
    adding.add_argument("--model", help="model of sessions whose client names none")
    adding.add_argument("--language", help="language of sessions whose client names none")
    adding.add_argument(
        "--keyterms", type=_list, default=(), metavar="TERM,...",
        help="terms that the provider should recognize, besides those of the client",
    )  # fmt: skip
    adding.add_argument(
        "--options", type=_object, default={}, metavar="JSON",
        help="options for the provider, which a client's own options override",
    )  # fmt: skip
    adding.add_argument(
        "--labels", type=_object, default={}, metavar="JSON", help="labels stored with its sessions"
    )
    adding.add_argument(
        "--max-connections", type=int, metavar="N", help="connections at once, at each gateway"
    )
    adding.add_argument(
        "--max-session-seconds", type=float, metavar="N", help="seconds of audio of one session"
    )
    adding.add_argument(
        "--expires", metavar="WHEN", type=_expiry,
        help="when it ends: a duration such as 12h or 90d, or a date and time (default: never)",
    )  # fmt: skip
    removing = add_command(
        actions, "remove", "remove keys, and with them the tokens that were made with them"
    )
    removing.add_argument("ids", nargs="+", metavar="ID", help="as `natterjack keys list` shows it")
    listing = add_command(actions, "list", "show all keys and what they may do")
    listing.add_argument("--json", action="store_true", help="print JSON")
    for action in (adding, removing, listing):
        action.add_argument(
            "--file", type=path, help=f"file of the keys [{FILE_VARIABLE}]", metavar="FILE"
        )


def _expiry(text: str) -> datetime:
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        span = duration(text)
        when = now + span if span is not None else datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a duration such as 90d nor a date such as 2027-01-31"
        ) from None
    if when <= now:
        raise argparse.ArgumentTypeError(f"{text!r} is in the past")
    return when


def _file(flags: argparse.Namespace) -> Path:
    chosen = flags.file or os.environ.get(FILE_VARIABLE)
    if not chosen:
        raise UsageError(f"{flags.action}: name the file with --file, or set {FILE_VARIABLE}")
    return Path(chosen)


def run(flags: argparse.Namespace) -> int:
    """Run the action and return the exit status. Raises UsageError."""
    actions: dict[str, Callable[[argparse.Namespace, Path], None]] = {
        "add": _add, "remove": _remove, "list": _list_keys,
    }  # fmt: skip
    actions[flags.action](flags, _file(flags))
    return 0


_FIELDS = (
    "tenant", "name", "doors", "kinds", "conversations", "provider", "model", "language",
    "keyterms", "options", "labels", "max_connections", "max_session_seconds",
)  # fmt: skip


def _add(flags: argparse.Namespace, file: Path) -> None:
    fields = {name: getattr(flags, name) for name in _FIELDS}
    try:
        record, secret = make_key(**fields, expires_at=flags.expires)
    except UsageError as error:
        raise UsageError(f"add: {error}") from None
    add_key(file, record)
    # The secret is all that standard output has: a script can take it from there.
    print(secret, flush=True)
    print(
        f"# key {record.id} of {record.tenant}, for {', '.join(record.doors)}; the secret above is "
        "not stored and cannot be shown again",
        file=sys.stderr,
    )


def _remove(flags: argparse.Namespace, file: Path) -> None:
    for record in remove_keys(file, flags.ids):
        print(f"{record.id}: removed; gateways refuse it from now on")


def _list_keys(flags: argparse.Namespace, file: Path) -> None:
    records = read_keys(file).values()
    if flags.json:
        shown = [r.model_dump(mode="json", exclude={"sha256"}, exclude_none=True) for r in records]
        print(json.dumps(shown, indent=2))
    elif not records:
        print("no keys")
    else:
        print("\n".join(table([_HEADER, *map(_row, _sorted(records))])))


_HEADER = ("ID", "TENANT", "NAME", "DOORS", "CONVERSATIONS", "PROVIDER", "CONNECTIONS", "EXPIRES")


def _sorted(records: Iterable[KeyRecord]) -> list[KeyRecord]:
    return sorted(records, key=lambda record: (record.tenant, record.name, record.id))


def _row(record: KeyRecord) -> tuple[str, ...]:
    doors = "all" if set(record.doors) == set(DOORS) else ",".join(record.doors)
    expires = "never" if record.expires_at is None else f"{record.expires_at:%Y-%m-%d %H:%M}"
    if record.expired(datetime.now(UTC)):
        expires += " (expired)"
    return (
        record.id, record.tenant, record.name or "-", doors, ",".join(record.conversations) or "*",
        ",".join(record.provider) or "-", str(record.max_connections or "-"), expires,
    )  # fmt: skip

"""`natterjack limits`: connection limits of provider accounts, which all workers share."""

from __future__ import annotations

import argparse
import json
from collections import Counter

from pydantic import ValidationError

from natterjack.broker import streams
from natterjack.broker.buckets import broker_of, put, remove, store_of
from natterjack.errors import NatterjackError, UsageError, first_problem
from natterjack.fleet.limits import ACCOUNT_KEYS, AccountLimit, limit_key, parse_account_limit
from natterjack.settings import BrokerSettings, add_flags
from natterjack.subjects import SLOT_PREFIX, check_token

from .arguments import add_command

_NAME = "natterjack-limits"


class NoLimit(NatterjackError):
    """The limit does not exist."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `limits` and its actions."""
    command = commands.add_parser(
        "limits",
        help="manage connection limits of provider accounts",
        description="Manage connection limits of provider accounts, which all workers share. An "
        "account is the name of a provider, unless WORKER_ACCOUNTS groups several.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = add_command(actions, "list", "show all limits and the connections in use")
    listing.add_argument("--json", action="store_true", help="print JSON")
    setting = add_command(actions, "set", "set a limit; it takes effect at once")
    setting.add_argument("account", metavar="ACCOUNT", help="provider account")
    setting.add_argument(
        "--connections", type=int, metavar="N", help="connections open at a time, 1 or more"
    )
    setting.add_argument(
        "--dials-per-second", type=int, metavar="N", help="new connections per second, 1 or more"
    )
    removing = add_command(actions, "remove", "remove a limit")
    removing.add_argument("account", metavar="ACCOUNT", help="provider account")
    for parser in (listing, setting, removing):
        add_flags(parser, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run the action and return the exit status. Raises UsageError, BrokerError, NoLimit."""
    if flags.action == "list":
        return await _list(flags)
    check_token("account", flags.account)
    if flags.action == "set":
        return await _set(flags)
    async with broker_of(flags, _NAME) as broker:
        if not await remove(broker, limit_key(flags.account)):
            raise NoLimit(f"account {flags.account} has no limit to remove")
    print(f"{flags.account}: no limit")
    return 0


async def _set(flags: argparse.Namespace) -> int:
    if flags.connections is None and flags.dials_per_second is None:
        raise UsageError("set: give --connections, --dials-per-second, or both")
    try:
        limit = AccountLimit(connections=flags.connections, dials_per_second=flags.dials_per_second)
    except ValidationError as error:
        raise UsageError(f"set: {first_problem(error)}") from None
    async with broker_of(flags, _NAME) as broker:
        value = limit.model_dump_json(exclude_none=True).encode()
        await put(broker, limit_key(flags.account), value)
    print(_line(flags.account, limit, None))
    return 0


async def _list(flags: argparse.Namespace) -> int:
    limits: dict[str, AccountLimit] = {}
    invalid: dict[str, str] = {}
    used: Counter[str] = Counter()
    subject = streams.bucket_subject(streams.BUDGETS_BUCKET, f"{ACCOUNT_KEYS}.*")
    async with broker_of(flags, _NAME) as broker:
        async with store_of(broker, f"KV_{streams.BUDGETS_BUCKET}") as store:
            entries = await store.read_all(subject)
        async with store_of(broker, streams.SLOTS) as store:
            for slot in await store.read_all(f"{SLOT_PREFIX}.>"):
                used[slot.subject.split(".")[2]] += bool(slot.data)
    for entry in entries:
        account = entry.subject.rpartition(".")[2]
        if not entry.headers.get("KV-Operation"):
            try:
                limits[account] = parse_account_limit(entry.data)
            except UsageError as error:
                invalid[account] = str(error)
    if flags.json:
        limits_in_use = {
            a: {**limit.model_dump(), "in_use": used[a]} for a, limit in limits.items()
        }
        print(json.dumps(limits_in_use))
    else:
        for account, limit in sorted(limits.items()):
            print(_line(account, limit, used[account]))
        if not limits and not invalid:
            print("no account has a limit")
    for account, problem in sorted(invalid.items()):
        print(f"{account}: {problem}")
    return 1 if invalid else 0


def _line(account: str, limit: AccountLimit, used: int | None) -> str:
    parts = []
    if limit.connections is not None:
        parts.append(f"{limit.connections} connections")
        if used is not None:
            parts[-1] += f" ({used} in use)"
    if limit.dials_per_second is not None:
        parts.append(f"{limit.dials_per_second} new ones per second")
    return f"{account}: {', '.join(parts) or 'no limit'}"

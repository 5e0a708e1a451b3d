"""`natterjack limits`: how many connections, and new ones a second, all workers may open on a
provider's account."""

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

_NAME = "natterjack-limits"


class NoLimit(NatterjackError):
    """There is none to remove."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command `limits` and those under it."""
    command = commands.add_parser(
        "limits",
        help="what all workers together may open on a provider's account",
        description="Limits of provider accounts, which hold for all workers together. An account "
        "is a provider's name, unless WORKER_ACCOUNTS groups several.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every limit, and the connections in use")
    listing.add_argument("--json", action="store_true", help="as JSON")
    setting = actions.add_parser("set", help="set a limit; workers obey at once")
    setting.add_argument("account", metavar="ACCOUNT", help="provider account")
    setting.add_argument("--connections", type=int, metavar="N", help="open at a time, from 1")
    setting.add_argument(
        "--dials-per-second", type=int, metavar="N", help="new connections in any second, from 1"
    )
    removing = actions.add_parser("remove", help="remove a limit")
    removing.add_argument("account", metavar="ACCOUNT", help="provider account")
    for parser in (listing, setting, removing):
        add_flags(parser, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Do what `flags` say; the exit status. Raises UsageError, BrokerError, NoLimit."""
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
    bad: dict[str, str] = {}
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
                bad[account] = str(error)
    if flags.json:
        told = {a: {**limit.model_dump(), "in_use": used[a]} for a, limit in limits.items()}
        print(json.dumps(told))
    else:
        for account, limit in sorted(limits.items()):
            print(_line(account, limit, used[account]))
        if not limits and not bad:
            print("no account is limited")
    for account, problem in sorted(bad.items()):
        print(f"{account}: {problem}")
    return 1 if bad else 0


def _line(account: str, limit: AccountLimit, used: int | None) -> str:
    parts = []
    if limit.connections is not None:
        parts.append(f"{limit.connections} connections")
        if used is not None:
            parts[-1] += f" ({used} in use)"
    if limit.dials_per_second is not None:
        parts.append(f"{limit.dials_per_second} new ones a second")
    return f"{account}: {', '.join(parts) or 'no limit'}"

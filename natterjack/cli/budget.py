"""`natterjack budget`: daily budgets of tenants, and what has been used of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from pydantic import ValidationError

from natterjack.broker import streams
from natterjack.broker.buckets import broker_of, put, remove, store_of
from natterjack.broker.connection import Broker
from natterjack.errors import NatterjackError, UsageError, first_problem
from natterjack.fleet.budgets import (
    DEFAULT_KEY,
    SECONDS,
    Budget,
    Entries,
    Used,
    budget_key,
    by_provider,
    plain,
    read_budgets,
    read_usage,
    standings,
)
from natterjack.fleet.usage import DayUsage
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, LogSettings, add_flags

from .arguments import add_command

_NAME = "natterjack-budget"


class NoBudget(NatterjackError):
    """The budget does not exist."""


# ---- flags --------------------------------------------------------------------------------------


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `budget` and its actions."""
    command = commands.add_parser(
        "budget",
        help="manage daily budgets of tenants and show what they have used",
        description="Manage daily budgets of tenants and show what they have used. Days are in "
        "UTC.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    parsers = [
        add_command(actions, "list", "show all budgets with what has been used and what is left"),
        add_command(actions, "show", "show the budget of one tenant, its own or the default"),
        add_command(
            actions, "set", "set a budget, replacing an existing one; it takes effect at once"
        ),
        add_command(actions, "remove", "remove a budget"),
        add_command(actions, "usage", "show what was used, by tenant and provider"),
    ]
    _, show, setting, removing, usage = parsers
    show.add_argument("tenant", metavar="TENANT", help="tenant to show")
    for parser in (setting, removing):
        parser.add_argument("tenant", nargs="?", metavar="TENANT", help="tenant of the budget")
        parser.add_argument(
            "--default",
            action="store_true",
            help="the budget of each tenant without its own budget",
        )
    setting.add_argument(
        "--seconds-per-day",
        type=float,
        metavar="N",
        help="seconds of audio sent to providers; 0: none",
    )
    setting.add_argument(
        "--cost-per-day", type=float, metavar="X", help="money spent at providers; 0: none"
    )
    setting.add_argument(
        "--currency", default="USD", metavar="C", help="currency of --cost-per-day (default: USD)"
    )
    usage.add_argument("--tenant", metavar="TENANT", help="show only this tenant")
    for parser in (parsers[0], show, usage):
        parser.add_argument("--day", metavar="YYYY-MM-DD", help="day in UTC (default: today)")
        parser.add_argument("--json", action="store_true", help="print JSON")
    for parser in parsers:
        add_flags(parser, BrokerSettings, "nats-")
        add_flags(parser, LogSettings)


def _chosen_key(flags: argparse.Namespace) -> str:
    """The key of the budget that the flags name. Raises UsageError."""
    if flags.default == (flags.tenant is not None):
        raise UsageError(f"{flags.action}: name a tenant, or give --default")
    return DEFAULT_KEY if flags.default else budget_key(flags.tenant)


def _chosen_day(flags: argparse.Namespace) -> str:
    if flags.day is None:
        return datetime.now(UTC).date().isoformat()
    try:
        return date.fromisoformat(flags.day).isoformat()
    except ValueError:
        raise UsageError(f"--day {flags.day!r} is not a date of the form YYYY-MM-DD") from None


def _chosen_budget(flags: argparse.Namespace) -> Budget:
    if flags.seconds_per_day is None and flags.cost_per_day is None:
        raise UsageError("set: give --seconds-per-day, --cost-per-day, or both")
    try:
        return Budget(
            seconds_per_day=flags.seconds_per_day,
            cost_per_day=flags.cost_per_day,
            currency=flags.currency,
        )
    except ValidationError as error:
        raise UsageError(f"set: {first_problem(error)}") from None


# ---- actions ------------------------------------------------------------------------------------


async def run(flags: argparse.Namespace) -> int:
    """Run the action and return the exit status. Raises UsageError, BrokerError, NoBudget."""
    if flags.action == "set":
        return await _set(flags, _chosen_key(flags), _chosen_budget(flags))
    if flags.action == "remove":
        return await _remove(flags, _chosen_key(flags))
    day, tenant = _chosen_day(flags), getattr(flags, "tenant", None)
    if tenant is not None:
        budget_key(tenant)  # an invalid tenant is reported before connecting
    entries = None
    async with broker_of(flags, _NAME) as broker:
        used = await _read_usage(broker, day, tenant or "*")
        if flags.action != "usage":
            entries = await _read_budgets(broker)
    if entries is None:
        return _show_usage(day, used, as_json=flags.json)
    if tenant is not None:
        return _show_one(tenant, day, entries, used.get(tenant, []), as_json=flags.json)
    return _show_all(day, entries, used, as_json=flags.json)


async def _read_budgets(broker: Broker) -> Entries:
    async with store_of(broker, f"KV_{streams.BUDGETS_BUCKET}") as store:
        return await read_budgets(store)


async def _read_usage(broker: Broker, day: str, tenant: str) -> dict[str, list[DayUsage]]:
    async with store_of(broker, f"KV_{streams.USAGE_BUCKET}") as store:
        return await read_usage(store, day, tenant)


async def _set(flags: argparse.Namespace, key: str, budget: Budget) -> int:
    async with broker_of(flags, _NAME) as broker:
        await put(broker, key, budget.encode())
    limits = [f"{amount} a day" for amount in _amounts(budget)]
    print(f"{key}: {' and '.join(limits)}")
    return 0


async def _remove(flags: argparse.Namespace, key: str) -> int:
    async with broker_of(flags, _NAME) as broker:
        if not await remove(broker, key):
            raise NoBudget(f"there is no budget {key} to remove")
    print(f"{key}: removed")
    return 0


# ---- output -------------------------------------------------------------------------------------


def _amounts(budget: Budget) -> list[str]:
    return [_amount(standing.unit, standing.limit) for standing in standings(budget, Used())]


def _amount(unit: str, number: float) -> str:
    return f"{plain(number, 1)} s" if unit == SECONDS else f"{plain(number, 4)} {unit}"


def _standing(
    tenant: str | None, budget: Budget | None, own: bool, usages: Sequence[DayUsage]
) -> dict[str, Any]:
    """The JSON form of a tenant's standing. Tenant None is the default budget itself."""
    rows = []
    if budget is not None:
        for row in standings(budget, Used.of(usages, budget.currency)):
            rows.append(
                {
                    "unit": row.unit,
                    "limit": row.limit,
                    "used": None if tenant is None else round(row.used, 6),
                    "remaining": None if tenant is None else round(row.remaining, 6),
                }
            )
    return {
        "tenant": tenant,
        "key": None if budget is None else budget_key(tenant or "") if own else DEFAULT_KEY,
        "budget": None if budget is None else budget.model_dump(exclude_none=True),
        "units": rows,
    }


def _show_all(day: str, entries: Entries, used: dict[str, list[DayUsage]], *, as_json: bool) -> int:
    shown = []
    if entries.default is not None:
        shown.append(_standing(None, entries.default, False, ()))
    for tenant in sorted({*entries.tenants, *used}):
        if (budget := entries.of(tenant)) is not None:
            own = tenant in entries.tenants
            shown.append(_standing(tenant, budget, own, used.get(tenant, ())))
    if as_json:
        print(json.dumps({"day": day, "budgets": shown, "wrong": entries.invalid}, indent=2))
    elif shown:
        _print_standings(shown)
    else:
        print("no budgets: the use of all tenants is unlimited")
    return _report_invalid(entries.invalid)


def _show_one(
    tenant: str, day: str, entries: Entries, usages: Sequence[DayUsage], *, as_json: bool
) -> int:
    budget = entries.of(tenant)
    standing = _standing(tenant, budget, tenant in entries.tenants, usages)
    if as_json:
        print(json.dumps({"day": day, **standing}, indent=2))
    elif budget is None:
        seconds = plain(Used.of(usages, "").seconds, 1)
        print(f"{tenant} has no budget; it used {seconds} s on {day}")
    else:
        _print_standings([standing])
    key = budget_key(tenant)
    return _report_invalid({key: entries.invalid[key]} if key in entries.invalid else {})


def _report_invalid(invalid: dict[str, str]) -> int:
    for key, problem in sorted(invalid.items()):
        print(f"natterjack budget: {key}: {problem}", file=sys.stderr)
    return 1 if invalid else 0


def _print_standings(shown: list[dict[str, Any]]) -> None:
    lines = [["TENANT", "BUDGET", "A DAY", "USED", "LEFT"]]
    for one in shown:
        for row in one["units"]:
            numbers = [row["limit"], row["used"], row["remaining"]]
            amounts = ["" if n is None else _amount(row["unit"], n) for n in numbers]
            lines.append([one["tenant"] or "(others)", one["key"], *amounts])
    _print_table(lines)


def _show_usage(day: str, used: dict[str, list[DayUsage]], *, as_json: bool) -> int:
    tenants = []
    for tenant, usages in sorted(used.items()):
        rows = [
            {"provider": provider, **_rounded(row.model_dump())}
            for (provider, _), row in by_provider(usages).items()
        ]
        captured = round(sum(usage.captured_seconds for usage in usages), 3)
        tenants.append({"tenant": tenant, "captured_seconds": captured, "providers": rows})
    if as_json:
        print(json.dumps({"day": day, "tenants": tenants}, indent=2))
    elif tenants:
        _print_usage(tenants)
    else:
        print(f"nothing was used on {day}")
    return 0


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Sums of rounded numbers need rounding again."""
    return {name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()}


_USAGE_COLUMNS = ("sent", "replayed", "connected", "reported", "billed")


def _print_usage(tenants: list[dict[str, Any]]) -> None:
    """Print seconds, and costs. Captured seconds are shown once per tenant, for all providers."""
    head = ["TENANT", "PROVIDER", "CAPTURED", *map(str.upper, _USAGE_COLUMNS), "COST", "RECOVERY"]
    lines = [head]
    for tenant in tenants:
        captured = f"{tenant['captured_seconds']:.1f}"
        for row in tenant["providers"] or [None]:
            line = [tenant["tenant"], "", captured]
            if row is not None:
                seconds = [row[f"{name}_seconds"] for name in _USAGE_COLUMNS]
                line[1] = row["provider"]
                line += ["-" if value is None else f"{value:.1f}" for value in seconds]
                line.append(f"{row['cost']:.4f} {row['currency']}")
                line.append(f"{row['recovery_cost']:.4f} {row['currency']}")
            lines.append(line + [""] * (len(head) - len(line)))
            captured = ""
    _print_table(lines)


def _print_table(lines: list[list[str]]) -> None:
    """Print the first two columns aligned to the left, the others to the right."""
    print(*table(lines, right=range(2, len(lines[0]))), sep="\n")

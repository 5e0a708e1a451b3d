"""Budgets: what a tenant may use in a day (UTC), stored by operators in `stt_budgets`.

A budget in seconds counts audio sent to providers, without audio sent again after a fault. A budget
in money counts everything spent, including the cost of audio sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from natterjack.broker import streams
from natterjack.broker.stored import Stored, StreamStore
from natterjack.errors import UsageError, first_problem
from natterjack.subjects import check_token
from natterjack.values import ProviderUsage

from .limits import ACCOUNT_KEYS
from .usage import DayUsage

log = logging.getLogger(__name__)

DEFAULT_KEY = "default"
"""Key of the budget of each tenant without one of its own. Tenants do not share it."""
TENANT_KEYS = "tenant"
"""First token of a tenant's key; the second is the tenant."""
SECONDS = "seconds"


class Budget(BaseModel):
    """The limits on a tenant's use in one day. A bare number means `seconds_per_day`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    seconds_per_day: float | None = Field(None, ge=0, description="of audio; 0: none")
    cost_per_day: float | None = Field(None, ge=0, description="in `currency`; 0: none")
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="ISO 4217")

    @model_validator(mode="before")
    @classmethod
    def _bare_number(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"seconds_per_day": value}
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Budget:
        if self.seconds_per_day is None and self.cost_per_day is None:
            raise ValueError("seconds_per_day or cost_per_day is needed")
        return self

    def encode(self) -> bytes:
        """The value to store in the bucket."""
        return self.model_dump_json(exclude_defaults=True).encode()


def budget_key(tenant: str) -> str:
    """The bucket's key for a tenant. Raises InvalidKey."""
    return f"{TENANT_KEYS}.{check_token('tenant', tenant)}"


def parse_budget(value: bytes | str) -> Budget:
    """Parse an entry of the bucket. Raises UsageError, which shows the correct form."""
    try:
        return Budget.model_validate_json(value)
    except ValidationError as error:
        raise UsageError(
            f"not a budget: {first_problem(error)}; a budget looks like 3600 (seconds a day) or "
            '{"seconds_per_day": 3600, "cost_per_day": 5, "currency": "USD"}'
        ) from None


# ---- standing -----------------------------------------------------------------------------------


class Used(NamedTuple):
    """A tenant's use in one day, summed over all processes."""

    seconds: float = 0.0
    cost: float = 0.0
    """In the budget's currency."""

    @classmethod
    def of(cls, usages: Iterable[DayUsage], currency: str) -> Used:
        seconds = cost = 0.0
        for usage in usages:
            for row in usage.providers.values():
                seconds += row.sent_seconds - row.replayed_seconds
                if row.currency == currency:
                    cost += row.cost
        return cls(seconds, cost)


class Standing(NamedTuple):
    """Limit and use of a budget in one of its units."""

    unit: str
    """`seconds`, or a currency."""
    limit: float
    used: float

    @property
    def remaining(self) -> float:
        return max(0.0, self.limit - self.used)

    @property
    def fraction(self) -> float:
        """The used fraction of the limit; 1 or more if nothing is left, as for a limit of 0."""
        return self.used / self.limit if self.limit > 0 else 1.0

    def __str__(self) -> str:
        unit, digits = ("s", 1) if self.unit == SECONDS else (self.unit, 4)
        return f"{plain(self.used, digits)} of {plain(self.limit, digits)} {unit}"


def plain(number: float, digits: int) -> str:
    """Format `number` with at most `digits` decimals and without an exponent."""
    return f"{number:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{number:.0f}"


def standings(budget: Budget, used: Used) -> list[Standing]:
    """The standing in each unit of the budget."""
    found = []
    if budget.seconds_per_day is not None:
        found.append(Standing(SECONDS, budget.seconds_per_day, used.seconds))
    if budget.cost_per_day is not None:
        found.append(Standing(budget.currency, budget.cost_per_day, used.cost))
    return found


def fraction_used(budget: Budget, used: Used) -> float:
    """The greatest used fraction of any unit; nothing is left at 1 or more."""
    return max(standing.fraction for standing in standings(budget, used))


def remaining_seconds(budget: Budget, used: Used) -> float | None:
    """Seconds of audio that all sessions of the tenant together may still send, or None if unknown.

    The rest of a budget in money is divided by the average price of a second on that day.
    """
    remaining = []
    if budget.seconds_per_day is not None:
        remaining.append(max(0.0, budget.seconds_per_day - used.seconds))
    if budget.cost_per_day is not None and used.cost > 0 and used.seconds > 0:
        remaining.append(max(0.0, budget.cost_per_day - used.cost) * used.seconds / used.cost)
    return min(remaining, default=None)


def spent_detail(tenant: str, day: str, budget: Budget, used: Used) -> str | None:
    """A message that names the used-up units, or None if none is used up."""
    spent = [standing for standing in standings(budget, used) if standing.used >= standing.limit]
    if not spent:
        return None
    return f"tenant {tenant} has used {' and '.join(map(str, spent))} of {day}"


# ---- buckets ------------------------------------------------------------------------------------


class Entries(NamedTuple):
    """Contents of the bucket of budgets."""

    default: Budget | None
    tenants: dict[str, Budget]
    invalid: dict[str, str]
    """Problems of invalid entries, by key. Limits of provider accounts are not included."""

    def of(self, tenant: str) -> Budget | None:
        return self.tenants.get(tenant, self.default)


async def read_budgets(store: StreamStore) -> Entries:
    """Read all budgets. `store` reads the stream of `stt_budgets`. Raises StoreUnavailable."""
    prefix = streams.bucket_subject(streams.BUDGETS_BUCKET, "")
    default, tenants, invalid = None, {}, {}
    for stored in await store.read_all(f"{prefix}>"):
        key = stored.subject.removeprefix(prefix)
        head, _, tenant = key.partition(".")
        if stored.headers.get("KV-Operation") or head == ACCOUNT_KEYS:
            continue
        try:
            if key == DEFAULT_KEY:
                default = parse_budget(stored.data)
            elif head == TENANT_KEYS:
                check_token("tenant", tenant)
                tenants[tenant] = parse_budget(stored.data)
            else:
                invalid[key] = "unknown key: use tenant.<tenant>, default or account.<account>"
        except UsageError as error:
            invalid[key] = str(error)
    return Entries(default, tenants, invalid)


def parse_usage(key: str, value: bytes) -> DayUsage | None:
    """Parse an entry of `stt_usage`. Logs a warning and returns None if it is invalid."""
    try:
        return DayUsage.model_validate_json(value)
    except ValidationError as error:
        log.warning(
            "%s in %s is not a usage record: %s", key, streams.USAGE_BUCKET, first_problem(error)
        )
        return None


async def read_usage(store: StreamStore, day: str, tenant: str = "*") -> dict[str, list[DayUsage]]:
    """Read the usage records of `day`, one for each process, by tenant.

    `store` reads the stream of `stt_usage`. Raises StoreUnavailable.
    """
    found: dict[str, list[DayUsage]] = {}
    for stored in await store.read_all(_usage_subject(day, tenant)):
        usage = None if stored.headers.get("KV-Operation") else _parsed(stored)
        if usage is not None:
            found.setdefault(stored.subject.split(".")[3], []).append(usage)
    return found


def _parsed(stored: Stored) -> DayUsage | None:
    prefix = streams.bucket_subject(streams.USAGE_BUCKET, "")
    return parse_usage(stored.subject.removeprefix(prefix), stored.data)


def _usage_subject(day: str, tenant: str) -> str:
    return streams.bucket_subject(streams.USAGE_BUCKET, f"{day}.{tenant}.*")


def by_provider(usages: Iterable[DayUsage]) -> dict[tuple[str, str], ProviderUsage]:
    """Sum usage records over processes, by provider and currency."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for usage in usages:
        for provider, row in usage.providers.items():
            total = sums.setdefault((provider, row.currency), {})
            for name, value in row.model_dump(exclude={"currency"}, exclude_none=True).items():
                total[name] = total.get(name, 0) + value
    return {name: ProviderUsage(currency=name[1], **total) for name, total in sorted(sums.items())}

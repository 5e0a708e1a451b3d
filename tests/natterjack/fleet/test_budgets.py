"""Budgets: their entries, their standing, and the buckets they are read from."""

from __future__ import annotations

import pytest
from nats.js import JetStreamContext

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.errors import InvalidKey, UsageError
from natterjack.fleet.budgets import (
    Budget,
    Used,
    budget_key,
    by_provider,
    fraction_used,
    parse_budget,
    read_budgets,
    read_usage,
    remaining_seconds,
    spent_detail,
    standings,
)
from natterjack.fleet.usage import DayUsage
from natterjack.values import ProviderUsage

DAY = "2026-11-20"


def usage(
    sent: float, replayed: float = 0, cost: float = 0, *, currency: str = "USD", name: str = "a"
) -> DayUsage:
    row = ProviderUsage(
        connections=1, sent_seconds=sent, replayed_seconds=replayed, cost=cost, currency=currency
    )
    return DayUsage(captured_seconds=sent, providers={name: row})


async def put(js: JetStreamContext, bucket: str, key: str, value: bytes, **headers: str) -> None:
    await js.publish(streams.bucket_subject(bucket, key), value, headers=headers or None)


# ---- entries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("3600", Budget(seconds_per_day=3600)),
        ("0.5\n", Budget(seconds_per_day=0.5)),
        ("0", Budget(seconds_per_day=0)),
        ('{"seconds_per_day": 60}', Budget(seconds_per_day=60)),
        ('{"cost_per_day": 5, "currency": "EUR"}', Budget(cost_per_day=5, currency="EUR")),
        (
            '{"seconds_per_day": 60, "cost_per_day": 0}',
            Budget(seconds_per_day=60, cost_per_day=0),
        ),
    ],
)
def test_entries(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget
    assert parse_budget(budget.encode()) == budget


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "EOF"),
        ("an hour", "Invalid JSON"),
        ("true", "should be an object"),
        ("-1", "greater than or equal to 0"),
        ("NaN", "finite number"),
        ('"3600"', "should be an object"),
        ("{}", "seconds_per_day or cost_per_day is needed"),
        ('{"currency": "EUR"}', "seconds_per_day or cost_per_day is needed"),
        ('{"seconds_per_day": "60"}', "seconds_per_day: Input should be a valid number"),
        ('{"second_per_day": 60}', "second_per_day: Extra inputs"),
        ('{"cost_per_day": 5, "currency": "euro"}', "currency"),
    ],
)
def test_invalid_entries_name_the_problem_and_the_correct_form(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_budget(text)
    assert "a budget looks like 3600 (seconds a day)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys() -> None:
    assert budget_key("acme") == "tenant.acme"
    assert budget_key("default") == "tenant.default"
    with pytest.raises(InvalidKey):
        budget_key("acme.com")


# ---- standing -----------------------------------------------------------------------------------


def test_replayed_seconds_count_as_money_only() -> None:
    usages = [
        usage(100, replayed=10, cost=1.0),
        usage(20, cost=0.5),
        usage(5, cost=9.0, currency="EUR", name="b"),
    ]
    assert Used.of(usages, "USD") == Used(115, 1.5)
    assert Used.of(usages, "EUR") == Used(115, 9.0)
    assert Used.of([], "USD") == Used()


@pytest.mark.parametrize(
    ("budget", "used", "fraction", "remaining"),
    [
        (Budget(seconds_per_day=100), Used(25, 1), 0.25, 75),
        (Budget(seconds_per_day=100), Used(100, 1), 1, 0),
        (Budget(seconds_per_day=100), Used(150, 1), 1.5, 0),
        (Budget(seconds_per_day=0), Used(), 1, 0),
        (Budget(cost_per_day=10), Used(100, 5), 0.5, 100),  # 5 more at 0.05 per second
        (Budget(cost_per_day=10), Used(100, 12), 1.2, 0),
        (Budget(cost_per_day=10), Used(100, 0), 0, None),  # nothing has cost anything so far
        (Budget(cost_per_day=0), Used(), 1, None),
        (Budget(seconds_per_day=1000, cost_per_day=10), Used(100, 5), 0.5, 100),
        (Budget(seconds_per_day=110, cost_per_day=10), Used(100, 5), 100 / 110, 10),
    ],
)
def test_the_rest_of_a_budget(
    budget: Budget, used: Used, fraction: float, remaining: float | None
) -> None:
    assert fraction_used(budget, used) == pytest.approx(fraction)
    assert remaining_seconds(budget, used) == (
        None if remaining is None else pytest.approx(remaining)
    )
    assert (spent_detail("acme", DAY, budget, used) is not None) == (fraction >= 1)


def test_messages_about_a_spent_budget() -> None:
    used = Used(3600.04, 5.0199)
    seconds = Budget(seconds_per_day=3600)
    assert spent_detail("acme", DAY, seconds, used) == (
        f"tenant acme has used 3600 of 3600 s of {DAY}"
    )
    both = Budget(seconds_per_day=3600, cost_per_day=5, currency="EUR")
    assert spent_detail("acme", DAY, both, used) == (
        f"tenant acme has used 3600 of 3600 s and 5.0199 of 5 EUR of {DAY}"
    )
    money = Budget(seconds_per_day=2_000_000, cost_per_day=5)
    assert spent_detail("acme", DAY, money, used) == (
        f"tenant acme has used 5.0199 of 5 USD of {DAY}"
    )
    assert [str(standing) for standing in standings(money, used)] == [
        "3600 of 2000000 s",
        "5.0199 of 5 USD",
    ]


def test_sums_over_processes_by_provider_and_currency() -> None:
    usages = [
        usage(1, 0.5, 2),
        usage(10, 0, 20),
        usage(3, 0, 5, currency="EUR"),
        usage(4, name="b"),
    ]
    usages[0].providers["a"] = usages[0].providers["a"].model_copy(update={"reported_seconds": 7})
    sums = by_provider(usages)
    assert list(sums) == [("a", "EUR"), ("a", "USD"), ("b", "USD")]
    total = sums["a", "USD"]
    assert (total.connections, total.sent_seconds, total.replayed_seconds) == (2, 11, 0.5)
    assert (total.cost, total.currency, total.reported_seconds) == (22, "USD", 7)
    assert sums["b", "USD"].reported_seconds is None


# ---- buckets ------------------------------------------------------------------------------------


async def test_budgets_are_read_from_the_bucket(ready_broker: Broker) -> None:
    js = ready_broker.client.jetstream()
    bucket = await js.key_value(streams.BUDGETS_BUCKET)  # as any tool writes them
    await bucket.put("default", b"60")
    await bucket.put("tenant.acme", b'{"cost_per_day": 5}')
    await bucket.put("tenant.gone", b"1")
    await bucket.delete("tenant.gone")
    await bucket.put("tenant.bad", b"an hour")
    await bucket.put("tenants.acme", b"60")
    await bucket.put("account.deepgram", b'{"connections": 50}')
    store = StreamStore(ready_broker, f"KV_{streams.BUDGETS_BUCKET}")
    await store.start()
    entries = await read_budgets(store)
    assert entries.of("acme") == Budget(cost_per_day=5)
    assert entries.of("gone") == entries.of("bad") == Budget(seconds_per_day=60)
    assert sorted(entries.invalid) == ["tenant.bad", "tenants.acme"]
    assert "Invalid JSON" in entries.invalid["tenant.bad"]


async def test_usage_is_read_by_day_and_tenant(
    ready_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    js = ready_broker.client.jetstream()
    bucket = streams.USAGE_BUCKET
    for key, sent in {
        f"{DAY}.acme.w1": 1,
        f"{DAY}.acme.w2": 2,
        f"{DAY}.other.w1": 4,
        "2026-11-19.acme.w1": 8,
    }.items():
        await put(js, bucket, key, usage(sent).model_dump_json(exclude_none=True).encode())
    await put(js, bucket, f"{DAY}.acme.w3", b"no record")
    await put(js, bucket, f"{DAY}.acme.w4", b"", **{"KV-Operation": "DEL"})
    store = StreamStore(ready_broker, f"KV_{bucket}")
    await store.start()
    found = await read_usage(store, DAY)
    assert {tenant: Used.of(usages, "USD").seconds for tenant, usages in found.items()} == {
        "acme": 3,
        "other": 4,
    }
    assert list(await read_usage(store, DAY, "other")) == ["other"]
    assert await read_usage(store, "2026-11-18") == {}
    assert f"{DAY}.acme.w3 in stt_usage is not a usage record" in caplog.text

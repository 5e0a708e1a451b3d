"""`natterjack budget` on a real broker."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.fleet.budgets import Budget, parse_budget
from natterjack.fleet.usage import DayUsage
from natterjack.local.embedded import EmbeddedServer
from natterjack.values import ProviderUsage
from tests.natterjack.fleet.test_budgets import put, usage

from .commands import run, run_async

OTHER_DAY = "2026-01-31"


class Budgets:
    """Runs `natterjack budget` on one broker."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.errors = ""

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        """Run the command and return its output."""
        command = await run_async("budget", *arguments, NATS_URL=self._url)
        assert command.status == status, command.out + command.errors
        self.errors = command.errors
        if status == 0:
            assert command.errors == ""
        return command.out


@pytest.fixture
def budget(ready_broker: Broker, nats_server: EmbeddedServer) -> Budgets:
    return Budgets(nats_server.url)


@pytest.fixture
def js(ready_broker: Broker) -> JetStreamContext:
    return ready_broker.client.jetstream()


@pytest.fixture
async def bucket(js: JetStreamContext) -> KeyValue:
    return await js.key_value(streams.BUDGETS_BUCKET)


async def used(js: JetStreamContext, day: str, tenant: str, process: str, what: DayUsage) -> None:
    payload = what.model_dump_json(exclude_none=True).encode()
    await put(js, streams.USAGE_BUCKET, f"{day}.{tenant}.{process}", payload)


def today() -> str:
    return datetime.now(UTC).date().isoformat()


async def test_budgets_are_set_shown_and_removed(budget: Budgets, bucket: KeyValue) -> None:
    assert "no budgets" in await budget("list")
    assert await budget("set", "acme", "--seconds-per-day", "3600") == "tenant.acme: 3600 s a day\n"
    output = await budget(
        "set", "--default", "--seconds-per-day", "60", "--cost-per-day", "2.5", "--currency", "EUR"
    )
    assert output == "default: 60 s a day and 2.5 EUR a day\n"
    stored = {key: (await bucket.get(key)).value for key in await bucket.keys()}
    assert {key: parse_budget(value or b"") for key, value in stored.items()} == {
        "tenant.acme": Budget(seconds_per_day=3600),
        "default": Budget(seconds_per_day=60, cost_per_day=2.5, currency="EUR"),
    }
    # It replaces the existing budget.
    await budget("set", "acme", "--cost-per-day", "5")
    assert parse_budget((await bucket.get("tenant.acme")).value or b"") == Budget(cost_per_day=5)
    lines = [line.split() for line in (await budget("show", "acme")).splitlines()]
    assert lines == [
        ["TENANT", "BUDGET", "A", "DAY", "USED", "LEFT"],
        ["acme", "tenant.acme", "5", "USD", "0", "USD", "5", "USD"],
    ]
    assert await budget("remove", "acme") == "tenant.acme: removed\n"
    assert "default" in await budget("show", "acme")
    assert await budget("remove", "--default") == "default: removed\n"
    assert "acme has no budget" in await budget("show", "acme")
    await budget("remove", "acme", status=1)
    assert budget.errors == "natterjack budget: there is no budget tenant.acme to remove\n"


async def test_list_shows_usage_and_the_rest(
    budget: Budgets, bucket: KeyValue, js: JetStreamContext
) -> None:
    await bucket.put("tenant.acme", b'{"seconds_per_day": 100, "cost_per_day": 1}')
    await bucket.put("default", b"10")
    await bucket.put("account.deepgram", b'{"connections": 50}')
    day = today()
    await used(js, day, "acme", "w1", usage(20, replayed=5, cost=0.5))
    await used(js, day, "acme", "w2", usage(10, cost=0.25))
    await used(js, day, "small", "w1", usage(30))
    await used(js, OTHER_DAY, "acme", "w1", usage(1, cost=0.01))
    lines = [line.split() for line in (await budget("list")).splitlines()[1:]]
    assert lines == [
        ["(others)", "default", "10", "s"],
        ["acme", "tenant.acme", "100", "s", "25", "s", "75", "s"],
        ["acme", "tenant.acme", "1", "USD", "0.75", "USD", "0.25", "USD"],
        ["small", "default", "10", "s", "30", "s", "0", "s"],
    ]
    shown = json.loads(await budget("list", "--json"))
    assert (shown["day"], shown["wrong"]) == (day, {})
    acme = next(one for one in shown["budgets"] if one["tenant"] == "acme")
    assert acme["budget"] == {"seconds_per_day": 100, "cost_per_day": 1, "currency": "USD"}
    assert acme["units"][0] == {"unit": "seconds", "limit": 100, "used": 25, "remaining": 75}
    before = json.loads(await budget("show", "acme", "--json", "--day", OTHER_DAY))
    assert (before["day"], before["key"]) == (OTHER_DAY, "tenant.acme")
    assert before["units"][1]["used"] == 0.01


async def test_invalid_entries_are_reported(budget: Budgets, bucket: KeyValue) -> None:
    await bucket.put("tenant.acme", b"an hour")
    await bucket.put("acme", b"3600")
    await bucket.put("default", b"10")
    out = await budget("list", status=1)
    assert "default" in out
    assert budget.errors.count("\n") == 2
    assert "natterjack budget: tenant.acme: not a budget: Invalid JSON" in budget.errors
    assert "natterjack budget: acme: unknown key" in budget.errors
    await budget("show", "acme", status=1)
    assert budget.errors.count("\n") == 1
    await budget("show", "other")


async def test_usage_of_a_day(budget: Budgets, js: JetStreamContext) -> None:
    day = today()
    row = ProviderUsage(
        connections=2, sent_seconds=100, replayed_seconds=4, connected_seconds=110.5,
        reported_seconds=99.5, billed_seconds=99.5, cost=0.1, recovery_cost=0.004,
    )  # fmt: skip
    both = DayUsage(captured_seconds=120, providers={"deepgram": row, "managed": row})
    await used(js, day, "acme", "w1", both)
    await used(js, day, "acme", "w2", usage(0.1, cost=0.2, name="deepgram"))
    await used(js, day, "beta", "w1", usage(7, currency="EUR"))
    assert [" ".join(line.split()) for line in (await budget("usage")).splitlines()] == [
        "TENANT PROVIDER CAPTURED SENT REPLAYED CONNECTED REPORTED BILLED COST RECOVERY",
        "acme deepgram 120.1 100.1 4.0 110.5 99.5 99.5 0.3000 USD 0.0040 USD",
        "acme managed 100.0 4.0 110.5 99.5 99.5 0.1000 USD 0.0040 USD",
        "beta a 7.0 7.0 0.0 0.0 - 0.0 0.0000 EUR 0.0000 EUR",
    ]
    shown = json.loads(await budget("usage", "--tenant", "acme", "--json"))
    assert [tenant["tenant"] for tenant in shown["tenants"]] == ["acme"]
    assert shown["tenants"][0]["captured_seconds"] == 120.1
    deepgram = shown["tenants"][0]["providers"][0]
    assert (deepgram["provider"], deepgram["sent_seconds"], deepgram["cost"]) == (
        "deepgram",
        100.1,
        0.3,
    )
    assert await budget("usage", "--day", OTHER_DAY) == f"nothing was used on {OTHER_DAY}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("set", "acme"), "give --seconds-per-day, --cost-per-day, or both"),
        (("set", "--seconds-per-day", "1"), "name a tenant, or give --default"),
        (
            ("set", "acme", "--default", "--seconds-per-day", "1"),
            "name a tenant, or give --default",
        ),
        (("set", "a.b", "--seconds-per-day", "1"), "tenant 'a.b' is not valid"),
        (("set", "acme", "--seconds-per-day", "-1"), "seconds_per_day: Input should be greater"),
        (("set", "acme", "--cost-per-day", "nan"), "cost_per_day: Input should be a finite"),
        (("set", "acme", "--cost-per-day", "1", "--currency", "usd"), "currency: String should"),
        (("remove",), "name a tenant, or give --default"),
        (("show", "a b"), "tenant 'a b' is not valid"),
        (("usage", "--tenant", "*"), "tenant '*' is not valid"),
        (("list", "--day", "yesterday"), "'yesterday' is not a date"),
        (("list", "--nats-url", "nats://127.0.0.1:9"), "no NATS at nats://127.0.0.1:9"),
        (("list", "--log-level", "loud"), "NATTERJACK_LOG_LEVEL"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments: tuple[str, ...], says: str) -> None:
    command = run("budget", *arguments, NATS_URL="nats://127.0.0.1:9")
    assert command.status == 2
    assert says in command.errors
    assert command.errors.count("\n") == 1
    assert command.out == ""


@pytest.mark.parametrize(
    "arguments", [("list",), ("usage",), ("remove", "x"), ("set", "x", "--cost-per-day", "1")]
)
async def test_missing_buckets_are_reported(
    arguments: tuple[str, ...], nats_server: EmbeddedServer
) -> None:
    command = await run_async("budget", *arguments, NATS_URL=nats_server.url)
    assert command.status == 2
    assert "a worker creates them when it first starts" in command.errors
    assert command.errors.count("\n") == 1

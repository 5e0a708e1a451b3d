"""A worker applies budgets and usage, without a broker."""

from __future__ import annotations

import pytest

from natterjack.broker.client.fastpath import Client
from natterjack.broker.connection import Broker
from natterjack.fleet.budgets import DEFAULT_KEY, Budget, Used, budget_key
from natterjack.fleet.usage import DayUsage
from natterjack.values import ProviderUsage
from worker.metering.budgets import Budgets, _Followed
from worker.metering.tally import Tally
from worker.metrics import Metrics

DAY = "2026-11-20"


@pytest.fixture
def broker() -> Broker:
    return Broker(Client())


@pytest.fixture
def budgets(broker: Broker) -> Budgets:
    tally = Tally("own", lambda: DAY)
    jetstream = broker.client.jetstream()
    return Budgets(broker, jetstream, tally, Metrics(1), (0.8, 0.5), lambda: DAY)


def usage(seconds: float) -> bytes:
    providers = {"one": ProviderUsage(sent_seconds=seconds, currency="USD", cost=seconds / 100)}
    return DayUsage(providers=providers).model_dump_json().encode()


def test_the_default_is_for_tenants_without_a_budget_of_their_own(budgets: Budgets) -> None:
    assert budgets.budget_of("t") is None
    budgets._changed(DEFAULT_KEY, b"60")
    budgets._changed(budget_key("u"), b"120")
    assert budgets.budget_of("t") == Budget(seconds_per_day=60)
    assert budgets.budget_of("u") == Budget(seconds_per_day=120)
    budgets._changed(budget_key("u"), None)
    assert budgets.budget_of("u") == Budget(seconds_per_day=60)


def test_an_invalid_budget_leaves_the_old_one_and_is_logged_once(
    budgets: Budgets, caplog: pytest.LogCaptureFixture
) -> None:
    budgets._changed(DEFAULT_KEY, b"60")
    for _ in range(2):
        budgets._changed(DEFAULT_KEY, b"sixty")
    assert budgets.budget_of("t") == Budget(seconds_per_day=60)
    assert len([r for r in caplog.records if "the old one stays" in r.getMessage()]) == 1


def test_other_entries_of_the_bucket_are_no_budgets(budgets: Budgets) -> None:
    budgets._changed("account.deepgram", b"60")
    assert budgets.budget_of("account.deepgram") is None
    assert not budgets._budgets


def test_no_session_is_refused_without_a_connection(budgets: Budgets) -> None:
    budgets._changed(DEFAULT_KEY, b"0.001")
    assert budgets.spent("t") is None, "the budget may have been raised"


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0, 0.0), (49, 0.0), (50, 0.5), (79, 0.5), (80, 0.8), (100, 1.0), (9e9, 1)],
)
def test_the_highest_threshold_that_was_passed(
    budgets: Budgets, seconds: float, level: float
) -> None:
    assert budgets._level(Budget(seconds_per_day=100), Used(seconds, 0.0)) == level


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0])
def test_a_threshold_is_a_fraction(broker: Broker, level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Budgets(broker, broker.client.jetstream(), Tally("own"), Metrics(1), (level,))


def test_usage_of_other_processes_is_added_up(broker: Broker) -> None:
    followed = _Followed(broker, DAY, "t", "own")
    followed._changed(f"{DAY}.t.a", usage(10))
    followed._changed(f"{DAY}.t.b", usage(5))
    followed._changed(f"{DAY}.t.own", usage(1000))
    assert followed.used("USD").seconds == 15
    assert followed.used("USD").cost == pytest.approx(0.15)
    followed._changed(f"{DAY}.t.b", None)
    assert followed.used("USD").seconds == 10


def test_usage_never_falls(broker: Broker) -> None:
    followed = _Followed(broker, DAY, "t", "own")
    followed._changed(f"{DAY}.t.a", usage(10))
    followed._changed(f"{DAY}.t.a", usage(4))  # a write that the broker refuses
    assert followed.used("USD").seconds == 10
    followed._changed(f"{DAY}.t.a", usage(11))
    assert followed.used("USD").seconds == 11

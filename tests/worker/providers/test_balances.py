"""Polling balances: real providers, the emulated account, the exposed metric."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
from pydantic_settings import BaseSettings

from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.plugin import entry_points
from natterjack.plugin.base import Balance
from natterjack.plugin.entry_points import GROUP
from natterjack.plugin.errors import Unavailable
from natterjack.plugin.provider import (
    Capabilities,
    Provider,
    ProviderStream,
    StreamRequest,
)
from tests.waiting import until
from worker.metrics import Metrics
from worker.providers import loading as plugins
from worker.providers.balances import poll
from worker.providers.loading import Providers
from worker.settings import WorkerSettings

ADMIN = "s3cret-0f-the-purse"


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator(roles={ADMIN: "admin"}, balances=[{"amount": 100}]) as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def environment(emulator: DeepgramEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "API_KEY": "k",
        "URL": emulator.url,
        "API_URL": emulator.account_url,
        "ADMIN_KEY": ADMIN,
        "BALANCE_SECONDS": "0.05",
    }.items():
        monkeypatch.setenv(f"DEEPGRAM_{name}", value)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(1)


@contextlib.asynccontextmanager
async def polled(metrics: Metrics, *names: str) -> AsyncIterator[Providers]:
    """Poll the balances of `names` during the block, and check that polling never ends by
    itself."""
    providers = Providers(WorkerSettings())
    for name in names:
        providers.get(name)
    polling = asyncio.create_task(poll(providers, metrics))
    try:
        yield providers
        assert not polling.done()
    finally:
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling
        await providers.close()


def remaining(metrics: Metrics, provider: str = "deepgram", unit: str = "USD") -> float | None:
    labels = {"provider": provider, "unit": unit}
    return metrics.registry.get_sample_value("natterjack_credits_remaining", labels)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.name == "worker.providers.balances"]
    return [record.getMessage() for record in found if record.levelno == logging.WARNING]


async def requested_again(emulator: DeepgramEmulator, times: int) -> None:
    """Wait until that many more requests were answered."""
    mark = len(emulator.account_requests) + times
    await until(lambda: len(emulator.account_requests) >= mark, f"{times} more requests")


async def test_the_metric_follows_the_balance(emulator: DeepgramEmulator, metrics: Metrics) -> None:
    async with polled(metrics, "deepgram"):
        await until(lambda: remaining(metrics) == 100, "the first balance")
        await emulator.set(balances=[{"amount": -2.5}, {"amount": 4, "units": "hour"}])
        await until(lambda: remaining(metrics) == -2.5, "another balance")
        assert remaining(metrics, unit="hours") == 4


async def test_a_balance_that_is_no_longer_listed_is_0(
    emulator: DeepgramEmulator, metrics: Metrics
) -> None:
    async with polled(metrics, "deepgram"):
        await until(lambda: remaining(metrics) == 100, "the first balance")
        await emulator.set(balances=[])
        await until(lambda: remaining(metrics) == 0, "the balance is 0")


async def test_a_provider_used_later_is_polled(
    emulator: DeepgramEmulator, metrics: Metrics
) -> None:
    async with polled(metrics, "deepgram-flux") as providers:
        providers.get("deepgram")
        await until(lambda: remaining(metrics) == 100, "the balance")
        await requested_again(emulator, 3)
    paths = [entry.path.rpartition("/")[2] for entry in emulator.account_requests]
    assert paths.count("projects") == 1  # flux has no balance of its own
    assert remaining(metrics, "deepgram-flux") is None


async def test_each_failure_is_logged_once_and_polling_continues(
    emulator: DeepgramEmulator, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with polled(metrics, "deepgram"):
        await until(lambda: remaining(metrics) == 100, "the first balance")
        await emulator.set(account_status=503)
        await until(lambda: len(warnings(caplog)) == 1, "the failure is logged")
        await requested_again(emulator, 4)
        assert len(warnings(caplog)) == 1
        await emulator.set(account_status=None, roles={ADMIN: "member"})
        await until(lambda: len(warnings(caplog)) == 2, "the other reason is logged")
        assert "billing:read" in warnings(caplog)[1]
        assert remaining(metrics) == 100  # the last known balance
        await emulator.set(roles={ADMIN: "owner"}, balances=[{"amount": 50}])
        await until(lambda: remaining(metrics) == 50, "the balance is known again")
        await until(
            lambda: "provider balance available again" in caplog.text, "the recovery is logged"
        )
        await emulator.set(roles={ADMIN: "member"})
        await until(lambda: len(warnings(caplog)) == 3, "the same reason is logged again")
    assert ADMIN not in caplog.text


class OddProvider(Provider):
    """A third-party plugin. The test sets what its `balance` does."""

    name: ClassVar[str] = "odd"
    Settings: ClassVar[type[BaseSettings]] = BaseSettings
    capabilities = Capabilities(encodings=("linear16",))
    does: ClassVar[Callable[[int], Any]]

    def __init__(self, settings: Any) -> None:
        self.balance_seconds = 0.05
        self.times = 0

    async def open(self, request: StreamRequest) -> ProviderStream:
        raise Unavailable(self.name, "connect", "it has no streams")

    async def balance(self) -> list[Balance]:
        self.times += 1
        answer = type(self).does(self.times)
        if answer == "hang":
            await asyncio.Event().wait()
        assert isinstance(answer, list)
        return answer


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> type[OddProvider]:
    """Install it beside our providers."""
    point = EntryPoint("odd", f"{__name__}:OddProvider", GROUP)
    installed = {**entry_points.available(), "odd": point}
    monkeypatch.setattr(plugins, "available", lambda *_: installed)
    return OddProvider


async def test_nothing_is_polled_without_a_key(
    emulator: DeepgramEmulator,
    metrics: Metrics,
    odd: type[OddProvider],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DEEPGRAM_ADMIN_KEY")
    odd.does = lambda times: [Balance(times, "EUR")]
    async with polled(metrics, "deepgram", "odd"):
        await until(
            lambda: (remaining(metrics, "odd", "EUR") or 0) >= 4, "the other is polled often"
        )
    assert emulator.account_requests == []
    assert remaining(metrics) is None


async def test_a_provider_that_hangs_delays_no_other(
    emulator: DeepgramEmulator, metrics: Metrics, odd: type[OddProvider]
) -> None:
    odd.does = lambda times: "hang"
    async with polled(metrics, "odd", "deepgram") as providers:
        await until(lambda: remaining(metrics) == 100, "the balance of the other")
        await requested_again(emulator, 3)
        made = providers.made["odd"].plugin
        assert isinstance(made, OddProvider)
        assert made.times == 1


async def test_polling_continues_whatever_a_plugin_raises(
    metrics: Metrics, odd: type[OddProvider], caplog: pytest.LogCaptureFixture
) -> None:
    def does(times: int) -> list[Balance]:
        if times < 4:
            raise KeyError("no such thing")
        if times < 6:
            raise Unavailable("odd", "rate_limit", f"request {times}", "429")
        if times == 6:
            return [Balance("much", "USD")]  # type: ignore[arg-type]
        return [Balance(times, "EUR")]

    odd.does = does
    async with polled(metrics, "odd"):
        await until(lambda: (remaining(metrics, "odd", "EUR") or 0) >= 7, "it works")
    messages = warnings(caplog)
    assert len(messages) == 3
    assert "KeyError: 'no such thing'" in messages[0]
    assert "request 4" in messages[1]
    assert "ValueError" in messages[2]


async def test_polling_can_be_cancelled(metrics: Metrics, odd: type[OddProvider]) -> None:
    odd.does = lambda times: "hang"
    providers = Providers(WorkerSettings())
    made = providers.get("odd").plugin
    assert isinstance(made, OddProvider)
    async with asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(poll(providers, metrics))
        await until(lambda: made.times == 1, "the balance is requested")
        polling.cancel()
    assert polling.cancelled()


def test_the_list_of_providers_is_read_only() -> None:
    providers = Providers(WorkerSettings())
    assert dict(providers.made) == {}
    made = providers.get("deepgram")
    assert dict(providers.made) == {"deepgram": made}
    with pytest.raises(TypeError):
        providers.made["other"] = made  # type: ignore[index]

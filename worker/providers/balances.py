"""What is left with providers, asked for now and then: the metric `credits_remaining`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Final

from natterjack.plugin.errors import ProviderError
from natterjack.plugin.provider import Provider
from natterjack.telemetry.log import fields
from worker.metrics import Metrics

from .loading import Providers

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
"""How often it is looked whether a session has brought another provider into use."""
_FIRST: Final = 0.1
"""The first question comes within this part of an interval: a fleet that starts is spread out."""
_JITTER: Final = 0.1


async def poll(providers: Providers, metrics: Metrics) -> None:
    """Until cancelled: ask each provider in use that has a balance, at its own interval. Raises
    nothing but CancelledError."""
    asked: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        while True:
            for name, provider in list(providers.made.items()):
                if name not in asked and provider.balance_seconds > 0:
                    asked.add(name)
                    tasks.create_task(
                        _Poller(name, providers.made, metrics).run(), name=f"balance {name}"
                    )
            await asyncio.sleep(_LOOK_SECONDS)


class _Poller:
    """Asks one provider."""

    def __init__(self, name: str, made: Mapping[str, Provider], metrics: Metrics) -> None:
        """`made`: the providers in use. Ours may be made anew, with another key."""
        self._name = name
        self._made = made
        self._gauge = metrics.credits_remaining
        self._units: set[str] = set()
        """Told so far."""
        self._failure: tuple[str | None, ...] | None = None
        """Why the last question failed: what is compared, not what is shown."""

    async def run(self) -> None:
        interval = self._made[self._name].balance_seconds
        await asyncio.sleep(interval * random.uniform(0, _FIRST))  # noqa: S311 - no secret
        while (provider := self._made.get(self._name)) is not None:
            if provider.balance_seconds <= 0:  # it has no key to ask with any more
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            interval = provider.balance_seconds
            try:
                await self._ask(provider)
            except ProviderError as error:
                self._failed(str(error), error.cause, error.code)
            except Exception as error:  # noqa: BLE001 - a stranger's plugin may fail in any way
                # Not its representation, which of HTTP clients' errors shows headers with keys.
                self._failed(f"{self._name}: {type(error).__name__}: {error}", type(error).__name__)
            else:
                if self._failure is not None:
                    self._failure = None
                    log.info("balance is told again", extra=fields(provider=self._name))
            await asyncio.sleep(interval * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311

    async def _ask(self, provider: Provider) -> None:
        balances = await provider.balance()
        # A unit that is no longer named has nothing left: a used-up balance leaves the list.
        for unit in self._units.difference(balance.unit for balance in balances):
            self._gauge.labels(self._name, unit).set(0)
        for balance in balances:
            self._units.add(balance.unit)
            self._gauge.labels(self._name, balance.unit).set(balance.amount)

    def _failed(self, message: str, *reason: str | None) -> None:
        """Say it once. The metric keeps what was told last."""
        if reason != self._failure:
            self._failure = reason
            log.warning("balance not known: %s", message, extra=fields(provider=self._name))

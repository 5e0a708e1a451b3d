"""Polling of provider balances: the metric `credits_remaining`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Any, Final

from natterjack.plugin.errors import ProviderError
from natterjack.telemetry.log import fields
from worker.metrics import Metrics

from .boundary import GuardedPlugin
from .loading import Plugins

log = logging.getLogger(__name__)

_SCAN_SECONDS: Final = 1.0
"""Interval between checks for providers that sessions have begun to use."""
_FIRST_DELAY: Final = 0.1
"""Largest delay of the first request, as a part of the interval: it spreads a starting fleet."""
_JITTER: Final = 0.1


async def poll(providers: Plugins[Any], metrics: Metrics) -> None:
    """Request the balance of each provider in use at its own interval, until cancelled.

    Raises nothing but CancelledError.
    """
    polled: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        while True:
            for name, provider in list(providers.made.items()):
                if name not in polled and provider.balance_seconds > 0:
                    polled.add(name)
                    tasks.create_task(
                        _Poller(name, providers.made, metrics).run(), name=f"balance {name}"
                    )
            await asyncio.sleep(_SCAN_SECONDS)


class _Poller:
    """Requests the balance of one provider."""

    def __init__(self, name: str, made: Mapping[str, GuardedPlugin], metrics: Metrics) -> None:
        """`made` has the providers in use; the one of this name is replaced if its key changes."""
        self._name = name
        self._made = made
        self._gauge = metrics.credits_remaining
        self._units: set[str] = set()
        """Units that the provider has reported."""
        self._failure: tuple[str | None, ...] | None = None
        """Cause and code of the last failure; None if the last request succeeded."""

    async def run(self) -> None:
        interval = self._made[self._name].balance_seconds
        await asyncio.sleep(interval * random.uniform(0, _FIRST_DELAY))  # noqa: S311 - no secret
        while (provider := self._made.get(self._name)) is not None:
            if provider.balance_seconds <= 0:  # the key that the request needs was removed
                await asyncio.sleep(_SCAN_SECONDS)
                continue
            interval = provider.balance_seconds
            try:
                await self._request(provider)
            except ProviderError as error:
                self._failed(str(error), error.cause, error.code)
            except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
                # Not its representation: those of HTTP clients' errors show headers with keys.
                self._failed(f"{self._name}: {type(error).__name__}: {error}", type(error).__name__)
            else:
                if self._failure is not None:
                    self._failure = None
                    log.info("provider balance available again", extra=fields(provider=self._name))
            await asyncio.sleep(interval * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311

    async def _request(self, provider: GuardedPlugin) -> None:
        balances = await provider.balance()
        # A balance that is used up leaves the provider's list: nothing of that unit is left.
        for unit in self._units.difference(balance.unit for balance in balances):
            self._gauge.labels(self._name, unit).set(0)
        for balance in balances:
            self._units.add(balance.unit)
            self._gauge.labels(self._name, balance.unit).set(balance.amount)

    def _failed(self, message: str, *failure: str | None) -> None:
        """Log a failure, unless it is the same as the last one. The metric keeps its value."""
        if failure != self._failure:
            self._failure = failure
            log.warning(
                "provider balance not available: %s", message, extra=fields(provider=self._name)
            )

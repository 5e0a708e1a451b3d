"""The ledger of a voice session: what it has used of each voice, over all its streams and workers.

Voices bill characters of text. Text that is sent again after a fault is billed like any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from natterjack.plugin.voice import VoiceCapabilities
from natterjack.values import ProviderUsage
from worker.metrics import Metrics

from .tally import Tally
from .usage import Usage


class VoiceLedger:
    """Keeps one row per voice, and passes every entry on to the metrics and the tally."""

    def __init__(self, tenant: str, metrics: Metrics, tally: Tally) -> None:
        self._tenant = tenant
        self._label = metrics.tenant(tenant)
        self._metrics = metrics
        self._tally = tally
        self._rows: dict[str, Usage] = {}
        self._currencies: dict[str, str] = {}
        self.repeated_characters = 0
        self._provider = ""
        self._price = 0.0
        """Price of a character."""
        self._counted_until: float | None = None
        """Up to when the open stream is counted; None if none is open."""

    def adopt(self, rows: Mapping[str, ProviderUsage], repeated_characters: int) -> None:
        """Continue the ledger of another worker."""
        self._rows = {name: Usage.from_record(usage) for name, usage in rows.items()}
        self._currencies = {name: usage.currency for name, usage in rows.items()}
        self.repeated_characters = repeated_characters

    def opened(self, provider: str, capabilities: VoiceCapabilities) -> None:
        """Note that a stream is open."""
        self._provider = provider
        self._price = capabilities.price_per_1000_characters / 1000
        self._currencies[provider] = capabilities.currency
        self._counted_until = time.monotonic()
        self._enter(Usage(connections=1))

    def sent(self, characters: int, repeated: int) -> None:
        """Note that text was sent, of which `repeated` characters had been sent before."""
        self.repeated_characters += repeated
        self._metrics.voice_characters.labels(self._provider).inc(characters)
        if repeated:
            self._metrics.voice_repeated.labels(self._provider).inc(repeated)
        cost, again = characters * self._price, repeated * self._price
        self._enter(Usage(characters=characters, cost=cost, recovery_cost=again))

    def assume(self, characters: int) -> None:
        """Note that a worker that was killed has sent text and not reported it."""
        if characters:
            self._enter(Usage(characters=characters, cost=characters * self._price))

    def billed(self, sent: int, billed: int) -> None:
        """Note that the provider bills `billed` characters for a phrase of `sent` characters."""
        if billed != sent:
            self._enter(Usage(cost=(billed - sent) * self._price))

    def count(self) -> None:
        """Count the time of the open stream up to now."""
        if self._counted_until is not None:
            now = time.monotonic()
            seconds, self._counted_until = now - self._counted_until, now
            self._enter(Usage(connected=seconds))

    def closed(self) -> None:
        """Note that the open stream, if any, is closed. Idempotent."""
        self.count()
        self._counted_until = None

    def _enter(self, more: Usage) -> None:
        currency = self._currencies[self._provider]
        self._rows.setdefault(self._provider, Usage()).add(more)
        self._tally.add(self._tenant, self._provider, currency, more)
        if more.cost > 0:
            self._metrics.credits_used.labels(self._provider, self._label, currency).inc(more.cost)
        if more.recovery_cost > 0:
            self._metrics.recovery_cost.labels(self._provider, currency).inc(more.recovery_cost)

    @property
    def characters(self) -> int:
        return sum(row.characters for row in self._rows.values())

    @property
    def connected_seconds(self) -> float:
        return sum(row.connected for row in self._rows.values())

    def cost(self) -> tuple[float, str | None]:
        """The total cost in the currency of the voice that was used last, and that currency."""
        currency = self._currencies.get(self._provider) or next(
            reversed(self._currencies.values()), None
        )
        costs = (self._rows[name].cost for name in self._rows if self._currencies[name] == currency)
        return sum(costs), currency

    def usage(self) -> dict[str, ProviderUsage]:
        return {name: row.to_record(self._currencies[name]) for name, row in self._rows.items()}

    def json(self) -> str:
        """The members of a JSON object with what `usage` returns."""
        return ",".join(
            f"{json.dumps(name)}:{row.json(self._currencies[name])}"
            for name, row in self._rows.items()
        )

"""A session's ledger: what it has used of each provider, over all its streams and workers.

Audio that is sent again after a fault is billed like any other. The ledger also shows it separately
(`replayed`, `recovery_cost`), because it is what the fault cost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from prometheus_client import Counter

from natterjack.values import ProviderUsage
from worker.metrics import Metrics

from .prices import Price
from .tally import Tally
from .usage import Usage

_MOST_SECONDS = 1e9
"""A provider's report of more seconds than this, or of NaN, is ignored."""


@dataclass(slots=True)
class _Stream:
    """The open stream, and how much of it the ledger already contains."""

    provider: str
    price: Price
    start: int
    reported: float | None = None
    usage: Usage = field(default_factory=lambda: Usage(connections=1))
    counted: Usage = field(default_factory=Usage)
    """The part that the metrics contain. They only ever rise, although a provider may report less
    than was assumed."""


class Ledger:
    """Keeps one row per provider, and passes every entry on to the metrics and the tally.

    Positions count frames of the session.
    """

    def __init__(self, tenant: str, sample_rate: int, metrics: Metrics, tally: Tally) -> None:
        self._tenant = tenant
        self._label = metrics.tenant(tenant)
        self._rate = sample_rate
        self._metrics = metrics
        self._tally = tally
        self._meters: dict[tuple[str, str], tuple[Counter, Counter, Counter]] = {}
        """Labeled counters by provider and currency, looked up once."""
        self._rows: dict[str, Usage] = {}
        self._currencies: dict[str, str] = {}
        self._stream: _Stream | None = None
        self._sent_until = 0
        """Audio before this position was sent by streams that have closed."""
        self._captured = 0.0

    def adopt(
        self, providers: dict[str, ProviderUsage], sent_until: int, captured_seconds: float
    ) -> None:
        """Continue the ledger of another worker, whose tally already contains these entries."""
        self._rows = {name: Usage.from_record(usage) for name, usage in providers.items()}
        self._currencies = {name: usage.currency for name, usage in providers.items()}
        self._sent_until = sent_until
        self._captured = captured_seconds

    def begin(self, start: int, captured_seconds: float) -> None:
        """Begin at `start`, the position of the session's first frame. The tally already contains
        `captured_seconds` of the audio from there on."""
        self._sent_until, self._captured = start, captured_seconds

    def assume(self, provider: str, price: Price, seconds: float) -> None:
        """Enter an estimate of what a killed worker sent after its last report."""
        billed = price.billed_seconds(seconds, seconds, None)
        usage = Usage(
            sent=seconds, estimated=seconds, connected=seconds, billed=billed,
            cost=price.cost(billed),
        )  # fmt: skip
        self._enter(provider, price, usage)
        self._count(provider, price, usage, Usage())

    def opened(self, provider: str, price: Price, position: int) -> None:
        """Note that a provider stream is open and receives audio from `position` on."""
        self._stream = stream = _Stream(provider, price, position)
        self._enter(provider, price, stream.usage)

    def reported(self, seconds: float) -> None:
        """Note the provider's own figure for the open stream. Impossible values are ignored."""
        if self._stream is not None and 0 <= seconds < _MOST_SECONDS:
            self._stream.reported = seconds

    def progress(self, position: int, sent_seconds: float, connected_seconds: float) -> None:
        """Enter the totals of the open stream, which has reached `position`."""
        stream = self._stream
        if stream is None:
            return
        resent = max(0, min(position, self._sent_until) - stream.start) / self._rate
        replayed = min(resent, sent_seconds)  # only part of a long gap is sent
        billed = stream.price.billed_seconds(sent_seconds, connected_seconds, stream.reported)
        cost = stream.price.cost(billed)
        share = replayed / sent_seconds if replayed else 0.0
        usage = Usage(
            1, sent_seconds, replayed, 0.0, connected_seconds, stream.reported, billed, cost,
            cost * share,
        )  # fmt: skip
        more, stream.usage = usage.since(stream.usage), usage
        self._enter(stream.provider, stream.price, more)
        self._count(stream.provider, stream.price, usage, stream.counted)

    def closed(self, position: int, sent_seconds: float, connected_seconds: float) -> None:
        """Enter the final figures of the open stream. Idempotent."""
        self.progress(position, sent_seconds, connected_seconds)
        if self._stream is not None:
            self._stream = None
            self._sent_until = max(self._sent_until, position)

    def captured(self, seconds: float) -> None:
        """Note how many seconds of audio are known to have been captured."""
        if seconds > self._captured:
            self._tally.add_captured(self._tenant, seconds - self._captured)
            self._captured = seconds

    def _enter(self, provider: str, price: Price, more: Usage) -> None:
        row = self._rows.get(provider)
        if row is None:
            row = self._rows[provider] = Usage()
            self._currencies[provider] = price.currency
        row.add(more)
        self._tally.add(self._tenant, provider, price.currency, more)

    def _count(self, provider: str, price: Price, usage: Usage, counted: Usage) -> None:
        """Raise the metrics from `counted` to `usage`."""
        metrics, currency = self._metrics, price.currency
        meters = self._meters.get((provider, currency))
        if meters is None:
            meters = self._meters[provider, currency] = (
                metrics.audio_sent.labels(provider),
                metrics.audio_billed.labels(provider),
                metrics.credits_used.labels(provider, self._label, currency),
            )
        audio_sent, audio_billed, credits_used = meters
        sent = usage.sent - counted.sent
        audio_sent.inc(sent)
        metrics.audio_received.inc(sent)
        counted.sent = usage.sent
        if (more := usage.replayed - counted.replayed) > 0:
            metrics.audio_replayed.labels(provider).inc(more)
            counted.replayed = usage.replayed
        if (more := usage.billed - counted.billed) > 0:
            audio_billed.inc(more)
            counted.billed = usage.billed
        if (more := usage.cost - counted.cost) > 0:
            credits_used.inc(more)
            counted.cost = usage.cost
        if (more := usage.recovery_cost - counted.recovery_cost) > 0:
            metrics.recovery_cost.labels(provider, currency).inc(more)
            counted.recovery_cost = usage.recovery_cost

    # ---- figures ----------------------------------------------------------------------------

    def sent_until(self, position: int | None) -> int:
        """How far audio was sent at least once; `position` is that of the open stream, if any."""
        return self._sent_until if position is None else max(self._sent_until, position)

    def json(self) -> str:
        """The members of a JSON object with what `usage` returns, without building models."""
        return ",".join(
            f"{json.dumps(name)}:{row.json(self._currencies[name])}"
            for name, row in self._rows.items()
        )

    def usage(self) -> dict[str, ProviderUsage]:
        return {name: row.to_record(self._currencies[name]) for name, row in self._rows.items()}

    @property
    def sent_seconds(self) -> float:
        return sum(row.sent for row in self._rows.values())

    @property
    def connected_seconds(self) -> float:
        return sum(row.connected for row in self._rows.values())

    def cost(self) -> tuple[float, str | None]:
        """The total cost in the currency of the provider that was used last, and that currency.

        Costs in other currencies are only in the rows.
        """
        currency = next(reversed(self._currencies.values()), None)
        costs = (self._rows[name].cost for name, of in self._currencies.items() if of == currency)
        return sum(costs), currency

"""A session's ledger: what it has used of each provider, over all its streams and workers.

Audio that is sent again after a fault was sent, and is billed, like any other; the ledger shows it
apart, as what the fault has cost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from prometheus_client import Counter

from natterjack.events import ProviderUsage
from worker.metrics import Metrics

from .prices import Price
from .tally import Tally
from .use import Use

_MOST_SECONDS = 1e9
"""A report of more, or of no number, is left out."""


@dataclass(slots=True)
class _Stream:
    """The stream that is open, and what of it is in the ledger."""

    provider: str
    price: Price
    start: int
    reported: float | None = None
    use: Use = field(default_factory=lambda: Use(connections=1))
    counted: Use = field(default_factory=Use)
    """What metrics have of it: they only rise, though a report may be less than was thought."""


class Ledger:
    """Keeps the rows of one session, and tells metrics and tally of all that is entered here.
    Positions are frames of the session."""

    def __init__(self, tenant: str, sample_rate: int, metrics: Metrics, tally: Tally) -> None:
        self._tenant = tenant
        self._label = metrics.tenant(tenant)
        self._rate = sample_rate
        self._metrics = metrics
        self._tally = tally
        self._meters: dict[tuple[str, str], tuple[Counter, Counter, Counter]] = {}
        """By provider and currency: looked up once."""
        self._rows: dict[str, Use] = {}
        self._currencies: dict[str, str] = {}
        self._stream: _Stream | None = None
        self._sent_until = 0
        """Audio before it has been sent, by streams that are over."""
        self._captured = 0.0

    def adopt(
        self, providers: dict[str, ProviderUsage], sent_until: int, captured_seconds: float
    ) -> None:
        """Go on from what another worker has entered, which has told its own tally of it."""
        self._rows = {name: Use.of(usage) for name, usage in providers.items()}
        self._currencies = {name: usage.currency for name, usage in providers.items()}
        self._sent_until = sent_until
        self._captured = captured_seconds

    def assume(self, provider: str, price: Price, seconds: float) -> None:
        """A worker that was killed is taken to have sent so much after it last told."""
        billed = price.billed_seconds(seconds, seconds, None)
        use = Use(
            sent=seconds, estimated=seconds, connected=seconds, billed=billed,
            cost=price.cost(billed),
        )  # fmt: skip
        self._enter(provider, price, use)
        self._count(provider, price, use, Use())

    def opened(self, provider: str, price: Price, position: int) -> None:
        """A provider stream is open, and gets audio from `position` on."""
        self._stream = stream = _Stream(provider, price, position)
        self._enter(provider, price, stream.use)

    def reported(self, seconds: float) -> None:
        """The provider says how much the open stream has used so far; what is no length of time is
        left out."""
        if self._stream is not None and 0 <= seconds < _MOST_SECONDS:
            self._stream.reported = seconds

    def progress(self, position: int, sent_seconds: float, connected_seconds: float) -> None:
        """The open stream has come to `position`, and has used so much in all."""
        stream = self._stream
        if stream is None:
            return
        again = max(0, min(position, self._sent_until) - stream.start) / self._rate
        replayed = min(again, sent_seconds)  # of a long gap less is sent
        billed = stream.price.billed_seconds(sent_seconds, connected_seconds, stream.reported)
        cost = stream.price.cost(billed)
        share = replayed / sent_seconds if replayed else 0.0
        use = Use(
            1, sent_seconds, replayed, 0.0, connected_seconds, stream.reported, billed, cost,
            cost * share,
        )  # fmt: skip
        more, stream.use = use.since(stream.use), use
        self._enter(stream.provider, stream.price, more)
        self._count(stream.provider, stream.price, use, stream.counted)

    def closed(self, position: int, sent_seconds: float, connected_seconds: float) -> None:
        """The open stream is over. Idempotent."""
        self.progress(position, sent_seconds, connected_seconds)
        if self._stream is not None:
            self._stream = None
            self._sent_until = max(self._sent_until, position)

    def captured(self, seconds: float) -> None:
        """So much audio is known to have been captured."""
        if seconds > self._captured:
            self._tally.add_captured(self._tenant, seconds - self._captured)
            self._captured = seconds

    def _enter(self, provider: str, price: Price, more: Use) -> None:
        row = self._rows.get(provider)
        if row is None:
            row = self._rows[provider] = Use()
            self._currencies[provider] = price.currency
        row.add(more)
        self._tally.add(self._tenant, provider, price.currency, more)

    def _count(self, provider: str, price: Price, use: Use, counted: Use) -> None:
        """Bring the metrics up from what is `counted` to `use`."""
        metrics, currency = self._metrics, price.currency
        meters = self._meters.get((provider, currency))
        if meters is None:
            meters = self._meters[provider, currency] = (
                metrics.audio_sent.labels(provider),
                metrics.audio_billed.labels(provider),
                metrics.credits_used.labels(provider, self._label, currency),
            )
        audio_sent, audio_billed, credits_used = meters
        sent = use.sent - counted.sent
        audio_sent.inc(sent)
        metrics.audio_received.inc(sent)
        counted.sent = use.sent
        if (more := use.replayed - counted.replayed) > 0:
            metrics.audio_replayed.labels(provider).inc(more)
            counted.replayed = use.replayed
        if (more := use.billed - counted.billed) > 0:
            audio_billed.inc(more)
            counted.billed = use.billed
        if (more := use.cost - counted.cost) > 0:
            credits_used.inc(more)
            counted.cost = use.cost
        if (more := use.recovery_cost - counted.recovery_cost) > 0:
            metrics.recovery_cost.labels(provider, currency).inc(more)
            counted.recovery_cost = use.recovery_cost

    # ---- what it says -----------------------------------------------------------------------

    def sent_until(self, position: int | None) -> int:
        """Audio before it has been sent at least once. `position`: of the open stream, if any."""
        return self._sent_until if position is None else max(self._sent_until, position)

    def json(self) -> str:
        """As `usage`, members of a JSON object; quick."""
        return ",".join(
            f"{json.dumps(name)}:{row.json(self._currencies[name])}"
            for name, row in self._rows.items()
        )

    def usage(self) -> dict[str, ProviderUsage]:
        return {name: row.told(self._currencies[name]) for name, row in self._rows.items()}

    @property
    def sent_seconds(self) -> float:
        return sum(row.sent for row in self._rows.values())

    @property
    def connected_seconds(self) -> float:
        return sum(row.connected for row in self._rows.values())

    def cost(self) -> tuple[float, str | None]:
        """In the currency of the provider used last, which is nearly always that of all; what was
        paid in others is in the rows."""
        currency = next(reversed(self._currencies.values()), None)
        costs = (self._rows[name].cost for name, of in self._currencies.items() if of == currency)
        return sum(costs), currency

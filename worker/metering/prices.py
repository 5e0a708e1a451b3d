"""Prices: what a second at a provider costs, and which seconds the provider bills.

WORKER_PRICES comes first, then the plugin's own setting, then the list below.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from natterjack.errors import UsageError
from natterjack.plugin.provider import Provider

_HOUR_S = 3600.0


class ListPrice(NamedTuple):
    provider: str
    model: str
    language: str | None
    """None stands for every other language."""
    per_hour: float
    """USD per hour of audio, for each channel."""


LIST_PRICES = (
    # Pay-as-you-go prices from the vendors' pages between August and November 2026; they change.
    ListPrice("deepgram", "nova-3", "multi", 0.348),  # 0.0058 a minute
    ListPrice("deepgram", "nova-3", None, 0.288),  # 0.0048 a minute
    ListPrice("deepgram-flux", "flux-general-multi", None, 0.468),  # 0.0078 a minute
    ListPrice("deepgram-flux", "flux-general-en", None, 0.39),  # 0.0065 a minute
    ListPrice("deepgram-rest", "nova-3", None, 0.258),  # 0.0043 a minute; 0.0077 is quoted too
)
"""Prices that depend on the model or language. A plugin's default is the price of its usual
model."""


class Price(NamedTuple):
    """How one provider stream is billed."""

    per_hour: float
    currency: str
    billing: str
    """`audio`: seconds of audio, for each channel; `connected`: seconds of connection; `none`."""
    increment_seconds: float = 0.0
    """Each stream is rounded up to a multiple of this."""
    channels: int = 1

    def billed_seconds(
        self, sent_seconds: float, connected_seconds: float, reported_seconds: float | None
    ) -> float:
        """The seconds that the provider bills for a stream; its own report, if any, comes first."""
        if self.billing == "none":
            return 0.0
        if self.billing == "connected":
            seconds = connected_seconds
        elif reported_seconds is not None:
            seconds = reported_seconds
        else:
            seconds = sent_seconds * self.channels
        if self.increment_seconds > 0:
            # The tolerance keeps whole multiples whole despite binary rounding.
            steps = math.ceil(seconds / self.increment_seconds - 1e-9)
            seconds = steps * self.increment_seconds
        return seconds

    def cost(self, billed_seconds: float) -> float:
        return billed_seconds * self.per_hour / _HOUR_S


def parse_prices(text: str) -> dict[str, float]:
    """Parse hourly prices such as `provider=0.29,provider/model=0.35`. Raises UsageError."""
    prices: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not name.strip() or not 0 <= price < math.inf:
            raise UsageError(
                f"WORKER_PRICES: {part!r} is not a price; write provider=0.29 or "
                "provider/model=0.35, per hour in the provider's currency"
            )
        prices[name.strip()] = price
    return prices


def price_of(
    name: str,
    plugin: Provider,
    model: str | None,
    language: str | None,
    channels: int,
    own: dict[str, float],
) -> Price:
    """The price of a stream at provider `name`. `own`: the operator's prices (`parse_prices`)."""
    capabilities = plugin.capabilities
    per_hour = own.get(f"{name}/{model}", own.get(name))
    if per_hour is None:
        per_hour = _listed(name, plugin, model, language)
    return Price(
        per_hour,
        capabilities.currency,
        capabilities.billing,
        capabilities.billing_increment_seconds,
        channels,
    )


def _listed(name: str, plugin: Provider, model: str | None, language: str | None) -> float:
    price = plugin.capabilities.price_per_hour
    default = getattr(type(plugin), "capabilities", None)
    if default is not None and default.price_per_hour == price:  # its settings have no other
        for entry in LIST_PRICES:
            same = (entry.provider, entry.model) == (name, model)
            if same and entry.language in (language, None):
                return entry.per_hour
    return price

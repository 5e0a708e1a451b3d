"""What a second at a provider costs, and which seconds it bills.

A price that the user sets wins: WORKER_PRICES, then the plugin's own setting, then the list below.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from natterjack.errors import UsageError
from natterjack.plugin.provider import Capabilities, Provider

_HOUR_S = 3600.0


class ListPrice(NamedTuple):
    provider: str
    model: str
    language: str | None
    """None: any other."""
    per_hour: float
    """USD, of audio and channel."""


LIST_PRICES = (
    # Captured from price pages of August to November 2026, pay as you go; the vendors change them.
    ListPrice("deepgram", "nova-3", "multi", 0.348),  # 0.0058 a minute
    ListPrice("deepgram", "nova-3", None, 0.288),  # 0.0048 a minute
    ListPrice("deepgram-flux", "flux-general-multi", None, 0.468),  # 0.0078 a minute
    ListPrice("deepgram-flux", "flux-general-en", None, 0.39),  # 0.0065 a minute
    ListPrice("deepgram-rest", "nova-3", None, 0.258),  # 0.0043 a minute; 0.0077 is quoted too
)
"""Where the price depends on more than the provider; a plugin's default has the usual model's."""


class Price(NamedTuple):
    """How one provider stream is billed."""

    per_hour: float
    currency: str
    billing: str
    """`audio`: seconds of audio and channel; `connected`: seconds of connection; `none`."""
    increment_seconds: float = 0.0
    """Each stream is rounded up to a multiple of it."""
    channels: int = 1

    def billed_seconds(
        self, sent_seconds: float, connected_seconds: float, reported_seconds: float | None
    ) -> float:
        """Seconds that the provider bills for a stream. What it reports wins over what was sent."""
        if self.billing == "none":
            return 0.0
        if self.billing == "connected":
            seconds = connected_seconds
        elif reported_seconds is not None:
            seconds = reported_seconds
        else:
            seconds = sent_seconds * self.channels
        if self.increment_seconds > 0:
            # Less a hair: what is a whole multiple in decimal may be a little more in binary.
            steps = math.ceil(seconds / self.increment_seconds - 1e-9)
            seconds = steps * self.increment_seconds
        return seconds

    def cost(self, billed_seconds: float) -> float:
        return billed_seconds * self.per_hour / _HOUR_S


def parse_prices(text: str) -> dict[str, float]:
    """The prices in `provider=0.29,provider/model=0.35`, an hour. Raises UsageError."""
    prices: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not name.strip() or not 0 <= price < math.inf:
            raise UsageError(
                f"WORKER_PRICES: {part!r} is no price; write provider=0.29 or provider/model=0.35, "
                "in the provider's currency an hour"
            )
        prices[name.strip()] = price
    return prices


def price_of(
    provider: Provider,
    model: str | None,
    language: str | None,
    channels: int,
    own: dict[str, float],
) -> Price:
    """The price of a stream at `provider`; `own` is what `parse_prices` gave."""
    able = provider.capabilities
    per_hour = own.get(f"{provider.name}/{model}", own.get(provider.name))
    if per_hour is None:
        per_hour = _listed(provider, able, model, language)
    return Price(per_hour, able.currency, able.billing, able.billing_increment_seconds, channels)


def _listed(
    provider: Provider, able: Capabilities, model: str | None, language: str | None
) -> float:
    if able.price_per_hour == type(provider).capabilities.price_per_hour:  # nobody has set it
        for entry in LIST_PRICES:
            same = (entry.provider, entry.model) == (provider.name, model)
            if same and entry.language in (language, None):
                return entry.per_hour
    return able.price_per_hour

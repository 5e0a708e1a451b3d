"""Daily usage of tenants, as stored in the bucket `stt_usage`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from natterjack.values import ProviderUsage


class DayUsage(BaseModel):
    """The use by one process for one tenant on one day (UTC), or a sum over processes.

    The key in the bucket is `<YYYY-MM-DD>.<tenant>.<process>`.
    """

    model_config = ConfigDict(extra="ignore")

    captured_seconds: float = 0.0
    providers: dict[str, ProviderUsage] = Field(default_factory=dict)

    @property
    def sent_seconds(self) -> float:
        return sum(usage.sent_seconds for usage in self.providers.values())

    @property
    def characters(self) -> int:
        return sum(usage.characters for usage in self.providers.values())

    def cost(self, currency: str) -> float:
        """The total cost of providers paid in `currency`."""
        return sum(u.cost for u in self.providers.values() if u.currency == currency)

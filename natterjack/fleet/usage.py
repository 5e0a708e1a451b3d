"""What tenants use in a day, as the bucket `stt_usage` holds it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from natterjack.events import ProviderUsage


class DayUsage(BaseModel):
    """What one process (a sum: what all) used on one day (UTC) for one tenant.

    In the bucket under `<YYYY-MM-DD>.<tenant>.<process>`.
    """

    model_config = ConfigDict(extra="ignore")

    captured_seconds: float = 0.0
    providers: dict[str, ProviderUsage] = Field(default_factory=dict)

    @property
    def sent_seconds(self) -> float:
        return sum(usage.sent_seconds for usage in self.providers.values())

    def cost(self, currency: str) -> float:
        """Of the providers that are paid in `currency`."""
        return sum(u.cost for u in self.providers.values() if u.currency == currency)

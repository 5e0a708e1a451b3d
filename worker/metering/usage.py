"""Seconds, characters and money used at a provider: the figures that ledgers and tallies add up."""

from __future__ import annotations

import json
from dataclasses import dataclass

from natterjack.values import ProviderUsage


@dataclass(slots=True)
class Usage:
    """Usage at one provider by a stream, a session or a tenant. Fields are those of
    ProviderUsage."""

    connections: int = 0
    sent: float = 0.0
    replayed: float = 0.0
    estimated: float = 0.0
    connected: float = 0.0
    reported: float | None = None
    billed: float = 0.0
    cost: float = 0.0
    recovery_cost: float = 0.0
    characters: int = 0

    def add(self, more: Usage) -> None:
        self.connections += more.connections
        self.sent += more.sent
        self.replayed += more.replayed
        self.estimated += more.estimated
        self.connected += more.connected
        if more.reported is not None:
            self.reported = (self.reported or 0.0) + more.reported
        self.billed += more.billed
        self.cost += more.cost
        self.recovery_cost += more.recovery_cost
        self.characters += more.characters

    def since(self, before: Usage) -> Usage:
        """The difference to an earlier state `before`."""
        return Usage(
            self.connections - before.connections,
            self.sent - before.sent,
            self.replayed - before.replayed,
            self.estimated - before.estimated,
            self.connected - before.connected,
            None if self.reported is None else self.reported - (before.reported or 0.0),
            self.billed - before.billed,
            self.cost - before.cost,
            self.recovery_cost - before.recovery_cost,
            self.characters - before.characters,
        )

    def to_record(self, currency: str) -> ProviderUsage:
        """The record for events and buckets, rounded to milliseconds and millionths of a currency.

        Negative figures become 0: a day can begin with one when a provider reports less than was
        assumed the day before.
        """
        return ProviderUsage(
            connections=self.connections,
            sent_seconds=_seconds(self.sent),
            replayed_seconds=_seconds(self.replayed),
            estimated_seconds=_seconds(self.estimated),
            connected_seconds=_seconds(self.connected),
            reported_seconds=None if self.reported is None else _seconds(self.reported),
            billed_seconds=_seconds(self.billed),
            cost=round(self.cost, 6),
            recovery_cost=round(self.recovery_cost, 6),
            currency=currency,
            characters=self.characters,
        )

    def json(self, currency: str) -> str:
        """The same record as JSON, without building a model: it goes into every checkpoint."""
        reported = "null" if self.reported is None else f"{max(0.0, self.reported):.3f}"
        spoken = f',"characters":{self.characters}' if self.characters else ""
        return (
            f'{{"connections":{self.connections},"sent_seconds":{self.sent:.3f},'
            f'"replayed_seconds":{self.replayed:.3f},"estimated_seconds":{self.estimated:.3f},'
            f'"connected_seconds":{self.connected:.3f},"reported_seconds":{reported},'
            f'"billed_seconds":{max(0.0, self.billed):.3f},"cost":{self.cost:.6f},'
            f'"recovery_cost":{self.recovery_cost:.6f},"currency":{json.dumps(currency)}{spoken}}}'
        )

    @classmethod
    def from_record(cls, usage: ProviderUsage) -> Usage:
        return cls(
            usage.connections,
            usage.sent_seconds,
            usage.replayed_seconds,
            usage.estimated_seconds,
            usage.connected_seconds,
            usage.reported_seconds,
            usage.billed_seconds,
            usage.cost,
            usage.recovery_cost,
            usage.characters,
        )


def _seconds(value: float) -> float:
    return round(max(0.0, value), 3)

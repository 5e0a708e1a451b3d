"""What the providers' emulators would bill, against what the sessions' ledgers say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.events import Account
from natterjack.fleet.usage import DayUsage

from ..emulators.process import RemoteEmulator

_BREAKING = (
    "worker SIGKILL", "provider drops connections", "provider stops reading",
    "provider goes mute", "provider refuses TCP", "provider talks nonsense",
    "provider closes with 1011", "provider closes at once, again and again",
)  # fmt: skip
"""Faults after which the two sides of a connection may not agree on how much was sent."""


@dataclass
class Item:
    """One provider's part of the bill."""

    heard_seconds: float = 0.0
    """Audio that the emulator read and heard, by its own log."""
    connections: int = 0
    """That it saw; of a provider that is posted to, requests."""
    billed_seconds: float = 0.0
    """By the day's use of all tenants, as every process has told it: the invoice."""
    account_seconds: float = 0.0
    """By the closing accounts of all sessions, which do not know what a worker sent after it had
    lost its lease, or after the end."""
    estimated_seconds: float = 0.0
    ledger_connections: int = 0

    @property
    def apart_seconds(self) -> float:
        """More than was heard: sent, and lost with a connection that broke. Less: of workers that
        were killed."""
        return self.billed_seconds - self.heard_seconds

    def add(self, more: Item) -> None:
        self.heard_seconds += more.heard_seconds
        self.connections += more.connections
        self.billed_seconds += more.billed_seconds
        self.account_seconds += more.account_seconds
        self.estimated_seconds += more.estimated_seconds
        self.ledger_connections += more.ledger_connections

    def __str__(self) -> str:
        return (
            f"{self.heard_seconds:.1f} s heard in {self.connections} connections, "
            f"{self.billed_seconds:.1f} s billed ({self.apart_seconds:+.1f}; "
            f"{self.estimated_seconds:.1f} of it assumed), {self.account_seconds:.1f} s on accounts"
        )


def unseen_seconds(faults: Counter[str]) -> float:
    """What killed workers may have sent and told nobody, and what may have been sent and not heard
    on connections that broke: a second each, at the rate at which the fleet's workers are fed."""
    return 8.0 * sum(faults[name] for name in _BREAKING)


async def invoice(
    broker: Broker, emulators: dict[str, RemoteEmulator], accounts: Iterable[Account]
) -> dict[str, Item]:
    """By provider. The broker has had nothing else today."""
    items = {name: Item() for name in emulators}
    for name, emulator in emulators.items():
        for entry in await emulator.log():
            if entry["audio_seconds"]:
                items[name].heard_seconds += entry["audio_seconds"]
                items[name].connections += 1
    for account in accounts:
        for name, used in account.providers.items():
            items[name].account_seconds += used.billed_seconds
            items[name].estimated_seconds += used.estimated_seconds
            items[name].ledger_connections += used.connections
    for day in await _days(broker):
        for name, used in day.providers.items():
            items[name].billed_seconds += used.billed_seconds
    return items


async def _days(broker: Broker) -> list[DayUsage]:
    """What every process has told, of whatever day: a run may go past midnight."""
    store = StreamStore(broker, f"KV_{streams.USAGE_BUCKET}")
    await store.start()
    entries = await store.read_all(streams.bucket_subject(streams.USAGE_BUCKET, ">"))
    return [DayUsage.model_validate_json(entry.data) for entry in entries if entry.data]

"""Comparison of the emulators' bills with the sessions' ledgers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.fleet.usage import DayUsage
from natterjack.values import Account

from ..emulators.process import RemoteEmulator

_BREAKING = (
    "worker SIGKILL", "provider drops connections", "provider stops reading",
    "provider goes mute", "provider refuses TCP", "provider talks nonsense",
    "provider closes with 1011", "provider closes at once, again and again",
    # These drop the open connections first, so that workers dial again.
    "provider answers 429 or 503", "provider answers 401 or 402",
    "provider's handshake is slow or cut",
)  # fmt: skip
"""Faults after which both sides of a connection may disagree on how much was sent."""


@dataclass
class Item:
    """The bill of one provider."""

    received_seconds: float = 0.0
    """Audio that the emulator received, by its own log."""
    connections: int = 0
    """Connections in the emulator's log, or requests for a provider that receives recordings."""
    billed_seconds: float = 0.0
    """The invoice: the use of all tenants, as reported by every process."""
    account_seconds: float = 0.0
    """Sum over the closing accounts of all sessions. They do not include audio that a worker sent
    after it had lost its lease or after the end."""
    estimated_seconds: float = 0.0
    ledger_connections: int = 0

    @property
    def difference_seconds(self) -> float:
        """The invoice minus the audio that the emulator received.

        Positive: audio sent but lost with a broken connection. Negative: use that killed workers
        did not report.
        """
        return self.billed_seconds - self.received_seconds

    def add(self, more: Item) -> None:
        self.received_seconds += more.received_seconds
        self.connections += more.connections
        self.billed_seconds += more.billed_seconds
        self.account_seconds += more.account_seconds
        self.estimated_seconds += more.estimated_seconds
        self.ledger_connections += more.ledger_connections

    def __str__(self) -> str:
        return (
            f"{self.received_seconds:.1f} s received in {self.connections} connections, "
            f"{self.billed_seconds:.1f} s billed ({self.difference_seconds:+.1f}; "
            f"{self.estimated_seconds:.1f} estimated), {self.account_seconds:.1f} s on accounts"
        )


def uncertain_seconds(faults: Counter[str]) -> float:
    """Return an upper bound on audio that the two sides may count differently after `faults`.

    A killed worker or a broken connection accounts for one second each, at the fleet's catch-up
    rate of 8.
    """
    return 8.0 * sum(faults[name] for name in _BREAKING)


async def invoice(
    broker: Broker, emulators: dict[str, RemoteEmulator], accounts: Iterable[Account]
) -> dict[str, Item]:
    """Return the bill by provider. The broker must hold no other use."""
    items = {name: Item() for name in emulators}
    for name, emulator in emulators.items():
        for entry in await emulator.log():
            if entry["audio_seconds"]:
                items[name].received_seconds += entry["audio_seconds"]
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
    """Read the use that every process reported, for any day: a run may pass midnight."""
    store = StreamStore(broker, f"KV_{streams.USAGE_BUCKET}")
    await store.start()
    entries = await store.read_all(streams.bucket_subject(streams.USAGE_BUCKET, ">"))
    return [DayUsage.model_validate_json(entry.data) for entry in entries if entry.data]

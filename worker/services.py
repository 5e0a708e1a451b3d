"""Services that all sessions of a worker share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from worker.capacity.governor import Governor
from worker.capacity.permits import Permit
from worker.capacity.slots import Slots
from worker.metering.budgets import Budgets
from worker.metering.report import Report
from worker.metering.tally import Tally
from worker.metrics import Metrics
from worker.providers.loading import Providers, Voices
from worker.settings import WorkerSettings


@dataclass(frozen=True)
class Services:
    """The connections and the shared state of one worker process."""

    broker: Broker
    js: JetStreamContext
    store: StreamStore
    """Reads the audio stream."""
    checkpoints: KeyValue | None
    """The bucket of checkpoints of sessions that transcribe; None if this worker claims none."""
    providers: Providers
    settings: WorkerSettings
    metrics: Metrics
    tally: Tally
    report: Report
    budgets: Budgets
    prices: dict[str, float]
    governor: Governor
    slots: Slots
    restore: asyncio.Event
    """Set to have missing streams and consumers created again."""
    lease_seconds: float
    """Time without a heartbeat after which the queue gives a session to another worker."""
    voices: Voices
    voice_checkpoints: KeyValue | None = None
    """The bucket of checkpoints of voice sessions; None if this worker claims none."""
    texts: StreamStore | None = None
    """Reads the stream of text; None as before."""
    speech: StreamStore | None = None
    """Reads the stream of speech; None as before."""


class Accounts(Protocol):
    """The limits of provider accounts; `Governor` implements it."""

    def account(self, provider: str) -> str: ...
    async def admit(
        self, provider: str, tenant: str, *, adopt: str | None = None
    ) -> Permit | None: ...
    async def dial(self, provider: str) -> None: ...
    async def announce(self, provider: str, cause: str, seconds: float) -> None: ...


class TenantBudgets(Protocol):
    """The budgets of tenants; `Budgets` implements it."""

    async def ready(self, tenant: str) -> None: ...
    def spent(self, tenant: str) -> str | None: ...


class AdmissionServices(Protocol):
    """The services that opening a provider stream needs; `Services` has them."""

    @property
    def settings(self) -> WorkerSettings: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def budgets(self) -> TenantBudgets: ...
    @property
    def governor(self) -> Accounts: ...
    @property
    def slots(self) -> Slots: ...

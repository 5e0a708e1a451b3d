"""Services that all sessions of a worker share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from worker.capacity.governor import Governor
from worker.metering.budgets import Budgets
from worker.metering.report import Report
from worker.metering.tally import Tally
from worker.metrics import Metrics
from worker.providers.loading import Providers
from worker.settings import WorkerSettings


@dataclass(frozen=True)
class Services:
    """The connections and the shared state of one worker process."""

    broker: Broker
    js: JetStreamContext
    store: StreamStore
    """Reads the audio stream."""
    checkpoints: KeyValue
    """The bucket of checkpoints."""
    providers: Providers
    settings: WorkerSettings
    metrics: Metrics
    tally: Tally
    report: Report
    budgets: Budgets
    prices: dict[str, float]
    governor: Governor
    restore: asyncio.Event
    """Set to have missing streams and consumers created again."""
    lease_seconds: float
    """Time without a heartbeat after which the queue gives a session to another worker."""

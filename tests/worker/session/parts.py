"""The parts of one session, without a broker, and the workers' services that it opens streams with.

The providers, their breakers and the permits are real; the governor and the budgets answer from
memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from typing import Any, ClassVar, NamedTuple

import pytest
from pydantic_settings import BaseSettings

from natterjack.broker import streams
from natterjack.broker.client.fastpath import Client
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.events import StatusEvent
from natterjack.fleet.roster import SessionRecord
from natterjack.plugin import entry_points
from natterjack.plugin.entry_points import GROUP
from natterjack.plugin.errors import ProviderError, Unavailable
from natterjack.plugin.provider import (
    Capabilities,
    Provider,
    ProviderEvent,
    ProviderStream,
    StreamRequest,
)
from natterjack.spec import SessionSpec
from natterjack.subjects import SLOT_PREFIX
from worker.capacity.permits import Holder, Permit, PermitPool
from worker.capacity.slots import Slots
from worker.dialing import TranscriptDialer
from worker.drain import Drain
from worker.metrics import Metrics
from worker.providers import loading
from worker.providers.breaker import BreakerState
from worker.providers.loading import Providers
from worker.session.admission import Admission
from worker.session.cutoff import Cutoff
from worker.session.lease import Lease
from worker.session.retry import Retry
from worker.session.states import State
from worker.session.takeover import Claimant
from worker.settings import WorkerSettings

from .in_memory import Bucket, BucketStore, Published, progress

RATE = 8000
ACCOUNTS = {"one": "shared", "two": "shared", "three": "other"}


class Line(ProviderStream):
    """An open stream on which nothing is said."""

    def __init__(self) -> None:
        self.closed = False

    async def send(self, audio: bytes) -> None:
        raise AssertionError("no test sends audio")

    async def finish(self) -> None:
        raise AssertionError("no test sends audio")

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        events: tuple[ProviderEvent, ...] = ()
        for event in events:
            yield event

    async def close(self) -> None:
        self.closed = True


class Exchange(Provider):
    """A provider that opens every stream at once."""

    name: ClassVar[str] = "exchange"
    Settings: ClassVar[type[BaseSettings]] = BaseSettings
    capabilities = Capabilities(
        encodings=("linear16",), price_per_hour=3.6, configurable=frozenset({"keyterms"})
    )

    def __init__(self, settings: Any = None) -> None:
        self.requests: list[StreamRequest] = []

    async def open(self, request: StreamRequest) -> ProviderStream:
        self.requests.append(request)
        return Line()


class G711Only(Exchange):
    capabilities = Capabilities(encodings=("alaw",))


class Accounts:
    """A governor that grants permits from memory. An account has a limit if it is in `pools`."""

    def __init__(self) -> None:
        self.pools: dict[str, PermitPool] = {}
        self.granting = asyncio.Event()
        self.granting.set()
        self.asked: list[tuple[str, str, str | None]] = []
        self.dialed: list[str] = []
        self.announced: list[tuple[str, str, float]] = []

    def limit(self, account: str) -> PermitPool:
        broker = Broker(Client())  # it is not connected: permits are not freed before it is
        pool = self.pools[account] = PermitPool(
            broker, broker.client.jetstream(), StreamStore(broker, streams.SLOTS), SLOT_PREFIX,
            account, "i1", 15.0, lambda: None,
        )  # fmt: skip
        return pool

    def account(self, provider: str) -> str:
        return ACCOUNTS.get(provider, provider)

    async def admit(self, provider: str, tenant: str, *, adopt: str | None = None) -> Permit | None:
        self.asked.append((provider, tenant, adopt))
        await self.granting.wait()
        pool = self.pools.get(self.account(provider))
        if pool is None:
            return None
        number = len(self.asked)
        holder = Holder(id=f"h{number}", tenant=tenant, by="i1")
        permit = pool.permits[number] = Permit(pool, number, holder, 1, time.monotonic())
        return permit

    async def dial(self, provider: str) -> None:
        self.dialed.append(provider)

    async def announce(self, provider: str, cause: str, seconds: float) -> None:
        self.announced.append((provider, cause, seconds))


class Budgets:
    """A tenant's budget, which may be used up."""

    detail: str | None = None

    async def ready(self, tenant: str) -> None:
        assert tenant == "t"

    def spent(self, tenant: str) -> str | None:
        return self.detail


class Shared(NamedTuple):
    """The services of a worker without a broker."""

    providers: Providers
    settings: WorkerSettings
    metrics: Metrics
    prices: dict[str, float]
    budgets: Budgets
    governor: Accounts
    slots: Slots


class Case:
    """A session that is about to open a stream."""

    def __init__(self, *, spec: dict[str, Any] | None = None, **settings: Any) -> None:
        self.settings = WorkerSettings(
            **{"provider": "one,two,three", "name": "w", "backoff_seconds": 0.001, **settings}
        )
        self.accounts, self.budgets = Accounts(), Budgets()
        self.metrics = Metrics(1)
        self.providers = Providers(self.settings)
        self.slots = Slots(1)
        self.slots.take()  # this session's
        services = Shared(
            self.providers, self.settings, self.metrics, {"two": 7.2}, self.budgets, self.accounts,
            self.slots,
        )  # fmt: skip
        self.spec = SessionSpec(
            session_id="session-1", tenant="t", conversation="c", speaker="s",
            **{"sample_rate": RATE, **(spec or {})},
        )  # fmt: skip
        self.outlet = Published()
        self.cutoff = Cutoff(RATE, None, ())
        self.store = BucketStore(Bucket())
        claimant = Claimant("session-1", 7, 1, "w", "h", "i1")
        self.progress = progress(self.spec, self.outlet)
        self.lease = Lease(self.store, claimant, self.spec, self.progress, self.cutoff)
        self.drain = Drain()
        self.retry = Retry(
            self.settings.backoff_seconds, self.settings.max_backoff_seconds,
            self.settings.recovery_seconds,
        )  # fmt: skip
        self.states: list[State] = []
        dialer = TranscriptDialer(services, self.spec)
        self.admission = Admission(
            services, dialer, "t", self.drain, self.retry, self.lease, self.enter,
            sample_rate=RATE,
        )  # fmt: skip

    def enter(self, state: State, **extra: Any) -> None:
        self.states.append(state)
        self.lease.checkpoint.state = state.value

    async def start(self) -> Case:
        await self.lease.acquire(_first, _no_record, _no_end)
        self.enter(State.WAITING)
        self.states.clear()
        return self

    def requests(self, name: str) -> list[StreamRequest]:
        made = self.providers.get(name).plugin
        assert isinstance(made, Exchange)
        return made.requests

    def open_breaker(self, name: str, fault: ProviderError | None = None) -> None:
        """Open the breaker of a provider, as other sessions do."""
        fault = fault or Unavailable(name, "connect", "down")
        for _ in range(self.settings.breaker_failures):
            self.providers.breaker(name).record_failure(fault, time.monotonic())
        assert self.providers.breaker(name).state is BreakerState.OPEN

    def reasons(self) -> list[tuple[str, str | None]]:
        return [(event.state, event.reason) for event in self.outlet.events]


async def _first(sequence: int) -> int | None:
    return 7


async def _no_record(instance: str, holder: str, tenant: str) -> SessionRecord | None:
    return None


async def _no_end(session_id: str) -> StatusEvent | None:
    return None


def install_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the providers of ACCOUNTS, and `g711`, which takes G.711 only."""
    points = {name: EntryPoint(name, f"{__name__}:Exchange", GROUP) for name in ACCOUNTS}
    points["g711"] = EntryPoint("g711", f"{__name__}:G711Only", GROUP)
    found = {**entry_points.available(), **points}
    monkeypatch.setattr(loading, "available", lambda group=GROUP: found)

"""The governor: what all workers together may open on a provider account, and what they tell each
other of its refusals. How slots are shared out: worker/capacity/slots.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.broker.watch import Watch
from natterjack.errors import BrokerError, UsageError
from natterjack.fleet.limits import ACCOUNT_KEYS, AccountLimit, limit_key, parse_account_limit
from natterjack.subjects import DIAL_PREFIX, SLOT_PREFIX, check_token
from natterjack.telemetry.log import fields
from worker.metrics import Metrics

from .slots import Lane, Permit

log = logging.getLogger(__name__)

SLOT_SECONDS = 15.0

_DIAL_SECONDS = 1.0
_WRITE_TIMEOUT_S = 2.0
_RETRY_S = 1.0
_READY_S = 2.0


class _Told(BaseModel):
    """That an account is to be left alone: entry of the bucket `stt_providers`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    cause: str
    seconds: float = Field(ge=0)
    by: str
    at: datetime

    def left(self) -> float:
        """Seconds still to go, by this machine's clock; never more than were told."""
        return self.seconds - max(0.0, (datetime.now(UTC) - self.at).total_seconds())


class Governor:
    """Limits of provider accounts for one worker, and what the workers tell each other of them."""

    def __init__(
        self,
        broker: Broker,
        js: JetStreamContext,
        metrics: Metrics,
        accounts: Mapping[str, str],
        instance: str,
        *,
        slot_seconds: float = SLOT_SECONDS,
        on_told: Callable[[str, str, float], None] | None = None,
    ) -> None:
        """`accounts`: of each provider; one that is not in it is an account of its own name.
        `on_told(provider, cause, seconds_left)` must not raise. Raises InvalidKey."""
        self._broker = broker
        self._js = js
        self._metrics = metrics
        self._accounts = {p: check_token("account", account) for p, account in accounts.items()}
        self._instance = instance
        self._slot_seconds = slot_seconds
        self._on_told = on_told
        self._store = StreamStore(broker, streams.SLOTS)
        self._limits: dict[str, AccountLimit] = {}
        self._entries: dict[str, bytes | None] = {}
        """What the bucket holds, good or bad."""
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._unread = False
        """The limits were waited for in vain."""
        self._said: dict[tuple[str, str], float] = {}
        self._last_told: dict[str, bytes] = {}
        self._limit_watch = Watch(
            broker, streams.BUDGETS_BUCKET, limit_key("*"), self._limit_changed
        )
        self._told_watch = Watch(broker, streams.PROVIDERS_BUCKET, "*", self._told)

    async def run(self) -> None:
        """Until cancelled."""
        await self._store.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._limit_watch.run(), name="account limits")
                tasks.create_task(self._told_watch.run(), name="provider news")
        finally:
            self._tasks = None
            with contextlib.suppress(NatsError):
                await self._store.stop()

    def account(self, provider: str) -> str:
        """Whose limits hold for the provider."""
        return self._accounts.get(provider, provider)

    def _providers(self, account: str) -> list[str]:
        named = [p for p, a in self._accounts.items() if a == account]
        return named if account in self._accounts or named else [account]

    # Limits

    def _limit_changed(self, key: str, value: bytes | None) -> None:
        account = key.removeprefix(f"{ACCOUNT_KEYS}.")
        if self._entries.get(account) == value:
            return  # read again after a reconnect
        self._entries[account] = value
        if value is None:
            self._limits.pop(account, None)
        else:
            try:
                self._limits[account] = parse_account_limit(value)
            except UsageError as error:
                log.error("limit left as it was: %s", error, extra=fields(account=account))
                return
        limit = self._limits.get(account)
        log.info("account limit", extra=fields(account=account, limit=str(limit or "none")))
        for (prefix, name), lane in self._lanes.items():
            if name == account:
                lane.set_limit(self._limit(prefix, account))

    def _limit(self, prefix: str, account: str) -> int | None:
        limit = self._limits.get(account)
        if limit is None:
            return None
        return limit.connections if prefix == SLOT_PREFIX else limit.dials_per_second

    def limited(self, provider: str) -> bool:
        """Whether the number of the provider's connections is limited, as far as is known."""
        return self._limit(SLOT_PREFIX, self.account(provider)) is not None

    async def _limits_read(self) -> None:
        """Return when the limits have been read. If they cannot be, sessions go on without: after
        the first few seconds nobody waits for them."""
        if self._limit_watch.ready.is_set() or self._unread:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                await self._limit_watch.ready.wait()
                return
        if not self._unread:
            self._unread = True
            log.warning("limits of accounts cannot be read: sessions start without")

    async def _lane(self, prefix: str, provider: str) -> Lane | None:
        """None: there is no limit."""
        await self._limits_read()
        account = self.account(provider)
        limit = self._limit(prefix, account)
        if limit is None:
            return None
        if (lane := self._lanes.get((prefix, account))) is None:
            if self._tasks is None:
                raise BrokerError("the governor has ended")
            slots = prefix == SLOT_PREFIX
            lane = self._lanes[prefix, account] = Lane(
                self._broker, self._js, self._store, prefix, account, self._instance,
                self._slot_seconds if slots else _DIAL_SECONDS,
                lambda: self._count(account) if slots else None,
            )  # fmt: skip
            lane.set_limit(limit)
            self._tasks.create_task(lane.run(), name=f"{prefix}.{account}")
        return lane

    def _count(self, account: str) -> None:
        lane = self._lanes[SLOT_PREFIX, account]
        self._metrics.slots_held.labels(account).set(len(lane.permits))
        self._metrics.slots_waited_for.labels(account).set(len(lane.waiters))

    async def admit(self, provider: str, tenant: str, *, adopt: str | None = None) -> Permit | None:
        """A slot for a connection, waiting for one as long as it takes; None: no limit is set.

        `adopt` is the ticket of a former holder: its slot, if it is still that one's, is taken over
        at once, ahead of all who wait; the former holder, if alive, loses it. Cancel-safe.
        """
        lane = await self._lane(SLOT_PREFIX, provider)
        if lane is None:
            return None
        began = time.monotonic()
        permit = await lane.admit(tenant, adopt)
        self._metrics.slot_wait.labels(lane.account).observe(time.monotonic() - began)
        return permit

    async def dial(self, provider: str) -> None:
        """Return when the account may be dialled once; at once if no rate is set. Cancel-safe."""
        lane = await self._lane(DIAL_PREFIX, provider)
        if lane is not None:
            await lane.admit("")

    # Breakers

    async def tell(self, provider: str, cause: str, seconds: float) -> None:
        """Let all workers know that the provider's account is to be left alone for so long.

        Said once a second at most for one cause. Raises nothing: without a broker it is not said.
        """
        account, now = self.account(provider), time.monotonic()
        if now - self._said.get((account, cause), -_RETRY_S) < _RETRY_S:
            return
        self._said[account, cause] = now
        for sibling in self._providers(account):
            if sibling != provider and self._on_told is not None:
                self._on_told(sibling, cause, seconds)
        told = _Told(cause=cause, seconds=seconds, by=self._instance, at=datetime.now(UTC))
        try:
            await self._js.publish(
                streams.bucket_subject(streams.PROVIDERS_BUCKET, account),
                told.model_dump_json().encode(),
                timeout=_WRITE_TIMEOUT_S,
            )
        except (NatsError, TimeoutError) as error:
            log.warning("not told to the fleet: %r", error, extra=fields(account=account))

    def _told(self, account: str, value: bytes | None) -> None:
        if value is None or self._last_told.get(account) == value:
            return  # after a reconnect all is read again
        self._last_told[account] = value
        try:
            told = _Told.model_validate_json(value)
            left = told.left()
        except (ValidationError, TypeError):  # TypeError: a time without its zone
            log.warning("news of a provider cannot be read", extra=fields(account=account))
            return
        if told.by == self._instance or left <= 0 or self._on_told is None:
            return
        for provider in self._providers(account):
            self._on_told(provider, told.cause, left)

"""The governor: limits on provider accounts, which all workers enforce together.

It grants permits to connect and to dial (`permits` has the mechanism), and it announces to the
other workers when an account refuses all connections.
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

from .permits import Permit, PermitPool

log = logging.getLogger(__name__)

PERMIT_SECONDS = 15.0

_DIAL_SECONDS = 1.0
_WRITE_TIMEOUT_S = 2.0
_RETRY_S = 1.0
_READY_S = 2.0


class Refusal(BaseModel):
    """An account that refuses all connections for a while: an entry of the bucket
    `stt_providers`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    cause: str
    seconds: float = Field(ge=0)
    by: str
    at: datetime

    def left(self) -> float:
        """Seconds that remain, by this machine's clock; at most `seconds`."""
        return self.seconds - max(0.0, (datetime.now(UTC) - self.at).total_seconds())


class Governor:
    """Enforces the limits of provider accounts in one worker."""

    def __init__(
        self,
        broker: Broker,
        js: JetStreamContext,
        metrics: Metrics,
        accounts: Mapping[str, str],
        instance: str,
        *,
        permit_seconds: float = PERMIT_SECONDS,
        on_refusal: Callable[[str, str, float], None] | None = None,
    ) -> None:
        """`accounts` maps providers to accounts; a provider without one has an account of its name.

        `on_refusal(provider, cause, seconds_left)` is called when an account refuses all
        connections; it must not raise. Raises InvalidKey if an account's name is not a valid token.
        """
        self._broker = broker
        self._js = js
        self._metrics = metrics
        self._accounts = {p: check_token("account", account) for p, account in accounts.items()}
        self._instance = instance
        self._permit_seconds = permit_seconds
        self._on_refusal = on_refusal
        self._store = StreamStore(broker, streams.SLOTS)
        self._limits: dict[str, AccountLimit] = {}
        self._entries: dict[str, bytes | None] = {}
        """The bucket's limits as stored, valid or not, by account."""
        self._pools: dict[tuple[str, str], PermitPool] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._unread = False
        """The limits could not be read in time, so sessions no longer wait for them."""
        self._announced_at: dict[tuple[str, str], float] = {}
        self._last_received: dict[str, bytes] = {}
        self._limit_watch = Watch(
            broker, streams.BUDGETS_BUCKET, limit_key("*"), self._limit_changed
        )
        self._refusal_watch = Watch(broker, streams.PROVIDERS_BUCKET, "*", self._received)

    async def run(self) -> None:
        """Follow the limits and the refusals of accounts until cancelled."""
        await self._store.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._limit_watch.run(), name="account limits")
                tasks.create_task(self._refusal_watch.run(), name="account refusals")
        finally:
            self._tasks = None
            with contextlib.suppress(NatsError):
                await self._store.stop()

    def account(self, provider: str) -> str:
        """The account whose limits apply to the provider."""
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
                log.error(
                    "invalid account limit, the old one stays: %s",
                    error,
                    extra=fields(account=account),
                )
                return
        limit = self._limits.get(account)
        log.info("account limit", extra=fields(account=account, limit=str(limit or "none")))
        for (prefix, name), pool in self._pools.items():
            if name == account:
                pool.set_limit(self._limit(prefix, account))

    def _limit(self, prefix: str, account: str) -> int | None:
        limit = self._limits.get(account)
        if limit is None:
            return None
        return limit.connections if prefix == SLOT_PREFIX else limit.dials_per_second

    def limited(self, provider: str) -> bool:
        """Whether a limit on the provider's connections is known."""
        return self._limit(SLOT_PREFIX, self.account(provider)) is not None

    async def _limits_read(self) -> None:
        """Wait until the limits have been read.

        If that takes more than a few seconds, sessions go on without limits, and later ones do not
        wait again.
        """
        if self._limit_watch.ready.is_set() or self._unread:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                await self._limit_watch.ready.wait()
                return
        if not self._unread:
            self._unread = True
            log.warning("account limits cannot be read, sessions start without limits")

    async def _pool(self, prefix: str, provider: str) -> PermitPool | None:
        """The pool of a provider's account, or None if it has no limit."""
        await self._limits_read()
        account = self.account(provider)
        limit = self._limit(prefix, account)
        if limit is None:
            return None
        if (pool := self._pools.get((prefix, account))) is None:
            if self._tasks is None:
                raise BrokerError("the governor has ended")
            slots = prefix == SLOT_PREFIX
            pool = self._pools[prefix, account] = PermitPool(
                self._broker, self._js, self._store, prefix, account, self._instance,
                self._permit_seconds if slots else _DIAL_SECONDS,
                lambda: self._count(account) if slots else None,
            )  # fmt: skip
            pool.set_limit(limit)
            self._tasks.create_task(pool.run(), name=f"{prefix}.{account}")
        return pool

    def _count(self, account: str) -> None:
        pool = self._pools[SLOT_PREFIX, account]
        self._metrics.slots_held.labels(account).set(len(pool.permits))
        self._metrics.slots_waited_for.labels(account).set(len(pool.waiters))

    async def admit(self, provider: str, tenant: str, *, adopt: str | None = None) -> Permit | None:
        """Wait for a permit to hold one connection; None if the account has no limit. Cancel-safe.

        `adopt` is the ticket of the session's former holder. If that holder still has the permit,
        it is taken over at once, ahead of all waiting sessions, and the former holder loses it.
        """
        pool = await self._pool(SLOT_PREFIX, provider)
        if pool is None:
            return None
        began = time.monotonic()
        permit = await pool.admit(tenant, adopt)
        self._metrics.slot_wait.labels(pool.account).observe(time.monotonic() - began)
        return permit

    async def dial(self, provider: str) -> None:
        """Wait until the account may be dialed once; at once if it has no limit. Cancel-safe."""
        pool = await self._pool(DIAL_PREFIX, provider)
        if pool is not None:
            await pool.admit("")

    # Breakers

    async def announce(self, provider: str, cause: str, seconds: float) -> None:
        """Announce to all workers that the provider's account refuses connections for `seconds`.

        Announced at most once a second for each cause. Raises nothing: without a broker, the
        announcement is dropped.
        """
        account, now = self.account(provider), time.monotonic()
        if now - self._announced_at.get((account, cause), -_RETRY_S) < _RETRY_S:
            return
        self._announced_at[account, cause] = now
        for sibling in self._providers(account):
            if sibling != provider and self._on_refusal is not None:
                self._on_refusal(sibling, cause, seconds)
        refusal = Refusal(cause=cause, seconds=seconds, by=self._instance, at=datetime.now(UTC))
        try:
            await self._js.publish(
                streams.bucket_subject(streams.PROVIDERS_BUCKET, account),
                refusal.model_dump_json().encode(),
                timeout=_WRITE_TIMEOUT_S,
            )
        except (NatsError, TimeoutError) as error:
            log.warning(
                "refusal not announced to the other workers: %r",
                error,
                extra=fields(account=account),
            )

    def _received(self, account: str, value: bytes | None) -> None:
        if value is None or self._last_received.get(account) == value:
            return  # every entry is read again after a reconnect
        self._last_received[account] = value
        try:
            refusal = Refusal.model_validate_json(value)
            left = refusal.left()
        except (ValidationError, TypeError):  # TypeError: a time without its zone
            log.warning("announced refusal cannot be read", extra=fields(account=account))
            return
        if refusal.by == self._instance or left <= 0 or self._on_refusal is None:
            return
        for provider in self._providers(account):
            self._on_refusal(provider, refusal.cause, left)

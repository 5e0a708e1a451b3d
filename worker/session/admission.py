"""Opening a provider stream: budget, breaker, permit, dial. A drain interrupts every wait."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from natterjack.events import StatusState
from natterjack.plugin.errors import ProviderError
from worker.capacity.permits import Permit
from worker.dialing import Dialer, O, OpenedStream
from worker.drain import Drain, HandOver
from worker.providers.breaker import SHARED_CAUSES, BreakerState, Verdict
from worker.providers.chain import Chain, Exhausted
from worker.services import AdmissionServices

from .checkpoint import LeaseRecord
from .cutoff import Cutoff
from .retry import RepeatedFailures, Retry
from .states import State

T = TypeVar("T")

_LOOK_SECONDS = 1.0
"""How often a held session checks whether it may continue."""
_RETURNS_PER_SECOND = 50.0
"""How many held sessions of one worker may dial in a second when their provider is back."""
_LATER_SECONDS = 30.0
"""The longest delay before a session that its worker could not hold is claimed again."""


class CutoffReached(Exception):
    """The session has reached the position at which it ends."""


class NoProvider(Exception):
    """No provider can serve the session; the message is the reason."""


class Held(Exception):
    """No provider may be dialed now: `Admission.hold` waits for one."""


class Stuck(Exception):
    """No provider can transcribe the audio at the session's position."""


class StatusWriter(Protocol):
    async def status(self, state: StatusState, reason: str | None = None, **extra: Any) -> None: ...


class Recoveries(Protocol):
    def recovery(self, cause: str) -> None: ...


class Admitted(Protocol):
    """The part of a session's progress that admission uses. Positions are the session's own."""

    held_reason: str | None
    held_since: float | None

    @property
    def final(self) -> int: ...
    @property
    def frontier(self) -> int: ...
    @property
    def writer(self) -> StatusWriter: ...
    @property
    def account_builder(self) -> Recoveries: ...


class AdmittedLease(Protocol):
    """The part of a session's lease that admission uses."""

    @property
    def checkpoint(self) -> LeaseRecord: ...
    @property
    def cutoff(self) -> Cutoff: ...
    @property
    def progress(self) -> Admitted: ...
    async def write(self) -> None: ...
    async def confirm(self) -> None: ...


class Admission(Generic[O]):
    """Opens provider streams for one session. The session keeps its permit until it ends, parks,
    or changes to a provider of another account."""

    __slots__ = (
        "_account", "_announced", "_chosen", "_dialer", "_drain", "_enter", "_lease", "_pause",
        "_retry", "_services", "_tenant", "chain", "permit", "repeated_failures",
    )  # fmt: skip

    def __init__(
        self,
        services: AdmissionServices,
        dialer: Dialer[O],
        tenant: str,
        drain: Drain,
        retry: Retry,
        lease: AdmittedLease,
        enter: Callable[..., None],
        *,
        sample_rate: int,
    ) -> None:
        """`enter` changes the session's state, and logs the keyword arguments. `sample_rate` is the
        number of positions in a second of the session."""
        settings = services.settings
        self._services = services
        self._dialer = dialer
        self._tenant = tenant
        self._drain = drain
        self._retry = retry
        self._lease = lease
        self._enter = enter
        self.chain = Chain(dialer.names, dialer.plugins.breaker, settings.failover_after)
        self.permit: Permit | None = None
        """The permit that the session holds; None if it holds none or the account has no limit."""
        self.repeated_failures = RepeatedFailures(sample_rate, settings.repeated_failures)
        self._account = ""
        """The provider account of the permit."""
        self._pause: float | None = None
        """The least time to hold the session, in seconds; None if it is not to be held."""
        self._chosen: str | None = None
        """The provider that the session may dial since it was last held."""
        self._announced: list[tuple[str, str, str | None]] = []
        """The faults that subscribers know of, since the last stream."""

    async def connect(self) -> O:
        """Open a stream to the current provider of the chain.

        Raises Held, HandOver, CutoffReached, NoProvider, LeaseLost, ProviderError, PluginError.
        """
        self._retry.answered_seconds = None
        await self._check_budget()
        while True:
            name = self._choose()
            await self._acquire_permits(name)
            # During a long wait, the breaker may have opened for another session.
            if not self._breaker_is_open(name):
                return await self._open(name)

    async def _open(self, name: str) -> O:
        self._enter(State.CONNECTING, provider=name)
        dialing = self._dialer.dial(name, self.chain, self._lease.checkpoint.configured)
        started = time.monotonic()
        opened = await self._drain.wait_for(dialing, discard=_close)
        self._services.metrics.connect.labels(name).observe(time.monotonic() - started)
        self._announced = []
        return opened

    def _check_cutoff(self) -> None:
        if self._lease.cutoff.reached(self._lease.progress.final):
            raise CutoffReached

    async def _check_budget(self) -> None:
        """Raises CutoffReached if the tenant's budget is used up: no provider is dialed then."""
        budgets, tenant = self._services.budgets, self._tenant
        await budgets.ready(tenant)
        if detail := budgets.spent(tenant):
            self._lease.cutoff.exhaust(detail, self._lease.progress.frontier)
            self._check_cutoff()

    def _choose(self) -> str:
        """The provider to dial. Raises Held, CutoffReached, NoProvider."""
        self._check_cutoff()
        name, self._chosen = self._chosen, None
        if name == self.chain.name and not self._breaker_is_open(name):
            return name
        if self._seconds_to_wait(time.monotonic()) > 0:
            self._pause = 0.0
            raise Held
        return self.chain.name

    def _breaker_is_open(self, name: str) -> bool:
        return self._dialer.plugins.breaker(name).state is BreakerState.OPEN

    def _seconds_to_wait(self, now: float) -> float:
        """As `Chain.choose`. Raises NoProvider."""
        try:
            return self.chain.choose(now)
        except Exhausted as exhausted:
            raise NoProvider(str(exhausted)) from None

    def adopt(self) -> None:
        """Go on counting how long no provider could serve the session, after a takeover."""
        since = self._lease.checkpoint.failing_since
        if since is not None:
            failing = (datetime.now(UTC) - since).total_seconds()
            self._retry.adopt(failing, time.monotonic())

    async def hold(self) -> None:
        """Wait until a provider may be dialed, if none may be now.

        The session keeps its lease and lends its slot; its audio stays in the stream. If the worker
        can hold no more sessions, or has no slot for it in the end, another worker gets it. Raises
        HandOver, CutoffReached, NoProvider, LeaseLost.
        """
        pause, self._pause = self._pause, None
        if pause is None:
            return
        slots, checkpoint, now = self._services.slots, self._lease.checkpoint, time.monotonic()
        reason = f"queued: {self.chain.problem}"
        self._enter(State.QUEUED, reason=reason)
        self._retry.note_outage(now)
        failing = self._retry.failing_seconds(now)
        checkpoint.failing_since = datetime.now(UTC) - timedelta(seconds=failing)
        progress = self._lease.progress
        progress.held_reason, progress.held_since = reason, now - failing
        if not slots.lend():
            raise HandOver(reason, _LATER_SECONDS * (0.5 + random.random() / 2))  # noqa: S311
        metrics = self._services.metrics
        metrics.sessions_active.dec()
        metrics.sessions_held.inc()
        try:
            if self.chain.refused_account:
                await self.release()  # another worker may have a key that is not refused
            if self._announce():
                await progress.writer.status("recovering", reason)
            await self._lease.write()
            await self._wait_for_provider(now + pause)
        finally:
            progress.held_reason = progress.held_since = None
            has_slot = slots.end_loan()
            metrics.sessions_active.inc()
            metrics.sessions_held.dec()
        if not has_slot:
            checkpoint.failing_since = None
            raise HandOver("its provider is back, and this worker has no free slot")

    def _announce(self) -> bool:
        """Note that subscribers learn of the present faults. False if they know of them."""
        # Not the whole text: it may have a number of its own at each attempt.
        known = self._announced
        self._announced = [(fault.provider, fault.cause, fault.code) for fault in self.chain.faults]
        return self._announced != known

    async def _wait_for_provider(self, due: float) -> None:
        """Wait until `due`, and until a provider may be dialed."""
        settings, spread = self._services.settings, False
        while True:
            self._check_cutoff()
            await self._lease.confirm()
            now = time.monotonic()
            if self._retry.note_outage(now):
                raise NoProvider(
                    f"no provider for {settings.recovery_seconds:g} s: {self.chain.problem}"
                )
            wait = due - now
            if wait <= 0 and (wait := self._seconds_to_wait(now)) <= 0:
                breaker = self._dialer.plugins.breaker(self.chain.name)
                if spread or breaker.state is BreakerState.HALF_OPEN:
                    self._chosen = self.chain.name
                    return
                # The sessions that waited with this one must not dial all at once.
                spread = True
                wait = random.random() * self._services.slots.lent / _RETURNS_PER_SECOND  # noqa: S311
                due = now + wait
            await self._drain.pause(min(wait, _LOOK_SECONDS))

    def _enter_queued(self, reason: str) -> None:
        if self._lease.checkpoint.state == State.WAITING.value:
            self._enter(State.QUEUED, reason=reason)

    async def _acquire_permits(self, name: str) -> None:
        """Wait for a permit of the provider's account and for permission to dial. Both are
        granted at once if the account has no limits."""
        governor, checkpoint = self._services.governor, self._lease.checkpoint
        permit, account = self.permit, governor.account(name)
        if permit is not None and (account != self._account or not permit.valid):
            await self.release()
        if self.permit is None:
            admitting = governor.admit(name, self._tenant, adopt=checkpoint.slot)
            permit = await self._wait_for(admitting, f"a connection of account {account}", _release)
            checkpoint.slot = None
            if permit is not None:
                self.permit, self._account = permit, account
                checkpoint.slot = permit.ticket
                # So a worker that takes over can use the permit at once, before it expires.
                await self._lease.write()
        await self._wait_for(
            governor.dial(name), f"permission to dial account {account}", _discard_dial
        )

    async def _wait_for(
        self, wanted: Coroutine[Any, Any, T], what: str, discard: Callable[[T], Awaitable[None]]
    ) -> T:
        """The result of `wanted`. Publishes a status event when that takes long."""
        began, announced = time.monotonic(), False

        async def check() -> None:
            nonlocal announced
            self._check_cutoff()
            await self._lease.confirm()
            if not announced:
                announced = True
                self._enter_queued(f"waiting for {what}")
                await self._lease.progress.writer.status("assigned", f"waiting for {what}")

        try:
            return await self._drain.wait_for(wanted, discard=discard, check=check)
        finally:
            self._retry.exclude(time.monotonic() - began)

    async def release(self, *, hand_over: bool = False) -> None:
        """Give the permit back, if one is held; with `hand_over`, leave it to the next worker."""
        permit, self.permit = self.permit, None
        if permit is None:
            return
        if hand_over:
            permit.stop_renewing()
        else:
            self._lease.checkpoint.slot = None
            await permit.release()

    def reset(self) -> None:
        """Forget earlier failures: there was progress."""
        self._retry.reset()
        self.chain.reset()

    async def recover(self, fault: ProviderError, *, finals_moved: bool) -> None:
        """Prepare another attempt after a fault, and wait until it is due; if the account refuses,
        `hold` waits. Raises NoProvider, Stuck, HandOver, LeaseLost."""
        retry, metrics = self._retry, self._services.metrics
        progress = retry.made_progress(fault.cause, finals_moved=finals_moved)
        if progress:
            retry.reset()
        known = fault.provider if self._dialer.plugins.known(fault.provider) else "unknown"
        metrics.provider_errors.labels(known, fault.cause).inc()
        now = time.monotonic()
        give_up = retry.note_outage(now)
        account = self._lease.progress.account_builder
        if self.repeated_failures.stuck(self.chain.usable, give_up=give_up):
            account.recovery(fault.cause)
            raise Stuck
        if give_up:
            patience = self._services.settings.recovery_seconds
            raise NoProvider(f"no provider for {patience:g} s: {fault.cause}: {fault}")
        # In silence the session does not give up, but another provider may keep its connections.
        verdict, changed = await self._record_fault(fault, now, progress=finals_moved)
        retry.recovering(fault.cause, now)
        reason = f"{fault.cause}: {fault}"
        if changed:
            reason += f"; {self.chain.name} takes over"
        account.recovery(fault.cause)
        self._enter(State.RECOVERING, cause=fault.cause, reason=reason)
        at_once = changed and self.chain.untried
        pause = retry.next_delay(random.random(), at_once=at_once)  # noqa: S311
        if verdict is Verdict.HOLD and not changed:
            self._pause = pause
            return
        self._announce()
        await self._lease.progress.writer.status("recovering", reason)
        await self._drain.pause(pause)

    async def _record_fault(
        self, fault: ProviderError, now: float, *, progress: bool
    ) -> tuple[Verdict, bool]:
        """Report a fault to the chain and to other workers. Return the verdict, and whether the
        current provider has changed. Raises NoProvider if every provider has refused the session.
        """
        failed = self.chain.name
        try:
            answered = self._retry.answered_seconds is not None
            repeated = self.repeated_failures.repeated(failed)
            verdict = self.chain.record_failure(
                fault, now, answered=answered, progress=progress, repeated=repeated
            )
        except Exhausted as exhausted:
            raise NoProvider(str(exhausted)) from None
        finally:
            if fault.cause in SHARED_CAUSES:
                seconds = self._dialer.plugins.breaker(failed).seconds_left(now)
                if seconds > 0:
                    await self._services.governor.announce(failed, fault.cause, seconds)
        return verdict, self.chain.name != failed


async def _close(opened: OpenedStream) -> None:
    await opened.stream.close()


async def _release(permit: Permit | None) -> None:
    if permit is not None:
        await permit.release()


async def _discard_dial(_: object) -> None:
    """Permission to dial cannot be given back."""

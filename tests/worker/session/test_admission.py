"""Opening provider streams: budget, breaker, permit and dial, and the way back after a fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from natterjack.plugin.errors import (
    Dropped,
    PluginFault,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from tests.waiting import bound, settle, soon, until
from worker import drain as module
from worker.capacity.slots import LOANS_PER_SLOT
from worker.drain import HandOver
from worker.metering.prices import Price
from worker.providers.breaker import BreakerState
from worker.session import admission
from worker.session.admission import CutoffReached, Held, NoProvider, Stuck
from worker.session.states import State, may_follow

from .parts import RATE, Case, install_providers

_OPEN_SECONDS = bound(0.2)
"""How long a breaker stays open whose session has to find it open, and to wait for it."""


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers to dial; and a waiting session checks every 10 ms."""
    install_providers(monkeypatch)
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(admission, "_LOOK_SECONDS", 0.01)


# ---- connect --------------------------------------------------------------------------------


async def test_the_first_provider_is_dialed() -> None:
    case = await Case().start()
    opened = await case.admission.connect()
    assert opened.provider.name == "one"
    assert opened.price == Price(3.6, "USD", "audio")
    assert opened.converter.passthrough
    assert case.states == [State.CONNECTING]
    assert case.accounts.dialed == ["one"]
    assert case.admission.permit is None, "its account has no limit"
    [request] = case.requests("one")
    assert (request.session_id, request.format.sample_rate) == ("session-1", RATE)


async def test_a_session_has_providers_and_a_price_of_its_own() -> None:
    case = await Case(spec={"provider": "two"}).start()
    opened = await case.admission.connect()
    assert (opened.provider.name, opened.price.per_hour) == ("two", 7.2)


async def test_only_settings_that_the_provider_can_change_are_sent_to_it() -> None:
    case = await Case().start()
    case.lease.checkpoint.configured = {"keyterms": ["toad"], "flavor": "sweet"}
    await case.admission.connect()
    [request] = case.requests("one")
    assert request.keyterms == ("toad",)
    assert request.options == {}


async def test_audio_that_cannot_be_converted_is_refused() -> None:
    case = await Case(provider="g711").start()
    with pytest.raises(RequestRefused, match="cannot convert linear16") as refused:
        await case.admission.connect()
    assert refused.value.cause == "request"
    assert case.requests("g711") == []


async def test_nothing_is_dialed_for_a_tenant_without_budget() -> None:
    case = await Case().start()
    case.budgets.detail = "tenant t: 60 s are used"
    with pytest.raises(CutoffReached):
        await case.admission.connect()
    assert case.accounts.dialed == []
    assert (case.cutoff.reason, case.cutoff.detail) == ("budget", "tenant t: 60 s are used")


async def test_audio_that_was_sent_becomes_final_even_over_budget() -> None:
    case = await Case().start()
    case.progress.ledger.opened("one", Price(0.0, "USD", "audio"), 0)
    case.progress.ledger.closed(2 * RATE, 2.0, 2.0)
    case.budgets.detail = "tenant t: 60 s are used"
    await case.admission.connect()
    assert case.cutoff.position == 2 * RATE


# ---- the breaker ----------------------------------------------------------------------------


async def test_a_provider_with_an_open_breaker_is_passed_over() -> None:
    case = await Case().start()
    case.open_breaker("one")
    assert (await case.admission.connect()).provider.name == "two"
    assert case.requests("one") == []


async def test_a_session_waits_for_the_breaker_and_is_the_probe() -> None:
    case = await Case(provider="one", breaker_seconds=_OPEN_SECONDS).start()
    case.open_breaker("one")
    await held(case)
    opened = await soon(case.admission.connect(), 10)
    assert opened.provider.name == "one"
    assert case.states == [State.QUEUED, State.WAITING, State.CONNECTING]
    assert case.providers.breaker("one").state is BreakerState.HALF_OPEN


async def held(case: Case) -> None:
    """Try to connect, and wait as the session does when that fails."""
    with pytest.raises(Held):
        await case.admission.connect()
    await soon(case.admission.hold(), 10)
    case.enter(State.WAITING)


async def holding(case: Case) -> asyncio.Task[None]:
    """Try to connect, and start to wait as the session does then."""
    with pytest.raises(Held):
        await case.admission.connect()
    task = asyncio.create_task(case.admission.hold())
    await until(lambda: case.reasons(), "it says why it waits")
    return task


async def test_the_drain_ends_the_wait_for_a_breaker() -> None:
    case = await Case(provider="one", breaker_seconds=3600, breaker_max_seconds=3600).start()
    case.open_breaker("one")
    waiting = await holding(case)
    case.drain.request(0.0)
    with pytest.raises(HandOver, match="drain"):
        await soon(waiting, 5)


async def test_a_session_is_held_while_every_account_refuses() -> None:
    case = await Case(provider="one,two", breaker_seconds=3600, breaker_max_seconds=3600).start()
    for name in ("one", "two"):
        case.open_breaker(name, RequestRefused(name, "credit", f"{name} has no credit"))
    waiting = await holding(case)
    assert case.states == [State.QUEUED]
    reason = "queued: credit: one: one has no credit; credit: two: two has no credit"
    assert case.reasons() == [("recovering", reason)]
    assert case.progress.held_reason == reason
    assert case.slots.free == 1, "it lends its slot"
    await until(lambda: case.progress.lag_seconds > 0.01, "its lag grows")
    assert case.store.writes[-1].failing_since is not None
    case.providers.breaker("two").record_success()
    await soon(waiting, 10)
    assert case.progress.held_reason is None
    assert case.progress.lag_seconds == 0
    assert case.slots.free == 0
    assert (await case.admission.connect()).provider.name == "two"


async def test_a_held_session_goes_on_in_a_slot_only() -> None:
    case = await Case(provider="one", breaker_seconds=3600, breaker_max_seconds=3600).start()
    case.open_breaker("one", RequestRefused("one", "credit", "no credit"))
    waiting = await holding(case)
    case.slots.take()
    case.providers.breaker("one").record_success()
    with pytest.raises(HandOver, match="no free slot") as handover:
        await soon(waiting, 10)
    assert handover.value.seconds == 0, "another worker may have one"
    assert case.lease.checkpoint.failing_since is None, "its provider is back"
    assert case.requests("one") == []


async def test_a_session_that_the_worker_cannot_hold_goes_back_to_the_queue_for_a_while() -> None:
    case = await Case(provider="one", breaker_seconds=3600, breaker_max_seconds=3600).start()
    case.open_breaker("one", RequestRefused("one", "credit", "no credit"))
    while case.slots.lend():
        pass
    with pytest.raises(Held):
        await case.admission.connect()
    with pytest.raises(HandOver, match="no credit") as handover:
        await case.admission.hold()
    assert handover.value.seconds > 0
    assert case.lease.checkpoint.failing_since is not None, "the next worker goes on counting"


async def test_a_held_session_keeps_its_permit_only_if_its_account_serves_others() -> None:
    for fault, kept in (
        (Unavailable("one", "connect", "down"), True),
        (RequestRefused("one", "auth", "wrong key", "401"), False),
    ):
        case = await Case(provider="one", breaker_seconds=_OPEN_SECONDS).start()
        case.accounts.limit("shared")
        await case.admission.connect()
        case.enter(State.WAITING)
        case.open_breaker("one", fault)
        await held(case)
        assert (case.admission.permit is not None) is kept


async def test_a_session_says_once_why_it_is_held_until_it_streams() -> None:
    case = await Case(provider="one", breaker_seconds=0.01).start()
    refused = RequestRefused("one", "credit", "no credit", "402")
    for _ in range(3):
        await case.admission.recover(refused, finals_moved=False)
        await soon(case.admission.hold(), 10)
    assert case.reasons() == [("recovering", "queued: credit: one: no credit (402)")]
    assert case.slots.lent == 0
    case.enter(State.WAITING)
    await case.admission.connect()
    await case.admission.recover(refused, finals_moved=True)
    await soon(case.admission.hold(), 10)
    assert len(case.reasons()) == 2


async def test_a_fault_of_its_own_that_was_published_is_not_published_again() -> None:
    case = await Case(provider="one", breaker_seconds=_OPEN_SECONDS).start()
    await case.admission.recover(Unavailable("one", "rate_limit", "429"), finals_moved=False)
    case.enter(State.WAITING)
    await held(case)
    [(_, reason)] = case.reasons()
    assert reason == "rate_limit: one: 429"


async def test_nothing_is_held_without_a_reason() -> None:
    case = await Case().start()
    await case.admission.hold()
    assert case.states == []


async def test_a_stop_ends_the_hold_of_a_session_that_is_final() -> None:
    case = await Case(provider="one", breaker_seconds=3600, breaker_max_seconds=3600).start()
    case.open_breaker("one", RequestRefused("one", "credit", "no credit"))
    waiting = await holding(case)
    case.cutoff.stop("enough", 0)
    with pytest.raises(CutoffReached):
        await soon(waiting, 10)
    assert case.slots.lent == 0


async def test_a_session_fails_when_breakers_stay_open_too_long() -> None:
    case = await Case(provider="one", recovery_seconds=60, breaker_max_seconds=3600).start()
    case.open_breaker("one")
    case.lease.checkpoint.failing_since = datetime.now(UTC) - timedelta(seconds=61)
    case.admission.adopt()
    with pytest.raises(NoProvider, match="no provider for 60 s: connect: one: down"):
        await held(case)


async def test_sessions_that_were_held_together_do_not_dial_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    case = await Case(provider="one", breaker_seconds=3600, breaker_max_seconds=3600).start()
    case.open_breaker("one", RequestRefused("one", "credit", "no credit"))
    waiting = await holding(case)
    while case.slots.lend():
        pass
    case.providers.breaker("one").record_success()
    before = time.monotonic()
    await soon(waiting, 10)
    assert time.monotonic() - before >= LOANS_PER_SLOT / admission._RETURNS_PER_SECOND


async def test_the_breaker_counts_after_a_wait_for_a_permit_too() -> None:
    case = await Case(provider="one,three").start()
    case.accounts.limit("shared")
    case.accounts.granting.clear()
    connecting = asyncio.create_task(case.admission.connect())
    await until(lambda: case.accounts.asked, "it waits for a permit")
    case.open_breaker("one")
    case.accounts.granting.set()
    assert (await soon(connecting, 5)).provider.name == "three"
    assert case.requests("one") == []
    assert case.admission.permit is None, "the permit is of the other account"


async def test_a_session_that_waits_for_a_permit_may_be_held_next() -> None:
    case = await Case(provider="one", breaker_seconds=_OPEN_SECONDS).start()
    case.accounts.limit("shared")
    case.accounts.granting.clear()
    connecting = asyncio.create_task(case.admission.connect())
    await until(lambda: State.QUEUED in case.states, "it says that it waits for a permit")
    case.open_breaker("one", RequestRefused("one", "credit", "no credit", "402"))
    case.accounts.granting.set()
    with pytest.raises(Held):
        await soon(connecting, 5)
    await soon(case.admission.hold(), 10)
    case.enter(State.WAITING)
    assert (await case.admission.connect()).provider.name == "one"
    assert case.slots.lent == 0
    for before, after in pairwise([State.WAITING, *case.states]):
        assert may_follow(before, after), f"no transition from {before} to {after}"


# ---- permits --------------------------------------------------------------------------------


async def test_a_permit_is_stored_before_the_dial() -> None:
    case = await Case().start()
    case.accounts.limit("shared")
    await case.admission.connect()
    permit = case.admission.permit
    assert permit is not None
    assert permit.ticket == "shared.1.h1"
    assert case.store.writes[-1].slot == "shared.1.h1"


async def test_a_successor_asks_for_the_permit_of_the_former_holder() -> None:
    case = await Case().start()
    case.accounts.limit("shared")
    case.lease.checkpoint.slot = "shared.4.h0"
    await case.admission.connect()
    assert case.accounts.asked == [("one", "t", "shared.4.h0")]
    assert case.lease.checkpoint.slot == "shared.1.h1"


async def test_a_ticket_of_an_account_that_lost_its_limit_is_forgotten() -> None:
    case = await Case().start()
    case.lease.checkpoint.slot = "shared.4.h0"
    await case.admission.connect()
    assert case.lease.checkpoint.slot is None


async def test_the_permit_is_kept_for_the_next_stream_of_the_account() -> None:
    case = await Case().start()
    pool = case.accounts.limit("shared")
    await case.admission.connect()
    permit = case.admission.permit
    case.open_breaker("one")
    assert (await case.admission.connect()).provider.name == "two"
    assert case.admission.permit is permit
    assert list(pool.permits.values()) == [permit]


async def test_the_permit_is_given_back_for_a_provider_of_another_account() -> None:
    case = await Case(provider="one,three").start()
    shared, other = case.accounts.limit("shared"), case.accounts.limit("other")
    await case.admission.connect()
    case.open_breaker("one")
    await case.admission.connect()
    assert not shared.permits
    assert list(other.permits.values()) == [case.admission.permit]
    assert case.store.writes[-1].slot == "other.2.h2"


async def test_a_permit_that_may_have_expired_is_not_used() -> None:
    case = await Case().start()
    pool = case.accounts.limit("shared")
    await case.admission.connect()
    expired = case.admission.permit
    assert expired is not None
    expired.confirmed -= pool.seconds
    await case.admission.connect()
    assert case.admission.permit is not expired
    assert list(pool.permits.values()) == [case.admission.permit]


async def test_a_long_wait_is_announced_once_and_held_against_no_provider() -> None:
    case = await Case(recovery_seconds=60).start()
    case.accounts.limit("shared")
    case.accounts.granting.clear()
    since = time.monotonic()
    case.retry.note_outage(since)
    connecting = asyncio.create_task(case.admission.connect())
    await until(lambda: case.reasons(), "it says why it waits")
    case.lease.mark_unconfirmed()
    await until(lambda: not case.lease.unconfirmed, "another check")
    case.accounts.granting.set()
    await soon(connecting, 5)
    assert case.reasons() == [("assigned", "waiting for a connection of account shared")]
    assert case.states == [State.QUEUED, State.CONNECTING]
    assert not case.retry.note_outage(since + 60.001), "the wait does not count"


async def test_a_cutoff_ends_the_wait_for_a_permit() -> None:
    case = await Case().start()
    case.accounts.granting.clear()
    connecting = asyncio.create_task(case.admission.connect())
    await until(lambda: case.accounts.asked, "it waits for a permit")
    case.cutoff.stop("enough", 0)
    with pytest.raises(CutoffReached):
        await soon(connecting, 5)
    assert case.admission.permit is None


async def test_the_drain_ends_the_wait_for_a_permit() -> None:
    case = await Case().start()
    pool = case.accounts.limit("shared")
    case.accounts.granting.clear()
    connecting = asyncio.create_task(case.admission.connect())
    await until(lambda: case.accounts.asked, "it waits for a permit")
    case.drain.request(0.0)
    with pytest.raises(HandOver):
        await soon(connecting, 5)
    case.accounts.granting.set()
    await settle()
    assert case.admission.permit is None
    assert not pool.permits


@pytest.mark.parametrize("hand_over", [False, True])
async def test_only_a_handover_leaves_the_permit_to_a_successor(hand_over: bool) -> None:
    case = await Case().start()
    pool = case.accounts.limit("shared")
    await case.admission.connect()
    await case.admission.release(hand_over=hand_over)
    await case.admission.release(hand_over=hand_over)
    assert not pool.permits, "it is not renewed any longer"
    assert list(pool._leaving) == ([] if hand_over else ["h1"]), "to be freed"
    assert case.lease.checkpoint.slot == ("shared.1.h1" if hand_over else None)
    assert case.admission.permit is None


# ---- after a fault --------------------------------------------------------------------------


async def test_a_fault_is_published_and_the_provider_is_tried_again() -> None:
    case = await Case().start()
    await case.admission.connect()
    await case.admission.recover(Dropped("one", "it broke"), finals_moved=False)
    assert case.states == [State.CONNECTING, State.RECOVERING]
    [(state, reason)] = case.reasons()
    assert state == "recovering"
    assert reason is not None
    assert "it broke" in reason
    assert "takes over" not in reason
    assert case.admission.chain.name == "one"
    assert case.progress.account().recoveries == {"dropped": 1}
    assert _errors(case, "one", "dropped") == 1


async def test_faults_of_an_unknown_provider_share_a_label() -> None:
    case = await Case().start()
    await case.admission.recover(Dropped("no such provider", "it broke"), finals_moved=False)
    assert _errors(case, "unknown", "dropped") == 1


def _errors(case: Case, provider: str, cause: str) -> float | None:
    labels = {"provider": provider, "cause": cause}
    return case.metrics.registry.get_sample_value("natterjack_provider_errors_total", labels)


async def test_the_next_provider_takes_over_without_a_pause() -> None:
    case = await Case(backoff_seconds=3600, max_backoff_seconds=3600).start()
    fault = RequestRefused("one", "request", "no such model")
    await soon(case.admission.recover(fault, finals_moved=False), 5)
    assert case.admission.chain.name == "two"
    [(_, reason)] = case.reasons()
    assert reason is not None
    assert reason.endswith("; two takes over")


async def test_the_drain_ends_the_pause_after_a_fault() -> None:
    case = await Case(backoff_seconds=3600, max_backoff_seconds=3600).start()
    fault = Dropped("one", "it broke")
    recovering = asyncio.create_task(case.admission.recover(fault, finals_moved=False))
    await until(lambda: case.reasons(), "it pauses")
    case.drain.request(0.0)
    with pytest.raises(HandOver):
        await soon(recovering, 5)


async def test_a_session_gives_up_after_the_recovery_time() -> None:
    case = await Case(recovery_seconds=60).start()
    case.retry.note_outage(time.monotonic() - 61)
    with pytest.raises(NoProvider, match="no provider for 60 s: dropped: one: it broke"):
        await case.admission.recover(Dropped("one", "it broke"), finals_moved=False)
    assert case.states == []


def _finals_moved(case: Case) -> bool:
    return True


def _long_silence(case: Case) -> bool:
    case.retry.answered_seconds = case.settings.max_backoff_seconds + 1
    return False


@pytest.mark.parametrize("made", [_finals_moved, _long_silence])
async def test_progress_starts_the_recovery_time_anew(made: Callable[[Case], bool]) -> None:
    case = await Case(recovery_seconds=60).start()
    case.retry.note_outage(time.monotonic() - 61)
    await case.admission.recover(Dropped("one", "it broke"), finals_moved=made(case))
    assert case.states == [State.RECOVERING]


async def test_a_provider_that_only_lasts_is_left_for_the_next_one() -> None:
    """Its streams last, but no final moves: the audio may hold speech that it does not hear."""
    case = await Case(
        provider="one,two", failover_after=3, backoff_seconds=0.001, max_backoff_seconds=0.001
    ).start()
    chosen = []
    for _ in range(3):
        _long_silence(case)
        await soon(case.admission.recover(Dropped("one", "it broke"), finals_moved=False), 5)
        chosen.append(case.admission.chain.name)
    assert chosen == ["one", "one", "two"]


async def _fail(case: Case, cause: str = "protocol") -> None:
    """Fail at the position 0, after two seconds of audio."""
    name = case.admission.chain.name
    fault: ProviderError = RemoteProtocolError(name, "what is this?")
    if cause == "plugin":
        fault = PluginFault(name, "KeyError")
    case.admission.repeated_failures.failed(name, fault.cause, 0, 2 * RATE)
    await soon(case.admission.recover(fault, finals_moved=False), 5)


@pytest.mark.parametrize("cause", ["protocol", "plugin"])
async def test_the_next_provider_takes_over_after_equal_failures(cause: str) -> None:
    case = await Case(
        provider="one,two", repeated_failures=2, failover_after=9,
        backoff_seconds=0.001, max_backoff_seconds=0.001,
    ).start()  # fmt: skip
    chosen = []
    for _ in range(3):
        await _fail(case, cause)
        chosen.append(case.admission.chain.name)
    assert chosen == ["one", "two", "two"]
    with pytest.raises(Stuck):
        await _fail(case, cause)
    assert _errors(case, "two", cause) == 2


async def test_a_session_that_would_end_leaves_audio_out_first() -> None:
    case = await Case(recovery_seconds=60, backoff_seconds=0.001, max_backoff_seconds=0.001).start()
    await _fail(case)
    case.retry.note_outage(time.monotonic())
    case.retry.exclude(-61)
    with pytest.raises(Stuck):
        await _fail(case)
    case.admission.repeated_failures.leave_out(2 * RATE)
    case.admission.repeated_failures.failed("one", "protocol", 2 * RATE, 4 * RATE)
    case.admission.repeated_failures.failed("one", "protocol", 2 * RATE, 4 * RATE)
    with pytest.raises(NoProvider):
        await case.admission.recover(RemoteProtocolError("one", "?"), finals_moved=False)


async def test_a_session_fails_when_its_last_provider_refuses_it() -> None:
    case = await Case(provider="one,two").start()
    await case.admission.recover(RequestRefused("one", "request", "no"), finals_moved=False)
    with pytest.raises(NoProvider, match=r"no.*; .*never"):
        await case.admission.recover(RequestRefused("two", "request", "never"), finals_moved=False)


@pytest.mark.parametrize(
    ("fault", "announced"),
    [
        (Unavailable("one", "rate_limit", "429"), True),
        (RequestRefused("one", "credit", "no credit"), True),
        (Unavailable("one", "connect", "down"), False),
    ],
)
async def test_other_workers_hear_of_faults_of_the_account(
    fault: ProviderError, announced: bool
) -> None:
    case = await Case(breaker_failures=1).start()
    await case.admission.recover(fault, finals_moved=False)
    assert case.providers.breaker("one").state is BreakerState.OPEN
    heard = [(provider, cause) for provider, cause, _ in case.accounts.announced]
    assert heard == ([("one", fault.cause)] if announced else [])
    assert all(seconds > 0 for *_, seconds in case.accounts.announced)


async def test_an_answer_counts_for_its_own_stream_only() -> None:
    case = await Case(breaker_failures=1).start()
    case.retry.answered_seconds = 5.0  # on the stream before
    await case.admission.connect()
    await case.admission.recover(Dropped("one", "it broke"), finals_moved=False)
    assert case.providers.breaker("one").state is BreakerState.OPEN


async def test_an_answered_stream_opens_no_breaker() -> None:
    case = await Case(breaker_failures=1).start()
    case.retry.answered_seconds = 0.1
    await case.admission.recover(Dropped("one", "it broke"), finals_moved=False)
    assert case.providers.breaker("one").state is BreakerState.CLOSED
    case.retry.answered_seconds = None
    await case.admission.recover(Dropped("one", "it broke"), finals_moved=False)
    assert case.providers.breaker("one").state is BreakerState.OPEN

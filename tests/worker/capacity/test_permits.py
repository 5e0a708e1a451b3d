"""The parts of permits that decide without a broker: tickets, holders, and who gets a permit."""

from __future__ import annotations

import asyncio
import time

import pytest

from natterjack.broker import streams
from natterjack.broker.client.fastpath import Client
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.subjects import SLOT_PREFIX
from tests.waiting import soon
from worker.capacity.permits import Holder, Permit, PermitPool, Ticket


def test_a_ticket_is_read_back() -> None:
    ticket = Ticket("deepgram", 7, "abc")
    assert Ticket.parse(str(ticket)) == ticket


@pytest.mark.parametrize(
    "text", [None, "", "deepgram.7", "deepgram.x.abc", "deepgram.7.", "a.1.b.c"]
)
def test_other_text_is_no_ticket(text: str | None) -> None:
    assert Ticket.parse(text) is None


def test_a_holder_is_read_back() -> None:
    holder = Holder(id="abc", tenant="t", by="w")
    assert Holder.parse(holder.payload) == holder
    assert Holder.parse(b"") is None, "the permit is free"


def test_an_unreadable_holder_keeps_its_permit() -> None:
    assert Holder.parse(b"{") == Holder(id="", tenant="", by="")


@pytest.fixture
def pool() -> PermitPool:
    """A pool without a connection."""
    broker = Broker(Client())
    return PermitPool(
        broker, broker.client.jetstream(), StreamStore(broker, streams.SLOTS), SLOT_PREFIX,
        "deepgram", "w", 15.0, lambda: None,
    )  # fmt: skip


def permit(pool: PermitPool, number: int, tenant: str = "t") -> Permit:
    holder = Holder(id=f"h{number}", tenant=tenant, by="w")
    return Permit(pool, number, holder, 1, time.monotonic())


def test_a_permit_is_valid_for_the_permit_time(pool: PermitPool) -> None:
    held = permit(pool, 0)
    assert held.valid
    held.confirmed -= pool.seconds
    assert not held.valid


def test_a_lost_permit_is_not_valid(pool: PermitPool) -> None:
    held = permit(pool, 0)
    held.lost.set()
    assert not held.valid


async def admitted(
    pool: PermitPool, *sessions: tuple[str, str | None]
) -> list[asyncio.Task[Permit | None]]:
    """Sessions that wait, in this order: the tenant and the ticket of each."""
    tasks = [asyncio.create_task(pool.admit(*session)) for session in sessions]
    await asyncio.sleep(0)
    assert len(pool.waiters) == len(sessions)
    return tasks


async def test_a_permit_goes_to_the_longest_waiting_session_of_its_tenant(pool: PermitPool) -> None:
    other, first, second = await admitted(pool, ("u", None), ("t", None), ("t", None))
    granted = permit(pool, 0)
    pool._grant(granted)
    assert await soon(first, 5) is granted
    assert not other.done()
    assert not second.done()
    for waiting in (other, second):
        waiting.cancel()


async def test_the_permit_of_a_ticket_goes_to_its_bearer(pool: PermitPool) -> None:
    first, bearer = await admitted(pool, ("t", None), ("t", "deepgram.0.former"))
    granted = permit(pool, 0)
    pool._grant(granted, former="former")
    assert await soon(bearer, 5) is granted
    assert not first.done()
    first.cancel()


async def test_a_permit_that_no_session_waits_for_is_given_back(pool: PermitPool) -> None:
    pool._grant(permit(pool, 0))
    assert not pool.permits
    assert list(pool._leaving) == ["h0"]


async def test_a_permit_that_comes_with_the_cancellation_is_given_back(pool: PermitPool) -> None:
    [waiting] = await admitted(pool, ("t", None))
    pool._grant(permit(pool, 0))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not pool.permits
    assert list(pool._leaving) == ["h0"]


@pytest.mark.parametrize(
    ("sequence", "holder", "lost"),
    [(2, "other", True), (2, "h0", False), (1, "h0", False), (0, "other", False)],
)
async def test_a_later_write_of_another_worker_takes_a_permit(
    pool: PermitPool, sequence: int, holder: str, lost: bool
) -> None:
    held = pool.permits[0] = permit(pool, 0)
    data = Holder(id=holder, tenant="t", by="x").payload
    pool._learn("stt.slot.deepgram.0", sequence, data)
    assert held.lost.is_set() is lost
    assert (0 in pool.permits) is not lost

"""The lease: taking it over, what a checkpoint says, and confirming it."""

from __future__ import annotations

import pytest

from natterjack.events import StatusEvent
from natterjack.fleet.roster import SessionRecord
from natterjack.plugin.provider import Final
from natterjack.spec import SessionSpec
from natterjack.values import ProviderUsage
from worker.audio.feed import Gap
from worker.errors import LeaseLost
from worker.metering.prices import Price
from worker.session.cutoff import Cutoff
from worker.session.lease import AlreadyClosed, KeyBusy, Lease, QueueUnknown
from worker.session.takeover import Claimant, Estimate

from .in_memory import Bucket, BucketStore, progress

RATE = 8000
SPEC = SessionSpec(
    session_id="session-1", tenant="t", conversation="c", speaker="s", sample_rate=RATE
)


class Holder:
    """A worker that claims the session under an epoch."""

    def __init__(self, bucket: Bucket, epoch: int = 1, spec: SessionSpec = SPEC) -> None:
        self.store = BucketStore(bucket)
        self.progress = progress(spec, epoch=epoch)
        self.cutoff = Cutoff(RATE, spec.max_seconds, ())
        claimant = Claimant(spec.session_id, 7, epoch, f"w{epoch}", f"h{epoch}", f"i{epoch}")
        self.lease = Lease(self.store, claimant, spec, self.progress, self.cutoff)
        self.first: int | None = 7
        self.record: SessionRecord | None = None
        self.end: StatusEvent | None = None

    async def first_queued(self, sequence: int) -> int | None:
        return self.first

    async def last_record(self, instance: str, holder: str, tenant: str) -> SessionRecord | None:
        assert (instance, holder, tenant) == ("i1", "h1", "t")
        return self.record

    async def end_of(self, session_id: str) -> StatusEvent | None:
        assert session_id == "session-0"
        return self.end

    async def acquire(self) -> Estimate | None:
        return await self.lease.acquire(self.first_queued, self.last_record, self.end_of)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


async def test_a_new_session_is_stored_before_anything_else(bucket: Bucket) -> None:
    holder = Holder(bucket)
    assert await holder.acquire() is None
    stored = bucket.read()
    assert stored is not None
    assert (stored.holder, stored.state, stored.position) == ("h1", "taking over", 0)


async def test_a_successor_continues_where_the_holder_stopped(bucket: Bucket) -> None:
    first = Holder(bucket)
    await first.acquire()
    first.progress.writer.position = 5 * RATE
    first.progress.writer.provider = first.lease.checkpoint.provider = "deepgram"
    first.progress.account_builder.gap(Gap(RATE, RATE // 2, "edge"))
    first.cutoff.stop("enough", 9 * RATE)
    first.lease.checkpoint.configured["keyterms"] = ["toad"]
    first.lease.checkpoint.state = "streaming"
    await first.lease.write()

    second = Holder(bucket, 2)
    second.record = SessionRecord(
        key="t.c.s", session_id="session-1", epoch=1, holder="h1", state="streaming",
        opened_at=SPEC.opened_at, captured_seconds=8, sent_until=7 * RATE,
        providers={"deepgram": ProviderUsage(sent_seconds=7, currency="USD")},
    )  # fmt: skip
    assert await second.acquire() == Estimate("deepgram", 0.5)
    assert second.progress.final == 5 * RATE
    assert second.progress.writer.provider == "deepgram"
    assert second.progress.sent_until == 7 * RATE + RATE // 2
    assert second.progress.ledger.sent_seconds == 7
    assert second.progress.account().gap_seconds == {"edge": 0.5}
    assert (second.cutoff.position, second.cutoff.reason) == (9 * RATE, "stopped: enough")
    assert second.lease.checkpoint.configured == {"keyterms": ["toad"]}
    assert second.lease.checkpoint.crashes == 1

    with pytest.raises(LeaseLost):
        await first.lease.write()


async def test_a_session_continues_the_one_before_it(bucket: Bucket) -> None:
    first = Holder(bucket)
    await first.acquire()
    first.progress.writer.position = 5 * RATE
    first.progress.account_builder.captured = 9 * RATE
    await first.lease.write(closed=True)

    spec = SPEC.model_copy(
        update={
            "session_id": "session-2", "continues": "session-1", "audio_of": "session-1",
            "start_position": 5 * RATE, "max_seconds": 10.0,
        }
    )  # fmt: skip
    second = Holder(bucket, spec=spec)
    await second.acquire()
    progress = second.progress
    assert (progress.start, progress.final, progress.sent_until) == (5 * RATE,) * 3
    assert progress.account_builder.captured == 9 * RATE, "it is stored already"
    assert progress.account().transcribed_seconds == 0
    assert second.cutoff.position == 15 * RATE
    progress.writer.position = 7 * RATE
    progress.account_builder.gap(Gap(4 * RATE, 2 * RATE, "edge"))
    await second.lease.write()

    third = Holder(bucket, 2, spec)
    await third.lease.acquire(third.first_queued, _no_record, third.end_of)
    assert (third.progress.start, third.progress.final) == (5 * RATE, 7 * RATE)
    account = third.progress.account()
    assert (account.captured_seconds, account.transcribed_seconds) == (4.0, 1.0)
    assert account.gap_seconds == {"edge": 1.0}, "only what lies behind the first frame"
    assert (third.cutoff.position, third.cutoff.seconds) == (15 * RATE, 10.0)


async def test_a_session_continues_one_that_others_have_followed(bucket: Bucket) -> None:
    other = Holder(bucket)
    await other.acquire()
    await other.lease.write(closed=True)
    links = {"session_id": "session-2", "continues": "session-0", "audio_of": "session-0"}
    third = Holder(bucket, spec=SPEC.model_copy(update=links))
    third.end = StatusEvent(
        session_id="session-0", tenant="t", conversation="c", speaker="s", epoch=1, sequence=9,
        state="failed", worker="w", position=5 * RATE, published_at=SPEC.opened_at,
    )  # fmt: skip
    await third.acquire()
    assert (third.progress.start, third.progress.final) == (5 * RATE, 5 * RATE)


async def test_a_write_between_reading_and_writing_is_read_too(bucket: Bucket) -> None:
    first, second = Holder(bucket), Holder(bucket, 2)
    await first.acquire()
    first.progress.writer.position = 3 * RATE
    second.store.after_read = first.lease.write
    await second.acquire()
    assert second.progress.final == 3 * RATE


async def test_crashes_are_counted_until_there_is_progress(bucket: Bucket) -> None:
    for epoch in (1, 2, 3):
        holder = Holder(bucket, epoch)
        await holder.lease.acquire(holder.first_queued, _no_record, holder.end_of)
        assert holder.lease.checkpoint.crashes == epoch - 1
        holder.lease.checkpoint.state = "streaming"
        await holder.lease.write()
    holder.progress.writer.position = 1
    await holder.lease.write()
    assert holder.lease.checkpoint.crashes == 0


async def _no_record(instance: str, holder: str, tenant: str) -> SessionRecord | None:
    return None


async def test_a_key_in_use_is_busy(bucket: Bucket) -> None:
    holder = Holder(bucket)
    holder.first = 3
    with pytest.raises(KeyBusy):
        await holder.acquire()
    assert not holder.store.writes


async def test_a_queue_that_does_not_answer_is_busy(bucket: Bucket) -> None:
    async def unknown(sequence: int) -> int | None:
        raise QueueUnknown

    holder = Holder(bucket)
    with pytest.raises(KeyBusy):
        await holder.lease.acquire(unknown, holder.last_record, holder.end_of)


async def test_a_closed_session_and_an_older_epoch_are_refused(bucket: Bucket) -> None:
    second = Holder(bucket, 2)
    await second.acquire()
    with pytest.raises(LeaseLost, match="w2 has epoch 2"):
        await Holder(bucket, 1).acquire()
    await second.lease.write(closed=True)
    with pytest.raises(AlreadyClosed):
        await Holder(bucket, 3).acquire()


async def test_an_unconfirmed_lease_is_confirmed_by_one_write(bucket: Bucket) -> None:
    holder = Holder(bucket)
    await holder.acquire()
    await holder.lease.confirm()
    assert len(holder.store.writes) == 1
    holder.lease.mark_unconfirmed()
    await holder.lease.confirm()
    await holder.lease.confirm()
    assert len(holder.store.writes) == 2
    assert not holder.lease.unconfirmed


async def test_a_lost_lease_is_never_confirmed(bucket: Bucket) -> None:
    first, second = Holder(bucket), Holder(bucket, 2)
    await first.acquire()
    await second.acquire()
    first.lease.mark_unconfirmed()
    for _ in range(2):
        with pytest.raises(LeaseLost):
            await first.lease.confirm()


@pytest.mark.parametrize(
    ("text", "position", "writes"),
    [("words", 10, 1), ("", 4 * RATE, 0), ("", 5 * RATE, 1)],
)
async def test_a_checkpoint_follows_words_and_long_silence(
    bucket: Bucket, text: str, position: int, writes: int
) -> None:
    holder = Holder(bucket)
    await holder.acquire()
    holder.progress.writer.position = position
    await holder.lease.after_final(Final(text, 0, 1))
    assert len(holder.store.writes) == 1 + writes


async def test_gaps_are_stored_before_the_final_behind_them(bucket: Bucket) -> None:
    holder = Holder(bucket)
    await holder.acquire()
    await holder.lease.before_final()
    assert len(holder.store.writes) == 1
    holder.progress.account_builder.gap(Gap(0, RATE // 2, "missing"))
    await holder.lease.before_final()
    await holder.lease.before_final()
    assert [checkpoint.gaps_until for checkpoint in holder.store.writes] == [0.0, 0.5]


async def test_a_checkpoint_carries_the_account(bucket: Bucket) -> None:
    holder = Holder(bucket)
    await holder.acquire()
    holder.progress.ledger.opened("deepgram", Price(0.0, "USD", "audio"), 0)
    holder.progress.ledger.closed(2 * RATE, 2.0, 2.5)
    await holder.lease.write(handed_over=True)
    stored = bucket.read()
    assert stored is not None
    assert stored.account is not None
    assert stored.account.providers["deepgram"].sent_seconds == 2.0
    assert (stored.sent_until, stored.state) == (2 * RATE, "handed over")

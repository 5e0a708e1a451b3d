"""Notices of an edge: published once and counted once, whatever ends a worker's lease."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.events import NoticeEvent
from natterjack.notices import OTHER, changes, label, parse_notes
from natterjack.plugin.provider import Final
from natterjack.spec import SessionSpec
from natterjack.subjects import EventKind
from natterjack.values import Account
from tests.searching import examples
from worker.audio.notices import MAX_PUBLISHED
from worker.audio.reorder import Chunk
from worker.errors import KindNotStored
from worker.session.cutoff import Cutoff
from worker.session.lease import Lease
from worker.session.output.timeline import Timeline
from worker.session.progress import Progress
from worker.session.takeover import Claimant

from .in_memory import Bucket, BucketStore, Published, progress

RATE = 8000
FRAMES = 800
SPEC = SessionSpec(
    session_id="session-1", tenant="t", conversation="c", speaker="s", sample_rate=RATE
)

Cut = Literal["before", "after"]
Step = tuple[str, int]


class Broker(Published):
    """Stores events. A publish may be cut off, before or after the event is stored."""

    cut: Cut | None = None
    takes_notices = True

    async def durable(self, kind: EventKind, make: Callable[[int], bytes]) -> None:
        if kind == "notice" and not self.takes_notices:
            raise KindNotStored("no")
        cut, self.cut = self.cut, None
        if cut == "before":
            raise asyncio.CancelledError
        await super().durable(kind, make)
        if cut == "after":
            raise asyncio.CancelledError

    def notices(self) -> list[tuple[int, str, str]]:
        found = [event for event in self.events if isinstance(event, NoticeEvent)]
        return [(event.audio_position, event.code, event.state) for event in found]


def chunk(index: int, note: str) -> Chunk:
    return Chunk(index, index * FRAMES, FRAMES, b"", 1_000_000_000, 0.0, False, 0, note)


class Worker:
    """A worker with the session's lease, which reads its audio in order."""

    def __init__(self, notes: list[str], broker: Broker, bucket: Bucket, epoch: int) -> None:
        self.notes = notes
        self.progress: Progress = progress(SPEC, broker, epoch)
        claimant = Claimant(SPEC.session_id, 7, epoch, f"w{epoch}", f"h{epoch}", "")
        cutoff = Cutoff(RATE, None, ())
        self.lease = Lease(BucketStore(bucket), claimant, SPEC, self.progress, cutoff)

    async def take_over(self) -> None:
        async def first_queued(sequence: int) -> int | None:
            return 7

        async def nothing(*_: str) -> None:
            return None

        await self.lease.acquire(first_queued, nothing, nothing)
        await self.progress.writer.resume()
        self.open_feed()

    def open_feed(self) -> None:
        start = self.progress.final
        self.next = start // FRAMES
        self.timeline = Timeline(RATE, start)

    def read(self, count: int) -> None:
        """Read chunks as the feed gives them: without what is before the end of finals."""
        for index in range(self.next, min(self.next + count, len(self.notes))):
            found = chunk(index, self.notes[index])
            if (skip := self.progress.final - found.position) > 0:
                found = found._replace(position=self.progress.final, frames=FRAMES - skip, note="")
            self.progress.account_builder.notice(found)
            self.timeline.advance(found.frames, 0.0, 0)
            self.next = index + 1

    async def final(self, back: int, *, checkpoint: bool) -> None:
        """Publish a final up to `back` frames before the end of what was sent."""
        seconds = max(0.0, self.timeline.sent_seconds - back / RATE)
        if not seconds:
            return
        await self.lease.before_final()
        event = Final("word", 0.0, seconds)
        await self.progress.writer.final(self.timeline, event)
        if checkpoint:
            await self.lease.after_final(event)


async def run(notes: list[str], steps: list[Step]) -> tuple[Broker, Account]:
    broker, bucket = Broker(), Bucket()
    worker = Worker(notes, broker, bucket, 1)
    await worker.take_over()
    for number, (step, size) in enumerate(steps, 2):
        if step == "read":
            worker.read(size)
        elif step == "publish":
            await worker.progress.publish_notices()
        elif step in ("before", "after"):
            await worker.progress.publish_notices()
            worker.read(size)
            broker.cut = "before" if step == "before" else "after"
            with contextlib.suppress(asyncio.CancelledError):
                await worker.progress.publish_notices()
            broker.cut = None
            if not size % 2:
                await worker.progress.publish_notices()
        elif step in ("final", "final and die"):
            await worker.final(100 * size, checkpoint=step == "final")
        if step == "fault":
            await worker.progress.writer.resume()
            worker.open_feed()
        elif step in ("die", "final and die"):
            worker = Worker(notes, broker, bucket, number)
            await worker.take_over()
    worker.read(len(notes))
    await worker.progress.publish_notices()
    return broker, worker.progress.closing_account()


NOTES = st.sampled_from(
    [
        "",
        "input_dead",
        "input_dead:end",
        "busy:end,muted",
        "muted:end,muted",
        "later_code,input_low",
    ]
)
STEPS = st.tuples(
    st.sampled_from(
        [
            "read",
            "read",
            "read",
            "publish",
            "before",
            "after",
            "final",
            "final and die",
            "fault",
            "die",
        ]
    ),
    st.integers(0, 12),
)


@examples(150)
@given(st.lists(NOTES, min_size=5, max_size=30), st.lists(STEPS, min_size=3, max_size=20))
def test_every_notice_is_published_once_and_counted_once(
    notes: list[str], steps: list[Step]
) -> None:
    broker, account = asyncio.run(run(notes, steps))
    expected = [
        (index * FRAMES, note.code, "ends" if note.ended else "begins")
        for index, text in enumerate(notes)
        for note in changes(parse_notes(text))
    ]
    assert broker.notices() == expected
    events = [event for event in broker.events if isinstance(event, NoticeEvent)]
    assert [event.notice for event in events] == list(range(len(expected)))
    assert [event.at for event in events] == [position / RATE for position, _, _ in expected]
    assert account.notices == Counter(label(code) for _, code, _ in expected)
    assert account.notices_suppressed == 0


async def test_a_flood_is_counted_and_not_published() -> None:
    notes = ["input_low", "input_low:end"] * MAX_PUBLISHED
    broker, account = await run(notes, [("read", 300), ("die", 0), ("read", 400), ("publish", 0)])
    assert len(broker.notices()) == MAX_PUBLISHED
    assert account.notices == {"input_low": 2 * MAX_PUBLISHED}
    assert account.notices_suppressed == MAX_PUBLISHED


async def test_a_successor_repeats_no_notice_of_the_session_before_it() -> None:
    broker, _ = await run(["input_dead", "", "muted:end", "later_code"], [])
    spec = SPEC.model_copy(
        update={"session_id": "session-2", "continues": "session-1", "audio_of": "session-1"}
    )
    successor = progress(spec, broker)
    for index, note in ((2, "muted:end"), (3, "later_code"), (4, "busy:end")):
        successor.account_builder.notice(chunk(index, note))
    await successor.publish_notices()
    assert broker.notices()[3:] == [(4 * FRAMES, "busy", "ends")]
    last = broker.events[-1]
    assert (last.session_id, last.notice, last.audio_of) == ("session-2", 0, "session-1")
    assert last.occurred_at.timestamp() == 1
    repeated = progress(
        SPEC.model_copy(update={"session_id": "s-3", "repeats": "session-1"}), broker
    )
    repeated.account_builder.notice(chunk(0, "input_dead"))
    await repeated.publish_notices()
    assert broker.notices()[4:] == [(0, "input_dead", "begins")]
    assert broker.events[-1].repeats == "session-1"


async def test_a_stream_that_takes_no_notices_does_not_stop_a_session() -> None:
    broker = Broker()
    broker.takes_notices = False
    made = progress(SPEC, broker)
    made.account_builder.notice(chunk(0, "input_dead,of_a_later_release"))
    await made.publish_notices()
    assert not made.account_builder.notices.pending
    assert made.closing_account().notices == {"input_dead": 1, OTHER: 1}


@pytest.mark.parametrize(
    "steps",
    [
        [
            ("read", 1),
            ("publish", 0),
            ("read", 1),
            ("publish", 0),
            ("die", 0),
            ("read", 1),
            ("publish", 0),
        ],
        [("read", 1), ("publish", 0), ("read", 1), ("before", 1), ("publish", 0)],
        [("read", 2), ("after", 1), ("publish", 0), ("die", 0), ("read", 1), ("after", 0)],
    ],
)
async def test_notices_that_a_worker_meets_after_it_has_asked(steps: list[Step]) -> None:
    notes = ["input_low,later_code", "input_low:end,muted", "busy:end"]
    broker, _ = await run(notes, steps)
    assert [code for _, code, _ in broker.notices()] == [
        "input_low", "later_code", "input_low", "muted", "busy",
    ]  # fmt: skip


async def test_a_publish_that_is_cut_off_between_the_notices_of_a_chunk() -> None:
    broker = Broker()
    made = progress(SPEC, broker)
    made.account_builder.notice(chunk(0, "a,b,c"))
    stored = broker.durable

    async def second_is_cut(kind: EventKind, make: Callable[[int], bytes]) -> None:
        if len(broker.events) == 1:
            broker.cut = "before"
        await stored(kind, make)

    broker.durable = second_is_cut  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await made.publish_notices()
    broker.durable = stored  # type: ignore[method-assign]
    await made.publish_notices()
    assert [code for _, code, _ in broker.notices()] == ["a", "b", "c"]

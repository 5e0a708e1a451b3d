"""Live audio in the feed, without a broker: the stream STT_AUDIO cannot be read."""

from __future__ import annotations

import asyncio

import pytest

from natterjack.audio import ChunkHeader, encode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.client.fastpath import Client
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.spec import SessionSpec
from tests.waiting import soon, until
from worker.audio.feed import Feed, Gap
from worker.audio.marks import Mark
from worker.audio.reorder import Chunk

SPEC = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=8000)
FRAMES = 100


@pytest.fixture
def feed() -> Feed:
    broker = Broker(Client())
    return Feed(broker, StreamStore(broker, streams.AUDIO), SPEC, Mark(), 0, 10.0)


def receive(
    feed: Feed, seq: int, *, pos: int | None = None, end: bool = False, frames: int = FRAMES,
    session_id: str = SPEC.session_id, note: str = "",
) -> None:  # fmt: skip
    """A live chunk. All bytes of chunk n are n modulo 251."""
    position = FRAMES * seq if pos is None else pos
    headers = encode_chunk_headers(ChunkHeader(session_id, seq, position, 1 + seq, end, note))
    raw = b"NATS/1.0\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items()) + b"\r\n"
    feed._received(b"", b"", raw, bytes([seq % 251]) * (2 * frames))


async def items(feed: Feed) -> list[Chunk | Gap]:
    found = []
    while (item := await feed.next(0.0)) is not None:
        found.append(item)
    return found


async def seqs(feed: Feed) -> list[int]:
    return [item.seq for item in await items(feed) if isinstance(item, Chunk)]


async def test_chunks_are_put_in_order_once(feed: Feed) -> None:
    for seq in (0, 2, 1, 1, 0, 3):
        receive(feed, seq)
    assert await seqs(feed) == [0, 1, 2, 3]
    assert not feed.bad
    assert feed.head == 4 * FRAMES


async def test_a_hole_is_waited_for(feed: Feed) -> None:
    receive(feed, 0)
    receive(feed, 2)
    assert await seqs(feed) == [0]
    receive(feed, 1)
    assert await seqs(feed) == [1, 2]


async def test_frames_that_the_edge_left_out_are_a_gap(feed: Feed) -> None:
    receive(feed, 0)
    for seq in (1, 2):
        receive(feed, seq, pos=FRAMES * seq + 50)
    first, gap, second, third = await items(feed)
    assert gap == Gap(FRAMES, 50, "edge")
    assert [first.position, second.position, third.position] == [0, 150, 250]


@pytest.mark.parametrize(
    ("note", "cause"),
    [("suspended:end", "suspended"), ("input_low,busy:end", "busy"), ("anything:end", "edge")],
)
@pytest.mark.parametrize("reverse", [False, True])
async def test_the_edge_tells_the_cause_of_a_gap(
    feed: Feed, note: str, cause: str, reverse: bool
) -> None:
    receive(feed, 0)
    for seq in (2, 1) if reverse else (1, 2):
        receive(feed, seq, pos=FRAMES * seq + 50, note=note if seq == 1 else "")
    _, gap, second, _ = await items(feed)
    assert gap == Gap(FRAMES, 50, cause)
    assert isinstance(second, Chunk)
    assert second.note == note
    assert not feed.bad


async def test_a_chunk_that_overlaps_is_bad(feed: Feed) -> None:
    receive(feed, 0)
    receive(feed, 1, pos=0)
    receive(feed, 2)
    await feed.next(0.0)
    # It stays unconfirmed until no better chunk has come for a while.
    feed._hole_seconds = 0.0
    feed._unconfirmed_since = -1.0
    gap, chunk = await items(feed)
    assert gap == Gap(FRAMES, FRAMES, "bad_chunk")
    assert isinstance(chunk, Chunk)
    assert chunk.seq == 2
    assert feed.bad == {"position": 1}


async def test_the_last_chunk_ends_the_audio(feed: Feed) -> None:
    receive(feed, 0)
    receive(feed, 1, end=True, frames=0)
    assert await seqs(feed) == [0, 1]
    assert feed.ended


async def test_another_session_on_the_key_is_noted(feed: Feed) -> None:
    receive(feed, 0, session_id="another")
    assert await seqs(feed) == []
    assert feed.superseded


async def test_nonsense_is_counted_once(feed: Feed) -> None:
    for _ in range(2):
        feed._received(b"", b"", b"NATS/1.0\r\n\r\n", b"\0\0")
    assert await seqs(feed) == []
    assert sum(feed.bad.values()) == 1


async def test_a_forged_chunk_far_ahead_is_bad(feed: Feed) -> None:
    receive(feed, 0)
    receive(feed, 10_000, pos=200)
    assert await seqs(feed) == [0]
    assert feed.bad == {"position": 1}
    assert feed.head == FRAMES


async def test_the_sink_takes_chunks_that_are_next(feed: Feed) -> None:
    taken: list[int] = []

    def sink(seq: int, frames: int, payload: bytes, time_ns: int, now: float) -> bool:
        taken.append(seq)
        return True

    receive(feed, 0)
    assert await seqs(feed) == [0]
    feed.sink = sink
    receive(feed, 1)  # `next` does not wait: the chunk is buffered
    assert await seqs(feed) == [1]
    waiting = asyncio.create_task(feed.next(60))
    await until(lambda: feed._waiter is not None, "it waits")
    receive(feed, 2)
    receive(feed, 3)
    assert taken == [2, 3]
    feed.nudge()
    assert await soon(waiting, 5) is None


async def test_what_is_given_back_comes_again(feed: Feed) -> None:
    receive(feed, 0)
    first = await feed.next(0.0)
    assert first is not None
    feed.give_back(first)
    assert await feed.next(0.0) is first


async def test_audio_before_the_first_frame_keeps_no_session_alive() -> None:
    broker = Broker(Client())
    start = 5 * FRAMES + 50
    feed = Feed(broker, StreamStore(broker, streams.AUDIO), SPEC, Mark(), start, 10.0)
    before = feed.last_arrival = feed.last_arrival - 60
    for seq in range(5):
        receive(feed, seq)
    assert await seqs(feed) == []
    assert feed.last_arrival == before
    assert feed.short_of_start
    receive(feed, 5)
    (chunk,) = await items(feed)
    assert isinstance(chunk, Chunk)
    assert (chunk.position, chunk.frames) == (start, 50)
    assert feed.last_arrival > before
    assert not feed.short_of_start

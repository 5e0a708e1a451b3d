"""The feed against a real broker: live, stored, holes, doubles, forgeries, a killed server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from nats.js.api import DiscardPolicy
from nats.js.errors import APIError

from edge_capture.delivery.flac import flac_encoder
from natterjack.audio import ChunkHeader, encode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.stored import StreamStore
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject
from tests.waiting import bound
from tests.worker.conftest import PlainEdge
from worker.audio.feed import Feed, Gap
from worker.audio.marks import Mark
from worker.audio.reorder import Chunk

pytestmark = pytest.mark.process

START = Mark()
OpenFeed = Callable[..., AbstractAsyncContextManager[Feed]]


@pytest.fixture
def open_feed(ready_broker: Broker, audio_store: StreamStore, edge: PlainEdge) -> OpenFeed:
    @asynccontextmanager
    async def make(
        mark: Mark = START,
        position: int = 0,
        hole_seconds: float = 0.6,
    ) -> AsyncIterator[Feed]:
        feed = Feed(ready_broker, audio_store, edge.spec, mark, position, hole_seconds)
        await feed.open()
        try:
            yield feed
        finally:
            await feed.close()

    return make


async def take(feed: Feed, count: int) -> list[Chunk | Gap]:
    items: list[Chunk | Gap] = []
    for _ in range(count):
        item = await feed.next(bound(10))
        assert item is not None, f"nothing came after {seqs(items)}"
        items.append(item)
    return items


def seqs(items: list[Chunk | Gap]) -> list[int | str]:
    return [item.seq if isinstance(item, Chunk) else item.cause for item in items]


async def test_stored_audio_comes_first_and_live_audio_follows(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    await edge.publish(*range(200))
    async with open_feed() as feed:
        first = await take(feed, 200)
        await edge.publish(*range(200, 210))
        await edge.publish(210, end=True, frames=0)
        items = first + await take(feed, 11)
        assert seqs(items) == list(range(211))
        assert feed.ended
        assert [item.position for item in items] == [n * 100 for n in range(211)]
        assert all(
            isinstance(i, Chunk) and i.payload == bytes([i.seq % 251]) * 200 for i in items[:-1]
        )
        assert not feed.bad


async def test_opened_in_the_middle_of_a_chunk(edge: PlainEdge, open_feed: OpenFeed) -> None:
    await edge.publish(*range(20))
    async with open_feed(position=730) as feed:
        chunk = (await take(feed, 1))[0]
        assert isinstance(chunk, Chunk)
        assert (chunk.seq, chunk.position, chunk.frames, len(chunk.payload)) == (7, 730, 70, 140)
        assert chunk.time_ns == 1_000_000_000 + 730 * 125_000
        assert seqs(await take(feed, 12)) == list(range(8, 20))


async def test_flac_is_decoded_wherever_it_comes_from(
    ready_broker: Broker, audio_store: StreamStore
) -> None:
    """Stored, live, from the middle of a chunk, and with a damaged chunk, which is a gap."""
    plain = PlainEdge(ready_broker)
    edge = PlainEdge(ready_broker, plain.spec.model_copy(update={"encoding": "flac"}))
    encode = flac_encoder(8000)

    async def publish(*seqs: int, payload: bytes | None = None, end: bool = False) -> None:
        for seq in seqs:
            header = ChunkHeader(edge.spec.session_id, seq, seq * 100, seq, end)
            pcm = bytes([seq]) * (0 if end else 200)
            await edge.raw(encode_chunk_headers(header), payload or encode(pcm))

    await publish(*range(20))
    feed = Feed(ready_broker, audio_store, edge.spec, START, 730, 0.6)
    await feed.open()
    try:
        first, *rest = await take(feed, 13)
        assert isinstance(first, Chunk)
        assert (first.seq, first.position, first.payload) == (7, 730, bytes([7]) * 140)
        waiting = asyncio.ensure_future(take(feed, 1))
        await publish(20)
        live = [*rest, *await waiting]
        assert [(i.seq, i.payload) for i in live if isinstance(i, Chunk)] == [
            (seq, bytes([seq]) * 200) for seq in range(8, 21)
        ]
        await publish(21, payload=encode(bytes(200))[:-1])
        await publish(22, payload=bytes(200))
        await publish(23, 24)
        await publish(25, end=True)
        assert seqs(await take(feed, 4)) == ["missing", 23, 24, 25]
        assert feed.ended
        assert feed.bad == {"flac": 2}
    finally:
        await feed.close()


async def test_doubles_and_wrong_order_are_put_right(edge: PlainEdge, open_feed: OpenFeed) -> None:
    async with open_feed() as feed:
        await edge.publish(0, 0, 2, 1, 1, 2, 5, 4, 3, 6)
        assert seqs(await take(feed, 7)) == list(range(7))


async def test_a_hole_that_is_filled_late_is_no_gap(edge: PlainEdge, open_feed: OpenFeed) -> None:
    async with open_feed(hole_seconds=30) as feed:
        await edge.publish(0, 1, 3, 4)
        assert seqs(await take(feed, 2)) == [0, 1]
        assert await feed.next(0.7) is None
        await edge.publish(2)
        assert seqs(await take(feed, 3)) == [2, 3, 4]


async def test_a_stream_that_stores_nothing_proves_no_hole(
    edge: PlainEdge, open_feed: OpenFeed, ready_broker: Broker
) -> None:
    """A stream without a leader behaves like this. The edge resends the chunks that arrive
    meanwhile."""
    await edge.publish(0, 1)
    js = ready_broker.client.jetstream()
    config = (await js.stream_info(streams.AUDIO)).config
    config.max_msgs, config.discard = 2, DiscardPolicy.NEW
    await js.update_stream(config)
    async with open_feed(hole_seconds=0.3) as feed:
        assert seqs(await take(feed, 2)) == [0, 1]
        for seq in (4, 5):
            with pytest.raises(APIError):
                await edge.publish(seq)
        assert await feed.next(1.5) is None  # longer than any hole is waited for
        config.max_msgs = -1
        await js.update_stream(config)
        await edge.publish(2, 3, 4, 5)
        assert seqs(await take(feed, 4)) == [2, 3, 4, 5]


async def test_a_hole_that_nobody_fills_becomes_a_gap(edge: PlainEdge, open_feed: OpenFeed) -> None:
    async with open_feed() as feed:
        await edge.publish(0, 1, 5, 6)
        items = await take(feed, 5)
        assert seqs(items) == [0, 1, "missing", 5, 6]
        assert items[2] == Gap(200, 300, "missing")


async def test_what_the_edge_left_out_is_a_gap_at_once(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async with open_feed(hole_seconds=60) as feed:
        await edge.publish(0)
        await edge.publish(1, pos=1000)
        items = await take(feed, 3)
        assert seqs(items) == [0, "edge", 1]
        assert items[1] == Gap(100, 900, "edge")


async def test_forged_positions_are_left_out_and_counted(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async with open_feed() as feed:
        await edge.publish(0, 1)
        await edge.publish(2, pos=50)
        await edge.publish(3)
        await edge.publish(4, pos=10**15)
        await edge.publish(5)
        items = await take(feed, 6)
        assert seqs(items) == [0, 1, "bad_chunk", 3, "bad_chunk", 5]
        assert [i.position for i in items] == [0, 100, 200, 300, 400, 500]
        assert feed.bad == {"position": 2}


async def test_a_hole_with_more_behind_it_than_there_is_room_for(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    await edge.publish(*(n for n in range(400) if n != 10))
    async with open_feed() as feed:
        items = await take(feed, 400)
        assert seqs(items) == [*range(10), "missing", *range(11, 400)]


async def test_a_hole_while_short_chunks_come_fast(edge: PlainEdge, open_feed: OpenFeed) -> None:
    async with open_feed(hole_seconds=1) as feed:
        await edge.publish(*range(10))
        await take(feed, 10)
        await edge.publish(*range(11, 300))
        assert seqs(await take(feed, 290)) == ["missing", *range(11, 300)]


async def test_a_chunk_that_was_stored_far_too_late(edge: PlainEdge, open_feed: OpenFeed) -> None:
    await edge.publish(*(n for n in range(300) if n != 10))
    await edge.publish(10)
    async with open_feed() as feed:
        assert seqs(await take(feed, 300)) == list(range(300))


async def test_reading_from_a_place_that_was_stored_out_of_order(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async with open_feed() as feed:
        await edge.publish(*range(130))
        await take(feed, 130)
        await edge.publish(131, 132, 130)
        await take(feed, 3)
        await feed.probe()
        mark = feed.mark_before(13_050)
    await edge.publish(*range(133, 150))
    async with open_feed(mark=mark, position=13_050) as feed:
        assert seqs(await take(feed, 20)) == list(range(130, 150))


async def test_a_bad_chunk_that_comes_long_before_its_turn_is_counted_once(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    """Live, while the feed waits at a hole far behind; and again from the stream, in its turn."""
    async with open_feed() as feed:
        await edge.publish(0)
        items = await take(feed, 1)
        await edge.publish(*range(2, 160))
        await edge.publish(160, pos=5)
        await edge.publish(*range(161, 180))
        items += await take(feed, 179)
        assert seqs(items) == [0, "missing", *range(2, 160), "bad_chunk", *range(161, 180)]
        assert feed.bad == {"position": 1}


async def test_a_chunk_forged_far_ahead_costs_nothing(edge: PlainEdge, open_feed: OpenFeed) -> None:
    async with open_feed(hole_seconds=0.2) as feed:
        await edge.publish(0, 1)
        await edge.publish(10**6, pos=10**15)
        await edge.publish(50, pos=10**15)
        assert seqs(await take(feed, 2)) == [0, 1]
        assert await feed.next(1.5) is None  # longer than any hole is waited for
        await edge.publish(2, 3)
        await edge.publish(4, end=True, frames=0)
        assert seqs(await take(feed, 3)) == [2, 3, 4]
        assert feed.bad == {"position": 2}


async def test_audio_that_begins_days_after_the_first_frame(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    """As that of a successor to which no place in the stream is known, and whose first chunks have
    expired."""
    start = 2 * 24 * 3600 * edge.spec.sample_rate
    first = start // PlainEdge.FRAMES
    await edge.publish(*range(first + 5, first + 10))
    async with open_feed(position=start, hole_seconds=0.2) as feed:
        gap, *chunks = await take(feed, 6)
        assert gap == Gap(start, 5 * PlainEdge.FRAMES, "missing")
        assert seqs(chunks) == list(range(first + 5, first + 10))
        await edge.publish(first + 10)
        assert seqs(await take(feed, 1)) == [first + 10]
        assert not feed.bad
        assert not feed.superseded


async def test_a_chunk_that_looks_like_an_answer_of_the_server(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    await edge.publish(0)
    headers = {"Session-Id": edge.spec.session_id, "Status": "404", "Nats-Sequence": "7"}
    await edge.raw(headers, b"")
    await edge.publish(*range(1, 100))
    async with open_feed() as feed:
        assert seqs(await take(feed, 100)) == list(range(100))


async def test_waiting_reads_little(
    edge: PlainEdge, open_feed: OpenFeed, ready_broker: Broker
) -> None:
    key = edge.spec.key._asdict()
    await PlainEdge(ready_broker, SessionSpec(**key, sample_rate=8000)).publish(*range(500))
    async with open_feed() as feed:
        assert await feed.next(0.5) is None  # all of it is another session's, and was read
        before = ready_broker.client.stats["in_msgs"]
        for _ in range(12):
            assert await feed.next(0.25) is None
        assert ready_broker.client.stats["in_msgs"] - before < 20
        assert feed.caught_up


async def test_a_hole_does_not_read_the_stream_again_and_again(
    edge: PlainEdge, open_feed: OpenFeed, ready_broker: Broker
) -> None:
    await edge.publish(*range(300))
    async with open_feed(hole_seconds=2) as feed:
        await take(feed, 300)
        before = ready_broker.client.stats["in_msgs"]
        await edge.publish(*range(301, 320))
        assert not feed.caught_up or await feed.next(0.01) is None
        items = await take(feed, 20)
        assert seqs(items) == ["missing", *range(301, 320)]
        # Twice from the start, in case it was stored out of order; else only what is new.
        assert ready_broker.client.stats["in_msgs"] - before < 2 * 320 + 4 * 19 + 50


async def test_bad_headers_and_sizes_are_counted_once_whether_live_or_stored(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async def nonsense() -> None:
        await edge.raw(None, b"\1\0" * 10)
        await edge.raw({"Session-Id": edge.spec.session_id, "Audio-Seq": "x"}, b"\2\0" * 10)
        good = {"Session-Id": edge.spec.session_id, "Audio-Pos": "0", "Audio-Time": "1"}
        await edge.raw({**good, "Audio-Seq": "-4"}, b"\3\0")
        await edge.raw({**good, "Audio-Seq": "9"}, b"odd")
        await edge.raw({**good, "Audio-Seq": "9"}, b"")

    await edge.publish(0)
    await nonsense()
    async with open_feed() as feed:
        await edge.publish(1)
        assert seqs(await take(feed, 2)) == [0, 1]
        assert feed.bad == {"headers": 3, "size": 2}
        await edge.raw({"Session-Id": edge.spec.session_id}, b"\4\0")
        await edge.publish(2)
        await take(feed, 1)
        assert feed.bad == {"headers": 4, "size": 2}


async def test_other_sessions_on_the_key_are_not_ours(
    edge: PlainEdge, open_feed: OpenFeed, ready_broker: Broker
) -> None:
    key = edge.spec.key._asdict()
    older = PlainEdge(ready_broker, SessionSpec(**key, sample_rate=8000))
    newer = PlainEdge(ready_broker, SessionSpec(**key, sample_rate=8000))
    await older.publish(*range(5))
    await edge.publish(0, 1)
    async with open_feed() as feed:
        assert seqs(await take(feed, 2)) == [0, 1]
        assert not feed.superseded
        await newer.publish(0)
        await edge.publish(2)
        assert seqs(await take(feed, 1)) == [2]
        assert feed.superseded
        assert not feed.bad


async def test_memory_is_bounded_when_nobody_reads(edge: PlainEdge, open_feed: OpenFeed) -> None:
    async with open_feed() as feed:
        await edge.publish(*range(400))
        await asyncio.sleep(0)  # let the subscription's task run
        assert len(feed._ahead) <= 128
        assert seqs(await take(feed, 400)) == list(range(400))


async def test_a_mark_lets_it_start_near_the_position(
    edge: PlainEdge, open_feed: OpenFeed, ready_broker: Broker
) -> None:
    async with open_feed() as feed:
        await edge.publish(*range(300))
        await take(feed, 300)
        mark = feed.mark_before(15_050)
        assert mark.position <= 15_050
        assert mark.seq > 50
    await ready_broker.client.jetstream().purge_stream(
        streams.AUDIO, seq=mark.stream_sequence, subject=audio_subject(edge.spec.key)
    )
    async with open_feed(mark=mark, position=15_050) as feed:
        chunk = (await take(feed, 1))[0]
        assert chunk.position == 15_050


async def test_the_end_that_was_stored_before_its_neighbour_is_found_from_any_mark(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async with open_feed() as feed:
        await edge.publish(0, 1, 2)
        await edge.publish(4, end=True)
        await edge.publish(3)
        await take(feed, 5)
        await feed.probe()
        await feed.probe()
        mark = feed.mark_before(350)
    async with open_feed(mark=mark, position=350) as feed:
        assert seqs(await take(feed, 2)) == [3, 4]
        assert feed.ended


async def test_the_end_is_found_from_where_the_audio_ends(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async with open_feed() as feed:
        await edge.publish(*range(5))
        await edge.publish(5, end=True, frames=0)
        await take(feed, 6)
        await feed.probe()
        await feed.probe()
        mark = feed.mark_before(500)
    async with open_feed(mark=mark, position=500) as feed:
        assert seqs(await take(feed, 1)) == [5]


async def test_a_forged_double_of_an_old_chunk_is_no_place_to_read_from(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async with open_feed() as feed:
        await edge.publish(*range(10))
        await take(feed, 10)
        forged = ChunkHeader(edge.spec.session_id, 8, 1, 1, False)
        await edge.raw({**encode_chunk_headers(forged), "Nats-Msg-Id": "forged"}, b"\7\7")
        await feed.probe()
        await feed.probe()
        mark = feed.mark_before(250)
    async with open_feed(mark=mark, position=250) as feed:
        items = await take(feed, 8)
        assert seqs(items) == list(range(2, 10))
        assert items[0].position == 250


async def test_distant_chunks_make_room_for_those_behind_a_hole(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async with open_feed() as feed:
        await edge.publish(0)
        await take(feed, 1)
        await edge.publish(*range(10, 150))  # more than there is room for, out of order
        await edge.publish(*range(2, 10))
        assert seqs(await take(feed, 149)) == ["missing", *range(2, 150)]


async def test_a_bad_position_does_not_give_up_the_hole_before_it(
    edge: PlainEdge, open_feed: OpenFeed
) -> None:
    async with open_feed(hole_seconds=30) as feed:
        await edge.publish(0, 1)
        await edge.publish(3, pos=0)
        assert seqs(await take(feed, 2)) == [0, 1]
        assert await feed.next(0.3) is None
        await edge.publish(2, 4)
        assert seqs(await take(feed, 3)) == [2, "bad_chunk", 4]


async def test_a_cancelled_look_is_looked_again(edge: PlainEdge, open_feed: OpenFeed) -> None:
    await edge.publish(*range(5))
    async with open_feed() as feed:
        for ticks in range(20):
            task = asyncio.create_task(feed.next(bound(10)))
            for _ in range(ticks):
                await asyncio.sleep(0)
            if not task.done():
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not feed.caught_up
                continue
            assert seqs([item for item in [await task] if item is not None]) == [0]
            break


async def test_nothing_is_lost_when_the_server_is_killed(
    nats_server: EmbeddedServer,
    broker_settings: BrokerSettings,
    edge: PlainEdge,
    open_feed: OpenFeed,
) -> None:
    async with open_feed() as feed:
        await edge.publish(*range(10))
        assert seqs(await take(feed, 10)) == list(range(10))
        nats_server.kill()
        nats_server.start()
        # Another client is back before the feed's connection is.
        async with connected(broker_settings, name="edge", once=True) as own:
            await PlainEdge(own, edge.spec).publish(*range(10, 30))
        assert seqs(await take(feed, 20)) == list(range(10, 30))

"""The feed driven by random scripts, against a model that knows what it must give out.

A script is what happens to one session on a real broker: chunks published in any order, live and
stored, again and again, between other sessions' and nonsense; connections cut, the server killed;
feeds opened, read, cancelled, closed and opened again elsewhere. Whatever the script, each feed
gives out every frame from its position on exactly once, in order, and a gap only where no chunk is.

Outside of what the feed can promise, so not in the scripts: a forged chunk that comes before the
true one of its number, and one whose position could be true. Only the order of events is random,
never how long they take: a hole is given up when the script says so.

TEST_SEARCH=30 tries ninety times as many examples, new ones in each run.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from natterjack.audio import MSG_ID, ChunkHeader, encode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.stored import StreamStore
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject
from tests.faults.proxy import NatsProxy
from tests.nats_server import NatsServer
from tests.searching import examples
from tests.waiting import bound, until
from worker.audio.feed import Feed, Gap
from worker.audio.marks import Mark
from worker.audio.reorder import Chunk

# nats-py leaves the socket of an attempt to connect that fails to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

SOUND = random.Random(1).randbytes(2 * 4096)
"""Frame n of every session: which frames a payload has can be told from its bytes."""
FAR = 10**15
FOR_GOOD, AT_ONCE = 3600.0, 0.01
MAX_FEEDS = 3


# ---- the session, as its edge made it ---------------------------------------------------------


class Piece(NamedTuple):
    """A chunk and what becomes of it."""

    frames: int
    left_out: int
    """Frames before it that the edge left out."""
    fate: Literal["sent", "lost", "bad"]
    """`bad`: it is published with a position that cannot be."""


class Session(NamedTuple):
    pieces: list[Piece]
    ended: bool
    last_frames: int
    """Frames in the chunk that carries the end, if there is one."""


class Placed(NamedTuple):
    """A chunk of the session at its true place."""

    seq: int
    position: int
    frames: int
    fate: str
    end: bool

    @property
    def until(self) -> int:
        return self.position + self.frames

    @property
    def payload(self) -> bytes:
        return SOUND[2 * self.position : 2 * self.until]


def placed(session: Session) -> list[Placed]:
    chunks, position = [], 0
    pieces = list(session.pieces)
    if session.ended:
        pieces.append(Piece(session.last_frames, 0, "sent"))
    for seq, piece in enumerate(pieces):
        position += piece.left_out
        end = session.ended and seq == len(pieces) - 1
        # A position is known to be bad only when it lies within what is known.
        fate = piece.fate if seq else "sent"
        chunks.append(Placed(seq, position, piece.frames, fate, end))
        position += piece.frames
    return chunks


# ---- one example ------------------------------------------------------------------------------


class Reader:
    """A feed, and the model's opinion of each thing that it gives out."""

    def __init__(self, world: World, feed: Feed, start: int) -> None:
        self.world = world
        self.feed = feed
        self.start = self.position = start
        self.ended = False
        self.given_up: set[int] = set()

    def check(self, item: Chunk | Gap | None) -> None:
        assert len(self.feed._ahead) <= self.world.limits.ahead + 1
        if item is None:
            return
        assert not self.ended, f"after the end: {item}"
        assert item.position == self.position, item
        end = item.position + item.frames
        if isinstance(item, Gap):
            assert item.frames > 0
            for chunk in self.world.chunks:
                if chunk.position < end and chunk.until > item.position:
                    lost = chunk.fate != "sent" or chunk.seq in self.given_up
                    assert lost, f"{item} where {chunk} is"
        else:
            true = self.world.chunks[item.seq]
            assert true.position <= item.position
            assert end == true.until
            assert true.fate == "sent"
            assert item.payload == SOUND[2 * item.position : 2 * end]
            assert item.end == true.end
            self.ended = item.end
        self.position = end
        assert self.feed.ended == self.ended

    async def next(self, timeout: float) -> Chunk | Gap | None:
        item = await self.feed.next(timeout)
        self.check(item)
        return item

    async def cancelled_next(self, ticks: int) -> None:
        task = asyncio.create_task(self.feed.next(bound(10)))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self.check(await task)

    async def give_up_holes(self) -> None:
        """Read all that was published up to now; what was not is lost to this feed."""
        await self.world.settle()
        sent = [c for c in self.world.chunks if c.seq in self.world.published and c.fate == "sent"]
        if not sent:
            return
        self.given_up |= {n for n in range(sent[-1].seq) if n not in self.world.published}
        self.feed._hole_seconds = AT_ONCE

        async def all_read() -> bool:
            await self.next(0.05)
            return self.position >= sent[-1].until and self.ended >= sent[-1].end

        await until(all_read, f"the feed gives out all up to {sent[-1]}")
        self.feed._hole_seconds = FOR_GOOD


class Limits(NamedTuple):
    """The feed's own, and small ones that a short session reaches."""

    ahead: int
    batch: int


LIMITS = [Limits(128, 64), Limits(5, 3), Limits(2, 1)]


class World:
    def __init__(
        self,
        server: NatsServer,
        session: Session,
        limits: Limits,
        proxy: NatsProxy,
        broker: Broker,
        edge: Broker,
    ) -> None:
        self.server = server
        self.limits = limits
        self.proxy = proxy
        self.broker = broker
        self.edge = edge
        self.store = StreamStore(broker, streams.AUDIO)
        self.chunks = placed(session)
        self.waiting = [c.seq for c in self.chunks if c.fate != "lost"]
        """Chunks that are still to be published."""
        self.published: list[int] = []
        self.spec = self.new_spec()
        self.subject = audio_subject(self.spec.key)
        self.js = edge.client.jetstream()
        self.readers: list[Reader] = []
        self.others = 0

    _speakers = itertools.count()

    def new_spec(self, speaker: str | None = None) -> SessionSpec:
        speaker = speaker or f"s{next(self._speakers)}"
        return SessionSpec(tenant="t", conversation="c", speaker=speaker, sample_rate=8000)

    async def publish(
        self,
        headers: dict[str, str] | None,
        payload: bytes,
        *,
        acked: bool = True,
    ) -> None:
        if acked:
            await self.js.publish(self.subject, payload, headers=headers)
        else:
            await self.edge.client.publish(self.subject, payload, headers=headers)

    async def publish_chunk(
        self, seq: int, *, acked: bool = True, other: dict[str, str | None] | None = None
    ) -> None:
        chunk = self.chunks[seq]
        position = 0 if chunk.fate == "bad" else chunk.position
        headers: dict[str, Any] = {
            **encode_chunk_headers(
                ChunkHeader(self.spec.session_id, seq, position, 1 + seq, chunk.end)
            ),
            **(other or {}),
        }
        headers = {name: value for name, value in headers.items() if value is not None}
        await self.publish(headers, chunk.payload, acked=acked)

    def take_waiting(self, index: int) -> int | None:
        if not self.waiting:
            return None
        seq = self.waiting.pop(min(index, len(self.waiting) - 1))
        self.published.append(seq)
        return seq

    async def settle(self) -> None:
        """All that was published is stored, and the feeds' connection is up."""
        await self.edge.client.flush()
        await self.heal()

    async def heal(self) -> None:
        self.proxy.heal()
        self.proxy._triggers.clear()
        await until(lambda: self.broker.connected, "the connection is back")

    async def open(self, mark: Mark, position: int) -> Reader:
        feed = Feed(self.broker, self.store, self.spec, mark, position, FOR_GOOD)
        await feed.open()
        return Reader(self, feed, position)

    def reader(self, index: int) -> Reader | None:
        return self.readers[index % len(self.readers)] if self.readers else None

    @property
    def length(self) -> int:
        return self.chunks[-1].until


# ---- what may happen --------------------------------------------------------------------------


class Publish(NamedTuple):
    """The next chunk, or one that is not the next: a hole, and wrong order."""

    nth: int
    acked: bool

    async def run(self, world: World) -> None:
        seq = world.take_waiting(self.nth)
        if seq is not None:
            await world.publish_chunk(seq, acked=self.acked)


class Burst(NamedTuple):
    """Many in one write, in this order."""

    order: list[int]

    async def run(self, world: World) -> None:
        for index in self.order:
            await Publish(index, False).run(world)
        await world.edge.client.flush()


class Again(NamedTuple):
    """A chunk that is published already, with its own message id, none or another."""

    back: int
    msg_id: Literal["same", "none", "other"]

    async def run(self, world: World) -> None:
        if not world.published:
            return
        seq = world.published[-1 - self.back % len(world.published)]
        other: dict[str, str | None] = {}
        if self.msg_id != "same":
            world.others += 1
            other = {MSG_ID: None if self.msg_id == "none" else f"other {world.others}"}
        await world.publish_chunk(seq, other=other)


class OtherSession(NamedTuple):
    seq: int

    async def run(self, world: World) -> None:
        other = world.new_spec(world.spec.speaker)
        header = ChunkHeader(other.session_id, self.seq, self.seq * 10, 1, False)
        await world.publish(encode_chunk_headers(header), b"\1\2" * 10)


class Nonsense(NamedTuple):
    kind: Literal["none", "no number", "negative", "odd", "empty", "status"]

    async def run(self, world: World) -> None:
        good = {"Session-Id": world.spec.session_id, "Audio-Pos": "0", "Audio-Time": "1"}
        headers: dict[str, dict[str, str] | None] = {
            "none": None,
            "no number": {**good, "Audio-Seq": "x"},
            "negative": {**good, "Audio-Seq": "-1"},
            "odd": {**good, "Audio-Seq": "0"},
            "empty": {**good, "Audio-Seq": "0"},
            "status": {**good, "Status": "404", "Nats-Sequence": "7"},
        }
        payload = {"odd": b"odd", "empty": b""}.get(self.kind, b"\0\0")
        await world.publish(headers[self.kind], payload)


class ForgedOld(NamedTuple):
    """Another sound at an impossible place, with the number of a chunk that all feeds passed."""

    seq: int
    position: int

    async def run(self, world: World) -> None:
        passed = min((reader.feed._next_seq for reader in world.readers), default=0)
        sent = [c for c in world.chunks if c.seq < passed and c.fate == "sent"]
        old = [c.seq for c in sent if c.seq in world.published]
        if old:
            seq = old[-1 - self.seq % len(old)]
            header = ChunkHeader(world.spec.session_id, seq, self.position, 1, False)
            headers = encode_chunk_headers(header) | {MSG_ID: f"forged {world.others}"}
            world.others += 1
            await world.publish(headers, b"\7\7" * 10)


class ForgedFar(NamedTuple):
    """A chunk that the session does not have, at a place where it cannot be."""

    beyond: int
    end: bool

    async def run(self, world: World) -> None:
        seq = len(world.chunks) + self.beyond
        header = ChunkHeader(world.spec.session_id, seq, FAR, 1, self.end)
        await world.publish(encode_chunk_headers(header), b"\7\7" * 10)


class Open(NamedTuple):
    """A feed of the whole session, or of what comes after a part of it."""

    per_mille: int

    async def run(self, world: World) -> None:
        if len(world.readers) < MAX_FEEDS and world.broker.connected:
            position = world.length * self.per_mille // 1000
            world.readers.append(await world.open(Mark(), position))


class Read(NamedTuple):
    feed: int
    times: int
    timeout_ms: int

    async def run(self, world: World) -> None:
        if (reader := world.reader(self.feed)) is not None:
            for _ in range(self.times):
                await reader.next(self.timeout_ms / 1000)


class ReadCancelled(NamedTuple):
    feed: int
    ticks: int

    async def run(self, world: World) -> None:
        if (reader := world.reader(self.feed)) is not None:
            await reader.cancelled_next(self.ticks)


class GiveUpHoles(NamedTuple):
    feed: int

    async def run(self, world: World) -> None:
        if (reader := world.reader(self.feed)) is not None and 0 in world.published:
            await reader.give_up_holes()


class Probe(NamedTuple):
    feed: int

    async def run(self, world: World) -> None:
        if (reader := world.reader(self.feed)) is not None:
            await reader.feed.probe()


class Resume(NamedTuple):
    """Close a feed and read again from a place that it gave out, as another worker would."""

    feed: int
    back: int

    async def run(self, world: World) -> None:
        reader = world.reader(self.feed)
        if reader is None or not world.broker.connected:
            return
        position = max(reader.start, reader.position - self.back)
        mark = reader.feed.mark_before(position)
        await reader.feed.close()
        world.readers[world.readers.index(reader)] = await world.open(mark, position)


class Cut(NamedTuple):
    """The feeds' connection breaks, and stays away until it is healed."""

    async def run(self, world: World) -> None:
        world.proxy.cut()


class Heal(NamedTuple):
    wait: bool

    async def run(self, world: World) -> None:
        if self.wait:
            await world.heal()
        else:
            world.proxy.heal()


class CutAt(NamedTuple):
    """The connection breaks once, in place of a message: live, an answer's, or a question."""

    message: Literal["live", "answer", "question"]
    n: int

    async def run(self, world: World) -> None:
        if self.message == "live":
            world.proxy.before(world.subject, n=self.n, to="client", where=_is_live)
        elif self.message == "answer":
            world.proxy.before(f"{world.store._inbox}.>", n=self.n, to="client")
        else:
            world.proxy.before("$JS.API.DIRECT.GET.>", n=self.n, to="server")


def _is_live(message: Any) -> bool:
    return b"Nats-Sequence" not in message.headers


class Restart(NamedTuple):
    """The server is killed, and another takes its place."""

    async def run(self, world: World) -> None:
        # A message may be lost with the server, unless it or a later one is acknowledged.
        await Nonsense("none").run(world)
        before = world.edge.reconnects
        world.server.kill()
        world.server.start()
        await until(lambda: world.edge.reconnects > before, "the edge's connection is back")


Step = (
    Publish | Burst | Again | OtherSession | Nonsense | ForgedOld | ForgedFar | Open | Read
    | ReadCancelled | GiveUpHoles | Probe | Resume | Cut | Heal | CutAt | Restart
)  # fmt: skip

# ---- scripts ----------------------------------------------------------------------------------

small = st.integers(0, 3)
fates = st.sampled_from(["sent"] * 9 + ["lost", "bad"])
left_out = st.sampled_from([0] * 6 + [1, 30])
pieces = st.builds(Piece, st.sampled_from([40, 1, 17]), left_out, fates)
sessions = st.builds(
    Session, st.lists(pieces, min_size=1, max_size=24), st.booleans(), st.sampled_from([0, 9])
)
feed_index = st.integers(0, MAX_FEEDS - 1)
publishing = st.one_of(
    st.builds(Publish, st.sampled_from([0, 0, 0, 1, 3]), st.booleans()),
    st.builds(Burst, st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 5]), min_size=2, max_size=8)),
)
reading = st.one_of(
    st.builds(Read, feed_index, st.integers(1, 6), st.sampled_from([0, 1, 1, 5, 30])),
    st.builds(ReadCancelled, feed_index, st.integers(0, 30)),
)
disturbing = st.one_of(
    st.builds(Again, st.integers(0, 9), st.sampled_from(["same", "none", "other"])),
    st.builds(OtherSession, small),
    st.builds(
        Nonsense, st.sampled_from(["none", "no number", "negative", "odd", "empty", "status"])
    ),
    st.builds(ForgedOld, st.integers(0, 9), st.sampled_from([0, FAR])),
    st.builds(ForgedFar, st.sampled_from([0, 1, 2, 10**6]), st.booleans()),
)
connecting = st.one_of(
    st.builds(Cut),
    st.builds(Heal, st.booleans()),
    st.builds(CutAt, st.sampled_from(["live", "answer", "question"]), st.integers(1, 4)),
)
opening = st.one_of(
    st.builds(Open, st.sampled_from([0, 0, 300, 1000]) | st.integers(0, 1000)),
    st.builds(Resume, feed_index, st.integers(0, 120)),
    st.builds(GiveUpHoles, feed_index),
    st.builds(Probe, feed_index),
)
steps = st.one_of(publishing, publishing, reading, reading, disturbing, connecting, opening)
scripts = st.lists(steps, min_size=5, max_size=50)


# ---- running them -----------------------------------------------------------------------------

Run = Callable[[Session, Limits, list[Step]], None]


@contextlib.asynccontextmanager
async def _world(server: NatsServer, session: Session, limits: Limits) -> AsyncIterator[World]:
    async with (
        NatsProxy(server.port) as proxy,
        connected(BrokerSettings(url=proxy.url), name="feed", once=True) as broker,
        connected(BrokerSettings(url=server.url), name="edge", once=True) as edge,
    ):
        for client in (broker.client, edge.client):
            client.options["reconnect_time_wait"] = 0.01
            client.pause = None
        world = World(server, session, limits, proxy, broker, edge)
        await world.store.start()
        yield world


async def _play(world: World, script: list[Step]) -> None:
    for step in script:
        await step.run(world)
    if 0 in world.waiting:
        await Publish(0, True).run(world)
    await world.settle()
    for reader in world.readers:
        await reader.give_up_holes()

        async def quiet(reader: Reader = reader) -> bool:
            await reader.next(0.01)
            return reader.feed.caught_up

        reader.feed._hole_seconds = AT_ONCE
        await until(quiet, "nothing is open any more")
        await reader.feed.probe()
    # From each place, reading finds all that follows.
    for reader in world.readers:
        for position in range(reader.start, reader.position + 1, 23):
            again = await world.open(reader.feed.mark_before(position), position)
            await again.give_up_holes()
            await again.feed.close()
        await reader.feed.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Iterator[Run]:
    """Runs a script in a world of its own, on one server, with times that are short for a test."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    times = {"feed._RETRY_S": 0.02, "feed._QUIET_FIRST_S": 0.02, "feed._QUIET_LONGEST_S": 0.1}

    async def prepare() -> None:
        async with connected(BrokerSettings(url=server.url), name="test", once=True) as broker:
            await streams.ensure(broker, StreamSettings())

    async def play(session: Session, limits: Limits, script: list[Step]) -> None:
        async with _world(server, session, limits) as world:
            await _play(world, script)

    with (
        contextlib.ExitStack() as stack,
        asyncio.Runner() as runner,
        pytest.MonkeyPatch.context() as patch,
    ):
        stack.callback(server.stop)
        runner.run(prepare())
        patch.setattr("natterjack.broker.stored._TIMEOUT_S", 0.15)
        for name, seconds in times.items():
            patch.setattr(f"worker.audio.{name}", seconds)

        def run(session: Session, limits: Limits, script: list[Step]) -> None:
            patch.setattr("worker.audio.feed._MAX_AHEAD", limits.ahead)
            patch.setattr("worker.audio.reorder._MAX_CHUNKS", limits.ahead)
            patch.setattr("worker.audio.feed._BATCH", limits.batch)
            for chunk in placed(session):
                note(str(chunk))
            runner.run(play(session, limits, script))

        yield run


@pytest.mark.slow
@examples(80)
@given(session=sessions, limits=st.sampled_from(LIMITS), script=scripts)
def test_every_frame_is_given_out_once_whatever_happens(
    run: Run, session: Session, limits: Limits, script: list[Step]
) -> None:
    run(session, limits, [Open(0), *script])


@examples(5)
@given(
    session=sessions,
    limits=st.sampled_from(LIMITS),
    before=scripts,
    after=scripts,
)
def test_and_when_the_server_is_killed(
    run: Run, session: Session, limits: Limits, before: list[Step], after: list[Step]
) -> None:
    run(session, limits, [Open(0), *before, Restart(), *after])

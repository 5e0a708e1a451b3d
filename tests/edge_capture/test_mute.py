"""Muting: no audio is published, positions go on, and the time is a gap with that cause."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_capture.chunks import Chunk
from edge_capture.delivery.backlog import Backlog
from edge_capture.session import EdgeSession, make_keys, make_sessions, resume_sessions
from edge_capture.settings import EdgeSettings, PublishSettings, RequestSettings
from edge_capture.sources import Block
from natterjack.audio import AudioFormat
from natterjack.notices import DEVICE_LOST, MUTED, Note
from tests.edge_capture.test_spool import FORMAT, ORIGIN, opened, spec

RATE = 16_000
FRAMES = RATE // 10
MARK = RATE // 100


def made(source_rate: int = RATE) -> EdgeSession:
    edge = EdgeSettings(conversation="c")
    (session,) = make_sessions(
        make_keys(edge), AudioFormat("linear16", source_rate, 1), False, edge,
        PublishSettings(chunk_ms=100), RequestSettings(),
    )  # fmt: skip
    return session


def block(
    value: int = 1000, frames: int = FRAMES, lost: int = 0, notes: tuple[Note, ...] = ()
) -> Block:
    return Block(np.full((frames, 1), value, np.int16), 10**18, lost, notes=notes)


def taken(backlog: Backlog) -> list[Chunk]:
    def chunks() -> Iterator[Chunk]:
        while (found := backlog.take()) is not None:
            yield found[1]

    return list(chunks())


def samples(chunk: Chunk) -> list[int]:
    return [int(sample) for sample in np.frombuffer(chunk.payload, "<i2")]


def test_a_muted_session_publishes_nothing_and_its_positions_go_on() -> None:
    session = made()
    session.feed(block())
    session.feed(block(frames=FRAMES // 2))
    session.mute()
    session.mute()
    assert session.muted
    assert not session.publisher.sounding.is_set()
    for _ in range(5):
        assert not session.feed(block(2000))
    session.feed(block(2000, lost=3 * FRAMES))
    session.unmute()
    session.unmute()
    assert not session.muted
    assert session.feed(block(3000))
    session.finish()
    first, rest, mark, after, end = taken(session.publisher.backlog)
    assert [each.note for each in (first, rest, mark, after, end)] == [
        "",
        "",
        MUTED,
        "muted:end",
        "",
    ]
    assert [len(each.payload) // 2 for each in (first, rest, mark, after)] == [
        FRAMES,
        FRAMES // 2,
        MARK,
        FRAMES,
    ]
    assert (rest.pos, mark.pos) == (FRAMES, FRAMES + FRAMES // 2)
    assert set(samples(mark)) == {0}
    assert set(samples(after)) == {3000}
    assert after.pos == FRAMES + FRAMES // 2 + 9 * FRAMES
    assert end.pos == after.pos + FRAMES
    assert session.gap_seconds == {MUTED: (9 * FRAMES - MARK) / RATE}
    assert session.seconds == end.pos / RATE


def test_a_session_that_is_unmuted_at_once_keeps_its_clock() -> None:
    session = made()
    session.mute()
    session.unmute()
    session.feed(block(3000))
    session.finish()
    mark, after = taken(session.publisher.backlog)
    assert (mark.pos, mark.note) == (0, MUTED)
    assert after.pos == MARK, "the silence is in the place of the first audio"
    assert len(after.payload) // 2 == FRAMES - MARK


def test_a_session_that_ends_muted_ends_after_the_gap() -> None:
    session = made()
    session.feed(block())
    session.mute()
    session.feed(block())
    session.finish()
    *_, end = taken(session.publisher.backlog)
    assert (end.end, end.pos, end.note, end.payload) == (True, 2 * FRAMES, "muted:end", b"")
    session.mute()
    assert not session.muted


@pytest.mark.parametrize("source_rate", [48_000, 44_100, 8000])
def test_positions_are_right_after_resampling(source_rate: int) -> None:
    session = made(source_rate)
    tenth = source_rate // 10
    for _ in range(5):
        session.feed(block(frames=tenth))
    session.mute()
    for _ in range(20):
        session.feed(block(frames=tenth))
    session.unmute()
    session.feed(block(frames=tenth))
    session.finish()
    chunks = taken(session.publisher.backlog)
    (over,) = (chunk for chunk in chunks if chunk.note == "muted:end")
    assert over.pos == 25 * FRAMES
    assert abs(chunks[-1].pos + len(chunks[-1].payload) // 2 - 26 * FRAMES) <= 1


def test_a_device_that_is_lost_is_said_at_once() -> None:
    session = made()
    session.feed(block(frames=FRAMES // 2))
    assert not session.feed(block(frames=0, notes=(Note(DEVICE_LOST),)))
    kept, mark = taken(session.publisher.backlog)
    assert (len(kept.payload) // 2, mark.note) == (FRAMES // 2, DEVICE_LOST)
    session.feed(block(lost=RATE)._replace(cause=DEVICE_LOST, notes=(Note("device_fallback"),)))
    (back,) = taken(session.publisher.backlog)
    assert (back.pos, back.note) == (FRAMES // 2 + RATE, "device_lost:end,device_fallback")
    assert session.gap_seconds == {DEVICE_LOST: 1 - MARK / RATE}


async def test_what_held_when_a_run_died_ends_when_the_session_is_resumed(tmp_path: Path) -> None:
    keeper = opened(tmp_path)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index, note in enumerate(["input_dead", "input_dead:end,muted", "input_low", ""]):
        backlog.put(Chunk(index * FRAMES, 0, bytes(2 * FRAMES), False, note))
    assert backlog.conditions == ["muted", "input_low"]
    await keeper.close()
    keeper = opened(tmp_path)
    found = keeper.adopt()
    (session,) = resume_sessions(
        found, FORMAT, False, EdgeSettings(), PublishSettings(chunk_ms=100), None
    )
    for _ in range(2):
        session.feed(block()._replace(time_ns=found[0].end_time_ns + 10**9))
    notes = [chunk.note for chunk in taken(found[0])]
    assert notes == [
        "input_dead", "input_dead:end,muted", "input_low", "",
        "resumed:end,muted:end,input_low:end", "",
    ]  # fmt: skip
    assert found[0].conditions == []
    await keeper.close()


async def test_a_session_that_is_resumed_muted_is_muted_all_the_time(tmp_path: Path) -> None:
    keeper = opened(tmp_path)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index, note in enumerate(["", "muted"]):
        backlog.put(Chunk(index * FRAMES, 10**18 + index * 10**8, bytes(2 * FRAMES), False, note))
    await keeper.close()
    keeper = opened(tmp_path)
    found = keeper.adopt()
    end_ns = found[0].end_time_ns
    (session,) = resume_sessions(
        found, FORMAT, False, EdgeSettings(), PublishSettings(chunk_ms=100), None
    )
    session.mute()
    assert not session.feed(block()._replace(time_ns=end_ns + 10**10))
    session.unmute()
    assert session.feed(block(3000)._replace(time_ns=end_ns + 10**10 + 10**8))
    *_, mark, back = taken(found[0])
    assert (mark.note, mark.pos, mark.time_ns) == (MUTED, 2 * FRAMES, end_ns)
    assert (back.note, back.pos) == ("muted:end", mark.pos + 10 * RATE + FRAMES)
    assert session.gap_seconds == {MUTED: 10.1 - MARK / RATE}
    await keeper.close()

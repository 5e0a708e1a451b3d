"""Recorded audio is sent or kept, and audio that cannot be sent is reported, however the files of a
spool are damaged."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.chunks import Chunk
from edge_capture.settings import SpoolSettings
from edge_capture.spool import Spool, disk, find_resumable
from natterjack.broker.connection import Broker
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.samples import chunk
from tests.edge_capture.test_resume import speech, spool
from tests.edge_capture.test_spool import FORMAT, ORIGIN, opened, spec, taken
from tests.searching import examples

__all__ = ["speech", "spool"]  # fixtures

COUNT = 70
"""Chunks of 100 ms in segments of 2 s: three whole ones, and half of another."""

_NOBODY = 65534


def record(index: int) -> bytes:
    return disk.encode_record(index, chunk(index))


async def leave(spool: Path, acknowledged: int, count: int = COUNT) -> Path:
    """Leave a session of `count` chunks in the spool, of which so many were stored. Returns its
    directory."""
    keeper = opened(spool, seconds=16)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(count):
        backlog.put(chunk(index))
    await keeper.tidy()
    await taken(keeper, backlog, acknowledged)
    backlog.acknowledge(acknowledged)
    await keeper.close()
    return backlog.directory


def damage(path: Path, kind: str, share: float, size: int) -> None:
    content = path.read_bytes()
    at = min(len(content) - 1, int(share * len(content)))
    if kind == "flipped":
        changed = bytes([content[at] ^ (1 + size % 255)])
        path.write_bytes(content[:at] + changed + content[at + 1 :])
    elif kind == "zeros":
        path.write_bytes(content[:at] + bytes(size) + content[at + size :])
    elif kind == "garbage":
        path.write_bytes(content[:at] + b"\xa5\x5a" * size + content[at + 2 * size :])
    elif kind == "truncated":
        path.write_bytes(content[:at])
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "gone":
        path.unlink()


def everything(spool: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(spool.rglob("*")) if path.is_file())


async def send(spool: Path) -> tuple[dict[int, Chunk], bool]:
    """Send everything, as a run of the edge. Returns the chunks, and whether it can report that
    something is missing."""
    keeper = opened(spool, seconds=16)
    found = keeper.adopt()
    sent: dict[int, Chunk] = {}
    reported = bool(keeper.unusable)
    for backlog in found:
        backlog.end()
        for seq, one in await taken(keeper, backlog):
            assert seq not in sent, "a number is used twice"
            sent[seq] = one
        backlog.acknowledge(max(sent, default=-1) + 1)
        await keeper.tidy()
        backlog.discard()
        reported |= backlog.damaged_directory is not None
    await keeper.close()
    return sent, reported


@examples(150)
@given(
    acknowledged=st.sampled_from([0, 25, 45]),
    name=st.sampled_from(["session.json", "first", "second", "newest"]),
    kind=st.sampled_from(["flipped", "zeros", "garbage", "truncated", "directory", "gone"]),
    share=st.floats(0, 1),
    size=st.integers(1, 9000),
)
def test_what_was_recorded_is_sent_or_kept(
    acknowledged: int, name: str, kind: str, share: float, size: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        spool = Path(directory) / "spool"
        session = asyncio.run(leave(spool, acknowledged))
        segments = disk.segment_paths(session)
        path = (
            session / name
            if name.endswith("json")
            else segments[{"first": 0, "second": 1, "newest": -1}[name]]
        )
        damage(path, kind, share, size)
        before = everything(spool)
        sent, reported = asyncio.run(send(spool))
        after = everything(spool)
        lost = []
        for index in range(acknowledged, COUNT):
            if sent.get(index, Chunk(0, 0, b"", True)).payload == chunk(index).payload:
                continue
            lost.append(index)
            if record(index) in before:
                assert record(index) in after, f"chunk {index} is deleted, and was not sent"
        for seq, one in sent.items():
            if one.payload:
                assert one.payload == chunk(seq).payload
        # If files are cut short or missing, nobody can tell whether there was more.
        if lost and kind in ("flipped", "zeros", "garbage", "directory") and lost != [COUNT - 1]:
            assert reported, f"{lost} were neither sent nor reported"


VALUES: tuple[object, ...] = (
    0, 1, -1, 2**63, 10**400, 1e308, None, True, "", "x", "\0", [], {}, [[1, 1]], {"-1": "x"},
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
)  # fmt: skip
"""Values that a description may have in place of any other."""


def places(value: Any) -> Iterator[tuple[dict[Any, Any] | list[Any], Any]]:
    """Each place in a JSON document: what it is in, and its key or index there."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


async def test_any_value_in_a_description_is_used_or_kept_aside(spool: Path) -> None:
    """A session with an impossible description does not keep the agent from starting."""
    await used_or_kept_aside(spool, VALUES)


async def used_or_kept_aside(spool: Path, values: Sequence[object]) -> None:
    """Have each of `values` in each place of a description."""
    session = await leave(spool, 0, 2)  # chunks, since nothing here depends on how many there are
    content = (session / "session.json").read_text()
    segments = {path.name: path.read_bytes() for path in disk.segment_paths(session)}
    settings, reported = SpoolSettings(spool=spool), 0
    for number in range(len(list(places(json.loads(content))))):
        for value in values:
            document = json.loads(content)
            holder, key = list(places(document))[number]
            holder[key] = value
            shutil.rmtree(spool)
            session.mkdir(parents=True)
            (session / "session.json").write_text(json.dumps(document))
            for name, data in segments.items():
                (session / name).write_bytes(data)
            keeper = Spool(settings)
            found = keeper.adopt()
            find_resumable(found, ORIGIN, FORMAT, "t", None)
            for backlog in found:
                backlog.end()
            assert bool(keeper.unusable) != bool(found), (key, value)
            reported += bool(keeper.unusable)
            await keeper.close()
    assert reported


@pytest.mark.parametrize(
    "text", ["[[-1, 2]]", "[[0, -1]]", f"[[{2**63}, 1]]", f"[[5, {10**400}]]", "[[0, 1, 2]]"]
)
async def test_an_impossible_number_of_dropped_chunks(spool: Path, text: str) -> None:
    session = await leave(spool, 0)
    (session / "dropped.json").write_text(text)
    assert await send(spool) == ({}, True)
    assert (spool / f"damaged-{session.name}" / "dropped.json").read_text() == text


@pytest.mark.parametrize("command", ["send", "file"])
async def test_the_program_keeps_what_it_cannot_read_and_exits_with_1(
    ready_broker: Broker, start_edge: StartEdge, spool: Path, speech: Path, command: str
) -> None:
    """Also if it has a session of its own, all of which is stored."""
    sessions = [await leave(spool, 0) for _ in range(3)]
    damage(disk.segment_paths(sessions[0])[-1], "garbage", 0.5, 500)
    damage(sessions[1] / "session.json", "truncated", 0.5, 0)
    before = everything(spool)
    own = (speech, "--speed", "max", "--resume") if command == "file" else ()
    edge = start_edge(command, *own, "--spool", spool)
    assert await edge.exit_code() == 1, edge.stderr
    assert {path.name for path in spool.iterdir()} == {
        f"damaged-{session.name}" for session in sessions[:2]
    }
    assert "some audio in the spool could not be read; its files are kept" in edge.stderr
    assert "a session in the spool is damaged and cannot be sent; its files are kept" in edge.stderr
    after = everything(spool)
    assert all(record(index) in after for index in range(COUNT) if record(index) in before)
    again = start_edge("send", "--spool", spool)
    assert await again.exit_code() == 0, "it has been said"


async def test_a_session_of_another_release_is_no_success(
    start_edge: StartEdge, spool: Path
) -> None:
    session = await leave(spool, 0)
    (session / "session.json").write_text('{"version": 2}')
    edge = start_edge("send", "--spool", spool)
    assert await edge.exit_code() == 1
    assert "its version is 2, this program supports 1" in edge.stderr
    assert (session / "session.json").exists()


async def test_a_session_that_cannot_be_read_now_stays(spool: Path) -> None:
    """A loop of links stands for whatever the system refuses, such as a wrong owner."""
    session = await leave(spool, 0)
    description = session / "session.json"
    content = description.read_text()
    description.unlink()
    description.symlink_to(description)
    assert await send(spool) == ({}, True)
    description.unlink()
    description.write_text(content)
    sent, reported = await send(spool)
    assert [one.payload for one in sent.values() if one.payload] == [
        chunk(index).payload for index in range(COUNT)
    ]
    assert not reported


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
@pytest.mark.parametrize("name", [".", "session.json", "000000000040.*", "dropped.json"])
async def test_a_session_of_another_user_stays(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as directory:  # which others may enter
        Path(directory).chmod(0o711)
        spool = Path(directory) / "spool"
        session = await leave(spool, 0)
        (session / "dropped.json").write_text("[]")
        for path in (spool, session, *session.iterdir()):
            os.chown(path, _NOBODY, _NOBODY)
        (path,) = session.glob(name) if name != "." else [session]
        os.chown(path, 0, 0)
        path.chmod(path.stat().st_mode & 0o700)
        before = everything(spool)
        os.seteuid(_NOBODY)
        try:
            keeper = opened(spool)
            assert keeper.adopt() == []
        finally:
            os.seteuid(0)
        assert keeper.unusable == {session.name}
        assert [record.message for record in caplog.records] == [
            "ignoring an unusable session in the spool: Permission denied"
        ]
        await keeper.close()
        assert everything(spool) == before
        sent, reported = await send(spool)
        assert len(sent) == COUNT + 1
        assert not reported


async def test_links_to_nothing(spool: Path) -> None:
    """And files of other programs, whatever their names."""
    session = await leave(spool, 0)
    first = disk.segment_paths(session)[0]
    (session / f"{first.name}.bak").write_bytes(first.read_bytes())
    (session / "mine.seg").write_text("")
    sent, reported = await send(spool)
    assert len(sent) == COUNT + 1
    assert not reported
    assert {path.name for path in spool.glob("*/*")} == {f"{first.name}.bak", "mine.seg"}
    second = await leave(spool, 0)
    newest = disk.segment_paths(second)[-1]
    newest.unlink()
    newest.symlink_to("nothing")
    assert await send(spool) == ({}, True)
    assert (spool / f"damaged-{second.name}" / newest.name).is_symlink()

"""Which sessions in the spool a run may resume."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_capture.chunks import Chunk
from edge_capture.settings import SpoolSettings
from edge_capture.spool import Origin, Spool, SpooledBacklog, find_resumable
from natterjack.audio import AudioFormat
from natterjack.spec import SessionSpec

FORMAT = AudioFormat("linear16", 16000, 1)
LIVE = Origin(command="stdin", format=FORMAT, speakers=("s",), chunk_ms=100)
FILE = Origin(
    command="file", path="/a.wav", size_bytes=7, format=FORMAT, speakers=("s",), chunk_ms=100
)
SPLIT = FILE.model_copy(update={"speakers": ("a", "b")})


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(SpoolSettings(spool=tmp_path / "spool", spool_seconds=10))
    yield spool
    for backlog in spool._sessions:
        backlog.close()
    spool._disk.close()


def left(
    spool: Spool,
    origin: Origin,
    *,
    run: str = "run",
    speaker: str = "s",
    age_s: float = 1,
    end: bool = False,
) -> SpooledBacklog:
    """Leave a session with one chunk that was captured `age_s` ago."""
    spec = SessionSpec(tenant="t", conversation="c", speaker=speaker, sample_rate=16000)
    backlog = spool.create(spec, origin, run)
    backlog.put(Chunk(0, time.time_ns() - int(age_s * 1e9), bytes(3200), end))
    return backlog


def found(
    sessions: list[SpooledBacklog],
    origin: Origin,
    *,
    published: AudioFormat = FORMAT,
    tenant: str = "t",
    conversation: str | None = None,
) -> list[SpooledBacklog]:
    return find_resumable(sessions, origin, published, tenant, conversation)


@pytest.mark.parametrize("origin", [LIVE, FILE])
@pytest.mark.parametrize("conversation", [None, "c"])
def test_a_session_of_the_same_source_is_resumed(
    spool: Spool, origin: Origin, conversation: str | None
) -> None:
    session = left(spool, origin)
    assert found([session], origin, conversation=conversation) == [session]


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"conversation": "other"},
        {"published": FORMAT._replace(sample_rate=8000)},
    ],
)
def test_a_session_of_another_request_is_not_resumed(spool: Spool, change: dict[str, Any]) -> None:
    assert found([left(spool, LIVE)], LIVE, **change) == []


@pytest.mark.parametrize(
    "change",
    [
        {"command": "mic"},
        {"path": "/b.wav"},
        {"size_bytes": 8},
        {"format": FORMAT._replace(sample_rate=8000)},
        {"speakers": ("other",)},
        {"chunk_ms": 40},
    ],
)
def test_a_session_of_another_source_is_not_resumed(spool: Spool, change: dict[str, Any]) -> None:
    assert found([left(spool, FILE)], FILE.model_copy(update=change)) == []


def test_live_audio_that_ended_too_long_ago_is_not_resumed(spool: Spool) -> None:
    assert found([left(spool, LIVE, age_s=60)], LIVE) == []


@pytest.mark.parametrize(("origin", "resumed"), [(LIVE, False), (FILE, True)])
def test_only_a_file_whose_session_has_ended_is_resumed(
    spool: Spool, origin: Origin, resumed: bool
) -> None:
    session = left(spool, origin, age_s=60, end=True)
    assert found([session], origin) == ([session] if resumed else [])


def test_a_session_whose_disk_failed_is_not_resumed(spool: Spool) -> None:
    session = left(spool, LIVE)
    session.intact = False
    assert found([session], LIVE) == []


def test_all_speakers_of_the_newest_run_are_resumed_in_order(spool: Spool) -> None:
    old = [left(spool, SPLIT, run="old", speaker=speaker) for speaker in "ab"]
    new = [left(spool, SPLIT, run="new", speaker=speaker) for speaker in "ba"]
    assert found([*old, *new], SPLIT) == [new[1], new[0]]


def test_a_run_with_a_missing_speaker_is_not_resumed_unless_it_has_ended(spool: Spool) -> None:
    assert found([left(spool, SPLIT, speaker="b")], SPLIT) == []
    ended = left(spool, SPLIT, run="ended", speaker="b", end=True)
    assert found([ended], SPLIT) == [ended]

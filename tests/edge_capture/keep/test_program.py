"""The program with `--keep`, killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from natterjack.broker.connection import Broker
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.edge_capture.test_resume import speech  # noqa: F401 - a fixture
from tests.waiting import until


async def test_recordings_of_a_killed_run_and_of_the_next_one(
    ready_broker: Broker,
    start_edge: StartEdge,
    speech: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The second run resumes the session, and its recording begins where its audio does."""
    keep = tmp_path / "keep"
    key = ("--tenant", "acme", "--conversation", "room", "--speaker", "s")
    flags = (*key, "--keep", keep, "--spool", tmp_path / "spool", "--resume")
    edge = start_edge("file", speech, "--speed", "10", *flags)
    await until(
        lambda: sum(path.stat().st_size for path in keep.glob("*.flac")) > 200_000,
        "some seconds are kept",
    )
    edge.kill()
    edge = start_edge("file", speech, "--speed", "max", *flags)
    assert await edge.exit_code() == 0, edge.stderr
    files = sorted(keep.iterdir())
    assert len(files) == 2
    assert all(path.name.startswith("acme.room.s.20") for path in files)
    first, second = (soundfile.read(path, dtype="int16")[0] for path in files)
    whole, _ = soundfile.read(speech, dtype="int16")
    assert len(first) > 2 * 16_000
    assert np.array_equal(first, whole[: len(first)])
    assert np.array_equal(second, whole[-len(second) :])
    assert len(second) > 16_000


def test_a_directory_that_cannot_be_made(run_edge: RunEdge, speech: Path) -> None:  # noqa: F811
    ended = run_edge("file", speech, "--keep", speech / "keep")
    assert ended.code == 2
    assert "EDGE_KEEP" in ended.stderr
    assert "Traceback" not in ended.stderr

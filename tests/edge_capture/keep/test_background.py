"""Recording in a thread: nothing waits for the disk, and nothing is lost while it answers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import soundfile

from edge_capture.disk import thread
from edge_capture.keep import background
from edge_capture.keep.background import BackgroundRecorder
from edge_capture.keep.directory import KeepDirectory
from tests.waiting import until

from .test_recorder import AUDIO, FRAMES, RATE, SPEC, chunk, files, keep

__all__ = ["keep"]  # a fixture


def test_all_that_was_written_is_kept_when_the_program_ends(
    keep: KeepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it comes faster than the disk takes it, from a file."""
    monkeypatch.setattr(thread, "HUNG_S", 600.0)
    monkeypatch.setattr(background, "_MAX_WAITING_S", 1.0)
    recorder = BackgroundRecorder(keep, SPEC, can_wait=True)
    for n in range(200):
        recorder.write(chunk(n * FRAMES))
    keep.close()
    (file,) = files(keep)
    samples, _ = soundfile.read(file, dtype="int16")
    assert np.array_equal(samples, AUDIO[: 200 * FRAMES])


async def test_a_disk_that_does_not_answer_costs_what_exceeds_a_limit(
    keep: KeepDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(thread, "HUNG_S", 0.05)
    monkeypatch.setattr(background, "_MAX_WAITING_S", 8.0)
    answer, answered = threading.Event(), []
    keep.disk.later(lambda: answered.append(answer.wait()))
    recorder = BackgroundRecorder(keep, SPEC)
    try:

        def hangs() -> bool:
            keep.disk.check()
            return keep.disk.hung

        await until(hangs, "it does not answer")
        assert "EDGE_KEEP: the disk does not answer: no recording is kept" in caplog.text
        for n in range(250):  # 20 s
            recorder.write(chunk(n * FRAMES))
    finally:
        monkeypatch.setattr(thread, "HUNG_S", 600.0)
        answer.set()
    keep.disk.later(lambda: answered.append(True))
    await until(lambda: len(answered) == 2 and not keep.disk.hung, "it has answered all")
    recorder.write(chunk(250 * FRAMES))
    recorder.close()
    recorder.close()
    keep.close()
    (file,) = files(keep)
    samples, _ = soundfile.read(file, dtype="int16")
    whole = np.flatnonzero(samples != AUDIO[: len(samples)])[0]
    assert 7 * RATE < whole < 8.1 * RATE
    assert np.array_equal(samples[-FRAMES:], AUDIO[250 * FRAMES :][:FRAMES])
    assert not samples[9 * RATE : 19 * RATE].any(), "what was not kept is silence"


def test_live_audio_never_waits_for_a_disk_that_is_slower(
    keep: KeepDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers all the time, so it does not hang."""
    monkeypatch.setattr(thread, "HUNG_S", 600.0)
    monkeypatch.setattr(background, "_MAX_WAITING_S", 2.0)
    go_on, written = threading.Event(), threading.Event()
    keep.disk.later(lambda: (go_on.wait(), None)[1])
    recorder = BackgroundRecorder(keep, SPEC)
    for n in range(100):  # 8 s
        recorder.write(chunk(n * FRAMES))
    assert [each for each in caplog.messages if "slower than the audio" in each] == caplog.messages
    assert len(caplog.messages) == 1
    go_on.set()
    keep.disk.later(written.set)
    assert written.wait(30)
    recorder.write(chunk(100 * FRAMES))
    recorder.close()
    keep.close()
    (file,) = files(keep)
    samples, _ = soundfile.read(file, dtype="int16")
    assert len(samples) == 101 * FRAMES
    assert np.array_equal(samples[: RATE * 3 // 2], AUDIO[: RATE * 3 // 2])
    assert not samples[3 * RATE : 7 * RATE].any(), "what was not kept is silence"


async def test_sessions_that_begin_while_the_disk_hangs_hold_no_more(
    keep: KeepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "HUNG_S", 0.01)
    monkeypatch.setattr(background, "_MAX_WAITING_S", 1.0)
    answer, written = threading.Event(), threading.Event()
    keep.disk.later(lambda: (answer.wait(), None)[1])
    try:

        def hangs_for_long() -> bool:
            keep.disk.check()
            return keep.disk.hung_seconds > 1.0

        await until(hangs_for_long, "it has not answered for long")
        for _ in range(5):  # as a source that is rotated
            recorder = BackgroundRecorder(keep, SPEC)
            for n in range(12):
                recorder.write(chunk(n * FRAMES))
            recorder.close()
    finally:
        monkeypatch.setattr(thread, "HUNG_S", 600.0)
        answer.set()
    keep.disk.later(written.set)
    assert written.wait(30)
    keep.close()
    assert not files(keep)

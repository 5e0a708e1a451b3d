from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from edge_capture.input.measure import SILENCE_DBFS
from edge_capture.progress.input_report import InputReport
from edge_capture.sources.file import FileSource

from ..input.test_mix import speech

RATE = 16_000


def reported(path: Path, audio: npt.NDArray[np.floating], *, split: bool) -> InputReport:
    """Return the report about a file with this audio, of shape (frames, channels)."""
    soundfile.write(path, audio, RATE)
    source = FileSource(path, None, 100)
    report = InputReport(source, split=split)

    async def feed() -> None:
        async for block in source.blocks():
            report.feed(block)

    asyncio.run(feed())
    source.close()
    return report


@pytest.fixture
def one_dead_channel() -> npt.NDArray[np.floating]:
    audio = np.concatenate([speech(seed, 3) for seed in range(5)])[: 12 * RATE]
    return np.stack([audio, np.zeros(len(audio))], axis=1)


def test_each_channel_is_watched_alone_if_it_is_a_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, one_dead_channel: npt.NDArray[np.floating]
) -> None:
    with caplog.at_level(logging.INFO):
        report = reported(tmp_path / "a.wav", one_dead_channel, split=True)
    assert [each.code for each in report.findings()] == ["input_dead"]
    assert [each.code for each in report.findings(1)] == ["input_dead"]
    assert report.findings(0) == []
    (line,) = caplog.messages
    assert "a.wav, channel 2: the input has zeros only" in line
    first, second = report.level(0), report.level(1)
    assert first is not None
    assert second is not None
    assert first.rms_dbfs > -60
    assert second.rms_dbfs == SILENCE_DBFS
    assert report.level() == first


def test_channels_that_are_mixed_are_watched_together(
    tmp_path: Path, one_dead_channel: npt.NDArray[np.floating]
) -> None:
    report = reported(tmp_path / "a.wav", one_dead_channel, split=False)
    assert [each.code for each in report.findings()] == ["input_channel"]
    level = report.level()
    assert level is not None
    assert 0.5 <= level.zeros < 0.9

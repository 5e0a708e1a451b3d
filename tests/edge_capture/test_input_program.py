"""The program logs the findings about its input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from natterjack.broker.connection import Broker
from tests.edge_capture.conftest import SoundServer, StartEdge
from tests.edge_capture.input.test_mix import speech
from tests.edge_capture.program import recordings

pytestmark = pytest.mark.process


def findings(stderr: str) -> list[tuple[str, str, str, str]]:
    """Return level, code, time and text of each line with a code."""
    lines = [json.loads(line) for line in stderr.splitlines()]
    return [
        (line["level"], line["code"], line.get("since", ""), line["message"])
        for line in lines
        if "code" in line
    ]


async def test_a_microphone_that_is_muted_for_a_while(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    audio = np.concatenate([speech(1, 5), np.zeros(15 * 16_000), speech(2, 5)])
    (tmp_path / "raw").write_bytes((audio * 32767).astype("<i2").tobytes())
    with (tmp_path / "raw").open("rb") as file:
        edge = start_edge("stdin", "--quiet", "--conversation", "a", stdin=file)
    assert await edge.exit_code() == 0
    (found,) = findings(edge.stderr)
    assert found == (
        "warning", "input_dead", "0:05.0",
        "standard input: the input has zeros only: it is muted or disconnected, or nobody sends "
        "audio",
    )  # fmt: skip
    with (tmp_path / "raw").open("rb") as file:
        edge = start_edge("stdin", "--conversation", "b", stdin=file)
    assert await edge.exit_code() == 0
    assert [each[:3] for each in findings(edge.stderr)] == [
        ("warning", "input_dead", "0:05.0"),
        ("info", "input_dead", "0:20.0"),
    ]


@pytest.mark.parametrize(
    ("split", "code"), [(False, "input_phase"), (True, None)], ids=["mixed", "split"]
)
async def test_opposite_channels_matter_if_they_are_mixed(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path, split: bool, code: str | None
) -> None:
    audio = speech(1, 3)
    soundfile.write(tmp_path / "a.wav", np.stack([audio, -audio], axis=1), 16_000)
    arguments = ["--split-channels", "a,b"] if split else []
    edge = start_edge("file", tmp_path / "a.wav", "--speed", "max", *arguments)
    assert await edge.exit_code() == 0
    assert [each[1] for each in findings(edge.stderr)] == ([code] if code else [])
    assert len(await recordings(ready_broker)) == (2 if split else 1)


async def test_other_scales_and_wrong_samples_are_said(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    audio = np.rint(speech(1, 3) * 32768)
    audio[20_000] = np.nan
    soundfile.write(tmp_path / "a.wav", audio, 16_000, "FLOAT")
    edge = start_edge("file", tmp_path / "a.wav", "--speed", "max")
    assert await edge.exit_code() == 0
    assert [each[1] for each in findings(edge.stderr)] == ["input_scale", "input_invalid"]


@pytest.mark.sound
async def test_a_microphone_that_is_silent(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", speech(1, 10, 0.3), 16_000)
    edge = start_edge("mic", environment=sound_server.environment)
    await edge.says("the input has zeros only", 30)
    sound_server.play(tmp_path / "a.wav")
    await edge.says("audio arrives again", 30)
    edge.interrupt()
    assert await edge.exit_code() == 0
    assert [(level, code) for level, code, _, _ in findings(edge.stderr)] == [
        ("warning", "input_dead"),
        ("info", "input_dead"),
    ]

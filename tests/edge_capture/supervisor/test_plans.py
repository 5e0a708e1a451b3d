"""A plan finds problems of a source before the source has audio."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_capture.config.load import ConfigError, read_config
from edge_capture.supervisor.plans import Plan
from tests.edge_capture.supervisor.agents import source

PIPE = ("pipe", 'path = "/run/a"')
MICROPHONE = ("microphone",)
STREAM = ("stream", 'url = "rtp://239.0.0.1:5004"')


def plan(path: Path, kind: str, *lines: str) -> Plan:
    path.write_text(source("a", kind, *lines))
    config = read_config(path, host="pc")
    return Plan(config, config.sources[0], "pc")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((*MICROPHONE, "publish_sample_rate = 3000"), "cannot be published at 3000 Hz"),
        (
            (*STREAM, "publish_sample_rate = 384000", "chunk_ms = 1000"),
            r"EDGE_CHUNK_MS \(chunk_ms\): chunks of 1000 ms have 768000 bytes",
        ),
        (
            ("command", 'command = ["x"]', 'encoding = "alaw"', 'publish_encoding = "flac"'),
            "alaw is published as it is.*publish_encoding",
        ),
        ((*PIPE, 'encoding = "mulaw"', 'publish_encoding = "flac"'), "mulaw is published as it is"),
        ((*MICROPHONE, f"labels = {{ a = '{'x' * 300_000}' }}"), "labels"),
        ((*MICROPHONE, f"options = {{ a = '{'x' * 300_000}' }}"), "the session request has 30"),
        (
            (*STREAM, "split_channels = ['x', 'y']"),
            "`split_channels` names 2 speakers, the audio has 1 channels",
        ),
        ((*PIPE, "split_channels = ['x', 'y']", "raw = true"), "names 2 speakers"),
    ],
)
def test_what_no_session_can_begin_with_is_told_at_once(
    tmp_path: Path, lines: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf'\[\[sources\]\] "a": .*{problem}'):
        plan(tmp_path / "edge.toml", *lines)


@pytest.mark.parametrize(
    "lines",
    [
        (*MICROPHONE, "split_channels = ['x', 'y']", "publish_sample_rate = 0"),
        (*PIPE, "split_channels = ['x', 'y']"),
        (*STREAM, "split_channels = ['x', 'y']", "channels = 2", 'publish_encoding = "flac"'),
        ("file", 'path = "none.wav"', "split_channels = ['x', 'y', 'z']", "chunk_ms = 1000"),
    ],
    ids=lambda lines: lines[0],
)
def test_what_only_the_audio_tells_is_not_guessed(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert plan(tmp_path / "edge.toml", *lines).table.name == "a"

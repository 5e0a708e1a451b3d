"""Words reach the broker whatever the channels of a source have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import only_recording

pytestmark = pytest.mark.process

RATE = 48_000
WORDS = tones.sequence(40)


def channels(name: str) -> npt.NDArray[np.float32]:
    """Return the words in the channels of one kind of source."""
    pcm = tones.encode(WORDS, RATE, lead_seconds=0.3)
    audio = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    nothing, noise = np.zeros_like(audio), np.random.default_rng(1).normal(0, 3e-5, len(audio))
    half = np.arange(len(audio)) < len(audio) // 2
    found = {
        "mono": [audio],
        "inverted": [audio, -audio],
        "inverted and quieter": [-0.3 * audio, audio],
        "one of 2": [nothing, audio],
        "one of 8": [nothing] * 5 + [audio] + [nothing] * 2,
        "one of 8 with noise": [noise] * 2 + [audio] + [noise] * 5,
        "inverted from the middle": [audio, np.where(half, audio, -audio)],
        "cut off in the middle": [np.where(half, audio, 0), audio],
    }[name]
    return np.stack(found, axis=1).astype(np.float32)


@pytest.mark.parametrize(
    "name",
    [
        "mono",
        "inverted",
        "inverted and quieter",
        "one of 2",
        "one of 8",
        "one of 8 with noise",
        "inverted from the middle",
        "cut off in the middle",
    ],
)
@pytest.mark.parametrize("command", ["file", "stdin"])
async def test_every_word_is_published(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path, name: str, command: str
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, channels(name), RATE, "PCM_16")
    with path.open("rb") as file:
        if command == "file":
            edge = start_edge("file", path, "--speed", "max")
        else:
            edge = start_edge("stdin", stdin=file)
        assert await edge.exit_code() == 0, edge.stderr
    recording = await only_recording(ready_broker)
    recording.check_whole()
    decoder = tones.Decoder(16_000)
    found = [*decoder.feed(recording.payload), *decoder.flush()]
    # When a channel is inverted while it is in use, the word at that moment may be lost.
    counts = tones.compare(WORDS, [timed.word for timed in found])
    assert counts._replace(lost=0) == tones.Counts()
    assert counts.lost <= (2 if name == "inverted from the middle" else 0)
    level = np.sqrt(np.mean((recording.samples / 32768) ** 2))
    assert level > 0.6 * np.sqrt(np.mean(channels("mono") ** 2))

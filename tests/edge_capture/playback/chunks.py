"""Chunks of speech for tests: frame `n` of a session has the value `n`, so that what is played
shows which frames it is."""

from __future__ import annotations

import numpy as np

from edge_capture.playback.order import Chunk
from natterjack.voice.audio import SpeechHeader

SESSION = "a-session"
RATE = 8000


def frames(start: int, count: int) -> bytes:
    """The frames from position `start` on."""
    return (np.arange(start, start + count) % 30_000 + 1).astype("<i2").tobytes()


def chunk(
    seq: int,
    pos: int | None = None,
    count: int = 80,
    *,
    epoch: int = 1,
    utterance: int = 0,
    end: bool = False,
    cut: bool = False,
    session_id: str = SESSION,
    rate: int = RATE,
) -> Chunk:
    """A chunk of `count` frames. Without `pos`, all before it are as long."""
    pos = seq * count if pos is None else pos
    header = SpeechHeader(session_id, epoch, utterance, seq, pos, rate, end, cut)
    return Chunk(header, b"" if cut else frames(pos, count))


def positions(audio: bytes) -> list[int]:
    """The positions of frames that were made by `frames`, below 30,000."""
    return [int(value) - 1 for value in np.frombuffer(audio, "<i2")]

from __future__ import annotations

import pytest

from edge_capture.input.measure import SILENCE_DBFS
from edge_capture.level import level_dbfs

from .program import tone

RATE = 16_000


def test_levels() -> None:
    sine = (tone(440, 1, RATE, 0.1) * 32768).astype("<i2").tobytes()
    assert level_dbfs(sine, "linear16") == pytest.approx(-23.01, abs=0.02)
    assert level_dbfs(b"", "linear16") == level_dbfs(bytes(100), "linear16") == SILENCE_DBFS
    # G.711: the loudest codes, and silence.
    assert level_dbfs(b"\x80\x00" * 50, "mulaw") == pytest.approx(-0.17, abs=0.02)
    assert level_dbfs(b"\xff" * 50, "mulaw") == SILENCE_DBFS
    assert level_dbfs(b"\xaa\x2a" * 50, "alaw") == pytest.approx(-0.14, abs=0.02)
    assert level_dbfs(b"\xd5" * 50, "alaw") < -70

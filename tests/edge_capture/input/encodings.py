"""Audio in many encodings, by their names in ffmpeg."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

_COMPANDED = {"mulaw": "ULAW", "alaw": "ALAW"}


def encoded(samples: npt.NDArray[np.floating], name: str) -> bytes:
    """Return samples between -1 and 1, shape (n,), in an encoding."""
    if name in _COMPANDED:
        file = io.BytesIO()
        soundfile.write(file, samples, 16_000, _COMPANDED[name], format="RAW")
        return file.getvalue()
    stored: npt.NDArray[Any]
    if name == "u8":
        stored = (np.rint(samples * 127) + 128).astype("u1")
        return stored.tobytes()
    kind, bits, order = name[0], int(name[1:3]), "<" if name.endswith("le") else ">"
    if kind == "f":
        return samples.astype(f"{order}f{bits // 8}").tobytes()
    stored = np.rint(samples * (2 ** (bits - 1) - 1))
    if bits == 24:
        stored = stored.astype("<i4").view("u1").reshape(-1, 4)[:, :3]
        return (stored if order == "<" else stored[:, ::-1]).tobytes()
    return stored.astype(f"{order}i{bits // 8}").tobytes()

"""Guesses the real encoding of raw audio that is noise in the declared encoding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .samples import LINEAR16, Coding, Floats, to_float

_ROUGH = 0.4
"""Roughness from which loud audio may be noise: white noise has 2, most speech and music less."""
_SMOOTH, _SMOOTHER = 0.9, 0.5
"""Greatest roughness of a plausible decoding, absolute and relative to that of the noise."""
_LOUD = 0.1
"""Mean square (-10 dBFS) from which noise is worth a guess."""
_EMPTY = 4 / 32768
"""Difference between the extremes of samples that carry no audio."""
_WHITE, _FULL_SCALE = 1.7, 0.2
"""Roughness and mean square (-7 dBFS) that no natural noise has. Encoded audio has 2 and 0.33."""
_PLAUSIBLE = (1e-7, 0.2)
"""Mean square of a plausible decoding: -70 to -7 dBFS."""
_CODINGS = {
    "s16be": Coding("int", 2, True),
    "u8": Coding("int", 1),
    "s24le": Coding("int", 3),
    "s24be": Coding("int", 3, True),
    "s32le": Coding("int", 4),
    "s32be": Coding("int", 4, True),
    "f32le": Coding("float", 4),
    "f32be": Coding("float", 4, True),
    "f64le": Coding("float", 8),
    "mulaw": Coding("mulaw", 1),
    "alaw": Coding("alaw", 1),
    "s16le": LINEAR16,
}
"""Encodings by their names in ffmpeg."""


class Guess(NamedTuple):
    """The probable encoding of what is noise in the declared one."""

    name: str
    """An encoding by its name in ffmpeg, or "" if it is none of those known here."""
    text: str

    @property
    def cure(self) -> str:
        if self.name in ("mulaw", "alaw"):
            return f"--encoding {self.name} (EDGE_STDIN_ENCODING, `encoding`), if it is raw"
        if self.name == "s16le":
            return (
                "--encoding linear16 (EDGE_STDIN_ENCODING, `encoding`), and a writer that loses no "
                "byte"
            )
        if self.name:
            return f"a conversion by ffmpeg, which calls it {self.name}"
        return "a decoder, such as ffmpeg, before natterjack-edge"


def roughness(samples: Floats) -> float:
    """Return the power of the differences of neighbors, relative to that of the n samples."""
    power = float(np.dot(samples, samples))
    steps = np.diff(samples)
    return float(np.dot(steps, steps)) / power if power else 0.0


def is_noise(samples: Floats, power: float, rough: float, channels: int) -> bool:
    """Return whether a channel, of this mean square and roughness, may be in another encoding."""
    if power > _LOUD and rough > _ROUGH:
        return True
    # Samples of 32 bits may have empty lower halves.
    return (
        channels == 1
        and rough > _WHITE
        and min(np.ptp(samples[0::2], axis=0), np.ptp(samples[1::2], axis=0)) <= _EMPTY
    )


def guess(data: bytes, declared: Coding, channels: int, rough: float) -> Guess | None:
    """Guess the encoding of raw bytes that are noise as `declared`; None if they may be real noise.

    They begin with a whole frame of `declared`, and have the roughness `rough` in that encoding.
    """
    smooth = min(_SMOOTH, _SMOOTHER * rough)
    best: tuple[float, Guess] | None = None
    for name, coding in _CODINGS.items():
        # Frames of the one do not begin where those of the other do, and a byte may be missing.
        for offset in range(coding.size):
            if coding == declared and not offset:
                continue
            size = (len(data) - offset) // (coding.size * channels) * coding.size * channels
            decoded = to_float(coding.decode(data[offset : offset + size])).reshape(-1, channels)
            found = _plausible_roughness(decoded)
            if found is not None and found < (smooth if best is None else best[0]):
                shifted = coding == declared
                text = f"{coding} that is shifted by {offset} byte" if shifted else str(coding)
                if coding.size == 4 and coding.kind == "int" and channels == 1:
                    text += ", or two channels of which one is dead"
                best = found, Guess(name, text)
    if best is not None:
        return best[1]
    samples = to_float(declared.decode(data))
    if float(np.mean(samples**2)) > _FULL_SCALE and rough > _WHITE:
        return Guess("", "encoded or encrypted audio, or no audio")
    return None


def _plausible_roughness(samples: Floats) -> float | None:
    """Return the roughness of samples that may be speech or music, else None."""
    if not len(samples) or not (np.abs(samples) <= 1).all():
        return None
    samples = samples - samples.mean(axis=0)
    power = (samples * samples).mean(axis=0)
    loudest = int(power.argmax())
    if not _PLAUSIBLE[0] < power[loudest] < _PLAUSIBLE[1]:
        return None
    return roughness(np.ascontiguousarray(samples[:, loudest]))

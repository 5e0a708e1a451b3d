"""Conversion of a session's audio for its provider: decode, mix down, resample, cut into frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import soxr

from natterjack.audio import AudioFormat, Encoding
from natterjack.plugin.provider import Capabilities

Samples = npt.NDArray[np.int16]


def _g711_tables() -> dict[Encoding, Samples]:
    """The 16-bit value of each 8-bit code (ITU-T G.711, sections 3 and 4)."""
    code = np.arange(256, dtype=np.int32)
    mu = ~code & 0xFF
    magnitude = (((mu & 0x0F) << 3) + 0x84 << ((mu >> 4) & 7)) - 0x84
    mulaw = np.where(mu & 0x80, -magnitude, magnitude)
    a = code ^ 0x55
    exponent, mantissa = (a >> 4) & 7, (a & 0x0F) << 4
    magnitude = np.where(
        exponent == 0, mantissa + 8, mantissa + 0x108 << np.maximum(exponent - 1, 0)
    )
    alaw = np.where(a & 0x80, magnitude, -magnitude)
    return {"mulaw": mulaw.astype(np.int16), "alaw": alaw.astype(np.int16)}


_G711 = _g711_tables()


def loud_end(audio_format: AudioFormat, payload: bytes) -> bool:
    """Whether the last 40 ms of `payload` are louder than a pause between words (-44 dBFS RMS)."""
    size = audio_format.sample_rate * 40 // 1000 * audio_format.frame_bytes
    table = _G711.get(audio_format.encoding)
    end = payload[-size:]
    samples = np.frombuffer(end, "<i2") if table is None else table[np.frombuffer(end, np.uint8)]
    return bool(len(samples)) and float(np.mean(np.square(samples.astype(np.float32)))) > 200**2


def wire_format(source: AudioFormat, capabilities: Capabilities) -> AudioFormat:
    """The format in which audio of format `source` is sent: unchanged if the provider accepts
    it."""
    rates = capabilities.sample_rates
    rate = source.sample_rate
    if rates and rate not in rates:
        above = [r for r in rates if r > rate]
        rate = min(above) if above else max(rates)
    channels = source.channels if source.channels <= capabilities.max_channels else 1
    encoding = source.encoding
    if encoding not in capabilities.encodings or (rate, channels) != source[1:]:
        linear = "linear16" in capabilities.encodings
        encoding = "linear16" if linear else capabilities.encodings[0]
    return AudioFormat(encoding, rate, channels)


class Converter:
    """Converts chunks from `source` to `target` format, in frames of `frame_ms` if given.

    Keeps state between chunks. The results of all `convert` calls and the `flush` together are the
    whole audio at unchanged positions; the flush returns what the resampler has delayed.
    """

    def __init__(
        self, source: AudioFormat, target: AudioFormat, frame_ms: int | None = None
    ) -> None:
        if target.encoding != source.encoding and target.encoding != "linear16":
            raise ValueError(f"cannot convert {source.encoding} to {target.encoding}")
        self._source = source
        self._identity = source == target
        self._mix = target.channels < source.channels
        self._parts = np.full(source.channels, 1 / source.channels, np.float32)
        self._table = _G711.get(source.encoding)
        self._resampler = None
        if source.sample_rate != target.sample_rate:
            self._resampler = soxr.ResampleStream(
                source.sample_rate, target.sample_rate, target.channels, dtype="int16"
            )
        self._target = target
        self._frame_bytes = 0
        if frame_ms is not None:
            self._frame_bytes = target.sample_rate * frame_ms // 1000 * target.frame_bytes
        self._rest = b""
        self.passthrough = self._identity and not self._frame_bytes
        """Whether audio passes unchanged, so that `convert` need not be called."""

    def convert(self, payload: bytes) -> Iterator[bytes]:
        """The pieces of audio that are ready after `payload`: possibly none, never empty."""
        converted = payload if self._identity else self._samples(payload, last=False)
        if not self._frame_bytes:
            if converted:
                yield converted
            return
        if not self._rest and len(converted) == self._frame_bytes:
            yield converted
            return
        buffered, size = self._rest + converted, self._frame_bytes
        whole = len(buffered) // size * size
        self._rest = buffered[whole:]
        for start in range(0, whole, size):
            yield buffered[start : start + size]

    def flush(self) -> Iterator[bytes]:
        """The remaining audio at the end of a stream; the last frame may be short."""
        tail = b"" if self._identity else self._samples(b"", last=True)
        buffered = self._rest + tail
        size = self._frame_bytes or len(buffered) or 1
        self._rest = b""
        for start in range(0, len(buffered), size):
            yield buffered[start : start + size]

    def _samples(self, payload: bytes, *, last: bool) -> bytes:
        if self._table is not None:
            samples: Samples = self._table[np.frombuffer(payload, np.uint8)]
        else:
            samples = np.frombuffer(payload, "<i2")
        if self._mix:
            # A matrix product: numpy's mean along a short axis takes five times as long.
            frames = samples.reshape(-1, self._source.channels).astype(np.float32)
            samples = (frames @ self._parts).astype(np.int16)
        if self._resampler is not None:
            if self._target.channels > 1:
                samples = samples.reshape(-1, self._target.channels)
            samples = self._resampler.resample_chunk(samples, last=last)
        return samples.tobytes()

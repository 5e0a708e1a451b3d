"""Audio in every container, made by ffmpeg of words that are encoded as tones."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from gateway.audio.convert import Output
from gateway.audio.decoder import Decoder, Decoders, Source
from natterjack.emulators import tones
from tests.edge_capture.media import make

RATE = 48_000
WORDS = tuple(tones.sequence(30))
SECONDS = len(WORDS) * (tones.WORD_SECONDS + tones.GAP_SECONDS)

FORMATS: dict[str, list[str]] = {
    # Clusters of 250 ms and of unknown size, as a browser's MediaRecorder writes.
    "a.webm": ["-c:a", "libopus", "-f", "webm", "-live", "1", "-cluster_time_limit", "250"],
    "pages.ogg": ["-c:a", "libopus", "-page_duration", "20000"],
    "a.ogg": ["-c:a", "libopus"],
    "vorbis.ogg": ["-c:a", "libvorbis", "-q:a", "8"],
    "fragments.mp4": [
        "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov+default_base_moof",
        "-frag_duration", "250000",
    ],
    "first.m4a": ["-c:a", "aac", "-movflags", "faststart"],
    "a.flac": ["-ar", "16000"],
    "a.mp3": ["-ar", "16000"],
    "a.aac": ["-c:a", "aac"],
    "a.wav": [],
}  # fmt: skip
"""Files that can be decoded as they arrive, with the arguments that encode them."""


def pcm(rate: int = RATE) -> bytes:
    """`WORDS` as linear16."""
    return tones.encode(WORDS, rate)


def wav(audio: bytes, rate: int = RATE, channels: int = 1) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, 2, rate, 0, "NONE", ""))
        writer.writeframes(audio)
    return file.getvalue()


def encoded(folder: Path, name: str, arguments: list[str], *, stereo: bool = False) -> bytes:
    """`WORDS` in a file that ffmpeg makes."""
    source = folder / "source.wav"
    audio = pcm()
    if stereo:  # the second channel says nothing
        samples = np.frombuffer(audio, "<i2")
        audio = np.stack([samples, np.zeros_like(samples)], axis=1).tobytes()
    source.write_bytes(wav(audio, channels=2 if stereo else 1))
    make(folder / name, "-i", str(source), *arguments)
    return (folder / name).read_bytes()


def words(audio: bytes, rate: int = 16_000) -> tuple[str, ...]:
    """The words that linear16 has."""
    decoder = tones.Decoder(rate)
    return tuple(found.word for found in [*decoder.feed(audio), *decoder.flush()])


async def joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def decode(decoder: Decoder, parts: list[bytes], *, finish: bool = True) -> bytes:
    """Everything that a decoder returns for parts of a stream."""
    audio = b"".join([await joined(decoder.decode(part)) for part in parts])
    return audio + await joined(decoder.finish()) if finish else audio


async def decode_whole(
    decoders: Decoders,
    parts: list[bytes],
    output: Output = Output(),  # noqa: B008  # a value
    source: Source | None = None,
) -> bytes:
    """The same, with a decoder of its own."""
    decoder = decoders.open(output, source)
    try:
        return await decode(decoder, parts)
    finally:
        await decoder.close()


def cut(data: bytes, size: int) -> list[bytes]:
    """Parts of `size` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]

"""Chunks in FLAC: each is decoded by itself, and a damaged or forged one is refused."""

from __future__ import annotations

import io
import random
import tracemalloc

import numpy as np
import pytest
import soundfile

from edge_capture.delivery.flac import flac_encoder
from natterjack.audio import FLAC_HEAD_BYTES, MAX_CHUNK_BYTES, AudioFormat, flac_frames
from natterjack.errors import BadChunk
from natterjack.spec import SessionSpec
from worker.audio.flac import flac_decoder

MONO = AudioFormat("linear16", 16_000, 1)
SPEECH = np.cumsum(np.random.default_rng(1).normal(0, 60, 16_000)).astype("<i2").tobytes()
PER_CHUNK = 1280 * 2


def encoded_by_anything(samples: bytes, channels: int = 1) -> bytes:
    """A whole file, as any other program writes it, with the metadata that ours leaves out."""
    stream = io.BytesIO()
    shaped = np.frombuffer(samples, "<i2").reshape(-1, channels)
    soundfile.write(stream, shaped, 16_000, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


@pytest.mark.parametrize("frames", [1, 15, 1280, 4096, 4097, 16_000])
def test_audio_is_the_same_after_it(frames: int) -> None:
    audio = SPEECH[: 2 * frames]
    chunk = flac_encoder(16_000)(audio)
    assert flac_frames(chunk, MONO) == frames
    assert flac_decoder(MONO)(chunk) == flac_decoder(MONO)(encoded_by_anything(audio)) == audio
    assert len(encoded_by_anything(audio)) - len(chunk) > 30


def test_each_chunk_is_decoded_alone_and_in_any_order() -> None:
    encode, decode = flac_encoder(16_000), flac_decoder(MONO)
    chunks = [encode(SPEECH[at : at + PER_CHUNK]) for at in range(0, len(SPEECH), PER_CHUNK)]
    assert b"".join(map(decode, chunks)) == SPEECH
    assert decode(chunks[7]) == SPEECH[7 * PER_CHUNK : 8 * PER_CHUNK]
    assert len(b"".join(chunks)) < 0.7 * len(SPEECH)
    assert encode(b"") == decode(b"") == b""


def test_channels() -> None:
    stereo = AudioFormat("linear16", 16_000, 2)
    assert flac_decoder(stereo)(flac_encoder(16_000, 2)(SPEECH)) == SPEECH
    with pytest.raises(BadChunk):
        flac_decoder(MONO)(flac_encoder(16_000, 2)(SPEECH))
    with pytest.raises(ValueError, match="at most 8 channels"):
        SessionSpec(tenant="t", conversation="c", speaker="s", encoding="flac", channels=9)


def test_damage_is_refused_or_changes_nothing_about_the_length() -> None:
    decode, chunk = flac_decoder(MONO), flac_encoder(16_000)(SPEECH[:PER_CHUNK])
    dice, refused = random.Random(18), 0
    for _ in range(500):
        damaged = bytearray(chunk)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        if dice.random() < 0.3:
            del damaged[dice.randrange(len(damaged)) :]
        try:
            assert len(decode(bytes(damaged))) == flac_frames(bytes(damaged), MONO) * 2
        except BadChunk:
            refused += 1
    assert refused > 400


def relabeled(chunk: bytes, frames: int) -> bytes:
    """A chunk whose STREAMINFO says another length."""
    packed = int.from_bytes(chunk[18:26], "big") >> 36 << 36 | frames
    return chunk[:18] + packed.to_bytes(8, "big") + chunk[26:]


def test_a_chunk_is_as_long_as_it_says() -> None:
    """Or it is refused, so that positions and times never depend on what is decoded."""
    decode, chunk = flac_decoder(MONO), flac_encoder(16_000)(SPEECH[:PER_CHUNK])
    for frames in (1281, MAX_CHUNK_BYTES // 2):
        with pytest.raises(BadChunk) as caught:
            decode(relabeled(chunk, frames))
        assert caught.value.cause == "flac"
    for frames in (1, 1279):
        assert decode(relabeled(chunk, frames)) == SPEECH[: 2 * frames]


def test_a_small_chunk_that_would_be_huge_is_not_decoded_whole() -> None:
    """Silence takes 12 bytes for 4096 frames: 512 KiB of it would be 350 MB."""
    silence = flac_encoder(16_000)(bytes(2 * 4096 * 500))
    frame = silence[FLAC_HEAD_BYTES : FLAC_HEAD_BYTES + (len(silence) - FLAC_HEAD_BYTES) // 500]
    bomb = silence[:FLAC_HEAD_BYTES] + frame * ((MAX_CHUNK_BYTES - FLAC_HEAD_BYTES) // len(frame))
    decode = flac_decoder(MONO)
    tracemalloc.start()
    try:
        for frames in (1, MAX_CHUNK_BYTES // 2):
            assert decode(relabeled(bomb, frames)) == bytes(2 * frames)
        with pytest.raises(BadChunk):
            decode(relabeled(bomb, 2**36 - 1))
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_CHUNK_BYTES
    finally:
        tracemalloc.stop()

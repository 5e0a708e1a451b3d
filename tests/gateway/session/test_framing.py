"""Chunks of whole frames, whatever the sizes of messages."""

from __future__ import annotations

import random

from gateway.session.framing import Framer
from natterjack.audio import MAX_CHUNK_BYTES, AudioFormat

FORMAT = AudioFormat("linear16", 16_000, 1)


def test_messages_of_a_suitable_size_pass_without_a_copy() -> None:
    framer = Framer(FORMAT, 50)
    data = bytes(3200)
    [chunk] = framer.feed(data)
    assert chunk is data


def test_short_messages_are_gathered() -> None:
    framer = Framer(FORMAT, 50)
    assert framer.feed(bytes(640)) == []
    assert framer.feed(bytes(640)) == []
    assert framer.pending_frames == 640
    assert [len(chunk) for chunk in framer.feed(bytes(640))] == [1920]
    assert framer.pending_frames == 0


def test_no_byte_is_lost_and_all_chunks_are_whole_frames() -> None:
    rng = random.Random(1)
    for channels in (1, 2, 3):
        framer = Framer(AudioFormat("linear16", 8000, channels), 20)
        data = rng.randbytes(20_000)
        chunks, at = [], 0
        while at < len(data):
            size = rng.choice([0, 1, 2, 3, 7, 100, 333, 4001])
            chunks += framer.feed(data[at : at + size])
            at += size
        chunks += framer.flush()
        whole = len(data) // (2 * channels) * 2 * channels
        assert b"".join(chunks) == data[:whole]
        assert not any(len(chunk) % (2 * channels) for chunk in chunks)


def test_a_large_message_becomes_chunks_that_the_broker_takes() -> None:
    framer = Framer(FORMAT, 50)
    chunks = framer.feed(bytes(2 * MAX_CHUNK_BYTES + 10))
    assert all(0 < len(chunk) <= MAX_CHUNK_BYTES for chunk in chunks)
    assert sum(map(len, chunks)) == 2 * MAX_CHUNK_BYTES + 10


def test_flush_without_audio_makes_no_chunk() -> None:
    framer = Framer(FORMAT, 50)
    assert framer.flush() == []
    framer.feed(b"x")
    assert framer.flush() == [], "half a sample"

"""Containers of all kinds, made by ffmpeg and decoded as they arrive."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gateway.audio.convert import Output
from gateway.audio.decoder import OPUS, Decoders
from gateway.audio.errors import UndecodableAudio
from tests.edge_capture.media import make, video
from tests.gateway.audio.files import (
    FORMATS,
    SECONDS,
    WORDS,
    cut,
    decode,
    decode_whole,
    encoded,
    joined,
    words,
)

pytestmark = pytest.mark.process

HELD_BACK_S = {
    # Audio fed before the first is out, and what is held back later: 0.1 s more than was measured.
    "a.webm": (0.2, 0.2), "pages.ogg": (0.2, 0.2), "a.ogg": (1.1, 1.1), "vorbis.ogg": (1.8, 1.5),
    "fragments.mp4": (0.4, 0.4), "first.m4a": (0.5, 0.4), "a.flac": (1.3, 1.2), "a.mp3": (0.6, 0.6),
    "a.aac": (0.2, 0.2), "a.wav": (0.15, 0.1),
}  # fmt: skip


@pytest.fixture
async def decoders() -> AsyncIterator[Decoders]:
    decoders = Decoders()
    try:
        yield decoders
    finally:
        await decoders.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    return {name: encoded(folder, name, arguments) for name, arguments in FORMATS.items()}


@pytest.mark.parametrize("name", FORMATS)
async def test_every_word_however_the_bytes_are_divided(
    decoders: Decoders, made: dict[str, bytes], name: str
) -> None:
    data = made[name]
    whole = await decode_whole(decoders, [data])
    assert words(whole) == WORDS
    random = np.random.default_rng(7)
    cuts = [*np.sort(random.integers(0, len(data), 200)).tolist(), len(data)]
    uneven = [data[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
    assert await decode_whole(decoders, uneven) == whole
    assert await decode_whole(decoders, [*cut(data[:1500], 1), data[1500:]]) == whole


@pytest.mark.parametrize("name", FORMATS)
async def test_files(decoders: Decoders, made: dict[str, bytes], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(made[name])
    with (tmp_path / name).open("rb") as file:
        assert words(await joined(decoders.file(file, Output()))) == WORDS


async def test_a_file_with_its_index_at_the_end(decoders: Decoders, tmp_path: Path) -> None:
    data = encoded(tmp_path, "end.m4a", ["-c:a", "aac"])
    with (tmp_path / "end.m4a").open("rb") as file:
        assert words(await joined(decoders.file(file, Output()))) == WORDS
    with pytest.raises(UndecodableAudio, match="index is at its end"):
        await decode_whole(decoders, [data])


@pytest.mark.parametrize("name", FORMATS)
async def test_how_much_audio_is_held_back(
    decoders: Decoders, made: dict[str, bytes], name: str
) -> None:
    """The bytes are fed in steps of 100 ms, on average over the file."""
    data = made[name]
    decoder = decoders.open(Output())
    fed, out, first, most = 0.0, 0.0, None, 0.0
    try:
        for part in cut(data, round(len(data) * 0.1 / SECONDS)):
            fed += len(part) / len(data) * SECONDS
            out += len(await joined(decoder.decode(part))) / 32_000
            if out and first is None:
                first = fed
            elif out:
                most = max(most, fed - out)
        assert first is not None
        print(f"{name}: first audio after {first:.2f} s, then up to {most:.2f} s held back")
        assert first <= HELD_BACK_S[name][0]
        assert most <= HELD_BACK_S[name][1]
    finally:
        await decoder.close()


async def test_stereo_is_mixed_or_kept(decoders: Decoders, tmp_path: Path) -> None:
    data = encoded(tmp_path, "a.webm", FORMATS["a.webm"], stereo=True)
    assert words(await decode_whole(decoders, cut(data, 1000))) == WORDS
    decoder = decoders.open(Output(16_000, None))
    assert decoder.channels is None
    try:
        audio = await decode(decoder, cut(data, 1000))
        assert decoder.channels == 2
        assert decoder.text == "WebM/opus, 48000 Hz, 2 ch"
    finally:
        await decoder.close()
    left, right = np.frombuffer(audio, "<i2").reshape(-1, 2).T
    assert words(left.tobytes()) == WORDS
    assert not words(right.tobytes())
    with pytest.raises(UndecodableAudio, match="has 2 channels, and 3 were asked for"):
        await decode_whole(decoders, [data], Output(16_000, 3))


async def test_audio_beside_pictures(decoders: Decoders, tmp_path: Path) -> None:
    encoded(tmp_path, "a.wav", [])
    path = make(
        tmp_path / "a.webm", *video(SECONDS), "-i", tmp_path / "a.wav", "-c:a", "libopus",
        "-c:v", "libvpx",
    )  # fmt: skip
    assert words(await decode_whole(decoders, cut(path.read_bytes(), 5000))) == WORDS


async def test_a_cover_before_the_audio(decoders: Decoders, tmp_path: Path) -> None:
    encoded(tmp_path, "a.wav", [])
    make(tmp_path / "cover.png", *video(1), "-frames:v", "1", "-s", "1200x900")
    path = make(
        tmp_path / "a.mp3", "-i", tmp_path / "a.wav", "-i", tmp_path / "cover.png", "-map", "0",
        "-map", "1", "-c:v", "copy", "-id3v2_version", "3",
    )  # fmt: skip
    assert words(await decode_whole(decoders, cut(path.read_bytes(), 5000))) == WORDS


async def test_packets_of_opus_without_a_container(decoders: Decoders, tmp_path: Path) -> None:
    packets = ogg_packets(encoded(tmp_path, "a.ogg", FORMATS["pages.ogg"]))
    assert words(await decode_whole(decoders, packets[2:], source=OPUS)) == WORDS
    with pytest.raises(UndecodableAudio, match="not a packet of opus"):
        await decode_whole(decoders, [b"\xff\xff\xff\xff"], source=OPUS)


def ogg_packets(data: bytes) -> list[bytes]:
    """The packets of an Ogg file."""
    packets, packet, file = [], b"", io.BytesIO(data)
    while page := file.read(27):
        for size in file.read(page[26]):
            packet += file.read(size)
            if size < 255:
                packets.append(packet)
                packet = b""
    return packets


async def test_a_hole_in_the_timestamps_is_silence(decoders: Decoders, tmp_path: Path) -> None:
    """Opus that says nothing in pauses has no packets for them, and the clock must go on."""
    encoded(tmp_path, "a.wav", [])
    path = make(
        tmp_path / "a.webm", "-i", tmp_path / "a.wav", "-af",
        "aselect='lt(t,2)+gt(t,5)'", "-c:a", "libopus",
    )  # fmt: skip
    audio = await decode_whole(decoders, cut(path.read_bytes(), 1000))
    assert len(audio) / 32_000 == pytest.approx(SECONDS, abs=0.1)

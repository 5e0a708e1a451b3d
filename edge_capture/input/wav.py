"""The header of a WAV file: RIFF, RIFX (big-endian), RF64 and BW64 (more than 4 GiB).

Sizes in the header of a pipe or of a recorder that died are placeholders, so that they are checked
against what is there.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from natterjack.audio import MIN_SAMPLE_RATE

from .samples import Coding

_TAGS: dict[int, Literal["int", "float", "mulaw", "alaw"]] = {
    1: "int", 3: "float", 6: "alaw", 7: "mulaw",
}  # fmt: skip
_NAMES = {
    2: "MS ADPCM", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x50: "MPEG", 0x55: "MP3", 0xFF: "AAC",
    0x2000: "AC-3",
}  # fmt: skip
_EXTENSIBLE = 0xFFFE
_SIZES = {"int": (1, 2, 3, 4), "float": (4, 8), "mulaw": (1,), "alaw": (1,)}
_MAX_CHANNELS = 1024
_UNKNOWN_BYTES = 0x7FFF_0000
"""Sizes from here on are placeholders: 0xFFFFFFFF (ffmpeg), 0x80000000 (arecord), 0x7FFFF000 and
so on (sox)."""
_MAX_CHUNK_BYTES = 1 << 24
"""Largest metadata expected at the end of a pipe."""
_TOLERANCE_S = 0.1
_LEGACY_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
_ID_CHARACTERS = frozenset(range(0x20, 0x7F))


class BadWav(Exception):
    """A header that is malformed or cut, or names an encoding that is not decoded here."""


class WavHeader(NamedTuple):
    """The parts of a header that matter."""

    coding: Coding
    sample_rate: int
    channels: int
    data_offset: int
    """Where the audio begins, in bytes from the start of the file."""
    data_bytes: int | None
    """Size of the audio by the header, which may be wrong; None if it is a placeholder."""

    @property
    def frame_bytes(self) -> int:
        return self.coding.size * self.channels

    def __str__(self) -> str:
        channels = "mono" if self.channels == 1 else f"{self.channels} channels"
        return f"{self.sample_rate} Hz, {channels}, {self.coding}"

    def seconds(self, size_bytes: int) -> float:
        """Return the duration of so many bytes of audio."""
        return size_bytes / self.frame_bytes / self.sample_rate


def is_wav(head: bytes) -> bool:
    """Return whether a file whose first 12 bytes these are is a WAV file."""
    return head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def parse_wav(head: bytes) -> WavHeader | None:
    """Return the header at the start of a WAV file, or None if it is longer than `head`.

    Raises: BadWav.
    """
    if len(head) < 12:
        return None
    order = ">" if head.startswith(b"RIFX") else "<"
    long_bytes: int | None = None
    audio: tuple[Coding, int, int] | None = None
    at = 12
    while len(head) >= at + 8:
        name, size = head[at : at + 4], struct.unpack(f"{order}I", head[at + 4 : at + 8])[0]
        at += 8
        if name == b"data":
            if audio is None:
                raise BadWav("its header does not name an encoding before the audio")
            if size >= _UNKNOWN_BYTES:
                size = long_bytes
            return WavHeader(*audio, at, size)
        body = head[at : at + size]
        if name in (b"fmt ", b"ds64") and len(body) < size:
            return None
        if name == b"fmt ":
            audio = _parse_format(body, order)
        elif name == b"ds64" and size >= 16:
            long_bytes = struct.unpack("<Q", body[8:16])[0]
            if long_bytes >= 2**63:
                long_bytes = None  # -1
        at += size + (size & 1)
    return None


def _parse_format(body: bytes, order: str) -> tuple[Coding, int, int]:
    """Return the encoding, sample rate and channels that a format chunk describes."""
    if len(body) < 16:
        raise BadWav("its header is malformed")
    tag, channels, rate, _, align, bits = struct.unpack(f"{order}HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = struct.unpack(f"{order}H", body[24:26])[0]
    if not (0 < channels <= _MAX_CHANNELS and rate):
        raise BadWav(f"its header says {channels} channels at {rate} Hz")
    if rate < MIN_SAMPLE_RATE:
        raise BadWav(f"its header says {rate} Hz, and speech needs {MIN_SAMPLE_RATE} Hz or more")
    kind = _TAGS.get(tag)
    if kind is None:
        raise BadWav(f"it is encoded as {_NAMES.get(tag, f'format {tag:#x}')}")
    size = -(-bits // 8)
    if size == 3 and align == 4 * channels:
        size = 4  # a sample of 24 bits may fill the upper bytes of a wider one
    if size not in _SIZES[kind]:
        raise BadWav(f"it is encoded as {kind} of {bits} bits in {size} bytes")
    return Coding(kind, size, order == ">"), rate, channels


def is_metadata(behind: bytes, left: int | None) -> bool:
    """Return whether the bytes after the audio are chunks or tags, and not more audio.

    `behind` are the first of `left` bytes; `left` is None if that is unknown.
    """
    if behind.startswith(_LEGACY_TAGS):
        return True
    for pad in (0, 1):  # a chunk begins at an even offset, but not every writer pads
        name, size = behind[pad : pad + 4], behind[pad + 4 : pad + 8]
        if len(size) == 4 and _ID_CHARACTERS.issuperset(name):
            bound = _MAX_CHUNK_BYTES if left is None else left
            if min(int.from_bytes(size, "little"), int.from_bytes(size, "big")) <= bound:
                return True
    return False


class Sizes(NamedTuple):
    """How far the sizes in the header of a file can be trusted."""

    ignore: bool = False
    """Whether everything after the header is audio."""
    notice: str | None = None
    """Words for what is unusual about the file."""
    missing: bool = False
    """Whether the header announces audio that is not there."""


def check_sizes(header: WavHeader, left: int, behind: bytes) -> Sizes:
    """Return whether the sizes of a file can be believed.

    `left` is the number of bytes after the audio that the header announces, negative if there is
    less than that, and `behind` are the first of them. If the header has a placeholder, they count
    from the start of the audio.
    """
    seconds = header.seconds(left)
    if header.data_bytes is None:
        return Sizes(ignore=True)
    announced = header.seconds(header.data_bytes)
    if seconds <= -_TOLERANCE_S:
        return Sizes(
            missing=True,
            notice=f"its header announces {announced:.1f} s of audio, of which {-seconds:.1f} s "
            "are missing: it was cut, or its recorder did not finish",
        )
    if left < header.frame_bytes or is_metadata(behind, left):
        return Sizes()
    if header.data_bytes == 0:
        return Sizes(
            ignore=True,
            notice=f"its recorder did not finish it: its header has no size; all {seconds:.1f} s "
            "are read",
        )
    if seconds < _TOLERANCE_S:
        return Sizes()
    if not any(behind):
        return Sizes(
            notice=f"{left} bytes after the {announced:.1f} s that its header announces begin with "
            "zeros; they are not read"
        )
    return Sizes(
        ignore=True,
        notice=f"{seconds:.1f} s more follow the {announced:.1f} s that its header announces, and "
        "are read too; its recorder did not finish it",
    )

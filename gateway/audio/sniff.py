"""Recognizing containers by their first bytes, whatever a header or a file name says."""

from __future__ import annotations

from typing import NamedTuple

from .errors import UndecodableAudio

HEAD_BYTES = 12
"""Enough for every signature."""


class Container(NamedTuple):
    """A container, or a stream of frames that needs none."""

    demuxer: str
    """FFmpeg's name of it."""
    name: str
    """Its name for people, without an article."""
    frames: bool = False
    """Whether it has no header: every frame says what it is, so that one of them is enough to
    begin."""


WAV = Container("wav", "WAV")
MATROSKA = Container("matroska", "WebM")
OGG = Container("ogg", "Ogg")
MP4 = Container("mp4", "MP4")
FLAC = Container("flac", "FLAC")
MP3 = Container("mp3", "MP3", frames=True)
AAC = Container("aac", "AAC", frames=True)
CONTAINERS = (WAV, MATROSKA, OGG, MP4, FLAC, MP3, AAC)

_SIGNATURES = (
    # offset, bytes, container
    (0, b"\x1a\x45\xdf\xa3", MATROSKA),
    (0, b"OggS", OGG),
    (4, b"ftyp", MP4),
    (4, b"styp", MP4),
    (0, b"fLaC", FLAC),
    (0, b"ID3", MP3),
)
_CLUSTER = b"\x1f\x43\xb6\x75"
_FOREIGN = (
    # Text that a client sends by mistake, which is worth naming.
    (b"{", "JSON"),
    (b"<", "a web page or XML"),
    (b"#EXTM3U", "a playlist"),
    (b"HTTP/1.", "an HTTP response"),
)


def sniff(head: bytes, *, ended: bool) -> Container | None:
    """Return the container whose first bytes are `head`, or None if more bytes are needed.

    `ended` says that there are no more. Raises: UndecodableAudio.
    """
    if len(head) < HEAD_BYTES and not ended:
        return None
    if not head:
        raise UndecodableAudio("there is no audio: not a single byte was sent")
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return WAV
    for offset, signature, container in _SIGNATURES:
        if head.startswith(signature, offset):
            return container
    if _is_adts(head):
        return AAC
    if _is_mpeg(head):
        return MP3
    if head.startswith(_CLUSTER):
        raise UndecodableAudio(
            "this is the middle of a WebM stream, without its header: a recorder writes the header "
            "once, so start a new recorder after each connection"
        )
    for beginning, name in _FOREIGN:
        if head.startswith(beginning):
            raise UndecodableAudio(f"this is {name}, not audio")
    raise UndecodableAudio(
        "the audio does not begin like WebM, Ogg, MP4, FLAC, MP3, AAC or WAV; raw audio needs its "
        "encoding and sample rate in the request"
    )


def _is_adts(head: bytes) -> bool:
    """Whether a frame of AAC begins here: 12 bits of ones, layer 0 and a known sample rate."""
    return (
        len(head) >= 7 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and (head[2] >> 2 & 15) <= 12
    )


def _is_mpeg(head: bytes) -> bool:
    """Whether a frame of MPEG audio begins here: 11 bits of ones, then values that exist."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bit_rate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bit_rate not in (0, 15) and sample_rate != 3

"""Audio formats, and the headers of audio chunks.

The payload of a chunk is raw PCM. With the wire encoding `flac` it is a complete FLAC stream
(RFC 9639), which can be decoded without any other chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from .errors import BadChunk
from .notices import checked_note

Encoding = Literal["linear16", "mulaw", "alaw"]
WireEncoding = Literal[Encoding, "flac"]
"""Encodings of payloads. Decoded `flac` is `linear16`."""
BYTES_PER_SAMPLE: dict[Encoding, int] = {"linear16": 2, "mulaw": 1, "alaw": 1}
_SILENCE: dict[Encoding, bytes] = {"linear16": b"\0\0", "mulaw": b"\xff", "alaw": b"\xd5"}
"""One silent sample."""

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4000, 384_000
"""Sample rates of published audio, in hertz. A source may have a higher one, but no lower one."""

MAX_CHUNK_BYTES = 512 * 1024
"""The largest payload of a chunk, as sent and as decoded: half of the broker's default message
limit."""
MAX_FLAC_CHANNELS = 8

SESSION_ID = "Session-Id"
AUDIO_SEQ = "Audio-Seq"
AUDIO_POS = "Audio-Pos"
AUDIO_TIME = "Audio-Time"
AUDIO_END = "Audio-End"
AUDIO_NOTE = "Audio-Note"
MSG_ID = "Nats-Msg-Id"

_MAX_INT = 2**63 - 1


class AudioFormat(NamedTuple):
    """The encoding of a session's audio. It does not change within a session."""

    encoding: Encoding
    sample_rate: int
    """Frames per second."""
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Size of a frame, which has one sample of each channel, in bytes."""
        return BYTES_PER_SAMPLE[self.encoding] * self.channels

    def frames(self, size_bytes: int) -> int:
        """The number of whole frames in `size_bytes` bytes."""
        return size_bytes // (BYTES_PER_SAMPLE[self.encoding] * self.channels)

    def seconds(self, frames: int) -> float:
        """Duration of `frames` frames in seconds."""
        return frames / self.sample_rate

    def silence(self, frames: int) -> bytes:
        """`frames` frames of digital silence."""
        return _SILENCE[self.encoding] * (frames * self.channels)


class ChunkHeader(NamedTuple):
    """The headers of a chunk. Positions count frames from the start of the audio."""

    session_id: str
    seq: int
    """Number of the chunk within its session: 0, 1, 2 ... without holes."""
    pos: int
    """Position of the chunk's first frame."""
    time_ns: int
    """Wall-clock time of that frame in nanoseconds since the epoch, or 0 if unknown."""
    end: bool
    """True for the last chunk of the session, whose payload may be empty."""
    note: str = ""
    """Conditions of the audio, as natterjack.notices has them: up to three codes, separated by
    commas. `code` begins at this chunk, `code:end` ended before it."""


_STREAMINFO = b"\0\0\0\x22"
"""The head of the block STREAMINFO, which is the first one of a FLAC stream; without the bit that
says whether it is the last one. See RFC 9639, sections 8.1 and 8.2."""
FLAC_HEAD_BYTES = 42
"""The size of the marker `fLaC` and of STREAMINFO with its head."""


def flac_frames(payload: bytes, audio_format: AudioFormat) -> int:
    """The number of frames that a FLAC chunk says it has; it is not decoded. An empty payload has
    none. `audio_format` is the format of the decoded audio.

    Raises: BadChunk with cause `flac` if it is not a FLAC stream of 16 bits in this format and of a
    known length, or `size` if it is larger than MAX_CHUNK_BYTES, now or when decoded.
    """
    if not payload:
        return 0
    head = bytes((payload[4] & 0x7F,)) + payload[5:8] if len(payload) >= FLAC_HEAD_BYTES else b""
    if head != _STREAMINFO or not payload.startswith(b"fLaC"):
        raise BadChunk("flac", "not a FLAC stream that begins with STREAMINFO")
    # 20 bits for the rate, 3 for the channels - 1, 5 for the bits per sample - 1, 36 for the length
    packed = int.from_bytes(payload[18:26], "big")
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    if (rate, channels, bits) != (audio_format.sample_rate, audio_format.channels, 16):
        raise BadChunk("flac", f"{rate} Hz, {channels} channels, {bits} bits")
    frames = packed & 0xF_FFFF_FFFF
    if not frames:
        raise BadChunk("flac", "its STREAMINFO does not say how long it is")
    if max(len(payload), frames * audio_format.frame_bytes) > MAX_CHUNK_BYTES:
        raise BadChunk("size", f"{len(payload)} bytes, {frames} frames when decoded")
    return frames


def encode_chunk_headers(header: ChunkHeader) -> dict[str, str]:
    """NATS headers of a chunk. `Nats-Msg-Id` makes the stream drop duplicates."""
    headers = {
        SESSION_ID: header.session_id,
        AUDIO_SEQ: str(header.seq),
        AUDIO_POS: str(header.pos),
        AUDIO_TIME: str(header.time_ns),
        MSG_ID: f"{header.session_id}:{header.seq}",
    }
    if header.end:
        headers[AUDIO_END] = "1"
    if header.note:
        headers[AUDIO_NOTE] = header.note
    return headers


def wall_clock(text: str | bytes) -> int:
    """The value of an Audio-Time header, or 0 if it is out of range. Raises ValueError.

    An edge with a wrong clock still has valid audio, so an absurd time is not an error.
    """
    value = int(text)
    return value if 0 <= value <= _MAX_INT else 0


def chunk_header_prefix(session_id: str) -> bytes:
    """The bytes with which the headers of a session's chunks begin on the wire."""
    return f"NATS/1.0\r\n{SESSION_ID}: {session_id}\r\n".encode()


def read_chunk_headers(raw: bytes, prefix: bytes) -> tuple[int, int, int] | None:
    """Number, position and time of a chunk: the fast path for headers in their usual form.

    `raw` is the wire format and `prefix` comes from `chunk_header_prefix`. Returns None for other
    forms, for the last chunk of a session and for one with a note; use `decode_chunk_headers` for
    those.
    """
    if not raw.startswith(prefix):
        return None
    try:
        seq, pos, time_ns, others = raw[len(prefix) :].split(b"\r\n", 3)
        if b"Audio-End" in others or b"Audio-Note" in others:
            return None
        if (seq[:11], pos[:11], time_ns[:12]) != (b"Audio-Seq: ", b"Audio-Pos: ", b"Audio-Time: "):
            return None
        fields = int(seq[11:]), int(pos[11:]), wall_clock(time_ns[12:])
    except ValueError:
        return None
    return fields if 0 <= fields[0] <= _MAX_INT and 0 <= fields[1] <= _MAX_INT else None


def decode_chunk_headers(
    headers: Mapping[str, str] | None, size_bytes: int, audio_format: AudioFormat
) -> ChunkHeader:
    """Decode and check the headers of a chunk whose decoded payload has `size_bytes` bytes.

    Raises: BadChunk with cause `headers` (a header is missing or not a valid number) or `size` (not
    a whole number of frames, empty although not the last chunk, or above MAX_CHUNK_BYTES).
    """
    try:
        if headers is None:
            raise BadChunk("headers", "none")
        seq, pos = int(headers[AUDIO_SEQ]), int(headers[AUDIO_POS])
        header = ChunkHeader(
            headers[SESSION_ID],
            seq,
            pos,
            wall_clock(headers[AUDIO_TIME]),
            headers.get(AUDIO_END) == "1",
            checked_note(headers.get(AUDIO_NOTE, "")),
        )
    except KeyError as error:
        raise BadChunk("headers", f"{error.args[0]} is missing") from None
    except ValueError as error:
        raise BadChunk("headers", str(error)) from None
    if not (0 <= seq <= _MAX_INT and 0 <= pos <= _MAX_INT):
        raise BadChunk("headers", "a number is out of range")
    if size_bytes % audio_format.frame_bytes or size_bytes > MAX_CHUNK_BYTES:
        raise BadChunk("size", f"{size_bytes} bytes, a frame has {audio_format.frame_bytes}")
    if size_bytes == 0 and not header.end:
        raise BadChunk("size", "empty")
    return header

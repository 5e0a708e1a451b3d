"""Audio formats, and the headers of an audio chunk (the payload is raw PCM and nothing else)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from .errors import BadChunk

Encoding = Literal["linear16", "mulaw", "alaw"]
BYTES_PER_SAMPLE: dict[Encoding, int] = {"linear16": 2, "mulaw": 1, "alaw": 1}
_SILENCE: dict[Encoding, bytes] = {"linear16": b"\0\0", "mulaw": b"\xff", "alaw": b"\xd5"}
"""One silent sample."""

MAX_CHUNK_BYTES = 512 * 1024
"""Largest payload taken as a chunk; half of the broker's default message limit."""

SESSION_ID = "Session-Id"
AUDIO_SEQ = "Audio-Seq"
AUDIO_POS = "Audio-Pos"
AUDIO_TIME = "Audio-Time"
AUDIO_END = "Audio-End"
MSG_ID = "Nats-Msg-Id"

_MAX_INT = 2**63 - 1


class AudioFormat(NamedTuple):
    """How the samples of a session are coded; it does not change within a session."""

    encoding: Encoding
    sample_rate: int
    """Frames per second; a frame is one sample of each channel."""
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame: one sample of each channel."""
        return BYTES_PER_SAMPLE[self.encoding] * self.channels

    def frames(self, size_bytes: int) -> int:
        """Whole frames in `size_bytes` bytes."""
        return size_bytes // self.frame_bytes

    def seconds(self, frames: int) -> float:
        """Duration of `frames` frames in seconds."""
        return frames / self.sample_rate

    def silence(self, frames: int) -> bytes:
        """`frames` frames of digital silence."""
        return _SILENCE[self.encoding] * (frames * self.channels)


class ChunkHeader(NamedTuple):
    """What the headers of one chunk say. Positions count frames since the session's start."""

    session_id: str
    seq: int
    """0, 1, 2 ... without holes within a session."""
    pos: int
    """Index of the chunk's first frame."""
    time_ns: int
    """Wall clock of that frame at capture, nanoseconds since the epoch; 0: not known."""
    end: bool
    """True on the last chunk of the session, whose payload may be empty."""


def encode_chunk_headers(header: ChunkHeader) -> dict[str, str]:
    """NATS headers of a chunk, `Nats-Msg-Id` for the stream's duplicate window included."""
    headers = {
        SESSION_ID: header.session_id,
        AUDIO_SEQ: str(header.seq),
        AUDIO_POS: str(header.pos),
        AUDIO_TIME: str(header.time_ns),
        MSG_ID: f"{header.session_id}:{header.seq}",
    }
    if header.end:
        headers[AUDIO_END] = "1"
    return headers


def wall_clock(text: str | bytes) -> int:
    """The value of AUDIO_TIME. Raises ValueError when it is no whole number."""
    # A clock may be wrong by any amount: the sound counts all the same.
    value = int(text)
    return value if 0 <= value <= _MAX_INT else 0


def parse_headers(raw: bytes) -> dict[str, str]:
    """Headers of any message as they are on the wire (NATS ADR-4), by name."""
    headers = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode("ascii", "replace")] = value.strip().decode(
                "utf-8", "replace"
            )
    return headers


def same_chunk_headers(session_id: str) -> bytes:
    """How the headers of all chunks of a session begin, as encode_chunk_headers has them."""
    return f"NATS/1.0\r\n{SESSION_ID}: {session_id}\r\n".encode()


def read_chunk_headers(raw: bytes, same: bytes) -> tuple[int, int, int] | None:
    """Number, position and time of a chunk from its headers on the wire, which begin with `same`
    (same_chunk_headers); None if they are not as the edge writes them, or of a last chunk: then
    decode_chunk_headers says what is what."""
    if not raw.startswith(same) or b"\r\nAudio-End" in raw:
        return None
    try:
        seq, pos, time_ns, _ = raw[len(same) :].split(b"\r\n", 3)
        if (seq[:11], pos[:11], time_ns[:12]) != (b"Audio-Seq: ", b"Audio-Pos: ", b"Audio-Time: "):
            return None
        found = int(seq[11:]), int(pos[11:]), wall_clock(time_ns[12:])
    except ValueError:
        return None
    return found if 0 <= found[0] <= _MAX_INT and 0 <= found[1] <= _MAX_INT else None


def parse_status(raw: bytes) -> tuple[str, str]:
    """Status and description of a server's message (NATS ADR-4), from its headers on the wire."""
    _, _, line = raw.partition(b"\r\n")[0].partition(b" ")
    status, _, description = line.decode("ascii", "replace").strip().partition(" ")
    return status, description.strip()


def decode_chunk_headers(
    headers: Mapping[str, str] | None, size_bytes: int, audio_format: AudioFormat
) -> ChunkHeader:
    """Header of a chunk whose payload has `size_bytes` bytes.

    Raises: BadChunk with cause `headers` (missing or not a whole number), `size` (no whole number
    of frames, empty although not the end, or above MAX_CHUNK_BYTES).
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
        )
    except KeyError as error:
        raise BadChunk("headers", f"{error.args[0]} is missing") from None
    except ValueError as error:
        raise BadChunk("headers", str(error)) from None
    if not (0 <= seq <= _MAX_INT and 0 <= pos <= _MAX_INT):
        raise BadChunk("headers", "a negative or absurd number")
    if size_bytes % audio_format.frame_bytes or size_bytes > MAX_CHUNK_BYTES:
        raise BadChunk("size", f"{size_bytes} bytes, frames have {audio_format.frame_bytes}")
    if size_bytes == 0 and not header.end:
        raise BadChunk("size", "empty")
    return header

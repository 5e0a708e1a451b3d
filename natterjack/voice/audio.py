"""The headers of speech: chunks on `tts.audio.<key>`, raw 16-bit PCM of one channel.

The worker publishes them ahead of playback. A cut is a chunk without audio: the player drops
everything that it has not played. A fence is not part of the speech: a worker that takes a session
over stores it before any chunk, so that no chunk of an older holder is stored after it. It has the
number and the position of the next chunk, and repeats the rest of the newest chunk's headers. An
answer, which is never stored, is a fence too: a worker publishes it to a player that has asked for
chunks, after those that it has published again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from natterjack.audio import AUDIO_END, AUDIO_POS, AUDIO_SEQ, MSG_ID, SESSION_ID
from natterjack.errors import BadChunk
from natterjack.spec import SESSION_ID_PATTERN

UTTERANCE = "Utterance"
EPOCH = "Epoch"
AUDIO_CUT = "Audio-Cut"
AUDIO_FENCE = "Audio-Fence"
AUDIO_ANSWER = "Audio-Answer"
SAMPLE_RATE = "Sample-Rate"
MIN_RATE, MAX_RATE = 8000, 48_000
"""Sample rates of speech, in hertz."""
FRAME_BYTES = 2
_NUMBER = re.compile(r"[0-9]{1,16}")
_MAX_NUMBER = 2**53 - 1
_SESSION = re.compile(SESSION_ID_PATTERN)


class SpeechHeader(NamedTuple):
    """The headers of a chunk of speech. Positions count frames from the session's first."""

    session_id: str
    epoch: int
    """The worker's lease: a player drops chunks of an epoch below the newest that it has seen."""
    utterance: int
    seq: int
    """Number of the chunk within its session: 0, 1, 2 ... without holes, cuts included."""
    pos: int
    """Position of the chunk's first frame."""
    sample_rate: int
    """Frames per second, the same for all chunks of a session: players do not see its request."""
    end: bool = False
    """True for the last chunk of an utterance, whose payload may be empty."""
    cut: bool = False
    """True for a cut: what was not played of chunks before this one is not to be played. The chunk
    has no audio; `pos` is the position at which later audio begins."""
    fence: bool = False
    """True for a fence, which has no audio. Players ignore it, unless it is an answer."""
    answer: bool = False
    """True for an answer. `seq` is the number of the first chunk that is to be played: all before
    it were."""

    @property
    def next_seq(self) -> int:
        """Number of the chunk that follows."""
        return self.seq if self.fence else self.seq + 1


def encode_speech_headers(header: SpeechHeader) -> dict[str, str]:
    """NATS headers of a chunk. `Nats-Msg-Id` makes the stream drop duplicates."""
    headers = {
        SESSION_ID: header.session_id,
        EPOCH: str(header.epoch),
        UTTERANCE: str(header.utterance),
        AUDIO_SEQ: str(header.seq),
        AUDIO_POS: str(header.pos),
        SAMPLE_RATE: str(header.sample_rate),
        MSG_ID: f"{header.session_id}:{header.epoch}:{header.seq}{':fence' * header.fence}",
    }
    if header.end:
        headers[AUDIO_END] = "1"
    if header.cut:
        headers[AUDIO_CUT] = "1"
    if header.fence:
        headers[AUDIO_FENCE] = "1"
    if header.answer:
        headers[AUDIO_ANSWER] = "1"
    return headers


def decode_speech_headers(headers: Mapping[str, str] | None, size: int) -> SpeechHeader:
    """Parse the headers of a chunk of `size` bytes. Raises BadChunk, which names the problem."""
    session_id = (headers or {}).get(SESSION_ID, "")
    if not headers or not _SESSION.fullmatch(session_id):
        raise BadChunk(f"{SESSION_ID} {session_id[:40]!r} is not the ID of a session")
    header = SpeechHeader(
        session_id,
        _number(headers, EPOCH),
        _number(headers, UTTERANCE),
        _number(headers, AUDIO_SEQ),
        _number(headers, AUDIO_POS),
        _number(headers, SAMPLE_RATE),
        _flag(headers, AUDIO_END),
        _flag(headers, AUDIO_CUT),
        _flag(headers, AUDIO_FENCE),
        _flag(headers, AUDIO_ANSWER),
    )
    if not MIN_RATE <= header.sample_rate <= MAX_RATE:
        raise BadChunk(f"{SAMPLE_RATE} {header.sample_rate} is not {MIN_RATE} to {MAX_RATE}")
    if size % FRAME_BYTES:
        raise BadChunk(f"{size} bytes are not whole frames of {FRAME_BYTES} bytes")
    if header.pos + size // FRAME_BYTES > _MAX_NUMBER:
        raise BadChunk(f"{AUDIO_POS} {header.pos} leaves no room for its audio")
    if header.cut and size:
        raise BadChunk("a cut has no audio")
    if header.fence and size:
        raise BadChunk("a fence has no audio")
    if header.answer and not header.fence:
        raise BadChunk("an answer is a fence")
    return header


def _number(headers: Mapping[str, str], name: str) -> int:
    value = headers.get(name, "")
    if not _NUMBER.fullmatch(value) or int(value) > _MAX_NUMBER:
        raise BadChunk(f"{name} {value[:40]!r} is not a number up to {_MAX_NUMBER}")
    return int(value)


def _flag(headers: Mapping[str, str], name: str) -> bool:
    value = headers.get(name)
    if value not in (None, "1"):
        raise BadChunk(f"{name} {value[:40]!r} is not 1")
    return value == "1"

"""The speech of emulated voices: one tone word (`tones.py`) for each word of a text.

`synthesize` turns text into audio, always the same for the same text. A `Playout` sends audio at a
pace, with messages in their places between it, and knows which words it has sent.

    playout = Playout(24000, "linear16", pace=4)
    playout.speak("The quick brown fox.")
    playout.add({"type": "Flushed"})
    playout.due(now)                          # what is to be sent up to `now`, in seconds
    assert tones.compare(tone_words(text), heard) == tones.Counts()
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from natterjack.audio import BYTES_PER_SAMPLE, Encoding
from natterjack.plugin.voice import VoiceStreamRequest

from . import tones
from .session import Outgoing
from .tones import GAP_SECONDS, WORD_SECONDS, TimedWord
from .vocabulary import VOCABULARY

_KNOWN: Final = frozenset(VOCABULARY)
_SPOKEN: Final = re.compile(r"\S*\w\S*")
"""A word of a text. White space and punctuation alone are not spoken."""
_AROUND: Final = re.compile(r"^\W+|\W+$")
SECONDS_PER_WORD: Final = WORD_SECONDS + GAP_SECONDS
_SENTENCE_END: Final = re.compile(r"[.!?…。]+[\"')\]]*\s+")
_FRAME_SECONDS: Final = (0.02, 0.06, 0.1, 0.04)
"""Lengths of frames in turn: real services do not send frames of one size."""
_WELL_INSIDE_SECONDS: Final = 0.05


class SpokenWord(NamedTuple):
    """A word of a text and its place in the text's audio."""

    word: str
    """The tone word."""
    character: int
    """Index in the text of the word's first character."""
    start: float
    """Seconds of audio before the word."""
    end: float
    """Seconds of audio up to the end of its tones; silence follows."""


def tone_word(word: str) -> str:
    """Return the tone word for a word of a text: the word itself, without case and punctuation, if
    it is in VOCABULARY, else one that is always the same for this word."""
    bare = _AROUND.sub("", word).lower()
    return bare if bare in _KNOWN else VOCABULARY[zlib.crc32(bare.encode()) % len(VOCABULARY)]


def tone_words(text: str) -> list[str]:
    """Return the words that are heard when `text` is spoken."""
    return [tone_word(found[0]) for found in _SPOKEN.finditer(text)]


def places(text: str, gap_seconds: float = GAP_SECONDS) -> list[SpokenWord]:
    """Return the words of `text` with their places."""
    step = WORD_SECONDS + gap_seconds
    return [
        SpokenWord(tone_word(found[0]), found.start(), n * step, n * step + WORD_SECONDS)
        for n, found in enumerate(_SPOKEN.finditer(text))
    ]


def synthesize(
    text: str,
    sample_rate: int = 24_000,
    encoding: Encoding = "linear16",
    gap_seconds: float = GAP_SECONDS,
) -> bytes:
    """Return mono audio of `text`, with `gap_seconds` of silence after each word. The audio of
    several texts can be joined, if each ends between two words."""
    return tones.encode(
        tone_words(text),
        sample_rate,
        gap_seconds=gap_seconds,
        tail_seconds=gap_seconds,
        encoding=encoding,
    )


def check_tones(text: str, audio: bytes, request: VoiceStreamRequest) -> None:
    """Fail unless the audio of a stream has the tone words of `text`, and no others: the fixture
    `check_speech` of the contract suite."""
    decoder = tones.Decoder(request.sample_rate, request.encoding)
    heard = [word.word for word in [*decoder.feed(audio), *decoder.flush()]]
    assert heard == tone_words(text)


def sentences(text: str) -> tuple[str, str]:
    """Split a text after its last complete sentence: what can be spoken already, and the rest."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    at = ends[-1] if ends else 0
    return text[:at], text[at:]


class Playout:
    """Audio and messages that wait to be sent, audio at `pace` times real time.

    Frames have lengths of 20 to 100 ms in turn; with `odd`, they also end within samples.
    """

    def __init__(
        self, sample_rate: int, encoding: Encoding, pace: float, *, odd: bool = False
    ) -> None:
        self.pace = pace
        self.words: list[TimedWord] = []
        """Words that were sent, up to the last byte of their tones."""
        self.sent_bytes = 0
        self._rate = sample_rate
        self._encoding: Encoding = encoding
        self._bytes_per_second = sample_rate * BYTES_PER_SAMPLE[encoding]
        self._sizes = self._frame_sizes(odd)
        self._waiting: deque[bytes | Outgoing] = deque()
        self._unsent: deque[TimedWord] = deque()
        self._end_bytes = 0
        """Where audio that is added now begins: bytes sent and waiting."""
        self._next_at = 0.0
        """When the next frame may be sent."""

    @property
    def seconds(self) -> float:
        """Seconds of audio sent."""
        return self.sent_bytes / self._bytes_per_second

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._waiting

    @property
    def mid_word(self) -> bool:
        """Whether the audio sent so far ends well inside a word."""
        if not self._unsent:
            return False
        word = self._unsent[0]
        return word.start + _WELL_INSIDE_SECONDS < self.seconds < word.end - _WELL_INSIDE_SECONDS

    def speak(self, text: str, gap_seconds: float = GAP_SECONDS) -> None:
        """Add the audio of `text`, with `gap_seconds` of silence after each word."""
        audio = synthesize(text, self._rate, self._encoding, gap_seconds)
        if not audio:
            return
        begin = self._end_bytes / self._bytes_per_second
        self._unsent += (
            TimedWord(w.word, begin + w.start, begin + w.end) for w in places(text, gap_seconds)
        )
        self._end_bytes += len(audio)
        self._waiting.append(audio)

    def wait(self, until: float) -> None:
        """Send no audio before the time `until`."""
        self._next_at = max(self._next_at, until)

    def add(self, message: Outgoing) -> None:
        """Add a message, which is sent when all audio before it was."""
        self._waiting.append(message)

    def clear(self) -> None:
        """Drop all audio and all messages that were not sent."""
        self._waiting.clear()
        self._unsent.clear()
        self._end_bytes = self.sent_bytes

    def due(self, now: float) -> list[bytes | Outgoing]:
        """Return what is to be sent up to `now`, in seconds that never go back."""
        found: list[bytes | Outgoing] = []
        while self._waiting:
            first = self._waiting[0]
            if not isinstance(first, bytes):
                found.append(self._waiting.popleft())
                continue
            if self._next_at > now:
                return found
            size = next(self._sizes)
            frame, rest = first[:size], first[size:]
            self._waiting.popleft()
            if rest:
                self._waiting.appendleft(rest)
            found.append(frame)
            self._count(len(frame))
            self._next_at += len(frame) / self._bytes_per_second / self.pace
        self._next_at = max(self._next_at, now)  # the time without audio is not made up for
        return found

    def _count(self, size: int) -> None:
        self.sent_bytes += size
        while self._unsent and self._unsent[0].end <= self.seconds:
            self.words.append(self._unsent.popleft())

    def _frame_sizes(self, odd: bool) -> Iterator[int]:
        width = BYTES_PER_SAMPLE[self._encoding]
        samples = (round(seconds * self._rate) for seconds in itertools.cycle(_FRAME_SECONDS))
        return (width * count + (odd and width > 1) for count in samples)

"""Words encoded as tones, so that a test can count words lost, doubled and out of order.

A word is a burst of four symbols of 60 ms; a symbol is a chord of one low and one high tone in
the telephone band. All tones are multiples of 200 Hz, so over a block of 5 ms they are orthogonal
and a block needs one small matrix product. The four symbols are a codeword of a [4, 2] code over
the integers mod 17 in which any two symbols determine the other two. Therefore the head of one word
joined to the tail of another is not a word, and neither is a burst that is cut, short or long.
Words need 15 ms of silence between them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from natterjack.audio import Encoding

from .pcm import Floats, from_linear16, to_linear16, to_samples
from .vocabulary import VOCABULARY

SYMBOL_SECONDS: Final = 0.060
WORD_SECONDS: Final = 4 * SYMBOL_SECONDS
GAP_SECONDS: Final = 0.080
"""Default silence between two words."""

_LOW: Final = (600, 800, 1000, 1200, 1400)
_HIGH: Final = (1800, 2200, 2600, 3000)
_TONES: Final = _LOW + _HIGH
_FIRST: Final = np.array([0, len(_LOW)])
"""Where the low and the high tones begin in `_TONES`."""
_NO_POWER: Final[Floats] = np.zeros(len(_TONES), np.float32)
_PRIME: Final = 17
"""Size of the symbol alphabet, which needs 5 x 4 chords. It is prime, so that division works."""
_AMPLITUDE: Final = 0.25
"""Amplitude of each tone; full scale is 1."""
_RAMP_SECONDS: Final = 0.003
_BLOCK_SECONDS: Final = 0.005
_HANGOVER_BLOCKS: Final = 3
"""Blocks without a chord that end a burst; a change of symbols blurs one or two blocks."""
_LENGTH_TOLERANCE_SECONDS: Final = 0.006
_TONAL: Final = 0.5
"""Minimum share of the two strongest tones in the power of a block that is part of a word."""
_MIN_POWER: Final = 2.5e-5
"""Mean square below which a block counts as silence (-46 dB of full scale)."""


class TimedWord(NamedTuple):
    """A word and its position, in seconds of audio."""

    word: str
    start: float
    end: float


def _symbols(index: int) -> tuple[int, int, int, int]:
    a, b = divmod(index, _PRIME)
    return a, b, (a + b) % _PRIME, (a + 2 * b) % _PRIME


_INDEX: Final = {word: index for index, word in enumerate(VOCABULARY)}
_WORD_OF: Final = {_symbols(index): word for index, word in enumerate(VOCABULARY)}


@cache
def _burst(index: int, sample_rate: int) -> Floats:
    """Return the samples of one word."""
    time = np.arange(round(WORD_SECONDS * sample_rate)) / sample_rate
    burst = np.zeros(len(time))
    symbol_of = np.minimum((time / SYMBOL_SECONDS).astype(int), 3)
    for position, symbol in enumerate(_symbols(index)):
        low, high = divmod(symbol, len(_HIGH))
        here = symbol_of == position
        for tone in (_LOW[low], _HIGH[high]):
            burst[here] += np.sin(2 * np.pi * tone * time[here])
    ramp = np.clip(np.minimum(time, WORD_SECONDS - time) / _RAMP_SECONDS, 0, 1)
    return (_AMPLITUDE * burst * (0.5 - 0.5 * np.cos(np.pi * ramp))).astype(np.float32)


def encode(
    words: Iterable[str],
    sample_rate: int = 16000,
    *,
    gap_seconds: float = GAP_SECONDS,
    phrase_words: int = 0,
    pause_seconds: float = 0.8,
    lead_seconds: float = 0.0,
    tail_seconds: float = GAP_SECONDS,
    encoding: Encoding = "linear16",
) -> bytes:
    """Return mono PCM with `words`.

    After each `phrase_words` words (if not 0), the silence is `pause_seconds` instead of
    `gap_seconds`. Raises KeyError for a word that is not in VOCABULARY.
    """
    parts = [silence(lead_seconds, sample_rate)]
    for count, word in enumerate(words, 1):
        pause = phrase_words and count % phrase_words == 0
        parts.append(to_linear16(_burst(_INDEX[word], sample_rate)))
        parts.append(silence(pause_seconds if pause else gap_seconds, sample_rate))
    if len(parts) > 1:
        parts[-1] = silence(tail_seconds, sample_rate)
    return from_linear16(b"".join(parts), encoding)


def silence(seconds: float, sample_rate: int = 16000, encoding: Encoding = "linear16") -> bytes:
    """Return mono PCM with silence."""
    return from_linear16(bytes(2 * round(seconds * sample_rate)), encoding)


def places(
    words: Sequence[str],
    *,
    gap_seconds: float = GAP_SECONDS,
    phrase_words: int = 0,
    pause_seconds: float = 0.8,
    lead_seconds: float = 0.0,
) -> list[TimedWord]:
    """Return the positions at which `encode` puts the words."""
    found, at = [], lead_seconds
    for count, word in enumerate(words, 1):
        found.append(TimedWord(word, at, at + WORD_SECONDS))
        pause = phrase_words and count % phrase_words == 0
        at += WORD_SECONDS + (pause_seconds if pause else gap_seconds)
    return found


def ends_with_a_word(seconds: float) -> bool:
    """Whether words that `encode` puts one after another, cut off at `seconds`, end with one that
    is nearly whole or just so: the decoder may hear it, although a part of it was cut off."""
    return abs(seconds % (WORD_SECONDS + GAP_SECONDS) - WORD_SECONDS) <= _LENGTH_TOLERANCE_SECONDS


def sequence(n: int) -> list[str]:
    """Return `n` words, at most about 79,000, in which every loss, repetition and swap is visible.

    Block b of the sequence steps through the vocabulary, whose size is prime, in strides of b + 1.
    A word occurs once per block, and two adjacent words identify the block.
    """
    size = len(VOCABULARY)
    if n > size * (size - 1):
        raise ValueError(f"at most {size * (size - 1)} words")
    return [VOCABULARY[(i % size) * (i // size + 1) % size] for i in range(n)]


class Counts(NamedTuple):
    """Differences between words sent and received. All are zero if and only if they are equal."""

    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    invented: int = 0
    """Words received but never sent."""


def compare(sent: Sequence[str], received: Iterable[str]) -> Counts:
    """Compare the words of a transcript with the words sent, ignoring case and punctuation."""
    shown = [plain(word) for word in received]
    matcher = difflib.SequenceMatcher(None, list(sent), shown, autojunk=False)
    missing: list[str] = []
    extra: list[str] = []
    for _, i1, i2, j1, j2 in (op for op in matcher.get_opcodes() if op[0] != "equal"):
        missing += sent[i1:i2]
        extra += shown[j1:j2]
    known = set(sent)
    moved = doubled = invented = 0
    for word in extra:
        if word in missing:
            missing.remove(word)
            moved += 1
        elif word in known:
            doubled += 1
        else:
            invented += 1
    return Counts(len(missing), doubled, moved, invented)


def plain(word: str) -> str:
    """Return a transcript's word in the form of the vocabulary."""
    return word.strip(".,;:?! ").lower()


def words_of(text: str) -> list[str]:
    """Return the words of a transcript in the form of the vocabulary."""
    return [plain(word) for word in text.split()]


class Decoder:
    """Decodes words from mono audio in pieces of any size."""

    def __init__(self, sample_rate: int, encoding: Encoding = "linear16") -> None:
        self._rate = sample_rate
        self._encoding: Encoding = encoding
        self._block = round(_BLOCK_SECONDS * sample_rate)
        phase = 2j * np.pi * np.outer(np.arange(self._block), _TONES) / sample_rate
        wave = np.exp(-phase) * np.sqrt(2) / self._block
        # Real and imaginary parts side by side: a real product is faster than a complex one.
        self._waves: Floats = np.hstack([wave.real, wave.imag]).astype(np.float32)
        self._mean: Floats = np.full(self._block, 1 / self._block, np.float32)
        self._odd = b""
        self._rest: Floats = np.empty(0, np.float32)
        self._fed = 0
        self._blocks = 0
        self._burst: list[Floats] = []
        self._burst_at = 0
        """Index of the first block in `_burst`, up to two blocks before the first chord."""
        self._idle = 0
        """Blocks since the last one with a chord."""
        self._before: list[Floats] = []
        self._active_before = 0
        self._last_active = 0

    @property
    def seconds(self) -> float:
        """Seconds of audio fed."""
        return self._fed / self._rate

    @property
    def speaking(self) -> bool:
        """Whether the audio fed so far ends within a word."""
        return bool(self._burst)

    @property
    def onset(self) -> float | None:
        """Start of the word in progress (to 5 ms); None in silence."""
        if not self._burst:
            return None
        return (self._burst_at + self._active_before) * self._block / self._rate

    @property
    def quiet_since(self) -> float:
        """End of the last tone (to 5 ms), whether or not its word was complete."""
        return self._last_active * self._block / self._rate

    def feed(self, audio: bytes) -> list[TimedWord]:
        """Return the words that end in `audio`. A word is reported 15 to 20 ms after its end."""
        if self._encoding == "linear16":
            audio = self._odd + audio
            whole = len(audio) & ~1
            audio, self._odd = audio[:whole], audio[whole:]
            if self._is_quiet(audio):
                return self._pass_over(len(audio) // 2)
        return self.feed_samples(to_samples(audio, self._encoding))

    def feed_samples(self, samples: Floats) -> list[TimedWord]:
        """Do the same as `feed`, for samples between -1 and 1."""
        self._fed += len(samples)
        if len(self._rest):
            samples = np.concatenate([self._rest, samples])
        count = len(samples) // self._block
        self._rest = samples[count * self._block :].copy()
        if not count:
            return []
        blocks = samples[: count * self._block].reshape(count, self._block)
        parts = blocks @ self._waves
        np.square(parts, out=parts)
        power = parts[:, : len(_TONES)] + parts[:, len(_TONES) :]
        total = (np.square(blocks) @ self._mean).tolist()
        strongest = np.maximum.reduceat(power, _FIRST, axis=1).tolist()
        # A few blocks at a time are usual: for these, numbers of Python are faster than arrays.
        active = [
            of_all > _MIN_POWER and low + high > _TONAL * of_all and min(low, high) > 0.1 * of_all
            for of_all, (low, high) in zip(total, strongest, strict=True)
        ]
        if not self._burst and not any(active):
            self._blocks += count
            self._before = [*self._before, *power[-2:]][-2:]
            return []
        decoded: list[TimedWord] = []
        for row, sounding in zip(power, active, strict=True):
            self._step(row, sounding, decoded)
        return decoded

    def _is_quiet(self, audio: bytes) -> bool:
        """Whether `audio` is whole blocks of zeros between words: much of what is fed is."""
        whole_blocks = not len(self._rest) and not len(audio) % (2 * self._block)
        return whole_blocks and not self._burst and audio == bytes(len(audio))

    def _pass_over(self, samples: int) -> list[TimedWord]:
        """Do the same as `feed_samples`, for samples of which `_is_quiet` is true."""
        self._fed += samples
        count = samples // self._block
        self._blocks += count
        self._before = [*self._before, *[_NO_POWER] * min(count, 2)][-2:]
        return []

    def flush(self) -> list[TimedWord]:
        """Return the word that ends with the audio, if there is one. No audio may follow."""
        decoded: list[TimedWord] = []
        if len(self._rest):
            fed = self._fed
            decoded += self.feed_samples(np.zeros(self._block - len(self._rest), np.float32))
            self._fed = fed
        return decoded + self.cut()

    def cut(self) -> list[TimedWord]:
        """End a word in progress here, and return it if it is complete."""
        decoded: list[TimedWord] = []
        if self._burst:
            self._end_burst(decoded)
        self._before = []
        return decoded

    def _step(self, row: Floats, active: bool, decoded: list[TimedWord]) -> None:
        self._blocks += 1
        if active:
            self._last_active = self._blocks
        if self._burst:
            # A burst longer than a word is not stored further; only its end matters.
            if len(self._burst) * _BLOCK_SECONDS < 2 * WORD_SECONDS:
                self._burst.append(row)
            self._idle = 0 if active else self._idle + 1
            if self._idle == _HANGOVER_BLOCKS:
                self._end_burst(decoded)
        elif active:
            self._active_before = len(self._before)
            self._burst = [*self._before, row]
            self._burst_at = self._blocks - 1 - len(self._before)
            self._idle = 0
        if not self._burst:
            self._before = [*self._before, row][-2:]

    def _end_burst(self, decoded: list[TimedWord]) -> None:
        word = self._recognize(np.array(self._burst))
        if word is not None:
            decoded.append(word)
        self._before = self._burst[-2:-1]
        self._burst = []
        self._idle = 0

    def _recognize(self, rows: Floats) -> TimedWord | None:
        """Return the word of a burst, or None if the burst is not a complete word."""
        low = rows[:, : len(_LOW)].argmax(axis=1)
        high = rows[:, len(_LOW) :].argmax(axis=1)
        chords = low * len(_HIGH) + high
        first, last = self._active_before, len(rows) - self._idle - 1
        per_symbol = SYMBOL_SECONDS / _BLOCK_SECONDS
        if abs(last + 1 - first - 4 * per_symbol) > 4:
            return None
        # The amplitude of a block shows how far the edge lies inside it.
        start = (
            first + 3 - self._covered(rows, chords, first + 3, range(max(0, first - 2), first + 3))
        )
        end = (
            last
            - 2
            + self._covered(rows, chords, last - 3, range(last - 2, min(len(rows), last + 3)))
        )
        half_ramp = _RAMP_SECONDS / 2 / _BLOCK_SECONDS
        start, end = max(start - half_ramp, 0), end + half_ramp
        seconds_per_block = self._block / self._rate
        if abs((end - start) * seconds_per_block - WORD_SECONDS) > _LENGTH_TOLERANCE_SECONDS:
            return None
        symbols = []
        for position in range(4):
            begin = int(np.ceil(start + position * per_symbol + 0.5))
            inner = chords[begin : int(start + (position + 1) * per_symbol - 0.5)]
            symbol = int(np.bincount(inner).argmax())
            if np.count_nonzero(inner == symbol) < 0.8 * len(inner):
                return None
            symbols.append(symbol)
        word = _WORD_OF.get((symbols[0], symbols[1], symbols[2], symbols[3]))
        if word is None:
            return None
        at = self._burst_at * seconds_per_block
        return TimedWord(word, at + start * seconds_per_block, at + end * seconds_per_block)

    @staticmethod
    def _covered(rows: Floats, chords: npt.NDArray[np.intp], inside: int, edge: range) -> float:
        """Return how many blocks of `edge` the chord of block `inside` covers."""
        low, high = divmod(int(chords[inside]), len(_HIGH))
        amplitude = np.sqrt(rows[:, low] + rows[:, len(_LOW) + high])
        full = float(amplitude[inside])
        return float(np.clip(amplitude[list(edge)] / full, 0, 1).sum())

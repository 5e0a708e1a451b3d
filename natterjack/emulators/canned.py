"""Canned words: an emulator that hears somebody speak recites a fixed passage.

The words are never what was said. They are for seeing how a client behaves with a microphone, when
no provider and no tone words are at hand. What decides is the energy of the audio alone, so loud
noise is a voice, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import numpy as np

from natterjack.audio import Encoding

from .pcm import Floats, to_samples
from .tones import Decoder, TimedWord

Words = Literal["tones", "canned"]
"""The speech that an emulator recognizes: the words of `tones`, or any voice, for which it sends
the words of `PASSAGE`."""

_PASSAGE: Final = """
these words are not what you said this is an emulator without ears it only notices that somebody
speaks and then it recites one passage from its beginning to its end word after word for as long
as the voice goes on when you pause the passage pauses too and when you go on it goes on from
where it stopped so you can see captions grow and sentences end with your own microphone and
without an account a real provider would write what you say here you see when you say it and
nothing else now the passage begins again
"""
PASSAGE: Final = tuple(_PASSAGE.split())
"""Recited over and over."""

_FRAME_SECONDS: Final = 0.01
_HANGOVER_SECONDS: Final = 0.2
"""Silence that ends a voice. Stops between syllables are shorter."""
_ATTACK_FRAMES: Final = 3
"""Loud frames in a row that begin a voice, so that a click does not."""
_LEAST_DB: Final = -50.0
"""Level below which nothing is a voice, in decibels of full scale."""
_ABOVE_NOISE_DB: Final = 9.0
_NOISE_RISES_DB: Final = 0.03
"""How much the estimated level of the noise rises with each frame that is louder: steady noise,
such as a fan, counts as a voice for a few seconds at most."""
_GAP_SECONDS: Final = 0.06
_LEAST_WORD_SECONDS: Final = 0.08
"""Shorter beginnings of words at the end of a voice are left for the next one."""


class Recognizer(Protocol):
    """Finds words in mono audio that comes in pieces of any size."""

    @property
    def seconds(self) -> float:
        """Seconds of audio fed."""

    @property
    def speaking(self) -> bool:
        """Whether the audio fed so far ends within a word."""

    @property
    def onset(self) -> float | None:
        """Start of the word in progress, in seconds; None if there is none."""

    @property
    def quiet_since(self) -> float:
        """End of the last sound that counts as speech, in seconds."""

    def feed(self, audio: bytes) -> list[TimedWord]:
        """Return the words that end in `audio`."""

    def feed_samples(self, samples: Floats) -> list[TimedWord]:
        """Do the same as `feed`, for samples between -1 and 1."""

    def cut(self) -> list[TimedWord]:
        """End a word in progress here, and return it if it is complete."""

    def flush(self) -> list[TimedWord]:
        """Return the word that ends with the audio, if there is one. No audio may follow."""


def recognizer(words: Words, sample_rate: int, encoding: Encoding = "linear16") -> Recognizer:
    """Return a recognizer of mono audio with that rate, in hertz, and encoding."""
    if words == "canned":
        return CannedDecoder(sample_rate, encoding)
    return Decoder(sample_rate, encoding)


class VoiceActivity:
    """Tells a voice from silence by the level of each frame, above a floor that follows noise."""

    def __init__(self) -> None:
        self.active = False
        self._floor_db = _LEAST_DB - _ABOVE_NOISE_DB
        self._loud = 0
        """Loud frames in a row."""
        self._quiet = 0
        """Frames since the last loud one."""

    def step(self, level_db: float) -> bool:
        """Judge the next frame, of 10 ms, and return whether it is loud."""
        loud = level_db > max(_LEAST_DB, self._floor_db + _ABOVE_NOISE_DB)
        if level_db < self._floor_db:
            self._floor_db += 0.3 * (level_db - self._floor_db)
        else:
            self._floor_db = min(level_db, self._floor_db + _NOISE_RISES_DB)
        self._loud = self._loud + 1 if loud else 0
        self._quiet = 0 if loud else self._quiet + 1
        if self._loud >= _ATTACK_FRAMES:
            self.active = True
        elif self._quiet * _FRAME_SECONDS >= _HANGOVER_SECONDS:
            self.active = False
        return loud


class CannedDecoder:
    """Recites a passage, at the pace of somebody who reads aloud, while it hears a voice."""

    def __init__(
        self, sample_rate: int, encoding: Encoding = "linear16", passage: Sequence[str] = PASSAGE
    ) -> None:
        self._rate = sample_rate
        self._encoding: Encoding = encoding
        self._passage = passage
        self._frame = round(_FRAME_SECONDS * sample_rate)
        self._odd = b""
        self._rest: Floats = np.empty(0, np.float32)
        self._fed = self._frames = 0
        self._activity = VoiceActivity()
        self._word = 0
        """Index of the word in progress, or of the next one."""
        self._starts_at: float | None = None
        """When the word in progress, or the next one of this voice, starts; None in silence."""
        self._recited = False
        """Whether this voice has had a word."""
        self._quiet_since = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of audio fed."""
        return self._fed / self._rate

    @property
    def speaking(self) -> bool:
        """Whether the audio fed so far ends within a word."""
        return self.onset is not None

    @property
    def onset(self) -> float | None:
        """Start of the word in progress, in seconds; None if there is none."""
        if self._starts_at is None or self._starts_at >= self._now:
            return None
        return self._starts_at

    @property
    def quiet_since(self) -> float:
        """End of the last loud frame, in seconds."""
        return self._quiet_since

    def feed(self, audio: bytes) -> list[TimedWord]:
        """Return the words that end in `audio`."""
        if self._encoding == "linear16":
            audio = self._odd + audio
            whole = len(audio) & ~1
            audio, self._odd = audio[:whole], audio[whole:]
        return self.feed_samples(to_samples(audio, self._encoding))

    def feed_samples(self, samples: Floats) -> list[TimedWord]:
        """Do the same as `feed`, for samples between -1 and 1."""
        self._fed += len(samples)
        samples = np.concatenate([self._rest, samples])
        count = len(samples) // self._frame
        self._rest = samples[count * self._frame :]
        frames = samples[: count * self._frame].reshape(count, self._frame)
        power = np.einsum("ij,ij->i", frames, frames) / self._frame
        found: list[TimedWord] = []
        for level_db in (10 * np.log10(power + 1e-10)).tolist():
            self._step(level_db, found)
        return found

    def cut(self) -> list[TimedWord]:
        """End a word in progress here, and return it if most of it was said."""
        onset, now = self.onset, self._now
        if onset is None:
            return []
        if now - onset >= self._length / 2:
            return [self._take(onset, now)]
        self._starts_at = now  # it begins again after the cut
        return []

    def flush(self) -> list[TimedWord]:
        """Return the word that ends with the audio, if there is one. No audio may follow."""
        return self._end()

    @property
    def _now(self) -> float:
        return self._frames * self._frame / self._rate

    @property
    def _length(self) -> float:
        """Seconds of the word in progress: about 160 words a minute."""
        return 0.14 + 0.035 * len(self._passage[self._word])

    def _step(self, level_db: float, found: list[TimedWord]) -> None:
        before, was_active = self._now, self._activity.active
        self._frames += 1
        loud = self._activity.step(level_db)
        if not self._activity.active:
            found += self._end()
            return
        if not was_active:
            self._starts_at, self._recited = before, False
        if loud:
            self._quiet_since = self._now
            while self._starts_at is not None and self._starts_at + self._length <= self._now:
                found.append(self._take(self._starts_at, self._starts_at + self._length))

    def _end(self) -> list[TimedWord]:
        """End the voice, and return its last word unless little of it was said."""
        start, self._starts_at = self._starts_at, None
        if start is None:
            return []
        least = _LEAST_WORD_SECONDS if self._recited else 0.0
        if self._quiet_since - start <= least:
            return []
        word = self._take(start, self._quiet_since)
        self._starts_at = None
        return [word]

    def _take(self, start: float, end: float) -> TimedWord:
        word = TimedWord(self._passage[self._word], start, end)
        self._word = (self._word + 1) % len(self._passage)
        self._starts_at, self._recited = end + _GAP_SECONDS, True
        return word

"""When silence goes out, and how a stream is ended so that its last words come. Pure: it is told
the time, and says what to do and when to ask again.

Sections cited are those of the vendor's documentation ("Deepgram docs") and, where it is silent,
of what its other clients do.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from natterjack.audio import Encoding

from .clock import Clock

FRAME_SECONDS: Final = 0.08
"""Deepgram docs, "Flux quickstart": frames of 80 ms are strongly recommended."""

_SETTLED_SECONDS: Final = 0.3
"""When so much silence behind the last audio is transcribed, no word of it is outstanding."""
_AHEAD_SECONDS: Final = 2.0
"""Audio may come in bursts so long: it is taken to be playing while nothing follows it."""
_MOST_SILENCE_SECONDS: Final = 70.0
"""By then every turn has ended: its timeout is at most 60 s of audio."""
_NO_PROGRESS_SECONDS: Final = 0.5
"""After so long without a word, more silence is sent to get the last audio transcribed ..."""
_MOST_FLUSHES: Final = 4
"""... but not more often."""
_ANSWER_SECONDS: Final = 2.0
"""For the answer to ForceEndTurn."""
_FAINT: Final = 370
"""Magnitude, of 32768, up to which a sample is part of a pause (-39 dB of full scale)."""


class Act(enum.Enum):
    """What is to go out."""

    SILENCE = "silence"  # one frame of it
    FORCE_END_TURN = "ForceEndTurn"
    CLOSE_STREAM = "CloseStream"


class Phase(enum.Enum):
    FLOWING = "flowing"  # audio comes, or may come
    FLUSHING = "flushing"  # none follows; what was sent is being transcribed
    ENDING = "ending"  # the open turn was asked to end
    CLOSING = "closing"  # CloseStream was sent, after which nothing may be


@dataclass(frozen=True, slots=True)
class Waits:
    """Settings of an Upkeep, in seconds."""

    silence: float = 0.5
    keepalive: float = 5.0
    finish_silence: float = 0.8


def ends_in_pause(audio: bytes, encoding: Encoding) -> bool:
    """Whether the last 20 ms (at 16 kHz) of some audio are fainter than speech."""
    if encoding == "linear16":
        samples = np.frombuffer(audio[len(audio) % 2 :], "<i2")[-320:].astype(np.int32)
        return bool(np.abs(samples).max(initial=0) <= _FAINT)
    codes = np.frombuffer(audio, np.uint8)[-320:]
    # The low seven bits order magnitudes, once the bits are turned as ITU-T G.711 says.
    if encoding == "mulaw":
        return bool((~codes & 0x7F).max(initial=0) < 0x20)
    return bool(((codes ^ 0x55) & 0x7F).max(initial=0) < 0x18)


class Upkeep:
    """Keeps a stream's turns and its connection alive where audio pauses, and ends both in order.

    All timers of Flux run on audio ("End of Turn Detection"; even `eot_timeout_ms`): a turn in
    which audio stops never ends. So silence goes out until it has ended, as long as it takes, at
    the pace of audio. An idle stream gets a frame of silence now and then. In the middle of a sound
    none is sent: when audio goes on, a word would have been torn.
    """

    def __init__(self, waits: Waits, clock: Clock, encoding: Encoding, now: float) -> None:
        self.phase = Phase.FLOWING
        self._waits = waits
        self._clock = clock
        self._encoding: Encoding = encoding
        self._turn_open = False
        self._heard = 0.0
        """How far all that was sent is transcribed."""
        self._playing_until = now
        self._sent_at = now
        self._last = b""
        self._pause: bool | None = None
        """Whether the last audio ends in a pause; None: nobody has looked."""
        self._silence_seconds = 0.0
        """Sent since the last audio."""
        self._progress_at = now
        self._flushes = 0
        self._todo: list[Act] = []

    def sent(self, now: float, audio: bytes, seconds: float) -> None:
        """Audio was given and went out."""
        self._playing_until = min(max(self._playing_until, now) + seconds, now + _AHEAD_SECONDS)
        self._sent_at = now
        self._last, self._pause = audio, None
        self._silence_seconds = 0.0

    def heard(self, now: float, window_end: float, *, turn_open: bool) -> None:
        """The provider has transcribed up to `window_end` (its clock)."""
        self._heard = max(self._heard, window_end)
        self._turn_open = turn_open
        self._progress_at = now
        if self.phase is Phase.FLUSHING and self._all_heard:
            self._end_turn()
        elif self.phase is Phase.ENDING and not turn_open:
            self._close()

    def no_turn(self) -> None:
        """ForceEndTurn found no turn that is open."""
        if self.phase is Phase.ENDING:
            self._close()

    def finish(self, now: float) -> None:
        """No audio follows.

        CloseStream alone ends no turn ("Close Stream"), and ForceEndTurn leaves to the next turn
        what is not decoded yet ("Force End Turn"). So: silence until all audio is transcribed,
        then the end of the turn, then the end of the stream.
        """
        if self.phase is not Phase.FLOWING:
            return
        self._progress_at = now
        if not self._clock.given:
            self._close()
        elif self._all_heard:
            self._end_turn()
        else:
            self.phase = Phase.FLUSHING
            self._flush()

    @property
    def missing(self) -> float:
        """Seconds of the audio that are not transcribed, up to the end of the last that was
        given; less than a frame of it is none."""
        missing = self._clock.spoken - self._heard
        return missing if missing > FRAME_SECONDS else 0.0

    @property
    def deadline(self) -> float:
        """When to ask `due` again, if nothing happens before."""
        if self._todo:
            return self._sent_at
        match self.phase:
            case Phase.FLOWING:
                if self._settled:
                    return max(self._sent_at, self._playing_until) + self._waits.keepalive
                if self._pause is False:
                    return math.inf
                wait = self._playing_until + self._waits.silence
                return max(wait, self._sent_at + FRAME_SECONDS)
            case Phase.FLUSHING:
                return self._progress_at + _NO_PROGRESS_SECONDS
            case Phase.ENDING:
                return self._progress_at + _ANSWER_SECONDS
        return math.inf

    def due(self, now: float) -> list[Act]:
        """What is to go out now, in this order."""
        if not self._todo and now >= self.deadline:
            self._expired(now)
        due, self._todo = self._todo, []
        if Act.SILENCE in due:
            self._sent_at = now
            self._silence_seconds += FRAME_SECONDS * due.count(Act.SILENCE)
        return due

    def _expired(self, now: float) -> None:
        match self.phase:
            case Phase.FLOWING:
                if self._pause is None:
                    self._pause = ends_in_pause(self._last, self._encoding)
                    if now < self.deadline:
                        return
                self._todo.append(Act.SILENCE)
            case Phase.FLUSHING:
                self._progress_at = now
                if self._flushes < _MOST_FLUSHES:
                    self._flush()
                else:
                    self._end_turn()
            case Phase.ENDING:
                self._close()

    @property
    def _all_heard(self) -> bool:
        return self._heard >= self._clock.spoken + _SETTLED_SECONDS

    @property
    def _settled(self) -> bool:
        """Whether there is nothing that silence would bring forth."""
        if not self._clock.given or self._silence_seconds >= _MOST_SILENCE_SECONDS:
            return True
        return self._all_heard and not self._turn_open

    def _flush(self) -> None:
        self._flushes += 1
        frames = math.ceil(self._waits.finish_silence / FRAME_SECONDS)
        self._todo.extend([Act.SILENCE] * frames)

    def _end_turn(self) -> None:
        if not self._turn_open:
            self._close()
            return
        self.phase = Phase.ENDING
        self._todo.append(Act.FORCE_END_TURN)

    def _close(self) -> None:
        self.phase = Phase.CLOSING
        self._todo.append(Act.CLOSE_STREAM)

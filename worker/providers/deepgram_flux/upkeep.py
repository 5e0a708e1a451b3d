"""Decides when to send silence, and ends a stream so that its last words arrive.

Pure: the caller passes the time, performs the actions and arms the timer. Sections cited are those
of the vendor's documentation ("Deepgram docs"); where it does not say, the code follows the
vendor's other clients.
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
"""Transcribed silence after the last audio from which on no more words of it are expected."""
_AHEAD_SECONDS: Final = 2.0
"""Longest burst of audio that counts as real time: its audio is taken to be playing while no other
follows."""
_MOST_SILENCE_SECONDS: Final = 70.0
"""Limit of inserted silence; every turn has ended by then, since its timeout is at most 60 s."""
_NO_PROGRESS_SECONDS: Final = 0.5
"""Time without a message after which more silence is sent to flush the last audio."""
_MOST_FLUSHES: Final = 4
"""Limit of such flushes."""
_ANSWER_SECONDS: Final = 2.0
"""Timeout for the response to ForceEndTurn."""
_FAINT: Final = 370
"""Magnitude (full scale is 32768) up to which a sample counts as a pause (-39 dB)."""


class Act(enum.Enum):
    """An action for the caller to perform."""

    SILENCE = "silence"  # send one frame
    FORCE_END_TURN = "ForceEndTurn"
    CLOSE_STREAM = "CloseStream"


class Phase(enum.Enum):
    FLOWING = "flowing"  # audio may come
    FLUSHING = "flushing"  # no more audio follows; the rest is being transcribed
    ENDING = "ending"  # ForceEndTurn was sent
    CLOSING = "closing"  # CloseStream was sent; no message may follow


@dataclass(frozen=True, slots=True)
class Waits:
    """Settings of Upkeep, in seconds."""

    silence: float = 0.5
    keepalive: float = 5.0
    finish_silence: float = 0.8


def ends_in_pause(audio: bytes, encoding: Encoding) -> bool:
    """Whether the last 20 ms (at 16 kHz) of `audio` are quieter than speech."""
    if encoding == "linear16":
        samples = np.frombuffer(audio[len(audio) % 2 :], "<i2")[-320:].astype(np.int32)
        return bool(np.abs(samples).max(initial=0) <= _FAINT)
    codes = np.frombuffer(audio, np.uint8)[-320:]
    # The low seven bits order magnitudes once the inversions of ITU-T G.711 are undone.
    if encoding == "mulaw":
        return bool((~codes & 0x7F).max(initial=0) < 0x20)
    return bool(((codes ^ 0x55) & 0x7F).max(initial=0) < 0x18)


class Upkeep:
    """Keeps turns and the connection going while audio pauses, and ends both.

    All timers of Flux run on audio ("End of Turn Detection"; even `eot_timeout_ms`), so a turn in
    which audio stops never ends. Upkeep therefore sends silence in real time until the turn has
    ended, and single frames of silence on an idle stream. It sends none if the audio stopped in the
    middle of a sound, since that would split a word if the audio continues.
    """

    def __init__(self, waits: Waits, clock: Clock, encoding: Encoding, now: float) -> None:
        self.phase = Phase.FLOWING
        self._waits = waits
        self._clock = clock
        self._encoding: Encoding = encoding
        self._turn_open = False
        self._transcribed = 0.0
        """End of the transcribed audio, on the provider's clock."""
        self._playing_until = now
        self._sent_at = now
        self._last = b""
        self._pause: bool | None = None
        """Whether the last audio ends in a pause; None if not checked yet."""
        self._silence_seconds = 0.0
        """Silence sent since the last audio."""
        self._progress_at = now
        self._flushes = 0
        self._todo: list[Act] = []

    def sent(self, now: float, audio: bytes, seconds: float) -> None:
        """Record audio that was sent."""
        self._playing_until = min(max(self._playing_until, now) + seconds, now + _AHEAD_SECONDS)
        self._sent_at = now
        self._last, self._pause = audio, None
        self._silence_seconds = 0.0

    def transcribed(self, now: float, window_end: float, *, turn_open: bool) -> None:
        """Record that the provider has transcribed up to `window_end` on its clock."""
        self._transcribed = max(self._transcribed, window_end)
        self._turn_open = turn_open
        self._progress_at = now
        if self.phase is Phase.FLUSHING and self._all_transcribed:
            self._end_turn()
        elif self.phase is Phase.ENDING and not turn_open:
            self._close()

    def no_turn(self) -> None:
        """Record that ForceEndTurn found no open turn."""
        if self.phase is Phase.ENDING:
            self._close()

    def finish(self, now: float) -> None:
        """End the stream: no audio follows.

        CloseStream does not end the open turn ("Close Stream"), and ForceEndTurn leaves audio that
        is not decoded to the next turn ("Force End Turn"). So send silence until all audio is
        transcribed, then end the turn, then the stream.
        """
        if self.phase is not Phase.FLOWING:
            return
        self._progress_at = now
        if not self._clock.given:
            self._close()
        elif self._all_transcribed:
            self._end_turn()
        else:
            self.phase = Phase.FLUSHING
            self._flush()

    @property
    def missing(self) -> float:
        """Seconds of the given audio that are not transcribed; 0 if less than a frame."""
        missing = self._clock.spoken - self._transcribed
        return missing if missing > FRAME_SECONDS else 0.0

    @property
    def deadline(self) -> float:
        """Time at which to call `due` again, if nothing happens before."""
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
        """Return the actions to perform now, in this order."""
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
    def _all_transcribed(self) -> bool:
        return self._transcribed >= self._clock.spoken + _SETTLED_SECONDS

    @property
    def _settled(self) -> bool:
        """Whether silence would have no effect."""
        if not self._clock.given or self._silence_seconds >= _MOST_SILENCE_SECONDS:
            return True
        return self._all_transcribed and not self._turn_open

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

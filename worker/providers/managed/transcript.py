"""From the messages of one stream to provider events: finals that partition the audio.

Pure: no sockets, clocks or environment. A Final's end is where the worker goes on after a crash, so
a text whose end the proxy does not tell is held back, as an interim, until a pause in the audio
shows it. Times are seconds of the stream's audio.
"""

from __future__ import annotations

from typing import Final as Constant
from typing import NamedTuple

from natterjack.plugin.provider import Final, Interim, Notice, ProviderEvent, Usage

from ..estimate import Span, estimated_words
from .places import Found, Places
from .protocol import (
    CreditsLow,
    Error,
    Ready,
    ServerMessage,
    SessionEnd,
    Transcript,
    Unknown,
)

_SILENCE_SECONDS: Constant = 2.0
"""Silence is made final in stretches of at least so much ..."""
_ANSWER_SECONDS: Constant = 5.0
"""... once so much audio has followed: a proxy may hear words where we hear none."""
_SPEECH_SECONDS: Constant = 0.1
"""Less is no word."""
_TAIL_SECONDS: Constant = 1.5
"""If there is more of a text to come, it comes within so much audio."""


class _Held(NamedTuple):
    text: str
    told: float
    """Audio sent when it came."""


class Texts:
    """Interims and finals of one stream."""

    def __init__(self, *, hold_seconds: float, quiet_seconds: float) -> None:
        self.frontier = 0.0
        """End of the last Final given."""
        self._hold = hold_seconds
        self._quiet = quiet_seconds
        self._places = Places()
        self._held: list[_Held] = []
        """Final texts since the frontier whose end is not known yet."""
        self._interim = ""
        self._tail = False
        """The last final said less than the interim before it: there is more to come."""
        self._said = 0.0
        """Audio sent when the last text came."""
        self._spoken = False
        """Whether any text has come."""
        self._finished = False

    @property
    def settled(self) -> bool:
        """Whether there are final texts for all speech, as far as the audio shows."""
        return not self._interim and self.answered

    @property
    def answered(self) -> bool:
        """Whether there are texts for all speech, as far as the audio shows."""
        return self.unanswered < _SPEECH_SECONDS

    @property
    def unanswered(self) -> float:
        """Seconds of speech behind the guessed place of the last text, held or interim."""
        places, text = self._places, self._shown().text
        speech = places.speech()
        if text:
            found = places.pause_after(text, self._said) or places.guess_after(text, self._said)
            speech -= places.speech(found.end)
        return speech

    @property
    def owed(self) -> float:
        """Audio since the last text, or since the speech after it began that has none."""
        if self._held or self._places.speech() < _SPEECH_SECONDS:
            return 0.0
        return self._places.sent - max(self._said, self._places.spoken(_SPEECH_SECONDS))

    @property
    def sent(self) -> float:
        """Audio sent."""
        return self._places.sent

    @property
    def holding(self) -> bool:
        """Whether a final text waits for its place."""
        return bool(self._held)

    def hear(self, audio: bytes) -> None:
        """`audio` is sent."""
        self._places.hear(audio)

    def finish(self) -> None:
        """No audio follows."""
        self._finished = True
        self._places.finish()

    def receive(self, message: ServerMessage) -> list[ProviderEvent]:
        """Provider events that follow from a message."""
        match message:
            case Transcript(start=start, end=end) if start is not None and end is not None:
                return self._timed(message, start, end)
            case Transcript():
                return self._untimed(message)
            case CreditsLow(seconds):
                return [Usage(credits_remaining_seconds=seconds, low=True)]
            case SessionEnd(seconds):
                return [Usage(audio_seconds=seconds)]
            case Error(text, code):
                return [Notice("provider_error", f"[{code}] {text}" if code else text)]
            case Unknown(kind):
                return [Notice("unknown", f"message of type {kind!r}")]
            case Ready():
                return []  # 4: "may arrive after reconnects"

    def due(self) -> list[ProviderEvent]:
        """What the audio that was sent since makes certain."""
        if self._held:
            return self._settle()
        return self._silence()

    def pass_over(self, end: float) -> list[ProviderEvent]:
        """Nothing will be said about the audio up to about `end`, voice or not."""
        quiet = self._places.quiet_before(end)
        self._interim = ""
        return self._final("", quiet if quiet > self.frontier else end, [])

    def end(self) -> list[ProviderEvent]:
        """What is left when nothing more will be said: an interim, too, is better than nothing."""
        text = self._shown().text
        self._held, self._interim = [], ""
        end = self._places.sent
        return self._final(text, end, self._places.spans()) if end > self.frontier or text else []

    # ---- with times -------------------------------------------------------------------------

    def _timed(self, message: Transcript, start: float, end: float) -> list[ProviderEvent]:
        start, end = max(start, self.frontier), min(end, self._places.sent)
        end = max(start, end)
        text = message.text.strip()
        self._said = self._places.sent
        if not message.is_final:
            self._interim = text
            return [Interim(text, start, end)] if text else []
        self._interim = ""
        events = self._release(start) if self._held else []
        start = max(start, self.frontier)
        end = max(start, end)
        spans = [(max(a, start), b) for a, b in self._places.spans(end) if b > start]
        return events + self._final(text, end, spans, start)

    def _release(self, end: float) -> list[ProviderEvent]:
        """Held texts end where the times of the next begin."""
        text, self._held = self._held_text, []
        return self._final(text, max(end, self.frontier), self._places.spans(end))

    # ---- without times ----------------------------------------------------------------------

    def _untimed(self, message: Transcript) -> list[ProviderEvent]:
        text = message.text.strip()  # 4: blank text is dropped
        if text and not self._spoken:
            self._spoken = True
            self._places.first_text(text, is_final=message.is_final)
        if not message.is_final:
            if not text:
                return []
            self._interim, self._said = text, self._places.sent
            return [self._shown()]
        self._tail = len(self._interim.split()) > len(text.split()) > 0
        self._interim = ""
        if not text:
            return self.due()
        self._said = self._places.sent
        self._held.append(_Held(text, self._said))
        return self._settle() or [self._shown()]

    @property
    def _held_text(self) -> str:
        return " ".join(held.text for held in self._held)

    def _shown(self) -> Interim:
        """All that was said since the frontier."""
        text = f"{self._held_text} {self._interim}".strip()
        return Interim(text, self.frontier, self._places.sent, times_estimated=True)

    def _settle(self) -> list[ProviderEvent]:
        """Make held texts final whose end is known, or that have waited for long."""
        places, text, told = self._places, self._held_text, self._held[-1].told
        waited = places.sent - self._held[0].told >= self._hold
        more = self._finished or (not waited and places.sent - told < _TAIL_SECONDS)
        found = None if self._tail and more else places.pause_after(text, told)
        if found is None and waited:
            found = places.guess_after(text, told)
        if found is not None and (found.sure or not more):
            self._held, self._tail = [], False
            return self._found(text, told, found)
        # Parts of one text fit together; else each has a pause of its own.
        if 1 < len(self._held) <= len(places.pauses()):
            first = self._held[0]
            found = places.pause_after(first.text, first.told)
            if found is not None:
                del self._held[0]
                return self._found(*first, found) + self._settle()
        return []

    def _found(self, text: str, told: float, found: Found) -> list[ProviderEvent]:
        self._places.learn(text, told, found)
        return self._final(text, found.end, self._places.spans(found.end))

    def _silence(self) -> list[ProviderEvent]:
        """Move on over silence; never over speech that has had no answer."""
        places = self._places
        end = self.frontier
        if not self._interim:
            end = min(places.quiet_from_start(), places.sent - _ANSWER_SECONDS)
        quiet = places.sent - max(self._said, self.frontier) >= self._quiet + _SILENCE_SECONDS
        if quiet and places.speech() < _SPEECH_SECONDS:
            self._interim = ""
            end = max(end, places.quiet_before(places.sent - self._quiet))
        if end - self.frontier < _SILENCE_SECONDS:
            return []
        return self._final("", end, [])

    def _final(
        self, text: str, end: float, spans: list[Span], start: float | None = None
    ) -> list[ProviderEvent]:
        start = self.frontier if start is None else start
        end = self.frontier = max(min(end, self._places.sent), self.frontier)
        words = estimated_words(text, spans or [(start, end)]) if text else ()
        self._places.forget(end)
        return [Final(text, start, end, words, times_estimated=True)]

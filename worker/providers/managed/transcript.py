"""Turns the messages of one stream into provider events: finals that partition the audio.

The worker resumes at the end of a final after a crash. A text without times is therefore held back,
as an interim, until a pause in the audio shows its end. Pure: no sockets, clocks or environment.
Times are seconds of the stream's audio.
"""

from __future__ import annotations

from typing import Final as Constant
from typing import NamedTuple

from natterjack.plugin.provider import Final, Interim, Notice, ProviderEvent, Usage

from ..estimate import Span, estimated_words
from .pauses import PauseMatch, PauseMatcher
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
"""Minimum length of finals for silence."""
_ANSWER_SECONDS: Constant = 5.0
"""Audio that must follow silence before it is final, since the proxy may recognize words where no
voice is detected here."""
_SPEECH_SECONDS: Constant = 0.1
"""Minimum length of speech; less is not a word."""
_TAIL_SECONDS: Constant = 1.5
"""Audio within which the rest of a text arrives, if there is any."""


class _PendingText(NamedTuple):
    text: str
    received_at: float
    """Audio sent when the text arrived."""


class Texts:
    """Interims and finals of one stream."""

    def __init__(self, *, hold_seconds: float, quiet_seconds: float) -> None:
        self.frontier = 0.0
        """End of the last Final returned."""
        self._hold = hold_seconds
        self._quiet = quiet_seconds
        self._matcher = PauseMatcher()
        self._pending: list[_PendingText] = []
        """Final texts since the frontier whose ends are not known yet."""
        self._interim = ""
        self._tail = False
        """Whether the last final had fewer words than the interim before it, so that more is to
        come."""
        self._text_at = 0.0
        """Audio sent when the last text arrived."""
        self._spoken = False
        """Whether any text has arrived."""
        self._finished = False

    @property
    def settled(self) -> bool:
        """Whether all detected speech has final texts."""
        return not self._interim and self.answered

    @property
    def answered(self) -> bool:
        """Whether all detected speech has texts."""
        return self.unanswered_speech < _SPEECH_SECONDS

    @property
    def unanswered_speech(self) -> float:
        """Seconds of speech after the estimated end of the last text."""
        matcher, text = self._matcher, self._pending_interim().text
        speech = matcher.speech()
        if text:
            found = matcher.pause_after(text, self._text_at) or matcher.guess_after(
                text, self._text_at
            )
            speech -= matcher.speech(found.end)
        return speech

    @property
    def waiting_seconds(self) -> float:
        """Seconds of audio since the last text, or since speech without a text began after it."""
        if self._pending or self._matcher.speech() < _SPEECH_SECONDS:
            return 0.0
        return self._matcher.sent - max(
            self._text_at, self._matcher.time_of_speech(_SPEECH_SECONDS)
        )

    @property
    def sent(self) -> float:
        """Seconds of audio sent."""
        return self._matcher.sent

    @property
    def holding(self) -> bool:
        """Whether a final text waits for its position."""
        return bool(self._pending)

    def add_audio(self, audio: bytes) -> None:
        """Record audio that is sent."""
        self._matcher.add_audio(audio)

    def finish(self) -> None:
        """Record the end of the audio."""
        self._finished = True
        self._matcher.finish()

    def receive(self, message: ServerMessage) -> list[ProviderEvent]:
        """Return the provider events for a message."""
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
        """Return the events that the audio sent since the last call makes possible."""
        if self._pending:
            return self._finals_of_pending()
        return self._silence()

    def skip(self, end: float) -> list[ProviderEvent]:
        """Return a final without text up to about `end`, even if there is voice activity."""
        quiet = self._matcher.last_gap_before(end)
        self._interim = ""
        return self._final("", quiet if quiet > self.frontier else end, [])

    def end(self) -> list[ProviderEvent]:
        """Return the remaining events at the end of the stream; an interim becomes final."""
        text = self._pending_interim().text
        self._pending, self._interim = [], ""
        end = self._matcher.sent
        return self._final(text, end, self._matcher.spans()) if end > self.frontier or text else []

    # ---- with times -------------------------------------------------------------------------

    def _timed(self, message: Transcript, start: float, end: float) -> list[ProviderEvent]:
        start, end = max(start, self.frontier), min(end, self._matcher.sent)
        end = max(start, end)
        text = message.text.strip()
        self._text_at = self._matcher.sent
        if not message.is_final:
            self._interim = text
            return [Interim(text, start, end)] if text else []
        self._interim = ""
        events = self._release(start) if self._pending else []
        start = max(start, self.frontier)
        end = max(start, end)
        spans = [(max(a, start), b) for a, b in self._matcher.spans(end) if b > start]
        return events + self._final(text, end, spans, start)

    def _release(self, end: float) -> list[ProviderEvent]:
        """End pending texts where the next text with times starts."""
        text, self._pending = self._pending_text, []
        return self._final(text, max(end, self.frontier), self._matcher.spans(end))

    # ---- without times ----------------------------------------------------------------------

    def _untimed(self, message: Transcript) -> list[ProviderEvent]:
        text = message.text.strip()  # 4: blank text is dropped
        if text and not self._spoken:
            self._spoken = True
            self._matcher.first_text(text, is_final=message.is_final)
        if not message.is_final:
            if not text:
                return []
            self._interim, self._text_at = text, self._matcher.sent
            return [self._pending_interim()]
        self._tail = len(self._interim.split()) > len(text.split()) > 0
        self._interim = ""
        if not text:
            return self.due()
        self._text_at = self._matcher.sent
        self._pending.append(_PendingText(text, self._text_at))
        return self._finals_of_pending() or [self._pending_interim()]

    @property
    def _pending_text(self) -> str:
        return " ".join(held.text for held in self._pending)

    def _pending_interim(self) -> Interim:
        """An interim with everything since the frontier."""
        text = f"{self._pending_text} {self._interim}".strip()
        return Interim(text, self.frontier, self._matcher.sent, times_estimated=True)

    def _finals_of_pending(self) -> list[ProviderEvent]:
        """Make pending texts final whose ends are known or that have waited too long."""
        matcher, text = self._matcher, self._pending_text
        received_at = self._pending[-1].received_at
        waited = matcher.sent - self._pending[0].received_at >= self._hold
        more = self._finished or (not waited and matcher.sent - received_at < _TAIL_SECONDS)
        found = None if self._tail and more else matcher.pause_after(text, received_at)
        if found is None and waited:
            found = matcher.guess_after(text, received_at)
        if found is not None and (found.certain or not more):
            self._pending, self._tail = [], False
            return self._matched(text, received_at, found)
        # Parts of one text match together; otherwise each text has its own pause.
        if 1 < len(self._pending) <= len(matcher.pauses()):
            first = self._pending[0]
            found = matcher.pause_after(first.text, first.received_at)
            if found is not None:
                del self._pending[0]
                return self._matched(*first, found) + self._finals_of_pending()
        return []

    def _matched(self, text: str, received_at: float, found: PauseMatch) -> list[ProviderEvent]:
        self._matcher.learn(text, received_at, found)
        return self._final(text, found.end, self._matcher.spans(found.end))

    def _silence(self) -> list[ProviderEvent]:
        """Return a final for silence; never for speech without a text."""
        matcher = self._matcher
        end = self.frontier
        if not self._interim:
            end = min(matcher.leading_silence_end(), matcher.sent - _ANSWER_SECONDS)
        quiet = matcher.sent - max(self._text_at, self.frontier) >= self._quiet + _SILENCE_SECONDS
        if quiet and matcher.speech() < _SPEECH_SECONDS:
            self._interim = ""
            end = max(end, matcher.last_gap_before(matcher.sent - self._quiet))
        if end - self.frontier < _SILENCE_SECONDS:
            return []
        return self._final("", end, [])

    def _final(
        self, text: str, end: float, spans: list[Span], start: float | None = None
    ) -> list[ProviderEvent]:
        start = self.frontier if start is None else start
        end = self.frontier = max(min(end, self._matcher.sent), self.frontier)
        words = estimated_words(text, spans or [(start, end)]) if text else ()
        self._matcher.forget(end)
        return [Final(text, start, end, words, times_estimated=True)]

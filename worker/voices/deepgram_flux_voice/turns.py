"""The state of a stream: which text the provider has, which text waits, and what an interrupt cuts.

A phrase of the worker is a turn of the provider. Turns are serialized: the text of the next phrase
is sent when the turn before it has ended. The provider would accept it earlier, but what an
interrupt does to turns that wait there is not documented.

Pure: no sockets, time or environment. The caller sends `next_message` until there is none, hands
over what it receives, and returns `take_events`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from natterjack.plugin.errors import Stalled
from natterjack.plugin.provider import Notice
from natterjack.plugin.voice import Interrupted, PhraseEnd, Speech, VoiceStreamEvent

from . import protocol
from .clock import SessionClock
from .options import NAME

_NO_TURN: Final = "NO_ACTIVE_SPEECH"
_OFFSET: Final = "INVALID_INTERRUPT_OFFSET"
_IGNORED: Final = ("NO_AUDIO_GENERATED", "INTERRUPT_IN_PROGRESS", _OFFSET)
"""Warnings that an Interrupt was ignored. Other clients have seen NO_ACTIVE_SPEECH as well, if no
turn is active."""
_NOTICES: Final = {
    "INPUT_MARKUP_STRIPPED": "markup_stripped",
    "NO_SYNTHESIZABLE_TEXT": "nothing_to_speak",
    "SYNTHESIS_RETRYING": "retrying",
}
"""Notices of warnings; any other warning is `warning`."""


@dataclass(slots=True, eq=False)
class _Phrase:
    """A phrase, and what of it was sent."""

    texts: deque[str] = field(default_factory=deque)
    """Texts that were not sent."""
    flushed: bool = False
    opened: bool = False
    """A text was sent, so the provider has a turn for the phrase."""
    flush_sent: bool = False
    started: bool = False
    """The provider has begun to speak it."""
    billed: int | None = 0
    """Characters of its turns that have ended; None if the provider did not say."""


class Turns:
    """The phrases of one stream, from the text to the end of the audio."""

    def __init__(self, clock: SessionClock, frame_bytes: int, message_characters: int) -> None:
        self.complete = False
        """Everything that was due after `finish` was returned."""
        self._clock = clock
        self._frame_bytes = frame_bytes
        self._message_characters = message_characters
        self._phrases: deque[_Phrase] = deque()
        """Phrases that have not ended. The last one takes text if it is not flushed."""
        self._commands: deque[str] = deque()
        """Messages that are sent before any text."""
        self._events: deque[VoiceStreamEvent] = deque()
        self._odd = b""
        """The beginning of a frame whose end was not received."""
        self._cancelled: _Phrase | None = None
        """The phrase of a turn that was interrupted and has not ended: its audio is discarded."""
        self._played: float | None = None
        """Seconds of the stream that were played at the last interrupt."""
        self._owed = 0
        """Calls of `interrupt` that were not answered by an event."""
        self._answer_due = False
        """The provider has not answered an Interrupt."""
        self._may_repeat = False
        self._repeat_at_audio = False
        self._finishing = False
        self._close_sent = False

    # ---- from the worker ------------------------------------------------------------------------

    def speak(self, text: str) -> None:
        """Append text to the last phrase."""
        phrase = self._phrases[-1] if self._phrases and not self._phrases[-1].flushed else None
        if phrase is None:
            phrase = _Phrase()
            self._phrases.append(phrase)
        phrase.texts.extend(_pieces(text, self._message_characters))

    def flush(self) -> None:
        """End the last phrase."""
        if not self._phrases or self._phrases[-1].flushed:
            self._phrases.append(_Phrase())
        self._phrases[-1].flushed = True

    def interrupt(self, played_seconds: float | None) -> None:
        """Drop all phrases, and cancel the turn of the first one if the provider has it.

        An Interrupt is not sent if no turn is active: the provider would ignore it.
        """
        turn = self._phrases[0] if self._phrases and self._phrases[0].opened else None
        self._phrases.clear()
        self._played = played_seconds
        self._owed += 1
        if turn is not None:
            self._cancelled = turn
            self._may_repeat = True
            self._interrupt(self._clock.offset(played_seconds))
        elif not self.interrupting:
            self._clock.dropped(played_seconds)
            self._answer(None, None)

    def configure(self, changes: dict[str, object]) -> None:
        """Send a change of settings, which the provider applies at the next segment."""
        self._commands.append(protocol.encode_configure(changes))

    def finish(self) -> None:
        """End the stream after the last phrase. Text without a flush is spoken, too."""
        self._finishing = True
        if self._phrases:
            self._phrases[-1].flushed = True

    # ---- to the provider ------------------------------------------------------------------------

    def next_message(self) -> str | None:
        """Return the message to send now, if any. The caller sends it, in this order."""
        if self._commands:
            return self._commands.popleft()
        if self.interrupting:
            return None
        while self._phrases:
            phrase = self._phrases[0]
            if phrase.texts:
                phrase.opened = True
                return protocol.encode_speak(phrase.texts.popleft())
            if not phrase.flushed or phrase.flush_sent:
                return None
            if phrase.opened:
                phrase.flush_sent = True
                return protocol.encode_flush()
            self._end_phrase()  # without text there is no turn that a Flush could end
        if self._finishing and not self._close_sent:
            self._close_sent = True
            return protocol.encode_close()
        return None

    # ---- from the provider ----------------------------------------------------------------------

    def audio(self, received: bytes) -> None:
        """Handle a binary frame.

        Audio between an Interrupt and its answer belongs to the turn that was cancelled.
        """
        self._clock.received(len(received))
        if self._cancelled is not None:
            if self._repeat_at_audio:
                self._repeat_at_audio = False
                self._interrupt(self._clock.offset(self._played))
            return
        if not self._phrases or not self._phrases[0].opened:
            self._notice("malformed", f"{len(received)} bytes of audio without a turn")
            return
        self._phrases[0].started = True
        audio = self._odd + received
        whole = len(audio) - len(audio) % self._frame_bytes
        self._odd = audio[whole:]
        if whole:
            self._events.append(Speech(audio[:whole]))

    def receive(self, message: protocol.Message) -> None:
        """Handle a message. Raises: ProviderError."""
        match message:
            case protocol.SpeechStarted():
                if self._phrases and self._phrases[0].opened:
                    self._phrases[0].started = True
            case protocol.SpeechMetadata():
                self._ended(message)
            case protocol.SpeechInterrupted():
                self._interrupted(message)
            case protocol.Warned():
                self._warned(message)
            case protocol.SessionMetadata():
                self.closed()
            case protocol.FatalError():
                if not self.closed():
                    raise protocol.fatal_error(message)
            case protocol.Connected():
                self._notice("malformed", "unexpected second Connected")
            case Notice():
                self._events.append(message)

    def closed(self) -> bool:
        """Note that the provider ends the stream, and return whether it is complete: all turns had
        ended when Close was sent, so nothing is missing."""
        self.complete |= self._close_sent
        return self.complete

    @property
    def ending(self) -> bool:
        """True if Close was sent: all turns have ended, and nothing is being interrupted."""
        return self._close_sent

    @property
    def interrupting(self) -> bool:
        """True if an interrupt is not over: the turn has not ended, or the answer is due. No text
        is sent until then, so that it cannot be taken for the text that was cancelled."""
        return self._cancelled is not None or self._answer_due

    def give_up(self) -> None:
        """Note that the interrupt is not over in time. Raises: Stalled if a turn goes on."""
        if self._cancelled is not None:
            raise Stalled(NAME, "mute", "an Interrupt did not end the speech in time")
        self._answer_due = False
        self._clock.dropped(self._played)
        self._notice("interrupt_unanswered", "no answer to an Interrupt")

    @property
    def has_events(self) -> bool:
        return bool(self._events)

    def take_events(self) -> Iterator[VoiceStreamEvent]:
        """Return and forget the events so far."""
        while self._events:
            yield self._events.popleft()

    # ---- turns ----------------------------------------------------------------------------------

    def _ended(self, message: protocol.SpeechMetadata) -> None:
        self._odd = b""
        if self._cancelled is not None:
            # It had ended before the Interrupt arrived, or the Interrupt was ignored.
            self._cancelled = None
            self._repeat_at_audio = False
            self._answer(None, message.billed_characters)
            if not self._answer_due:
                self._clock.dropped(self._played)
            return
        phrase = self._phrases[0] if self._phrases else None
        if phrase is None or not phrase.opened:
            self._notice("malformed", "SpeechMetadata without a turn")
            return
        if phrase.billed is not None:
            billed = message.billed_characters
            phrase.billed = None if billed is None else phrase.billed + billed
        if phrase.flush_sent:
            self._end_phrase()
        else:  # only Flush ends a turn; the rest of the phrase becomes another
            phrase.opened = phrase.started = False

    def _end_phrase(self) -> None:
        """End the first phrase: the provider has no turn for it, or no more."""
        self._events.append(PhraseEnd(self._phrases.popleft().billed))

    def _interrupt(self, offset_ms: int | None) -> None:
        self._answer_due = True
        self._commands.append(protocol.encode_interrupt(offset_ms))

    def _interrupted(self, message: protocol.SpeechInterrupted) -> None:
        if not self.interrupting:
            if self._phrases and self._phrases[0].opened:
                raise protocol.uninvited("the speech was interrupted, and nobody asked for it")
            self._notice("malformed", "SpeechInterrupted without an Interrupt")
            return
        self._answer_due = self._repeat_at_audio = False
        self._cancelled = None
        self._odd = b""
        self._clock.interrupted(self._played, message.played_ms)
        self._answer(message.text_spoken, message.billed_characters)

    def _answer(self, text_spoken: str | None, billed: int | None) -> None:
        """Answer all calls of `interrupt`. The later ones found nothing to interrupt."""
        for _ in range(self._owed):
            self._events.append(Interrupted(text_spoken, billed))
            text_spoken = billed = None
        self._owed = 0

    def _warned(self, message: protocol.Warned) -> None:
        code = message.code
        ignored = code in _IGNORED or (code == _NO_TURN and self._answer_due)
        notice = "interrupt_ignored" if ignored else _NOTICES.get(code, "warning")
        self._notice(notice, ": ".join(part for part in (code, message.description) if part))
        if ignored and self._answer_due:
            self._ignored(code)
            return
        phrase = self._phrases[0] if self._phrases else None
        if code == _NO_TURN and phrase is not None and phrase.flush_sent and not phrase.started:
            self._end_phrase()  # the Flush was a no-op: no other end comes

    def _ignored(self, code: str) -> None:
        """Handle a warning after which no SpeechInterrupted comes.

        If the turn goes on, its audio is discarded to its end, which a Flush ensures. One more
        Interrupt shortens that: without an offset if that was the problem, else once there is audio
        to interrupt.
        """
        self._answer_due = False
        self._answer(None, None)
        turn = self._cancelled
        if turn is None or code == _NO_TURN:
            self._cancelled = None
            self._clock.dropped(self._played)
            return
        if not turn.flush_sent:
            turn.flush_sent = True
            self._commands.append(protocol.encode_flush())
        if self._may_repeat and code == _OFFSET:
            self._interrupt(None)
        else:
            self._repeat_at_audio = self._may_repeat
        self._may_repeat = False

    def _notice(self, code: str, message: str) -> None:
        self._events.append(Notice(code, message, harmless=True))


def _pieces(text: str, most: int) -> Iterator[str]:
    """Divide a text into parts of at most `most` characters, after white space where possible."""
    while len(text) > most:
        at = max(text.rfind(mark, 0, most) for mark in " \n\t") + 1
        yield text[: at or most]
        text = text[at or most :]
    if text:
        yield text

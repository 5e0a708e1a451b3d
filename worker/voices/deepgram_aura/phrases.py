"""The phrases that a stream has sent, and the answers to them: no sockets, clocks or asyncio.

Audio carries no names, so its phrase follows from the order: the server speaks texts in the order
in which it receives them, and answers each Flush with Flushed after the last audio of its text.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

from natterjack.plugin.errors import ProviderError
from natterjack.plugin.provider import Notice
from natterjack.plugin.voice import Interrupted, PhraseEnd, Speech, VoiceStreamEvent

from . import protocol

_SILENT: Final = re.compile(r"[\s.,;:!?…'\"()\[\]{}«»\u2018\u2019\u201c\u201d\u2013\u2014-]*")
"""A text without anything to speak. What the server answers to it is not documented."""


@dataclass(slots=True)
class _Phrase:
    """Text between two flushes."""

    characters: int = 0
    """How many were sent."""
    audible: bool = False
    """Audio of it has arrived."""
    ignored: ProviderError | None = None
    """The server ignored its Flush: the error of the stream, once audio before it has arrived."""


class Phrases:
    """The phrases of a stream, oldest first, and the answers that are due."""

    def __init__(self, frame_bytes: int) -> None:
        self.reference: str | None = None
        """The server's identifier of the stream, if a message has told it."""
        self._frame_bytes = frame_bytes
        self._ended: deque[_Phrase] = deque()
        """Phrases that were flushed and not answered."""
        self._open = _Phrase()
        self._held = ""
        """Text at the beginning of the open phrase that has nothing to speak so far."""
        self._clears: deque[int] = deque()
        """For each interrupt that was not answered, the characters of the text that it dropped."""
        self._stale = 0
        """Flushes that an interrupt overtook. They may be answered, or not."""
        self._rest = b""
        """The beginning of a frame whose end is in the next message."""

    # ---- out --------------------------------------------------------------------------------

    def add(self, text: str) -> str:
        """Add text to the open phrase, and return what is to be sent now: nothing while the phrase
        has nothing to speak."""
        text = self._held + text
        if not self._open.characters and _SILENT.fullmatch(text):
            self._held = text
            return ""
        self._held = ""
        return text

    def sent(self, characters: int) -> None:
        """Count text of the open phrase that is sent."""
        self._open.characters += characters

    @property
    def unflushed(self) -> bool:
        """True if text of the open phrase was sent."""
        return self._open.characters > 0

    @property
    def has_text(self) -> bool:
        """True if the open phrase has any text."""
        return self.unflushed or bool(self._held)

    def flush(self) -> None:
        """End the open phrase. If it is `unflushed`, a Flush is to be sent."""
        self._ended.append(self._open)
        self._open, self._held = _Phrase(), ""

    def interrupt(self) -> None:
        """Forget all phrases. A Clear is to be sent."""
        self._stale += sum(phrase.characters > 0 for phrase in self._ended)
        self._clears.append(sum(phrase.characters for phrase in (*self._ended, self._open)))
        self._ended.clear()
        self._open, self._held = _Phrase(), ""

    # ---- in ---------------------------------------------------------------------------------

    @property
    def clearing(self) -> bool:
        """True if an interrupt was not answered yet."""
        return bool(self._clears)

    @property
    def complete(self) -> bool:
        """True if nothing is due: every phrase has ended, and every interrupt was answered."""
        return not (self._ended or self._clears or self.unflushed)

    def due(self) -> list[VoiceStreamEvent]:
        """Return the ends of phrases that have nothing to speak. Raises ProviderError if the Flush
        of the oldest phrase was ignored."""
        events: list[VoiceStreamEvent] = []
        while not self._clears and self._ended and not self._ended[0].characters:
            self._ended.popleft()
            events.append(PhraseEnd(0))
        if not self._clears and self._ended and (error := self._ended[0].ignored):
            raise error
        return events

    def audio(self, audio: bytes) -> list[VoiceStreamEvent]:
        """Return the whole frames of a binary message, unless an interrupt has dropped its text.
        Raises ProviderError as `due`, whose events come first."""
        events = self.due()
        phrase = self._ended[0] if self._ended else self._open
        if self._clears or not phrase.characters:
            return events
        audio = self._rest + audio
        whole = len(audio) - len(audio) % self._frame_bytes
        audio, self._rest = audio[:whole], audio[whole:]
        phrase.audible = phrase.audible or bool(audio)
        return [*events, Speech(audio)] if audio else events

    def receive(self, message: protocol.Message) -> list[VoiceStreamEvent]:
        """Return the events of a message. Raises ProviderError for an error of the server, and as
        `due`, whose events come first."""
        match message:
            case protocol.Flushed():
                return [*self.due(), *self._flushed()]
            case protocol.Cleared():
                return self._cleared()
            case protocol.Warned():
                return [self._warned(message)]
            case protocol.Failed():
                raise protocol.failure(message)
            case protocol.Metadata():
                self.reference = message.request_id or self.reference
                return []
        return [Notice("unknown", f"message of type {message.kind!r}", harmless=True)]

    def _flushed(self) -> list[VoiceStreamEvent]:
        if self._clears:
            self._stale = max(0, self._stale - 1)
            return []
        if self._stale and not (self._ended and self._ended[0].audible):
            # "Clear" does not say whether a Flush that it overtook is answered, nor when. An answer
            # before any audio of a text is not the answer to its own Flush.
            self._stale -= 1
            return []
        if not self._ended:
            return [Notice("unknown", "Flushed without a Flush", harmless=True)]
        self._stale = 0
        self._rest = b""
        return [PhraseEnd(self._ended.popleft().characters)]

    def _cleared(self) -> list[VoiceStreamEvent]:
        if not self._clears:
            return [Notice("unknown", "Cleared without a Clear", harmless=True)]
        self._rest = b""
        # Deepgram does not document how it bills text that was dropped: at most all of it.
        return [Interrupted(billed_characters=self._clears.popleft())]

    def _warned(self, message: protocol.Warned) -> Notice:
        if message.about_flush:
            sent = [phrase for phrase in self._ended if phrase.characters and not phrase.ignored]
            if sent:  # the newest: earlier ones were within the limit
                sent[-1].ignored = protocol.ignored_flush(message)
        return Notice("warning", f"{message.code}: {message.description}", harmless=True)

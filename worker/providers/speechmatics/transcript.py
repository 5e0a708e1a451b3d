"""From the messages of one stream to provider events: finals that never overlap, and turns.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from natterjack.plugin.provider import Final, Interim, ProviderEvent, ProviderWord, Turn

from .messages import EndOfUtterance, LanguageInfo, Transcript
from .text import join

_SILENCE_STEP_SECONDS = 1.0
"""Silence known from interims alone is told of in steps so long at least."""


class Transcripts:
    """Interims, finals and turns of one stream, in seconds of its audio.

    Speechmatics docs, "Output": a final is never revised, finals do not overlap, an interim covers
    all since the last final. An empty final says that time has passed in silence. A turn goes from
    the first word to EndOfUtterance, which follows the final of its last word.
    """

    def __init__(self, delimiter: str, silence_margin_seconds: float) -> None:
        self.frontier = 0.0
        """End of the last Final given."""
        self.pending: tuple[ProviderWord, ...] = ()
        """Words of the last interim, as long as they are not final."""
        self._delimiters: dict[str | None, str] = {None: delimiter}
        self._margin = silence_margin_seconds
        self._carry = ""
        self._turn_open = False
        self._last_word_end = 0.0

    def transcript(self, message: Transcript) -> list[ProviderEvent]:
        """Provider events that follow from a transcript."""
        return self._final(message) if message.final else self._interim(message)

    def end_of_utterance(self, message: EndOfUtterance) -> list[ProviderEvent]:
        """The turn has ended with its last word; what came without one has begun no turn."""
        if not self._turn_open:
            return []
        self._turn_open = False
        return [Turn("ended", min(self._last_word_end, message.at))]

    def language(self, message: LanguageInfo) -> None:
        """How words of a language are joined."""
        self._delimiters[message.language] = message.delimiter

    def end(self) -> list[ProviderEvent]:
        """What is left to say when all is final."""
        return self.end_of_utterance(EndOfUtterance(max(self.frontier, self._last_word_end)))

    def _delimiter(self, language: str | None) -> str:
        return self._delimiters.get(language, self._delimiters[None])

    def _interim(self, message: Transcript) -> list[ProviderEvent]:
        # What is final by now is left out: such an interim came too late, in whole or in part.
        fresh = [result for result in message.results if result.end > self.frontier]
        joined = join(fresh, self._delimiter, self._carry)
        self.pending = joined.words
        events = self._turn_started(joined.words)
        if message.end > self.frontier:
            start = max(message.start, self.frontier)
            events.append(
                Interim(joined.text, start, message.end, joined.words, language=joined.language)
            )
        if not joined.words and self._margin:
            events += self._silence(message.end - self._margin)
        return events

    def _final(self, message: Transcript) -> list[ProviderEvent]:
        joined = join(message.results, self._delimiter, self._carry)
        self._carry = joined.carry
        spoken = max((word.end or 0.0 for word in joined.words), default=0.0)
        # Up to its last word: what the message covers beyond may be the beginning of the next.
        end = max(spoken if joined.words else self._outside_words(message.end), self.frontier)
        self.pending = tuple(word for word in self.pending if (word.end or 0.0) > end)
        if not joined.words and end <= self.frontier:
            return []
        events = self._turn_started(joined.words)
        self._last_word_end = max(self._last_word_end, spoken)
        start = max(message.start, self.frontier) if joined.words else self.frontier
        self.frontier = end
        events.append(
            Final(
                text=joined.text,
                start=min(start, end),
                end=end,
                words=joined.words,
                confidence=joined.confidence,
                language=joined.language,
            )
        )
        return events

    def _outside_words(self, end: float) -> float:
        """`end`, or where the word begins that the last interim shows around it: a stream that
        resumes at the end of a final must hear the next word from its beginning."""
        for word in reversed(self.pending):
            start = word.start or 0.0
            if start < end < (word.end or 0.0):
                end = start
        return end

    def _silence(self, until: float) -> list[ProviderEvent]:
        """Nothing was said up to `until`, which no final has said yet.

        Whether silence gets finals is not documented; without any, a stream that resumes would
        have to hear all of it again. The margin is many times what a word takes to show in an
        interim. Should a final come late for all that, nothing of it is dropped.
        """
        if until < self.frontier + _SILENCE_STEP_SECONDS:
            return []
        start, self.frontier = self.frontier, until
        return [Final("", start, until)]

    def _turn_started(self, words: tuple[ProviderWord, ...]) -> list[ProviderEvent]:
        if self._turn_open or not words:
            return []
        self._turn_open = True
        return [Turn("started", words[0].start or 0.0)]

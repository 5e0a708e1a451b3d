"""Turns the messages of one stream into provider events: interims, finals and turns.

Finals never overlap. Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Final, Interim, ProviderEvent, ProviderWord, Turn

from .messages import EndOfUtterance, LanguageInfo, Transcript
from .options import NAME
from .text import join

_SILENCE_STEP_SECONDS = 1.0
"""Minimum length of finals for silence that is known only from interims."""


_CLOCK_SECONDS = 1.0
"""How far behind the frontier a transcript may start."""


class Transcripts:
    """Interims, finals and turns of one stream, in seconds of its audio.

    Speechmatics docs, "Output": a final is never revised, finals do not overlap, and an interim
    covers everything since the last final. An empty final covers silence. A turn extends from the
    first word to EndOfUtterance, which follows the final of its last word.
    """

    def __init__(self, delimiter: str, silence_margin_seconds: float) -> None:
        self.frontier = 0.0
        """End of the last Final returned."""
        self.pending: tuple[ProviderWord, ...] = ()
        """Words of the last interim that are not final yet."""
        self._delimiters: dict[str | None, str] = {None: delimiter}
        self._margin = silence_margin_seconds
        self._carry = ""
        self._turn_open = False
        self._last_word_end = 0.0

    def transcript(self, message: Transcript) -> list[ProviderEvent]:
        """Return the provider events for a transcript.

        Raises: RemoteProtocolError if the server's clock was set back.
        """
        # Speechmatics docs, "Pause and resume": a session that is parked because audio comes slowly
        # may go on at time zero. The audio of the transcript is unknown then.
        words = [result for result in message.results if not result.punctuation]
        at = words[0].start if message.final and words else message.end
        if at < self.frontier - _CLOCK_SECONDS:
            what = f"the clock went back from {self.frontier:.1f} s to {at:.1f} s"
            raise RemoteProtocolError(NAME, what)
        return self._final(message) if message.final else self._interim(message)

    def end_of_utterance(self, message: EndOfUtterance) -> list[ProviderEvent]:
        """Return the end of the open turn, at its last word. Without words there is no turn."""
        if not self._turn_open:
            return []
        self._turn_open = False
        return [Turn("ended", min(self._last_word_end, message.at))]

    def language(self, message: LanguageInfo) -> None:
        """Record the word separator of a language."""
        self._delimiters[message.language] = message.delimiter

    def end(self) -> list[ProviderEvent]:
        """Return the remaining events once everything is final."""
        return self.end_of_utterance(EndOfUtterance(max(self.frontier, self._last_word_end)))

    @property
    def unfinalized(self) -> Final | None:
        """The words of the last interim that never became final, as a final; None if all did."""
        # The middle of a word, since finals revise the times of words slightly.
        late = [
            one
            for one in self.pending
            if one.start is not None
            and one.end is not None
            and one.start + one.end > 2 * self.frontier
        ]
        if not late:
            return None
        text = self._delimiters[None].join(word.text for word in late)
        return Final(text, self.frontier, max(word.end or 0.0 for word in late), tuple(late))

    def _delimiter(self, language: str | None) -> str:
        return self._delimiters.get(language, self._delimiters[None])

    def _interim(self, message: Transcript) -> list[ProviderEvent]:
        # An interim may arrive late; results that are already final are left out.
        fresh = [result for result in message.results if result.end > self.frontier]
        joined = join(fresh, self._delimiter, self._carry)
        self.pending = joined.words
        events = self._turn_started(joined.words)
        if message.end > self.frontier:
            start = max(message.start, self.frontier)
            events.append(
                Interim(
                    text=joined.text,
                    start=start,
                    end=message.end,
                    words=joined.words,
                    language=joined.language,
                    times_estimated=message.estimated,
                )
            )
        if not joined.words and self._margin:
            events += self._silence(message.end - self._margin)
        return events

    def _final(self, message: Transcript) -> list[ProviderEvent]:
        joined = join(message.results, self._delimiter, self._carry)
        self._carry = joined.carry
        spoken = max((word.end or 0.0 for word in joined.words), default=0.0)
        # A final ends with its last word: the rest of its audio may contain the start of the next
        # word.
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
                times_estimated=message.estimated,
            )
        )
        return events

    def _outside_words(self, end: float) -> float:
        """Return `end`, or the start of the pending word around it, since a stream that resumes at
        the end of a final must receive the next word from its start."""
        for word in reversed(self.pending):
            start = word.start or 0.0
            if start < end < (word.end or 0.0):
                end = start
        return end

    def _silence(self, until: float) -> list[ProviderEvent]:
        """Return a final for silence up to `until` that no message has covered.

        It is not documented whether silence gets finals; without any, a stream that resumes would
        repeat all of it. The margin is many times longer than a word takes to appear in an interim.
        If a final comes later after all, its words are not dropped.
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

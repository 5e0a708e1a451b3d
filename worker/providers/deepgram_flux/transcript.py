"""Turns the messages of one stream into provider events: interims, finals and turns.

Finals partition the audio. Pure: no sockets, time or environment. Sections cited are pages of the
vendor's documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final as Constant

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    ProviderWord,
    Turn,
)

from .clock import Clock
from .open_turn import CommitRules, OpenTurn
from .options import NAME
from .protocol import TurnInfo
from .words import Word, timed

_SILENCE_DELAY_SECONDS: Constant = 2.0
"""How far finals of silence stay behind the audio: a turn is reported only once its first words are
recognized ("Flux state machine": StartOfTurn has a transcript)."""
_SILENCE_STEP_SECONDS: Constant = 1.0
_WORD_ENDS_SECONDS: Constant = 0.04
"""How much longer a word is audible than its end time says."""


class Transcript:
    """Interims, finals and turns of one stream.

    Each message of a turn repeats the whole turn, and nothing in it is final before EndOfTurn
    ("Flux state machine"). The head of a long turn is made final earlier, by the rules in `commit`.
    """

    def __init__(
        self, clock: Clock, commit: CommitRules, *, rewrites_numbers: bool = False
    ) -> None:
        self.rewrites_numbers = rewrites_numbers
        """Whether number words may merge later; if so, no head ends next to one."""
        self._clock = clock
        self._commit = commit
        self._index = 0
        self._turn: OpenTurn | None = None
        self._window_end = 0.0
        """End of the audio that is transcribed, on the provider's clock."""
        self.frontier = 0.0
        """End of the last Final returned, in seconds of the audio given."""

    @property
    def turn_open(self) -> bool:
        return self._turn is not None

    def receive(self, info: TurnInfo) -> list[ProviderEvent]:
        """Return the provider events for a message."""
        index = self._index if info.index is None else info.index
        if index < self._index:
            # A turn never changes after its end ("Flux state machine").
            if info.event == "EndOfTurn" and self._has_new_words(info):
                what = f"EndOfTurn of turn {index}, which has ended, with new words"
                raise RemoteProtocolError(NAME, what, readable=self._stale(info))
            return [Notice("stale", f"{info.event} of turn {index}, which has ended")]
        self._window_end = self._end_of_window(info)
        events: list[ProviderEvent] = []
        if index > self._index:
            events += self._end_turn()  # its EndOfTurn was lost
            self._index = index
        window = max(self._clock.to_given(self._window_end), self.frontier)
        if self._turn is None and info.text:
            events.append(self._start_turn(info, window))
        if self._turn is None:
            events += self._silence(window)
        else:
            events += self._speech(self._turn, info, window)
        if info.event == "EndOfTurn":
            self._index = index + 1
        return events

    def _stale(self, info: TurnInfo) -> Final:
        """The final of a turn that has ended, in case the provider repeats it each time. The worker
        leaves out the words that are final."""
        window = max(self._clock.to_given(self._end_of_window(info)), self.frontier)
        words = self._words(info.words, (), window)
        return Final(
            text=info.text,
            start=min(word.start for word in words),
            end=max(word.end for word in words),
            words=tuple([word.as_provider_word() for word in words]),
        )

    def _has_new_words(self, info: TurnInfo) -> bool:
        starts = [self._clock.to_given(word.start) for word in info.words if word.start is not None]
        return any(start > self.frontier for start in starts)

    def _end_of_window(self, info: TurnInfo) -> float:
        """End of the audio that is transcribed, on the provider's clock; if the message does not
        say it, the later one of the last known end and the last word's."""
        if info.window_end is not None:
            return info.window_end
        ends = [word.end for word in info.words if word.end is not None]
        return max([self._window_end, *ends])

    def end(self) -> list[ProviderEvent]:
        """Return the remaining events once all audio is transcribed.

        "Close Stream": the last Update of an open turn is all that comes of it.
        """
        events = self._end_turn()
        if self._clock.given > self.frontier:
            events.append(Final("", self.frontier, self._clock.given))
            self.frontier = self._clock.given
        return events

    # ---- turns ------------------------------------------------------------------------------

    def _words(
        self, received: Sequence[ProviderWord], known: Sequence[Word], window: float
    ) -> list[Word]:
        return timed(received, known, self._clock.to_given, self.frontier, window)

    def _start_turn(self, info: TurnInfo, window: float) -> Turn:
        self._turn = OpenTurn()
        words = self._words(info.words, (), window)
        return Turn("started", words[0].start if words else window, confidence=info.confidence)

    def _speech(self, turn: OpenTurn, info: TurnInfo, window: float) -> list[ProviderEvent]:
        same = turn.unchanged(info.words, info.text)
        words = self._words(info.words[same:], turn.words[same:], window)
        turn.update(words, info.text, self._window_end, same)
        turn.language = info.language or turn.language
        if info.event == "EndOfTurn":
            # After a manual end, the next word may begin right where the turn ends.
            quiet = info.trigger in ("model", "timeout", None)
            return self._end_turn(window, info.confidence, quiet=quiet)
        events: list[ProviderEvent] = []
        if info.event == "TurnResumed" and turn.eager_end is not None:
            behind = [word.start for word in turn.rest if word.start >= turn.eager_end]
            events.append(Turn("resumed", behind[0] if behind else window))
            turn.eager_end = None
        head = turn.commit(
            self._commit, self._window_end, next_to_numbers=not self.rewrites_numbers
        )
        if head is not None:
            events.append(self._final(turn, head.text, head.words, head.boundary))
        events.append(
            Interim(
                text=turn.rest_text,
                start=self._start_of(turn.rest),
                end=window,
                words=tuple([word.as_provider_word() for word in turn.rest]),
                confidence=_confidence(turn.rest),
                language=turn.language,
                times_estimated=any(word.estimated for word in turn.rest),
            )
        )
        if info.event == "EagerEndOfTurn":
            turn.eager_end = max(turn.last_word_end, self.frontier)
            events.append(Turn("eager_end", turn.eager_end, turn.text, info.confidence))
        return events

    def _end_turn(
        self, window: float = 0.0, confidence: float | None = None, *, quiet: bool = False
    ) -> list[ProviderEvent]:
        """End the open turn, if any, with its last known text. `quiet` means that silence followed
        it, up to `window`."""
        turn, self._turn = self._turn, None
        if turn is None:
            return []
        last = max(turn.last_word_end, self.frontier)
        # The audio after the last word may contain the start of the next one, so half of it is
        # left.
        tail = max(window - last, 0.0) / 2 if quiet else _WORD_ENDS_SECONDS
        end = min(last + tail, max(self._clock.given, last))
        events: list[ProviderEvent] = []
        if turn.rest_text or end > self.frontier:
            events.append(self._final(turn, turn.rest_text, turn.rest, end))
        events.append(Turn("ended", last, turn.text_with(turn.rest_text), confidence))
        return events

    def _final(self, turn: OpenTurn, text: str, words: Sequence[Word], end: float) -> Final:
        final = Final(
            text=text,
            start=self._start_of(words),
            end=end,
            words=tuple([word.as_provider_word() for word in words]),
            confidence=_confidence(words),
            language=turn.language,
            times_estimated=any(word.estimated for word in words),
        )
        self.frontier = end
        return final

    def _silence(self, window: float) -> list[ProviderEvent]:
        """Events while no turn is open. The empty interim shows that the provider is alive."""
        events: list[ProviderEvent] = []
        end = window - _SILENCE_DELAY_SECONDS
        if end - self.frontier >= _SILENCE_STEP_SECONDS:
            events.append(Final("", self.frontier, end))
            self.frontier = end
        return [*events, Interim("", self.frontier, window)]

    def _start_of(self, words: Sequence[Word]) -> float:
        return max(self.frontier, words[0].start) if words else self.frontier


def _confidence(words: Sequence[Word]) -> float | None:
    """Mean confidence of the words; Flux reports none for a text."""
    known = [word.confidence for word in words if word.confidence is not None]
    return round(sum(known) / len(known), 4) if known else None

"""The guard between a plugin and a session: the rules of a stream's events, for every plugin. Pure.

Finals follow one another and never overlap, no word of a stream is final twice, and times lie
within the audio that was sent. Text is kept, whatever comes with it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final as Constant
from typing import NamedTuple, TypeVar, get_args

from natterjack.events import TurnKind
from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    ProviderWord,
    Turn,
    Usage,
)

from . import cleaning

T = TypeVar("T", Interim, Final)

_EDGE_SECONDS: Constant = 0.0015
"""Times that differ by less are equal: providers round them to milliseconds."""
_SAME_SECONDS: Constant = 0.3
"""The middle of a word that is repeated may differ by this much."""
_BACK_SECONDS: Constant = 1.0
"""A final with other words this far behind the frontier shows a fault. So does audio of this length
without a final after a message that was skipped."""
_WORD_SECONDS: Constant = 0.35
"""The assumed length of a word if no time shows the end of a final."""
_LAST: Constant = 8
"""How many of the last final words may come again over the frontier: one of each speaker."""
_REMEMBERED: Constant = 64
"""How many words of a stream's finals are remembered."""
_TURNS: Constant = frozenset(get_args(TurnKind))


class _Published(NamedTuple):
    """A word that is final; `middle` and `end` are None if it had no times."""

    text: str
    middle: float | None
    end: float | None = None
    speaker: str | None = None


class _Readable(NamedTuple):
    """The usable values of a transcript."""

    text: str
    words: tuple[ProviderWord, ...]
    """All words of the list."""
    fits: bool
    """Whether they are those of the text."""
    start: float
    """Possibly before the frontier."""
    end: float
    estimated: bool
    """Whether `start` or `end` is an estimate."""


class Guard:
    """Checks the events of one stream, one after another."""

    __slots__ = ("_ahead", "_provider", "_published", "_skipped", "_spoken", "frontier")

    def __init__(self, provider: str) -> None:
        """`provider` is the provider's name, for errors."""
        self._provider = provider
        self._published: deque[_Published] = deque(maxlen=_REMEMBERED)
        self._ahead: list[_Published] = []
        """Final words whose middle lies after the frontier."""
        self._skipped = False
        """The plugin has skipped a message since the last final."""
        self.frontier = 0.0
        """The end of what is final, in seconds of the stream."""
        self._spoken = 0.0
        """The end of the last final that has text."""

    def check(self, event: ProviderEvent, sent: float) -> ProviderEvent | None:
        """Return the event as the session may have it; None if it has nothing new.

        `sent` is the length of the audio sent on the stream, in seconds. Raises
        RemoteProtocolError if an earlier final seems to be lost, or the stream's clock went back.
        """
        match event:
            case Interim():
                return event if self._is_clean(event, sent) else self._interim(event, sent)
            case Final():
                return self._final(event, sent)
            case Turn():
                return _turn(event, sent)
            case Usage():
                audio = cleaning.number_of(event.audio_seconds)
                credit = cleaning.number_of(event.credits_remaining_seconds)
                return Usage(audio, credit, low=event.low is True)
            case Notice():
                self._skipped = self._skipped or (event.code == "malformed" and not event.harmless)
                return Notice(cleaning.code_of(event.code), cleaning.text_of(event.message))

    def end(self, *, heard: bool) -> None:
        """Note that the stream is complete; `heard`: text has arrived since the last final. Raises
        RemoteProtocolError if a final seems to be lost."""
        if self._skipped and heard:
            what = "a message that cannot be read may have been the last final"
            raise RemoteProtocolError(self._provider, what)

    def new_part(self, readable: object, sent: float) -> Final | None:
        """Return the new part of the final that an error carries, or None if there is none."""
        if not isinstance(readable, Final):
            return None
        final = self._made(readable, self._without_repeated(self._readable(readable, sent)))
        return final if final.text else None

    def _is_clean(self, event: Interim | Final, sent: float) -> bool:
        """Whether the event needs no change, as is nearly always the case."""
        text, words, start, end = event.text, event.words, event.start, event.end
        if type(text) is not str or not (text.isascii() or cleaning.text_of(text) is text):
            return False
        if type(start) not in (float, int) or type(end) not in (float, int):
            return False
        if not self.frontier <= start <= end <= sent or self._ahead:  # false for NaN
            return False
        if event.confidence is not None and cleaning.number_of(event.confidence, 1.0) is None:
            return False
        if event.language is not None and cleaning.label_of(event.language) is not event.language:
            return False
        if type(event.times_estimated) is not bool:
            return False
        if not cleaning.are_clean(words, self.frontier, end):
            return False
        if not words:
            return not text or end > self.frontier + _EDGE_SECONDS
        return text == " ".join([word.text for word in words])

    # ---- transcripts ------------------------------------------------------------------------

    def _interim(self, event: Interim, sent: float) -> Interim | None:
        readable = self._readable(event, sent)
        interim = self._made(event, self._without_repeated(readable))
        return None if readable.text and not interim.text else interim

    def _final(self, event: Final, sent: float) -> Final | None:
        final = event
        if not self._is_clean(event, sent):
            readable = self._readable(event, sent)
            left = self._without_repeated(readable)
            if self._seems_lost(readable, left):
                what = "a final has gone back in time, with other words"
                words = tuple([word._replace(start=None, end=None) for word in readable.words])
                unplaced = readable._replace(words=words, estimated=True)
                final = self._made(event, unplaced)
                raise RemoteProtocolError(self._provider, what, readable=final)
            final = self._made(event, left)
        if self._skipped and final.start > self.frontier + _BACK_SECONDS:
            what = "a message that cannot be read may have been a final"
            raise RemoteProtocolError(self._provider, what, readable=final)
        self._skipped = False
        if not final.text and final.end <= self.frontier:
            return None
        self.frontier = final.end
        if final.text:
            self._spoken = final.end
        self._remember(final)
        return final

    def _readable(self, event: Interim | Final, sent: float) -> _Readable:
        text, words = cleaning.text_of(event.text), cleaning.words_of(event.words, sent)
        if words and not text.strip():
            text = " ".join([word.text for word in words])
        fitted = cleaning.fitted(text, words)
        start, end = cleaning.time_of(event.start, sent), cleaning.time_of(event.end, sent)
        if start is not None and end is not None and end < start:
            # The end matters more: it is where the next stream begins.
            start, end = (None, end) if end > self.frontier else (start, None)
        estimated = start is None or end is None or event.times_estimated is True
        if start is None:
            start = self.frontier if end is None else min(self.frontier, end)
        if end is None:
            known = [at for word in words if (at := cleaning.last(word)) is not None]
            length = _WORD_SECONDS * len(text.split())
            end = max(known) if known else min(max(start, self.frontier) + length, sent)
        fits = bool(fitted) or not words
        return _Readable(text, fitted or words, fits, start, max(start, end), estimated)

    def _made(self, event: T, readable: _Readable) -> T:
        """The event with the values that are usable, and nothing of it before the frontier."""
        start = max(readable.start, self.frontier)
        words = readable.words if readable.fits else ()
        return replace(
            event,
            text=readable.text,
            start=start,
            end=max(start, readable.end),
            words=tuple([self._after_frontier(word) for word in words]),
            confidence=cleaning.number_of(event.confidence, 1.0),
            language=cleaning.label_of(event.language),
            times_estimated=readable.estimated,
        )

    def _after_frontier(self, word: ProviderWord) -> ProviderWord:
        start, end, frontier = word.start, word.end, self.frontier
        if (start is None or start >= frontier) and (end is None or end >= frontier):
            return word
        return word._replace(
            start=None if start is None else max(start, frontier),
            end=None if end is None else max(end, frontier),
        )

    # ---- repeated words ---------------------------------------------------------------------

    def _without_repeated(self, readable: _Readable) -> _Readable:
        """Leave out the words that are final already, or come twice."""
        text, words = readable.text, readable.words
        if any(cleaning.first(word) is not None for word in words):
            repeated = self._repeated(readable)
            if not repeated:
                return readable
            left = tuple([word for n, word in enumerate(words) if n not in repeated])
            if readable.fits:
                return readable._replace(text=cleaning.without(text, words, repeated), words=left)
            # The words are not those of the text: leave out as large a part of it.
            tokens = text.split()
            tokens = tokens[round(len(tokens) * len(repeated) / len(words)) :]
            return readable._replace(text=" ".join(tokens) if left else "", words=left)
        no_new_audio = readable.end <= self.frontier + _EDGE_SECONDS
        if not text or not (no_new_audio or readable.start < self._earliest):
            return readable
        tokens = text.split()
        count = self._repeated_tokens(tokens, wholly=no_new_audio)
        if not count:
            return readable
        left = words[count:] if len(words) == len(tokens) else ()
        return readable._replace(text=" ".join(tokens[count:]), words=left)

    @property
    def _earliest(self) -> float:
        """Before this time, every word is final. A word may begin shortly before the frontier if
        the last final has no text: the end of silence is not exact."""
        return max(self._spoken, self.frontier - _BACK_SECONDS) - _EDGE_SECONDS

    def _repeated(self, readable: _Readable) -> set[int]:
        """The places of the words whose middle lies before the frontier, or that come twice."""
        words, earliest = readable.words, self._earliest
        found: set[int] = set()
        known: set[tuple[str, float, float, str | None]] = set()
        middles = cleaning.middles(words, readable.start, readable.end)
        for place, (word, middle) in enumerate(zip(words, middles, strict=True)):
            text, start, end, _, speaker = word
            if (
                middle < earliest
                or any(
                    one.middle is not None
                    and abs(one.middle - middle) < _EDGE_SECONDS
                    and cleaning.plain(one.text) == cleaning.plain(text)
                    for one in self._ahead
                )
                or (start is not None and start < earliest and self._is_last(word, middle))
            ):
                found.add(place)
            elif start is not None and end is not None and start < end:
                if (text, start, end, speaker) in known:
                    found.add(place)
                known.add((text, start, end, speaker))
        return found

    def _is_last(self, word: ProviderWord, middle: float) -> bool:
        """Whether a word over the frontier is one of the last final ones, with later times: a
        speaker's words do not overlap."""
        return any(
            one.end is not None
            and word.start is not None
            and word.start < one.end - _EDGE_SECONDS
            and one.speaker == word.speaker
            and _same(one, word.text, middle)
            for one in islice(reversed(self._published), _LAST)
        )

    def _repeated_tokens(self, tokens: Sequence[str], *, wholly: bool) -> int:
        """How many of the first tokens repeat the end of what is final; with `wholly`, they may
        repeat any part of it."""
        said = [cleaning.plain(one.text) for one in self._published]
        new = [cleaning.plain(token) for token in tokens]
        if wholly and any(said[n : n + len(new)] == new for n in range(len(said))):
            return len(new)
        counts = range(min(len(said), len(new)), 0, -1)
        return next((count for count in counts if said[-count:] == new[:count]), 0)

    def _seems_lost(self, readable: _Readable, left: _Readable) -> bool:
        """Whether a final lies well behind the frontier and has words that were not there before:
        the stream's clock may have been set back, and the audio of the words is unknown."""
        latest = self.frontier - _BACK_SECONDS
        if readable.start >= latest or not readable.text:
            return False
        behind_wholly = readable.end < latest
        if not any(cleaning.first(word) is not None for word in readable.words):
            return behind_wholly and bool(left.text)
        middles = cleaning.middles(readable.words, readable.start, readable.end)
        if min(middles) >= latest:
            return False
        published = self._published
        full = len(published) == _REMEMBERED
        oldest = published[0].middle if full else None
        judged = repeated = 0
        for word, middle in zip(readable.words, middles, strict=True):
            if middle < self.frontier and (oldest is None or middle >= oldest):
                judged += 1
                repeated += any(_same(one, word.text, middle) for one in published)
        return 2 * repeated < judged if judged else behind_wholly

    def _remember(self, final: Final) -> None:
        self._ahead = [
            one for one in self._ahead if one.middle is not None and one.middle >= self.frontier
        ]
        if not final.words:
            self._published += [_Published(token, None) for token in final.text.split()]
            return
        middles = cleaning.middles(final.words, final.start, final.end)
        for word, middle in zip(final.words, middles, strict=True):
            one = _Published(word.text, middle, cleaning.last(word), word.speaker)
            self._published.append(one)
            if middle > self.frontier:
                self._ahead.append(one)


def _same(one: _Published, text: str, middle: float) -> bool:
    if one.middle is not None and abs(one.middle - middle) > _SAME_SECONDS:
        return False
    return cleaning.plain(one.text) == cleaning.plain(text)


def _turn(event: Turn, sent: float) -> ProviderEvent:
    if not (isinstance(event.event, str) and event.event in _TURNS):
        return Notice("unknown", "a turn event of an unknown kind")
    at, text = cleaning.time_of(event.at, sent), cleaning.text_of(event.text) or None
    confidence = cleaning.number_of(event.confidence, 1.0)
    return Turn(event.event, math.nan if at is None else at, text, confidence)

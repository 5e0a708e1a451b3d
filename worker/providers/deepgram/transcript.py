"""From the messages of one stream to provider events: finals that partition the audio, and turns.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final as Constant
from typing import NamedTuple

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    ProviderWord,
    Turn,
)

from .options import NAME
from .protocol import ConfigureAnswer, Message, Results, SpeechStarted, Summary, UtteranceEnd

_TOLERANCE_SECONDS: Constant = 0.0015
"""Two times so near are the same: they are rounded to milliseconds, and their sums to binary."""


class Turns:
    """Boundaries of turns, each once and in order. A turn is open while any channel speaks.

    Deepgram docs, "Utterance End": an utterance ends with the first of speech_final and
    UtteranceEnd; SpeechStarted may come without words, and words without SpeechStarted.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        """Channels that are speaking, and since when."""
        self._ended: dict[int, float] = {}
        """Where each channel's last utterance ended: older words start no new one."""
        self._queue: list[Turn] = []

    def words(self, channel: int, words: Iterable[ProviderWord]) -> None:
        """A channel speaks these words."""
        if channel in self._since:
            return
        for word in words:
            if word.start is not None:
                self.speech(channel, word.start)

    def speech(self, channel: int, at: float) -> None:
        """A channel speaks, at `at` or since."""
        if channel in self._since or at < self._ended.get(channel, 0.0):
            return
        if not self._since:
            self._queue.append(Turn("started", at))
        self._since[channel] = at

    def since(self, channel: int) -> float | None:
        """Since when a channel speaks; None: it is silent."""
        return self._since.get(channel)

    def silence(self, channel: int, at: float) -> None:
        """A channel's utterance ended at `at`. One that began later is not meant."""
        self._ended[channel] = max(at, self._ended.get(channel, 0.0))
        if channel in self._since and at >= self._since[channel]:
            del self._since[channel]
            if not self._since:
                self._queue.append(Turn("ended", at))

    def due(self, frontier: float) -> list[Turn]:
        """Boundaries to tell of, when finals reach up to `frontier`: an end waits for them."""
        due: list[Turn] = []
        while self._queue and (self._queue[0].event == "started" or self._queue[0].at <= frontier):
            due.append(self._queue.pop(0))
        return due

    def end(self, at: float) -> list[Turn]:
        """Those still to tell of when the audio has ended at `at`."""
        for channel in list(self._since):
            self.silence(channel, max(at, self._since[channel]))
        due, self._queue = self._queue, []
        return due


class _Shown(NamedTuple):
    """What is kept of an interim, not its words: streams are many."""

    end: float
    place: float
    """Of its last word; its end if it has none."""


@dataclass(slots=True)
class _Channel:
    cursor: float = 0.0
    """End of its last final."""
    held: list[ProviderWord] = field(default_factory=list)
    """Final, but another channel is not so far yet."""
    interim: tuple[ProviderWord, ...] = ()
    shown: _Shown | None = None
    """The last interim, if it has text: a final is to come."""
    last_word_end: float = 0.0
    """Of the words in its finals."""


class Transcript:
    """Interims, finals and turns of one stream.

    Deepgram docs, "Interim Results": finals of a channel follow one another without holes, and an
    interim restates all since the last final. With several channels their finals are merged: what
    goes out is final on all of them, and ends inside no word of any.
    """

    def __init__(self, *, interims: bool, channels: int = 1) -> None:
        """`interims` off: every result is final, whatever it says (Deepgram docs, same page)."""
        self.interims = interims
        self._channels = [_Channel() for _ in range(channels)]
        self._turns = Turns()
        self.frontier = 0.0
        """End of the last Final given, in seconds of this stream's audio."""

    def receive(self, message: Message) -> list[ProviderEvent]:
        """Provider events that follow from a message."""
        match message:
            case Results():
                return self._results(message)
            case SpeechStarted():
                self._turns.speech(message.channel, message.at)
            case UtteranceEnd():
                if message.last_word_end is not None:
                    self._turns.silence(message.channel, message.last_word_end)
            case Summary():
                return [message.usage]
            case Notice():
                return [message]
            case ConfigureAnswer():
                return []
        return [*self._turns.due(self.frontier)]

    def end(self) -> list[ProviderEvent]:
        """What is left to say when all is final."""
        return [*self._rest(), *self._turns.end(self.frontier)]

    @property
    def unsaid_until(self) -> float | None:
        """End of what was shown and never made final; None: all was."""
        ends = [one.shown.end for one in self._channels if one.shown and _beyond(one)]
        return max(ends, default=None)

    def _results(self, results: Results) -> list[ProviderEvent]:
        if results.channel >= len(self._channels):
            what = f"results of channel {results.channel}"
            if results.text and (results.is_final or not self.interims):
                raise RemoteProtocolError(NAME, what)
            return [Notice("malformed", what)]
        self._turns.words(results.channel, results.words)
        events: list[ProviderEvent] = [*self._turns.due(self.frontier)]
        is_final = results.is_final or not self.interims
        channel = self._channels[results.channel]
        many = len(self._channels) > 1
        if not is_final:
            # Of a span that is final by now: such an interim came too late.
            late = results.end <= channel.cursor or results.start < channel.cursor - 0.01
            if not late:
                channel.shown = _shown(results) if results.text else None
            if many:
                events.append(self._merged_interim(results))
            elif not late:
                events.append(self._interim(results))
            return events
        channel.cursor = max(channel.cursor, results.end)
        events += self._merged_final(results) if many else self._final(results)
        channel.last_word_end = max([channel.last_word_end, *map(_end, results.words)])
        if results.speech_final:
            at, since = channel.last_word_end, self._turns.since(results.channel)
            # Without a word since the turn began, what has ended was a noise.
            self._turns.silence(results.channel, at if since is None or at > since else results.end)
        events += self._turns.due(self.frontier)
        return events

    def _interim(self, results: Results) -> Interim:
        return Interim(
            text=results.text,
            start=max(results.start, self.frontier),
            end=results.end,
            words=results.words,
            confidence=results.confidence,
            language=results.language,
        )

    def _final(self, results: Results) -> list[ProviderEvent]:
        # An answer to Finalize may cover nothing new.
        if results.end <= self.frontier:
            return []
        start, self.frontier = self.frontier, results.end
        return [
            Final(
                text=results.text,
                start=start,
                end=results.end,
                words=results.words,
                confidence=results.confidence,
                language=results.language,
            )
        ]

    def _merged_interim(self, results: Results) -> Interim:
        self._channels[results.channel].interim = _spoken_by(results)
        words = [word for one in self._channels for word in (*one.held, *one.interim)]
        words.sort(key=_start)
        return Interim(
            text=" ".join(word.text for word in words),
            start=self.frontier,
            end=max(results.end, self.frontier),
            words=tuple(words),
            language=results.language,
        )

    def _merged_final(self, results: Results) -> list[ProviderEvent]:
        channel = self._channels[results.channel]
        channel.held += _spoken_by(results)
        channel.interim = ()
        end = min(one.cursor for one in self._channels)
        held = sorted((word for one in self._channels for word in one.held), key=_start)
        # From the last to the first: a step back to a word's start may land inside an earlier one.
        for word in reversed(held):
            if _start(word) < end < _end(word) - _TOLERANCE_SECONDS:
                end = _start(word)
        if end <= self.frontier:
            return []
        return [self._merge(end, results.language)]

    def _rest(self) -> list[Final]:
        """The words that no other channel's final has reached."""
        ends = [_end(word) for one in self._channels for word in one.held]
        if not ends:
            return []
        return [self._merge(max(self.frontier, *ends, *(one.cursor for one in self._channels)))]

    def _merge(self, end: float, language: str | None = None) -> Final:
        """All words up to `end`, which is inside none."""
        latest = end + _TOLERANCE_SECONDS
        held = sorted((word for one in self._channels for word in one.held), key=_start)
        words = tuple(word for word in held if _end(word) <= latest)
        for one in self._channels:
            one.held = [word for word in one.held if _end(word) > latest]
        start, self.frontier = self.frontier, end
        return Final(" ".join(word.text for word in words), start, end, words, language=language)


def _spoken_by(results: Results) -> tuple[ProviderWord, ...]:
    """Words with their channel as the speaker, and behind it the diarizer's label if any."""
    channel = str(results.channel)
    return tuple(
        word._replace(speaker=channel if word.speaker is None else f"{channel}.{word.speaker}")
        for word in results.words
    )


def _shown(results: Results) -> _Shown:
    # A word counts where its middle is: finals revise the times of words a little.
    doubled = [(start or 0.0) + (end or 0.0) for _, start, end, _, _ in results.words]
    return _Shown(results.end, max(doubled) / 2 if doubled else results.end)


def _beyond(channel: _Channel) -> bool:
    """Whether the last interim has a word, or text without words, beyond the finals."""
    shown = channel.shown
    return shown is not None and shown.place > channel.cursor + _TOLERANCE_SECONDS


def _start(word: ProviderWord) -> float:
    return word.start or 0.0


def _end(word: ProviderWord) -> float:
    return word.end or 0.0

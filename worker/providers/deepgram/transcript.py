"""Turns the messages of one stream into provider events: interims, finals and turns.

Finals partition the audio. Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

import math
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
)

from ..estimate import with_times
from ..guard import Guard
from .options import NAME
from .protocol import ConfigureAnswer, Message, Results, SpeechStarted, Summary, UtteranceEnd
from .silences import Silences
from .turns import Turns

_TOLERANCE_SECONDS: Constant = 0.0015
"""Difference up to which two times count as equal: Deepgram rounds them to milliseconds, and their
sums have binary rounding errors."""
_HOLE_SECONDS: Constant = 0.3
"""How long after the end of the last final the next one may begin."""
_WORD_SECONDS: Constant = 0.3
"""Length of a word for the estimate of an end. A later end would cover words that follow."""


class _Placed(NamedTuple):
    """Results with a channel of the stream and times."""

    channel: int
    start: float
    end: float
    is_final: bool
    speech_final: bool
    text: str
    words: tuple[ProviderWord, ...]
    confidence: float | None
    language: str | None
    estimated: bool
    """Whether any time that is needed is an estimate."""


class _LastInterim(NamedTuple):
    """An interim. Its words are not kept, to save memory with many streams."""

    text: str
    end: float
    last_word: float
    """Middle of its last word; its end if it has no words."""


@dataclass(slots=True)
class _Channel:
    cursor: float = 0.0
    """End of the last final."""
    pending: list[ProviderWord] = field(default_factory=list)
    """Words that are final here but whose audio is not yet final on another channel."""
    interim: tuple[ProviderWord, ...] = ()
    last_interim: _LastInterim | None = None
    """The last interim, if it had text; a final must follow."""
    heard_at: float = math.inf
    """Middle of the last word of the first interim with text since the last final."""
    last_word_end: float = 0.0
    """End of the last word in a final."""
    guard: Guard = field(default_factory=lambda: Guard(NAME))
    """Knows what is final on the channel, if there are several."""


class Transcript:
    """Interims, finals and turns of one stream.

    Deepgram docs, "Interim Results": the finals of a channel are contiguous, and an interim covers
    everything since the last final. The finals of several channels are merged: a merged final is
    final on all channels and does not split a word of any.
    """

    def __init__(
        self,
        *,
        interims: bool,
        channels: int = 1,
        channel_wait_seconds: float = math.inf,
        silences: Silences | None = None,
    ) -> None:
        """Without `interims`, every result is final, even one that is not marked as such (Deepgram
        docs, same page). After `channel_wait_seconds` of audio, finals no longer wait for a channel
        without results, and after three times as much not for one with interims."""
        self.interims = interims
        self._channel_wait = channel_wait_seconds
        self._silences = silences or Silences()
        self._channels = [_Channel() for _ in range(channels)]
        self._estimated = False
        """Whether any pending word has an estimated time."""
        self._turns = Turns()
        self.frontier = 0.0
        """End of the last Final returned, in seconds of this stream's audio."""

    def receive(self, message: Message) -> list[ProviderEvent]:
        """Return the provider events for a message."""
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
        """Return the remaining events once everything is final."""
        return [*self._remaining(), *self._turns.end(self.frontier)]

    @property
    def unfinalized(self) -> Final | None:
        """The last interims whose words never became final, as a final; None if all did."""
        interims = [one.last_interim for one in self._channels if _unfinalized(one)]
        left = [interim for interim in interims if interim is not None]
        if not left:
            return None
        words = self._since_frontier()
        text = " ".join([word.text for word in words] or [one.text for one in left])
        end = max([self.frontier, *(one.end for one in left), *map(_end, words)])
        return Final(text, self.frontier, end, words)

    def _results(self, received: Results) -> list[ProviderEvent]:
        results = self._placed(received)
        if results is None:
            what = f"results of channel {received.channel}"
            if received.text and (received.is_final or not self.interims):
                raise self._lost(what, received)
            return [Notice("malformed", what, harmless=True)]
        is_final = results.is_final or not self.interims
        channel = self._channels[results.channel]
        several = len(self._channels) > 1
        if is_final:
            self._check_hole(channel, results)
        if several:
            results = self._timed(self._unrepeated(channel, results) if is_final else results)
        self._turns.words(results.channel, results.words)
        events: list[ProviderEvent] = [*self._turns.due(self.frontier)]
        if not is_final:
            # An interim of audio that is already final came too late.
            late = results.end <= channel.cursor or results.start < channel.cursor - 0.01
            if not late:
                channel.last_interim = last = _last_interim(results) if results.text else None
                if last is not None:
                    channel.heard_at = min(channel.heard_at, last.last_word)
            if several:
                events.append(self._merged_interim(results))
            elif not late:
                events.append(self._interim(results))
            return events
        channel.heard_at = math.inf
        before, channel.cursor = channel.cursor, max(channel.cursor, results.end)
        events += self._merged_final(results, before) if several else self._final(results)
        channel.last_word_end = max([channel.last_word_end, *map(_end, results.words)])
        if results.speech_final:
            at, since = channel.last_word_end, self._turns.since(results.channel)
            # If the turn has no word, it was noise.
            self._turns.silence(results.channel, at if since is None or at > since else results.end)
        events += self._turns.due(self.frontier)
        return events

    def _placed(self, received: Results) -> _Placed | None:
        """The results with a channel and times; None if their channel is unknown.

        A start that cannot be read is the end of the channel's last final ("Interim Results"), and
        an end is that of the last interim, or estimated from the words.
        """
        index = received.channel
        if index is None or index >= len(self._channels):
            if index is not None or len(self._channels) > 1:
                return None
            index = 0
        channel, start, end = self._channels[index], received.start, received.end
        if start is None:
            start = channel.cursor
        if end is not None and end <= start and received.text:
            end = None  # text takes time
        estimated = end is None
        if end is None:
            last = channel.last_interim
            end = start + _WORD_SECONDS * len(received.text.split())
            if last is not None and last.end > start:
                end = last.end
        return _Placed(
            index, start, max(start, end), received.is_final, received.speech_final,
            received.text, received.words, received.confidence, received.language, estimated,
        )  # fmt: skip

    def _unrepeated(self, channel: _Channel, results: _Placed) -> _Placed:
        """The final without what is final on its channel already: other channels may be behind.

        Raises: RemoteProtocolError if the channel's clock was set back.
        """
        final = Final(
            results.text, results.start, results.end, results.words,
            times_estimated=results.estimated,
        )  # fmt: skip
        try:
            left = channel.guard.check(final, math.inf)
        except RemoteProtocolError as error:
            raise self._lost(f"channel {results.channel}: {error}", results) from error
        if not isinstance(left, Final):
            return results._replace(text="", words=())
        return results._replace(text=left.text, words=left.words, estimated=left.times_estimated)

    def _timed(self, results: _Placed) -> _Placed:
        """The results with times for each word: several channels are merged word by word."""
        words = results.words
        if not words:
            words = tuple([ProviderWord(word) for word in results.text.split()])
        if all(word.start is not None and word.end is not None for word in words):
            return results
        start = max(results.start, self._channels[results.channel].cursor)
        return results._replace(words=with_times(words, start, results.end), estimated=True)

    def _check_hole(self, channel: _Channel, results: _Placed) -> None:
        """Raise RemoteProtocolError if the final begins well after the last one of its channel has
        ended, since one in between is lost. A start after the final's own words is a wrong time."""
        last = max(channel.cursor, self.frontier)
        first = next((word.start for word in results.words if word.start is not None), None)
        if results.start <= last + _HOLE_SECONDS or (first is not None and first < last):
            return
        silent = channel.heard_at > results.start
        if silent and self._silences.skipped(self.frontier, results.start):
            return
        raise self._lost(f"no final from {last:.2f} s to {results.start:.2f} s", results)

    def _lost(self, what: str, results: _Placed | Results) -> RemoteProtocolError:
        """The error if audio has to be sent again, with all text that is not final yet."""
        if len(self._channels) == 1:
            start, end = results.start or 0.0, results.end or 0.0
            final = Final(results.text, start, end, results.words)
        else:
            # The words of other channels are not known up to the end of these.
            pending = sorted((word for one in self._channels for word in one.pending), key=_start)
            text = " ".join([*(word.text for word in pending), results.text])
            final = Final(text, self.frontier, self.frontier, times_estimated=True)
        return RemoteProtocolError(NAME, what, readable=final if final.text.strip() else None)

    def _interim(self, results: _Placed) -> Interim:
        return Interim(
            text=results.text,
            start=max(results.start, self.frontier),
            end=results.end,
            words=results.words,
            confidence=results.confidence,
            language=results.language,
            times_estimated=results.estimated,
        )

    def _final(self, results: _Placed) -> list[ProviderEvent]:
        # A response to Finalize may cover no new audio. If it has text, the worker decides whether
        # that is new.
        if results.end > self.frontier:
            start, self.frontier = self.frontier, results.end
        elif results.text:
            start = results.start
        else:
            return []
        return [
            Final(
                text=results.text,
                start=start,
                end=results.end,
                words=results.words,
                confidence=results.confidence,
                language=results.language,
                times_estimated=results.estimated,
            )
        ]

    def _merged_interim(self, results: _Placed) -> Interim:
        self._channels[results.channel].interim = _with_channel(results)
        words = self._since_frontier()
        return Interim(
            text=" ".join(word.text for word in words),
            start=self.frontier,
            end=max(results.end, self.frontier),
            words=words,
            language=results.language,
        )

    def _since_frontier(self) -> tuple[ProviderWord, ...]:
        """All words of several channels after the frontier, with those of interims."""
        words = [word for one in self._channels for word in (*one.pending, *one.interim)]
        return tuple(sorted(words, key=_start))

    def _merged_final(self, results: _Placed, final_before: float) -> list[ProviderEvent]:
        """`final_before` is where the finals of the channel ended before."""
        channel = self._channels[results.channel]
        # Words of a channel that was no longer waited for: their place is final already.
        late = [final_before <= _middle(word) < self.frontier for word in results.words]
        channel.pending += [
            word._replace(start=self.frontier, end=self.frontier) if is_late else word
            for word, is_late in zip(_with_channel(results), late, strict=True)
        ]
        self._estimated |= results.estimated or any(late)
        channel.interim = ()
        end = self._final_on_all()
        pending = sorted((word for one in self._channels for word in one.pending), key=_start)
        # Latest word first: stepping back to the start of a word may land inside an earlier one.
        for word in reversed(pending):
            if _start(word) < end < _end(word) - _TOLERANCE_SECONDS:
                end = _start(word)
        if end <= self.frontier:
            return []
        return [self._merge(end, results.language)]

    def _final_on_all(self) -> float:
        """Where finals end on all channels that are waited for."""
        newest = max(one.cursor for one in self._channels)
        return min(
            max(one.cursor, newest - self._channel_wait * (3 if _unfinalized(one) else 1))
            for one in self._channels
        )

    def _remaining(self) -> list[Final]:
        """A final with the words that are still pending, if any."""
        ends = [_end(word) for one in self._channels for word in one.pending]
        if not ends:
            return []
        return [self._merge(max(self.frontier, *ends, *(one.cursor for one in self._channels)))]

    def _merge(self, end: float, language: str | None = None) -> Final:
        """Build the final up to `end`, which must not be inside a word."""
        latest = end + _TOLERANCE_SECONDS
        pending = sorted((word for one in self._channels for word in one.pending), key=_start)
        words = tuple(word for word in pending if _end(word) <= latest)
        for one in self._channels:
            one.pending = [word for word in one.pending if _end(word) > latest]
        start, self.frontier = self.frontier, end
        estimated, self._estimated = self._estimated, False
        return Final(
            text=" ".join(word.text for word in words),
            start=start,
            end=end,
            words=words,
            language=language,
            times_estimated=estimated,
        )


def _with_channel(results: _Placed) -> tuple[ProviderWord, ...]:
    """Words with the channel as their speaker, followed by the diarizer's label, if any."""
    channel = str(results.channel)
    return tuple(
        word._replace(speaker=channel if word.speaker is None else f"{channel}.{word.speaker}")
        for word in results.words
    )


def _last_interim(results: _Placed) -> _LastInterim:
    # The middle of the word, since finals revise the times of words slightly.
    doubled = [
        start + end
        for _, start, end, _, _ in results.words
        if start is not None and end is not None
    ]
    return _LastInterim(results.text, results.end, max(doubled) / 2 if doubled else results.end)


def _unfinalized(channel: _Channel) -> bool:
    """Whether the last interim has a word, or text without words, after the last final."""
    last = channel.last_interim
    return last is not None and last.last_word > channel.cursor + _TOLERANCE_SECONDS


def _start(word: ProviderWord) -> float:
    return word.start or 0.0


def _middle(word: ProviderWord) -> float:
    return (_start(word) + _end(word)) / 2


def _end(word: ProviderWord) -> float:
    return word.end or word.start or 0.0

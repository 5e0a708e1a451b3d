"""A session's part of a transcript, on the clock of its audio."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from natterjack.decoding import UnknownEvent
from natterjack.events import FinalEvent, InterimEvent, StatusEvent
from natterjack.values import Word
from natterjack.voice.events import UtteranceEvent, VoiceStatusEvent

from .coverage import Stretches
from .model import Kind, Segment, TimedWord, TranscriptSession
from .text import clean

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CLOCK_STEP_US = 1_000_000
"""A wall clock that is later than expected by more than this was set, and is followed."""


def microseconds(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def moment(at_us: int) -> datetime:
    """The inverse of `microseconds`."""
    return _EPOCH + timedelta(microseconds=at_us)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


class Placed(NamedTuple):
    """A segment on the wall clock. Sorts by time, then as its session has it."""

    start_us: int
    track: int
    segment_number: int
    part: int
    end_us: int
    label: str | None
    text: str
    words: tuple[Word, ...]
    offset_us: int
    """Wall-clock time of position 0."""
    confidence: float | None
    language: str | None
    interrupted: bool

    def segment(self, session_id: str, zero_us: int) -> Segment:
        """The segment, on the clock of the conversation."""

        def at(seconds: float | None) -> float | None:
            if seconds is None:
                return None
            return max(0, self.offset_us + _us(seconds) - zero_us) / 1_000_000

        return Segment(
            session_id, self.segment_number, self.text,
            max(0, self.start_us - zero_us) / 1_000_000, max(0, self.end_us - zero_us) / 1_000_000,
            tuple(TimedWord(clean(w.text), at(w.start), at(w.end), w.confidence)
                  for w in self.words),
            self.confidence, self.language, self.interrupted,
        )  # fmt: skip


class Track:
    """One session: its events, and the segments that they make."""

    def __init__(self, number: int, session_id: str, speaker: str, kind: Kind) -> None:
        self.number = number
        self.session_id = session_id
        self.speaker = speaker
        self.kind = kind
        self.repeats: str | None = None
        self.continues: str | None = None
        self.epoch = 0
        self.finals: list[FinalEvent] = []
        """In the order of their segments."""
        self.interim: InterimEvent | None = None
        self._offsets: list[tuple[float, int]] = []
        """Wall-clock time of position 0, and from which position in seconds on it is valid."""
        self.origin_us: int | None = None
        """Wall-clock time of position 0, as the first final has it."""
        self.closing: StatusEvent | VoiceStatusEvent | UnknownEvent | None = None
        self._state = "open"
        self._reason: str | None = None
        self._status_sequence = -1
        self._started: dict[int, UtteranceEvent] = {}
        self._ended: dict[int, UtteranceEvent] = {}
        self._seen: set[int] = set()
        self._placed_utterance = -1
        """The last utterance that was placed, and when it has ended."""
        self._utterance_end_us = 0

    # ---- events ----------------------------------------------------------------------------------

    @property
    def last_segment(self) -> int:
        """Segment of the last final; -1 before the first."""
        return self.finals[-1].segment if self.finals else -1

    def add_final(self, final: FinalEvent) -> bool:
        """Add a final; False if it is known."""
        if final.segment in self._seen:
            return False
        self._seen.add(final.segment)
        insort(self.finals, final, key=lambda other: other.segment)
        if self.interim is not None and self.interim.segment <= self.last_segment:
            self.interim = None
        return True

    def add_interim(self, interim: InterimEvent) -> bool:
        """Add an interim; False if a final, a closing event or another worker made it stale."""
        if (
            self.closing is not None
            or interim.epoch < self.epoch
            or interim.segment <= self.last_segment
        ):
            return False
        self.interim = interim
        return True

    def add_utterance(self, event: UtteranceEvent) -> bool:
        """Add the start or the end of an utterance; False if it is known."""
        known = self._started if event.event == "started" else self._ended
        return known.setdefault(event.utterance, event) is event

    def add_status(self, event: StatusEvent | VoiceStatusEvent) -> bool:
        """Add a status event; False if a later one is known."""
        if event.sequence <= self._status_sequence:
            return False
        self._status_sequence = event.sequence
        self._state, self._reason = event.state, event.reason
        if event.closing:
            self.close(event)
        return True

    def close(self, event: StatusEvent | VoiceStatusEvent | UnknownEvent) -> None:
        """Close the session with its closing event."""
        self.closing, self.interim = event, None
        if isinstance(event, UnknownEvent):
            self._state = str(event.raw.get("state"))

    def summary(self) -> TranscriptSession:
        """The session as the transcript lists it."""
        return TranscriptSession(
            self.session_id, self.speaker, self.kind, self._state, self.closing is None,
            self._reason, self.repeats, self.continues,
        )  # fmt: skip

    # ---- clock -----------------------------------------------------------------------------------

    def estimated_clock(self) -> bool:
        """Whether no final that was added has told the wall-clock time of its start."""
        return all(final.started_at is None for final in self.finals)

    def start_clock(self) -> None:
        """Set the wall-clock time of position 0, before the first final is placed."""
        offset = None
        for final in self.finals:
            if final.started_at is not None:
                offset = microseconds(final.started_at) - _us(final.start)
                break
        if self.finals and offset is None:
            offset = _estimated_offset(self.finals[0])
        self.origin_us = offset
        self._offsets = [] if offset is None else [(0.0, offset)]

    def offset_at(self, seconds: float) -> int | None:
        """The wall-clock time of position 0 that is valid at a position."""
        at = bisect_right(self._offsets, seconds, key=lambda offset: offset[0])
        return self._offsets[max(0, at - 1)][1] if self._offsets else self.origin_us

    def _offset(self, event: FinalEvent | InterimEvent) -> int:
        """The wall-clock time of position 0. It follows a clock that is set forward, but not one
        that is set back, since the order of finals must stay."""
        seen = None
        if event.started_at is not None:
            seen = microseconds(event.started_at) - _us(event.start)
        if not self._offsets:
            return _estimated_offset(event) if seen is None else seen
        offset = self._offsets[-1][1]
        return seen if seen is not None and seen - offset > _CLOCK_STEP_US else offset

    # ---- segments --------------------------------------------------------------------------------

    def place(self, final: FinalEvent, replaced: Stretches | None = None) -> list[Placed]:
        """The segments of a final, which follows those that were placed before; one for each person
        that the provider tells apart. Leaves out what lies in `replaced`."""
        offset = self._offset(final)
        if offset != self._offsets[-1][1]:
            self._offsets.append((final.start, offset))
        return self._place(final, offset, replaced)

    def place_interim(self) -> list[Placed]:
        """The segments of the newest interim."""
        if self.interim is None:
            return []
        return self._place(self.interim, self._offset(self.interim), None)

    def _place(
        self, event: FinalEvent | InterimEvent, offset_us: int, replaced: Stretches | None
    ) -> list[Placed]:
        placed: list[Placed] = []
        for part, (text, start, end, words) in enumerate(_parts(event, replaced)):
            text = clean(text)
            if text:
                placed.append(
                    Placed(
                        offset_us + _us(start), self.number, event.segment, part,
                        offset_us + _us(max(start, end)), _label(words), text, words, offset_us,
                        event.confidence, event.language, False,
                    )
                )  # fmt: skip
        return placed

    def place_utterances(self) -> list[Placed]:
        """The utterances of a voice session that were heard. Their times are those at which the
        worker has published that they begin and end."""
        self._placed_utterance, self._utterance_end_us = -1, 0
        placed = [self.place_utterance(number) for number in sorted(self._ended)]
        return [each for each in placed if each]

    def place_utterance(self, number: int) -> Placed | Literal[False] | None:
        """The segment of an utterance that has ended; False if nothing was heard of it, and None if
        it comes before one that was placed."""
        if number <= self._placed_utterance:
            return None
        ended = self._ended[number]
        end = max(self._utterance_end_us, microseconds(ended.published_at))
        started = self._started.get(number)
        start = end - _us(max(0, (ended.end or ended.start) - ended.start))
        if started is not None:
            start = microseconds(started.published_at)
        start = min(end, max(self._utterance_end_us, start))
        self._placed_utterance, self._utterance_end_us = number, end
        text = clean(ended.text_spoken or "")
        if not text:
            return False
        interrupted = ended.event == "interrupted" and bool(ended.text_remaining)
        return Placed(
            start, self.number, number, 0, end, None, text, (), start, None, None, interrupted
        )

    # ---- coverage --------------------------------------------------------------------------------

    def _closing_rate(self) -> tuple[StatusEvent, float] | None:
        """The closing event and the rate of its positions, in hertz."""
        event = self.closing
        if not isinstance(event, StatusEvent) or not event.request:
            return None
        rate = _frames(event.request.get("sample_rate"))
        return (event, float(rate)) if rate else None

    @property
    def start(self) -> float | None:
        """Where the session's audio begins, in seconds, if that is known."""
        if (known := self._closing_rate()) is not None:
            return (_frames((known[0].request or {}).get("start_position")) or 0) / known[1]
        return 0.0 if self.continues is None else None

    @property
    def end(self) -> float | None:
        """Where the session has ended, in seconds, if that is known."""
        if (known := self._closing_rate()) is None or known[0].audio_position is None:
            return None
        return known[0].audio_position / known[1]

    def gaps(self, *, continued: bool, begun: bool) -> list[tuple[float, float, str]]:
        """Stretches without a transcript, and why. `continued`: another session has the rest;
        `begun`: the one that this one continues is known, if there is one."""
        found: list[tuple[float, float, str]] = []
        if isinstance(self.closing, StatusEvent) and self.closing.account is not None:
            account = self.closing.account
            found += [(gap.start, gap.end, gap.cause) for gap in account.gaps]
            if self.closing.state == "failed" and not continued:
                begin, end = self.start, self.end
                if begin is not None and end is not None:
                    found.append((end, begin + account.captured_seconds, "failed"))
        expected, at = 0, self.start
        if self.continues is not None and not begun:
            first = self.finals[0].start if self.finals else 0.0
            found.append((0.0, first if at is None else at, "expired"))
        for final in self.finals:
            if final.segment > expected and at is not None:
                found.append((at, final.start, "expired"))
            expected, at = final.segment + 1, final.end
        return [gap for gap in found if gap[0] < gap[1]]

    def coverage(self, gaps: list[tuple[float, float, str]]) -> Stretches:
        """Return the stretches of audio that the session has transcribed."""
        if self.closing is not None:
            end = self.end
            if end is None:
                failed = self._state == "failed"
                end = (self.finals[-1].end if self.finals else 0.0) if failed else math.inf
        else:
            end = self.finals[-1].end if self.finals else 0.0
        return Stretches([(self.start or 0.0, end)]) - Stretches(gap[:2] for gap in gaps)


def _frames(value: Any) -> int | None:
    """A number of frames in a request, of which nothing was checked; None if it is none."""
    return value if isinstance(value, int) and 0 <= value <= 2**53 else None


def _label(words: tuple[Word, ...]) -> str | None:
    """The label of the person who says the words, if the provider gives one."""
    return (clean(words[0].speaker or "") or None) if words else None


def _estimated_offset(event: FinalEvent | InterimEvent) -> int:
    """The wall-clock time of position 0 as far as the time of publication tells it."""
    return microseconds(event.published_at) - _us(event.end + (event.latency or 0))


_Part = tuple[str, float, float, tuple[Word, ...]]


def _parts(event: FinalEvent | InterimEvent, replaced: Stretches | None) -> list[_Part]:
    """The text, start, end and words of each part of an event: of one person, and not replaced."""
    words = tuple(event.words)
    whole = [(event.text, event.start, event.end, words)]
    if replaced is None and len({word.speaker for word in words}) <= 1:
        return whole
    slices = word_slices(event.text, words)
    if slices is None or not words:
        gone = replaced is not None and (event.start + event.end) / 2 in replaced
        return [] if gone else whole
    parts: list[_Part] = []
    kept: list[int] = []

    def flush() -> None:
        if kept:
            first, last = kept[0], kept[-1]
            start, end = words[first].start, words[last].end
            parts.append(
                (
                    "".join(slices[n] for n in kept),
                    event.start if first == 0 or start is None else start,
                    event.end if last == len(words) - 1 or end is None else end,
                    tuple(words[n] for n in kept),
                )
            )
            kept.clear()

    for n, word in enumerate(words):
        middle = ((word.start if word.start is not None else event.start)
                  + (word.end if word.end is not None else event.end)) / 2  # fmt: skip
        if replaced is not None and middle in replaced:
            flush()
            continue
        if kept and word.speaker != words[kept[-1]].speaker:
            flush()
        kept.append(n)
    flush()
    return parts


def word_slices(text: str, words: tuple[Word, ...] | tuple[TimedWord, ...]) -> list[str] | None:
    """The part of `text` that each word has, up to the next one; None if they do not match."""
    starts: list[int] = []
    at = 0
    for word in words:
        found = text.find(word.text, at) if word.text else -1
        if found < 0:
            return None
        starts.append(found)
        at = found + len(word.text)
    if not starts:
        return None
    starts[0] = 0
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]

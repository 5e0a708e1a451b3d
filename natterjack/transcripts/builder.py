"""TranscriptBuilder: makes a conversation's transcript from its events."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection

from natterjack.decoding import AnyEvent, UnknownEvent
from natterjack.events import FinalEvent, InterimEvent, StatusEvent
from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent

from .coverage import Stretches
from .model import Line, Segment, TranscriptGap
from .text import SENTENCE_ENDS, clean, join, last_mark
from .track import Placed, Track, moment
from .transcript import Transcript

PAUSE_SECONDS = 2.0
_LONG_LINE_US = 60_000_000
"""From this duration on, a line ends with a sentence; from twice as long on, with any segment."""
_Used = FinalEvent | InterimEvent | StatusEvent | UtteranceEvent | VoiceStatusEvent | UnknownEvent
"""Events that a transcript is made of. Unknown ones of later releases only tell that a session has
ended."""


class TranscriptBuilder:
    """Makes the transcript of one conversation from its events.

    Events of one session are added in the order of their `sequence`; those of different sessions in
    any order. An event that was added before changes nothing, so neither does reading the stream
    again. Adding an event costs little, and `build` only what has changed since the last time::

        builder = TranscriptBuilder()
        async for event in natterjack.listen("acme", "call-7", since="start"):
            if builder.add(event):
                print(builder.build().to_txt())
    """

    def __init__(
        self,
        tenant: str | None = None,
        conversation: str | None = None,
        *,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """By default, the first event tells the tenant and the conversation. After a pause of more
        than `pause_seconds`, a speaker begins a new line; without one, after a minute with the next
        sentence."""
        self._names = (tenant, conversation)
        self._pause_us = round(pause_seconds * 1_000_000)
        self._tracks: dict[str, Track] = {}
        self._by_number: list[Track] = []
        self._waiting: frozenset[str] = frozenset()
        self._repeats: set[str] = set()
        """The sessions that others repeat."""
        self._continued: set[str] = set()
        """The sessions that others continue."""
        self._placed: list[Placed] = []
        """All segments, in order."""
        self._segments: list[Segment] = []
        """The same, on the conversation's clock."""
        self._lines: list[Line] = []
        self._line_ends: list[int] = []
        """For each line, the number of segments up to its end."""
        self._zero_us: int | None = None
        """Wall-clock time at which the conversation starts."""
        self._stale = False
        """Everything has to be placed again."""
        self._gaps: tuple[TranscriptGap, ...] | None = ()
        self._last: Transcript | None = None

    # ---- events ----------------------------------------------------------------------------------

    def add(self, event: AnyEvent | VoiceEvent | object) -> bool:
        """Add one event. Return whether it changes the transcript, which turn and usage events, for
        example, do not.

        Raises: ValueError for an event of another conversation.
        """
        if not isinstance(event, _Used):
            return False
        names = (event.tenant, event.conversation)
        if self._names != names:
            if any(mine not in (None, its) for mine, its in zip(self._names, names, strict=True)):
                raise ValueError(f"event of {event.key}, which is another conversation")
            self._names = names
        changed = self._add(self._track(event), event)
        if changed:
            self._last = None
        return changed

    def _track(self, event: _Used) -> Track:
        track = self._tracks.get(event.session_id)
        if track is None:
            spoken = isinstance(event, UtteranceEvent | VoiceStatusEvent)
            track = Track(
                len(self._by_number), event.session_id, event.speaker,
                "spoken" if spoken else "transcribed",
            )  # fmt: skip
            track.repeats, track.continues = event.repeats, event.continues
            self._tracks[event.session_id] = track
            self._by_number.append(track)
            if track.continues is not None or event.session_id in self._continued:
                self._gaps = None
            if track.continues is not None:
                self._continued.add(track.continues)
            if track.repeats is not None:
                self._repeats.add(track.repeats)
                self._stale, self._gaps = True, None
        return track

    def _add(self, track: Track, event: _Used) -> bool:
        if isinstance(event, InterimEvent):
            return track.add_interim(event)
        track.epoch = max(track.epoch, event.epoch)
        if isinstance(event, FinalEvent):
            last = track.last_segment
            first_time = track.estimated_clock() if event.started_at is not None else False
            if not track.add_final(event):
                return False
            if event.segment != last + 1 or (last < 0 and track.continues is not None):
                self._gaps = None
            if event.segment < last or self._repeated(track) or (first_time and last >= 0):
                self._stale = True
            elif not self._stale:
                self._append(track, event)
        elif isinstance(event, UtteranceEvent):
            if not track.add_utterance(event):
                return False
            if event.event != "started" and not self._stale:
                placed = track.place_utterance(event.utterance)
                self._stale = placed is None or self._zero_us is None
                if placed and not self._stale:
                    self._insert(track, placed)
        elif isinstance(event, UnknownEvent):
            if not event.closing or track.closing is not None:
                return False
            track.close(event)
            self._gaps = None
        else:
            if not track.add_status(event):
                return False
            if event.closing:
                self._gaps = None
                self._stale = self._stale or self._repeated(track)
        return True

    def _repeated(self, track: Track) -> bool:
        """Whether the track repeats another, or is repeated."""
        return track.repeats is not None or track.session_id in self._repeats

    def wait_for(self, session_ids: Collection[str]) -> bool:
        """Tell which sessions are in the queue, or will be. The conversation stays open until they
        have ended, even if no event of them was added. Return whether that changes the
        transcript."""
        before = self.open
        self._waiting = frozenset(session_ids)
        if before != self.open:
            self._last = None
        return before != self.open

    @property
    def open(self) -> bool:
        """Whether a session of the conversation has not ended."""
        return self.running or any(session not in self._tracks for session in self._waiting)

    @property
    def running(self) -> bool:
        """Whether a session that has begun has not ended."""
        return any(track.closing is None for track in self._by_number)

    @property
    def sessions(self) -> set[str]:
        """The IDs of the sessions of which an event was added."""
        return set(self._tracks)

    @property
    def successors(self) -> set[str]:
        """The sessions that were announced to continue one, and of which there is no event yet."""
        return {
            track.closing.continued_by
            for track in self._by_number
            if isinstance(track.closing, StatusEvent) and track.closing.continued_by is not None
        } - self._tracks.keys()

    # ---- placing segments ------------------------------------------------------------------------

    def _append(self, track: Track, final: FinalEvent) -> None:
        """Place the newest final of a track among the others."""
        if track.origin_us is None:
            track.start_clock()
            assert track.origin_us is not None
            if self._zero_us is None:
                self._zero_us = track.origin_us
            elif self._begins(track) and track.origin_us < self._zero_us:
                self._stale = True
            if track.session_id in self._continued:
                self._stale = True
            if self._stale:
                return
        for placed in track.place(final):
            if self._stale:
                return
            self._insert(track, placed)

    def _insert(self, track: Track, placed: Placed) -> None:
        """Add a segment to those that are placed."""
        assert self._zero_us is not None
        if placed.start_us < self._zero_us:
            self._stale = True
            return
        index = bisect_left(self._placed, placed)
        self._placed.insert(index, placed)
        self._segments.insert(index, placed.segment(track.session_id, self._zero_us))
        self._cut_lines(index)

    def _begins(self, track: Track) -> bool:
        """Whether the audio of a track may be where the conversation starts: it has finals, and is
        not the rest of audio whose beginning is known."""
        before = self._tracks.get(track.continues or "")
        return track.origin_us is not None and (before is None or before.origin_us is None)

    def _place_all(self) -> None:
        """Place all segments again: the course of a session that is repeated, or the start of the
        conversation, has changed."""
        self._stale = False
        for track in self._by_number:
            track.start_clock()
        placed: list[Placed] = []
        for group in self._groups():
            replaced = Stretches() if len(group) > 1 else None
            for track in group:
                for final in track.finals:
                    placed += track.place(final, replaced)
                if replaced is not None:
                    replaced |= track.coverage(self._gaps_of(track))
        origins = [t.origin_us for t in self._by_number if t.origin_us and self._begins(t)]
        for track in self._by_number:
            if track.kind == "spoken":
                placed += track.place_utterances()
        placed.sort()
        if placed:
            origins.append(placed[0].start_us)
        self._zero_us = min(origins, default=None)
        self._placed = placed
        self._segments = [
            p.segment(self._by_number[p.track].session_id, self._zero_us or 0) for p in placed
        ]
        self._lines, self._line_ends = [], []

    def _groups(self) -> list[list[Track]]:
        """Sessions that transcribe the same audio, the newest first: its text replaces that of
        those behind it."""
        groups: dict[str, list[tuple[int, int, Track]]] = {}
        for track in self._by_number:
            chain = self._chain(track)
            groups.setdefault(chain[-1], []).append((-len(chain), -track.number, track))
        return [[track for _, _, track in sorted(group)] for group in groups.values()]

    def _chain(self, track: Track) -> list[str]:
        """The IDs of a session, of the one that it repeats, of the one that this repeats ..."""
        chain = [track.session_id]
        while (known := self._tracks.get(chain[-1])) and known.repeats not in (None, *chain):
            assert known.repeats is not None
            chain.append(known.repeats)
        return chain

    # ---- lines and gaps --------------------------------------------------------------------------

    def _cut_lines(self, index: int) -> None:
        """Drop the lines that the segment at `index` may change."""
        line = bisect_left(self._line_ends, index)
        del self._lines[line:], self._line_ends[line:]

    def _make_lines(self) -> None:
        """Make the lines that are missing."""
        start = self._line_ends[-1] if self._line_ends else 0
        while start < len(self._placed):
            begin, until = self._placed[start].start_us, self._placed[start].end_us
            end = start + 1
            who = self._who(start)
            while (
                end < len(self._placed)
                and self._who(end) == who
                and not self._placed[end - 1].interrupted
                and not _long_enough(until - begin, self._placed[end - 1].text)
                and self._placed[end].start_us - until <= self._pause_us
            ):
                until = max(until, self._placed[end].end_us)
                end += 1
            self._lines.append(self._line(self._placed[start], self._segments[start:end]))
            self._line_ends.append(end)
            start = end

    def _who(self, index: int) -> tuple[str, str | None, str]:
        placed = self._placed[index]
        track = self._by_number[placed.track]
        return track.speaker, placed.label, track.kind

    def _line(self, first: Placed, segments: list[Segment]) -> Line:
        track = self._by_number[first.track]
        return Line(
            track.speaker, segments[0].start, max(s.end for s in segments),
            join([s.text for s in segments]), track.kind, tuple(segments), first.label,
        )  # fmt: skip

    def _interims(self) -> tuple[Line, ...]:
        zero = self._zero_us
        placed: list[Placed] = []
        for track in self._by_number:
            for part in track.place_interim():
                insort(placed, part)
        if placed and zero is None:
            zero = placed[0].offset_us
        return tuple(
            self._line(p, [p.segment(self._by_number[p.track].session_id, zero or 0)])
            for p in placed
        )

    def _gaps_of(self, track: Track) -> list[tuple[float, float, str]]:
        closing = track.closing
        successor = closing.continued_by if isinstance(closing, StatusEvent) else None
        return track.gaps(
            continued=successor in self._tracks, begun=track.continues in self._tracks
        )

    def _all_gaps(self) -> tuple[TranscriptGap, ...]:
        found: list[TranscriptGap] = []
        for group in self._groups():
            gaps = [(track, self._gaps_of(track)) for track in group]
            known = [track.coverage(its) for track, its in gaps]
            covered = Stretches()
            for stretches in known:
                covered |= stretches
            for track, its in gaps:
                for start, end, cause in its:
                    left = Stretches([(start, end)]) - covered
                    covered |= left
                    for a, b in left:
                        shift = self._shift(track, a)
                        found.append(
                            TranscriptGap(
                                track.speaker, track.session_id, max(0.0, round(a + shift, 6)),
                                max(0.0, round(b + shift, 6)), clean(cause),
                            )
                        )  # fmt: skip
        return tuple(sorted(found, key=lambda gap: (gap.start, gap.end, gap.speaker)))

    def _shift(self, track: Track, position: float) -> float:
        """Seconds from the start of the conversation to that of a track's audio."""
        offset = track.offset_at(position)
        if offset is None or self._zero_us is None:
            return 0.0
        return (offset - self._zero_us) / 1_000_000

    # ---- the value -------------------------------------------------------------------------------

    def build(self) -> Transcript:
        """The transcript of all events that were added. Without a change, the same value again."""
        if self._last is not None:
            return self._last
        if self._stale:
            self._place_all()
            self._gaps = None
        self._make_lines()
        if self._gaps is None:
            self._gaps = self._all_gaps()
        tenant, conversation = self._names
        self._last = Transcript(
            tenant=tenant or "",
            conversation=conversation or "",
            started_at=None if self._zero_us is None else moment(self._zero_us),
            open=self.open,
            lines=tuple(self._lines),
            interims=self._interims(),
            gaps=self._gaps,
            sessions=tuple(track.summary() for track in self._by_number),
        )
        return self._last


def _long_enough(duration_us: int, text: str) -> bool:
    """Whether a line ends, although its speaker goes on."""
    if duration_us < _LONG_LINE_US:
        return False
    return last_mark(text) in SENTENCE_ENDS or duration_us >= 2 * _LONG_LINE_US

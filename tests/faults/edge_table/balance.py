"""Whether the audio of a run adds up. It decides, and starts nothing.

The microphone's words are those that an independent recorder heard; the edge's words, positions and
gaps are those in the events.
"""

from __future__ import annotations

import bisect
import difflib
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from natterjack.emulators.tones import TimedWord, plain
from natterjack.events import DurableEvent, FinalEvent, StatusEvent

TOLERANCE_SECONDS = 0.2
_EDGE_SECONDS = 0.03
"""How exactly it is known where a word is on the clock of the gaps."""
_BRINK_SECONDS = 0.5
"""How far from a gap a word may be that the recorder has lost at its own interruption."""
_NEAR_WORDS = 8
_ANCHORS = 8


@dataclass
class Words:
    """The balance of the words that the microphone heard."""

    played: int = 0
    heard: int = 0
    """Words that are in the transcript once."""
    in_gaps: int = 0
    """Words that are missing where a gap is named."""
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    worst_time_seconds: float = 0.0
    """Largest change of the difference between the microphone's and the transcript's time."""
    missing: list[TimedWord] = field(default_factory=list)
    """Words that are not in the transcript and in no gap, as they were played."""
    notes: list[str] = field(default_factory=list)
    """Where each word is that is lost, doubled or out of order, and which gap is nearest."""


@dataclass
class Sums:
    """The accounts of all sessions, one after another."""

    transcribed: float = 0.0
    gaps: dict[str, float] = field(default_factory=dict)
    """Seconds by cause."""
    sessions: list[str] = field(default_factory=list)
    """How each session ended."""
    problems: list[str] = field(default_factory=list)


@dataclass
class Result:
    """One row of the table."""

    name: str
    title: str
    wall: float = 0.0
    """Seconds from the start of the recording until the edge handled the signal that ended it,
    standing time of the machine included."""
    published: float = 0.0
    sums: Sums = field(default_factory=Sums)
    words: Words = field(default_factory=Words)
    exit_code: int | None = None
    last_lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why the row fails, beside its figures."""

    @property
    def difference(self) -> float:
        return self.wall - self.sums.transcribed - sum(self.sums.gaps.values())

    @property
    def passed(self) -> bool:
        words, sums = self.words, self.sums
        return (
            abs(self.difference) <= TOLERANCE_SECONDS
            and not (words.lost or words.doubled or words.out_of_order)
            and not (sums.problems or self.problems)
            and words.played > 0
        )

    def cells(self) -> list[str]:
        gaps = ", ".join(f"{c} {s:.1f}" for c, s in sorted(self.sums.gaps.items()) if s >= 0.05)
        words = self.words
        return [
            self.title,
            *(f"{s:.1f}" for s in (self.wall, self.published, self.sums.transcribed)),
            gaps or "none",
            f"{self.difference:+.2f}",
            f"{words.played}: {words.heard} / {words.in_gaps} / {words.lost} / "
            f"{words.doubled + words.out_of_order}",
            "?" if self.exit_code is None else str(self.exit_code),
            "yes" if self.passed else "**no**",
        ]

    def details(self) -> Iterable[str]:
        """Lines beyond the table."""
        yield f"{self.name}: {'passed' if self.passed else 'FAILED'}"
        yield f"  sessions: {'; '.join(self.sums.sessions)}"
        yield f"  times of words change by {self.words.worst_time_seconds:.3f} s at most"
        yield from (f"  {note}" for note in (*self.words.notes, *self.notes))
        yield from (f"  problem: {problem}" for problem in (*self.sums.problems, *self.problems))
        yield from (f"  edge: {line}" for line in self.last_lines)


HEAD = [
    "fault", "captured", "published", "transcribed", "named gaps", "difference",
    "words: once / in gaps / lost / doubled", "exit", "met",
]  # fmt: skip


def compare(
    played: Sequence[TimedWord],
    received: Sequence[TimedWord],
    gaps: Sequence[tuple[float, float]],
    unheard: Sequence[tuple[float, float]] = (),
) -> Words:
    """Compare the words at the microphone with the transcript's, which have its own clock, as the
    gaps do. `unheard`: when nobody noted what was played, by the clock of the microphone."""
    texts = [plain(word.word) for word in received]
    matcher = difflib.SequenceMatcher(None, [w.word for w in played], texts, autojunk=False)
    found = Words(played=len(played))
    lost: list[int] = []
    """Indexes of played words."""
    extra: list[int] = []
    """Indexes of received words."""
    ahead: dict[int, float] = {}
    """How far the microphone's clock is ahead at each word that both have."""
    matched: dict[int, float] = {}
    """The same, by indexes of received words."""
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            ahead |= {i1 + n: played[i1 + n].start - received[j1 + n].start for n in range(i2 - i1)}
            matched |= {j1 + n: ahead[i1 + n] for n in range(i2 - i1)}
        else:
            lost += range(i1, i2)
            extra += range(j1, j2)
    found.heard = len(ahead)
    missing: list[str] = []
    for n in lost:
        clocks = {ahead[near] for near in _neighbors(n, ahead)}
        if any(_in_gap(played[n], clock, gaps) for clock in clocks):
            found.in_gaps += 1
        else:
            missing.append(played[n].word)
            found.missing.append(played[n])
            found.notes.append(
                _place("played and not heard", played[n], max(clocks, default=0.0), gaps)
            )
    for n in extra:
        near = texts[max(0, n - _NEAR_WORDS) : n] + texts[n + 1 : n + 1 + _NEAR_WORDS]
        if texts[n] in missing:
            missing.remove(texts[n])
            found.out_of_order += 1
            found.notes.append(_place("out of order", received[n], 0.0, gaps))
        elif texts[n] not in near and (
            _at_brink(received[n], gaps)
            or any(_within(received[n], matched[each], unheard) for each in _neighbors(n, matched))
        ):
            found.played += 1
            found.heard += 1
        else:
            found.doubled += 1
            found.notes.append(_place("heard more than once", received[n], 0.0, gaps))
    found.lost = len(missing)
    if ahead:
        offsets = list(ahead.values())
        first = statistics.median(offsets[:_ANCHORS])
        found.worst_time_seconds = max(abs(offset - first) for offset in offsets)
    return found


def _place(kind: str, word: TimedWord, ahead: float, gaps: Sequence[tuple[float, float]]) -> str:
    """A word, where it is on the clock of the gaps, and the gap that is nearest."""
    first, last = word.start - ahead, word.end - ahead
    nearest = min(gaps, key=lambda gap: max(gap[0] - last, first - gap[1]), default=None)
    near = f"gap {nearest[0]:.3f}-{nearest[1]:.3f}" if nearest else "no gap"
    return f"{word.word!r} {kind}, {first:.3f}-{last:.3f} s; {near}"


def _neighbors(n: int, known: Mapping[int, float]) -> Iterator[int]:
    """The indexes in `known`, which is sorted, before and after `n`."""
    indexes = list(known)
    at = bisect.bisect(indexes, n)
    yield from indexes[max(0, at - 1) : at + 1]


def _in_gap(word: TimedWord, ahead: float, gaps: Sequence[tuple[float, float]]) -> bool:
    """Whether a gap has at least an edge of a word."""
    first, last = word.start - ahead - _EDGE_SECONDS, word.end - ahead + _EDGE_SECONDS
    return any(start < last and first < end for start, end in gaps)


def _within(word: TimedWord, ahead: float, times: Sequence[tuple[float, float]]) -> bool:
    """Whether a part of a word is in one of these times, by the clock of the microphone."""
    first, last = word.start + ahead - _EDGE_SECONDS, word.end + ahead + _EDGE_SECONDS
    return any(start < last and first < end for start, end in times)


def _at_brink(word: TimedWord, gaps: Sequence[tuple[float, float]]) -> bool:
    """Whether a word is just before or just after a gap, where the sound server came or went."""
    return any(
        -_EDGE_SECONDS <= start - word.end < _BRINK_SECONDS
        or -_EDGE_SECONDS <= word.start - end < _BRINK_SECONDS
        for start, end in gaps
    )


def by_session(events: Iterable[DurableEvent]) -> dict[str, list[DurableEvent]]:
    """The events of each session, in the order in which the sessions began."""
    found: dict[str, list[DurableEvent]] = {}
    for event in events:
        found.setdefault(event.session_id, []).append(event)
    return found


def add_up(events: Iterable[DurableEvent]) -> Sums:
    """Add up the accounts of sessions that follow one another."""
    sums = Sums()
    for session, own in by_session(events).items():
        if [event.sequence for event in own] != list(range(len(own))):
            sums.problems.append(f"sequence: {[event.sequence for event in own]}")
        closing = [e for e in own if isinstance(e, StatusEvent) and e.closing]
        if len(closing) != 1 or closing[0].account is None:
            sums.sessions.append("open")
            sums.problems.append(f"session {session} has {len(closing)} closing events")
            continue
        event, account = closing[0], closing[0].account
        detail = f" ({event.detail})" if event.detail else ""
        sums.sessions.append(f"{event.state}: {event.reason}{detail}")
        sums.transcribed += account.transcribed_seconds
        for cause, seconds in account.gap_seconds.items():
            sums.gaps[cause] = sums.gaps.get(cause, 0.0) + seconds
    return sums


def transcript(events: Iterable[DurableEvent]) -> list[TimedWord]:
    """The words of all finals."""
    return [
        TimedWord(word.text, word.start, word.end)
        for event in events
        if isinstance(event, FinalEvent)
        for word in event.words
        if word.start is not None and word.end is not None
    ]


def gaps_of(events: Iterable[DurableEvent]) -> list[tuple[float, float]]:
    """Start and end of each named gap, in seconds on the sessions' clock."""
    return [
        (gap.start, gap.end)
        for event in events
        if isinstance(event, StatusEvent) and event.account is not None
        for gap in event.account.gaps
    ]

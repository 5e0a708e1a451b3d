"""The account of one source: what became of each word that was said. Pure.

A source has many sessions, one after another. Their positions are put on one clock, that of the
agent's machine: the first chunk of a session tells when its audio began. Sessions that begin in the
same second share a key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from natterjack.emulators.tones import TimedWord
from natterjack.events import DurableEvent, FinalEvent, StatusEvent

from ..edge_table.balance import Words, add_up, by_session, compare

_JOINED_S = 0.05
"""Time between two takes of a source that is no gap: that of its clock's rounding."""
_WITHIN_S = 1.0
"""How exactly it is known when an agent was away."""
_BLUR_S = 0.3
"""How exactly times are known of what arrives from a pipe or a stream."""


class Take:
    """The audio of one session, as it is stored."""

    def __init__(self, key: str, session_id: str, rate: int) -> None:
        self.key = key
        self.session_id = session_id
        self.start = 0.0
        """The time of position 0, in seconds since 1970 by the agent's clock."""
        self.begin = 0.0
        """Where its audio begins: not at position 0 if it goes on with that of another session."""
        self.end = 0.0
        """Where its audio ends."""
        self.holes: list[tuple[float, float]] = []
        """Start and end of what is not there, in seconds since 1970."""
        self._rate = rate
        self._next: int | None = None

    def add(self, position: int, frames: int, time_ns: int) -> None:
        """Add a chunk. To be called in the order of the positions; one that is there is ignored."""
        if self._next is None:
            self.begin = time_ns / 1e9
            self.start = self.begin - position / self._rate
            self._next = position
        if position < self._next:
            return
        if position > self._next:
            self.holes.append((self._at(self._next), self._at(position)))
        self._next = position + frames
        self.end = self._at(self._next)

    def _at(self, position: float) -> float:
        return self.start + position / self._rate


@dataclass
class Account:
    """The result of one source."""

    source: str
    words: Words = field(default_factory=Words)
    takes: int = 0
    sessions: int = 0
    gap_seconds: dict[str, float] = field(default_factory=dict)
    """By cause, as the sessions' accounts name them."""
    absent_seconds: float = 0.0
    """Between two takes, because the agent did not run or the source was stopped."""
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        words = self.words
        return not (words.lost or words.doubled or words.out_of_order or self.problems)

    def cells(self) -> list[str]:
        """A line of the table."""
        words = self.words
        gaps = ", ".join(f"{c} {s:.0f}" for c, s in sorted(self.gap_seconds.items()) if s >= 0.5)
        return [
            self.source, str(words.played), str(words.heard), str(words.in_gaps), str(words.lost),
            str(words.doubled + words.out_of_order), str(self.takes), gaps or "none",
            f"{self.absent_seconds:.0f}", "yes" if self.clean else "**no**",
        ]  # fmt: skip


HEAD = [
    "source", "words said", "transcribed once", "in named gaps", "lost", "doubled", "takes",
    "named gaps, seconds", "agent away, seconds", "met",
]  # fmt: skip


def account(
    source: str,
    said: Sequence[TimedWord],
    takes: Iterable[Take],
    events: Sequence[DurableEvent],
    away: Sequence[tuple[float, float]],
    *,
    exact: bool,
    unheard: Sequence[tuple[float, float]] = (),
) -> Account:
    """Compare what was said at a source with its transcript.

    `away`: when the agent did not run or the source was stopped, by the agent's clock. `exact`: the
    source's audio has times of its own, as a microphone's has. `unheard`: when the recorder that
    tells what was said was away, by the clock of `said`.
    """
    ordered = sorted((take for take in takes if take.end), key=lambda take: take.begin)
    found = Account(source, takes=len(ordered))
    start = {take.session_id: take.start for take in ordered}
    blur = 0.0 if exact else _BLUR_S
    gaps = [(a - blur, b + blur) for take in ordered for a, b in take.holes]
    received: list[TimedWord] = []
    sessions = by_session(events)
    for session_id in sorted(sessions, key=lambda each: start.get(each, 0.0)):
        own = sessions[session_id]
        if session_id not in start:
            if words(own, 0):
                found.problems.append(f"{session_id} has a transcript, and no audio")
            continue
        base = start[session_id]
        received += words(own, base)
        gaps += [
            (base + gap.start - blur, base + gap.end + blur)
            for event in own
            if isinstance(event, StatusEvent) and event.account is not None
            for gap in event.account.gaps
        ]
        sums = add_up(own)
        found.problems += [f"{own[0].key}: {problem}" for problem in sums.problems]
        found.sessions += 1
        for cause, seconds in sums.gaps.items():
            found.gap_seconds[cause] = found.gap_seconds.get(cause, 0.0) + seconds
    for before, after in itertools.pairwise(ordered):
        was_away = any(a - _WITHIN_S < after.begin and before.end < b + _WITHIN_S for a, b in away)
        joined = after.begin - before.end <= (_JOINED_S if exact else _BLUR_S)
        if joined and (exact or not was_away):
            continue
        back = max(before.end, after.begin)
        found.absent_seconds += back - before.end
        gaps.append((before.end - blur, back + blur))
        goes_on = before.key == after.key and after.begin > after.start
        if not goes_on and not was_away:
            found.problems.append(
                f"{after.begin - before.end:.2f} s between {before.key} and {after.key} that no "
                "session names"
            )
    found.words = compare(said, received, gaps, unheard)
    return found


def words(events: Iterable[DurableEvent], base: float) -> list[TimedWord]:
    """The words of all finals, from `base` on."""
    return [
        TimedWord(word.text, base + word.start, base + word.end)
        for event in events
        if isinstance(event, FinalEvent)
        for word in event.words
        if word.start is not None and word.end is not None
    ]

"""The account of one source: what became of each word that was said. Pure.

A source has many sessions, one after another. Their positions are put on one clock, that of the
agent's machine: the first chunk of a key tells when its audio began.
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
    """The audio of one key, as it is stored."""

    def __init__(self, key: str, rate: int) -> None:
        self.key = key
        self.start = 0.0
        """The time of position 0, in seconds since 1970 by the agent's clock."""
        self.end = 0.0
        """Where its audio ends."""
        self.holes: list[tuple[float, float]] = []
        """Start and end of what is not there, in seconds since 1970."""
        self._rate = rate
        self._next: int | None = None

    def add(self, position: int, frames: int, time_ns: int) -> None:
        """Add a chunk. To be called in the order of the positions; one that is there is ignored."""
        if self._next is None:
            self.start = time_ns / 1e9 - position / self._rate
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
    """What became of one source."""

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
    ordered = sorted((take for take in takes if take.end), key=lambda take: take.start)
    found = Account(source, takes=len(ordered))
    start = {take.key: take.start for take in ordered}
    blur = 0.0 if exact else _BLUR_S
    gaps = [(a - blur, b + blur) for take in ordered for a, b in take.holes]
    by_key: dict[str, list[DurableEvent]] = {}
    for event in events:
        by_key.setdefault(str(event.key), []).append(event)
    received: list[TimedWord] = []
    for key in sorted(by_key, key=lambda key: start.get(key, 0.0)):
        if key not in start:
            found.problems += [f"{key} has a transcript, and no audio"] * bool(
                words(by_key[key], 0)
            )
            continue
        base = start[key]
        received += words(by_key[key], base)
        gaps += [
            (base + gap.start - blur, base + gap.end + blur)
            for event in by_key[key]
            if isinstance(event, StatusEvent) and event.account is not None
            for gap in event.account.gaps
        ]
        sums = add_up(by_key[key])
        found.problems += [f"{key}: {problem}" for problem in sums.problems]
        found.sessions += len(by_session(by_key[key]))
        for cause, seconds in sums.gaps.items():
            found.gap_seconds[cause] = found.gap_seconds.get(cause, 0.0) + seconds
    for before, after in itertools.pairwise(ordered):
        if after.start - before.end <= (_JOINED_S if exact else _BLUR_S):
            continue
        found.absent_seconds += after.start - before.end
        gaps.append((before.end - blur, after.start + blur))
        if not any(a - _WITHIN_S < after.start and before.end < b + _WITHIN_S for a, b in away):
            found.problems.append(
                f"{after.start - before.end:.2f} s between {before.key} and {after.key} that no "
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

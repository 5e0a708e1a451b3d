"""The auditor compares a session's transcript with the words that were spoken.

It knows the words and their times, and reads only STT_TRANSCRIPTS. It asks no worker, edge or
provider.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from natterjack.emulators import tones
from natterjack.events import DurableEvent, FinalEvent, StatusEvent, TurnEvent
from natterjack.values import Account

WORST_TIME_SECONDS: Final = 0.02
"""Largest allowed error of a word's time."""
_CLOSE: Final = 0.001
"""Tolerance, in seconds, for sums of an account."""


@dataclass
class Audit:
    """The findings of one session, or the sum over several."""

    sessions: int = 0
    words: int = 0
    """Words spoken."""
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    worst_time_seconds: float = 0.0
    """Largest difference between a word's reported start and its true start."""
    problems: list[str] = field(default_factory=list)
    """Descriptions of all other violations."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.out_of_order or self.problems)

    def add(self, other: Audit) -> None:
        """Add the findings of `other`."""
        self.sessions += other.sessions
        self.words += other.words
        self.lost += other.lost
        self.doubled += other.doubled
        self.out_of_order += other.out_of_order
        self.worst_time_seconds = max(self.worst_time_seconds, other.worst_time_seconds)
        self.problems += other.problems


def audit(
    events: Sequence[DurableEvent],
    words: Sequence[str],
    places: Sequence[tones.TimedWord],
    *,
    captured_seconds: float | None = None,
    gaps: Sequence[tuple[float, float, str]] | None = (),
    mutated: bool = False,
) -> Audit:
    """Audit the durable events of one session in which `words` were spoken at `places`.

    `captured_seconds`: length of the session's audio, if it was published to its end. `gaps`:
    start, end and cause of the audio that was never published; None if unknown. `mutated`: a
    provider may have sent wrong times, so that words have estimated ones or none.
    """
    finals = [event for event in events if isinstance(event, FinalEvent)]
    received = [word for final in finals for word in _words(final, mutated)]
    counts = tones.compare(words, [text for text, _ in received])
    found = Audit(1, len(words), counts.lost, counts.doubled, counts.out_of_order)
    if counts.invented:
        found.problems.append(f"{counts.invented} words were never spoken")
    if counts == tones.Counts():
        starts = zip(received, places, strict=True)
        errors = [abs(start - place.start) for (_, start), place in starts if start is not None]
        found.worst_time_seconds = max(errors, default=0.0)
        if len(errors) < len(received) and not mutated:
            found.problems.append("words without a time")
        if found.worst_time_seconds > WORST_TIME_SECONDS:
            found.problems.append(f"a word is off by {found.worst_time_seconds:.3f} s")
    found.problems += _numbering(events, finals)
    found.problems += _turns([event for event in events if isinstance(event, TurnEvent)])
    closing = [event for event in events if isinstance(event, StatusEvent) and event.closing]
    if [event.state for event in closing] != ["closed"]:
        found.problems.append(f"closing events: {[(e.state, e.reason) for e in closing]}")
    elif events[-1] is not closing[0]:
        found.problems.append("an event follows the closing one")
    elif (account := closing[0].account) is None:
        found.problems.append("the closing event has no account")
    else:
        found.problems += _account(account, captured_seconds)
        reported = [(gap.start, gap.end, gap.cause) for gap in account.gaps]
        if gaps is not None and not _same(reported, gaps):
            found.problems.append(f"gaps {reported}, not {list(gaps)}")
    return found


def _words(final: FinalEvent, mutated: bool) -> list[tuple[str, float | None]]:
    """The words of a final, and where they begin as far as the provider has said it."""
    if not final.words:
        return [(word, None) for word in final.text.split()]
    estimated = mutated and final.times_estimated
    return [(word.text, None if estimated else word.start) for word in final.words]


def _same(
    reported: Sequence[tuple[float, float, str]], gaps: Sequence[tuple[float, float, str]]
) -> bool:
    """Whether these are the same gaps. A gap found in two parts is reported as two."""
    joined: list[tuple[float, float, str]] = []
    for start, end, cause in reported:
        if joined and joined[-1][2] == cause and abs(joined[-1][1] - start) < _CLOSE:
            joined[-1] = (joined[-1][0], end, cause)
        else:
            joined.append((start, end, cause))
    return len(joined) == len(gaps) and all(
        abs(a[0] - b[0]) < _CLOSE and abs(a[1] - b[1]) < _CLOSE and a[2] == b[2]
        for a, b in zip(joined, gaps, strict=True)
    )


def _numbering(events: Sequence[DurableEvent], finals: Sequence[FinalEvent]) -> list[str]:
    problems = []
    if [event.sequence for event in events] != list(range(len(events))):
        problems.append(f"sequence: {[event.sequence for event in events]}")
    if [final.segment for final in finals] != list(range(len(finals))):
        problems.append(f"segments: {[final.segment for final in finals]}")
    if any(a.end > b.start for a, b in itertools.pairwise(finals)):
        problems.append("finals overlap")
    if any(a.epoch > b.epoch for a, b in itertools.pairwise(events)):
        problems.append("epochs run backwards")
    return problems


def _turns(turns: Sequence[TurnEvent]) -> list[str]:
    kinds = [(turn.turn, turn.event) for turn in turns if turn.event in ("started", "ended")]
    ideal = [(n, kind) for n in range((len(kinds) + 1) // 2) for kind in ("started", "ended")]
    return [] if kinds == ideal else [f"turns: {kinds}"]


def _account(account: Account, captured_seconds: float | None) -> list[str]:
    """List the inconsistencies in a session's account."""
    problems = []
    gaps = sum(account.gap_seconds.values())
    if captured_seconds is not None and abs(account.captured_seconds - captured_seconds) > _CLOSE:
        problems.append(f"{account.captured_seconds} s captured, not {captured_seconds}")
    if abs(account.received_seconds + gaps - account.captured_seconds) > _CLOSE:
        problems.append(f"{account.received_seconds} s received and {gaps} of gaps are not "
                        f"{account.captured_seconds} captured")  # fmt: skip
    if abs(account.transcribed_seconds - account.received_seconds) > _CLOSE:
        problems.append(f"{account.transcribed_seconds} s transcribed, "
                        f"{account.received_seconds} received")  # fmt: skip
    by_cause: dict[str, float] = {}
    for gap in account.gaps:
        by_cause[gap.cause] = by_cause.get(gap.cause, 0.0) + gap.end - gap.start
    if any(abs(by_cause.get(cause, 0.0) - s) > _CLOSE for cause, s in account.gap_seconds.items()):
        problems.append(f"gaps {by_cause} differ from gap_seconds {account.gap_seconds}")
    return problems

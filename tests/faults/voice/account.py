"""The account of a voice session: what was said, what its events report, what was heard. Pure.

Each word of a session is another one, so a word that was heard tells where it belongs. Every
utterance begins with LEAD, which does not count: the player's file has no silence where speech was
cut, so the rest of a word that was cut spoils the one that follows it.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from natterjack.emulators.spoken import tone_words
from natterjack.emulators.tones import ends_with_a_word
from natterjack.emulators.vocabulary import VOCABULARY
from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent

LEAD: Final = VOCABULARY[0]
WORDS: Final = VOCABULARY[1:]
"""The words of a session, in order."""
CALM_WORDS: Final = 3
"""By how many words an estimate of what was heard may be wrong."""
DISTURBED_WORDS: Final = 36
"""The same while worker and player cannot reach each other: the player plays the ten seconds and
more that it has, and the worker cannot know."""


@dataclass
class Said:
    """A text that the application has said in one call."""

    text: str
    cut: bool = False
    """Whether the application has interrupted the session before it knew the utterance's end."""


@dataclass
class Account:
    """The findings of one session, or the sum over several."""

    sessions: int = 0
    words: int = 0
    """Words said."""
    heard: int = 0
    lost: int = 0
    doubled: int = 0
    """Words heard again after they were heard."""
    out_of_order: int = 0
    misreported: int = 0
    """Words whose report, that they were heard or that they were not, is wrong beyond the bound."""
    exact: int = 0
    """Interrupted utterances whose report claims to be exact."""
    estimates: list[int] = field(default_factory=list)
    """For each interrupted utterance with an estimate: the words heard minus those reported."""
    calm_estimates: list[int] = field(default_factory=list)
    """Those of them in whose time worker, broker and player reached each other."""
    problems: list[str] = field(default_factory=list)
    """Descriptions of all other violations."""

    @property
    def clean(self) -> bool:
        wrong = self.lost or self.doubled or self.out_of_order or self.misreported
        return not (wrong or self.problems)

    @property
    def interrupted(self) -> int:
        """Utterances of which a part was heard."""
        return self.exact + len(self.estimates)

    def add(self, other: Account) -> None:
        """Add the findings of `other`."""
        for name in ("sessions", "words", "heard", "lost", "doubled", "out_of_order"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.misreported += other.misreported
        self.exact += other.exact
        self.estimates += other.estimates
        self.calm_estimates += other.calm_estimates
        self.problems += other.problems

    def spread(self, values: Sequence[int]) -> str:
        """Describe how far estimates were off."""
        if not values:
            return "none"
        size = [abs(value) for value in values]
        return f"median {statistics.median(size):g}, most {max(size)}, of {len(size)}"


def account(
    said: Sequence[Said],
    events: Sequence[VoiceEvent],
    heard: Sequence[str],
    calm: Callable[[datetime], bool] = lambda at: True,
) -> Account:
    """Compare what was said with the events of the session and with the words that were heard.
    `calm`: whether nothing stood between worker and player before this time."""
    found = Account(1)
    words = [word for word in heard if word != LEAD]
    places = {word: place for place, word in enumerate(WORDS)}
    counts = Counter(words)
    found.heard = len(counts)
    found.doubled = sum(counts.values()) - len(counts)
    firsts = list(dict.fromkeys(words))
    found.out_of_order = sum(places[a] > places[b] for a, b in itertools.pairwise(firsts))
    known = {word for one in said for word in _words(one.text)}
    if invented := sorted(set(counts) - known):
        found.problems.append(f"words that were never said: {invented}")
    ends = _ends(events, found)
    for one in said:
        found.words += len(_words(one.text))
        _utterance(one, ends, counts, calm, found)
    found.problems += [
        f"an end of a text that was never said: {end}"
        for end in ends
        if end.text_spoken or end.text_remaining  # without text, it says that no utterance follows
    ]
    found.problems += _order(events)
    return found


def _words(text: str) -> list[str]:
    return [word for word in tone_words(text) if word != LEAD]


def _ends(events: Sequence[VoiceEvent], found: Account) -> list[UtteranceEvent]:
    """The events that end utterances. Each must have one at most, and one start if it was heard."""
    utterances = [event for event in events if isinstance(event, UtteranceEvent)]
    ends = [event for event in utterances if event.event != "started"]
    starts = Counter(event.utterance for event in utterances if event.event == "started")
    for number, count in Counter(event.utterance for event in ends).items():
        if count > 1:
            found.problems.append(f"utterance {number} has {count} ends")
    found.problems += [
        f"utterance {n} started {count} times" for n, count in starts.items() if count > 1
    ]
    found.problems += [
        f"utterance {end.utterance} was heard and not started"
        for end in ends
        if _words(end.text_spoken or "") and end.utterance not in starts
    ]
    return ends


def _utterance(
    one: Said,
    ends: list[UtteranceEvent],
    counts: Counter[str],
    calm: Callable[[datetime], bool],
    found: Account,
) -> None:
    """Account for what was said in one call. Takes its event out of `ends`."""
    words = _words(one.text)
    heard = [word in counts for word in words]
    end = next((end for end in ends if _is_of(end, one.text)), None)
    if end is None:
        # The application's own interrupt has dropped the text before it was stored.
        if not one.cut:
            found.problems.append(f"no end of {one.text!r}")
            found.lost += len(words) - sum(heard)
        found.misreported += sum(heard) if one.cut else 0
        return
    ends.remove(end)
    whole = (end.text_spoken or "") + (end.text_remaining or "")
    if whole != one.text and not one.cut:
        found.problems.append(f"the text {one.text!r} ended as {whole!r}")
    reported = len(_words(end.text_spoken or ""))
    if end.event == "finished":
        found.lost += reported - sum(heard[:reported])
        found.misreported += sum(heard[reported:])
        return
    last = max((place for place, was in enumerate(heard) if was), default=-1) + 1
    found.lost += last - sum(heard[:last])
    difference = last - reported
    if not end.estimated:
        found.exact += bool(reported or last)
        # The ear may take a word for whole of which the last milliseconds were not played.
        bound = int(difference == 1 and ends_with_a_word((end.end or 0) - (end.start or 0)))
    else:
        found.estimates.append(difference)
        bound = DISTURBED_WORDS
        if end.reason != "no_player" and calm(end.published_at):
            found.calm_estimates.append(difference)
            bound = CALM_WORDS
    if abs(difference) > bound:
        found.misreported += abs(difference)
        found.problems.append(
            f"utterance {end.utterance}: {reported} words reported as heard, {last} heard, "
            f"estimated={end.estimated}, reason {end.reason}, of {one.text!r}"
        )


def _is_of(end: UtteranceEvent, text: str) -> bool:
    whole = (end.text_spoken or "") + (end.text_remaining or "")
    return bool(whole) and text.startswith(whole)


def _order(events: Sequence[VoiceEvent]) -> list[str]:
    problems = []
    if [event.sequence for event in events] != list(range(len(events))):
        problems.append(f"sequence: {[event.sequence for event in events]}")
    if any(a.epoch > b.epoch for a, b in itertools.pairwise(events)):
        problems.append("epochs run backwards")
    closing = [e for e in events if isinstance(e, VoiceStatusEvent) and e.closing]
    if [event.state for event in closing] != ["closed"]:
        problems.append(f"closing events: {[(e.state, e.reason) for e in closing]}")
    elif events[-1] is not closing[0]:
        problems.append("an event follows the closing one")
    return problems

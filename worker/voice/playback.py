"""How far speech is published and played, and what text was heard. Pure.

Positions count frames since the session's first.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

from natterjack.voice.spec import Played

from .text.phrases import CHARACTERS_PER_SECOND

_RECENT_SECONDS = 1.5
"""How old the report of a player may be that shows that it waits for speech."""
UNKNOWN_END = 2**53
"""The end of a phrase that a former holder has begun: that of the text at most."""
_WORD_SHARE = 0.75
"""The share of a word after which it counts as heard."""
_MAX_GUESS_SECONDS = 1.0
"""How long playback is assumed to go on without a report."""
_REACHABLE_SECONDS = 2.5
"""A player that has reported within this time is expected to answer a cut; it reports at least once
a second."""


class Place(NamedTuple):
    """A place in the audio at which the place in the text is known."""

    position: int
    character: int
    word: bool = False
    """True if a word begins there, as the provider says; otherwise a phrase does."""


class Heard(NamedTuple):
    """How much of an utterance's text was heard."""

    characters: int
    estimated: bool


class Spoken:
    """An utterance of which audio is published."""

    __slots__ = ("characters", "end", "number", "places", "start", "unmarked")

    def __init__(self, number: int, start: int, end: int | None = None) -> None:
        self.number = number
        self.start = start
        self.end = end
        """Where its audio ends; None while there may be more."""
        self.places: list[Place] = []
        self.characters = 0
        """The end of the text of the last phrase that was begun."""
        self.unmarked = 0
        """Where the audio ends that an earlier stream has made of that phrase: it is published, and
        the marks of its words come again."""

    def begin_phrase(self, position: int, start: int, end: int = UNKNOWN_END) -> None:
        """Note that the phrase of characters `start` to `end` begins at a position."""
        while self.places and self.places[-1].position >= position:
            self.places.pop()  # it is synthesized again
        self.places.append(Place(position, start))
        self.characters = end

    def begin_word(self, position: int, character: int) -> None:
        """Note that a word begins at a position."""
        if not self.places or self.places[-1].position <= position:
            self.places.append(Place(position, character, word=True))

    def heard(
        self, position: int, text: str, rate: int, pace: float = CHARACTERS_PER_SECOND
    ) -> Heard:
        """The part of `text` that was heard if audio before `position` was played. `pace` is the
        number of characters spoken in a second, for a phrase whose end is not known."""
        if self.end is not None and position >= self.end:
            return Heard(len(text), estimated=False)
        index = bisect_right([place.position for place in self.places], position) - 1
        if index < 0:
            return Heard(0, estimated=False)
        place = self.places[index]
        following = self.places[index + 1] if index + 1 < len(self.places) else None
        until = self.characters if following is None else following.character
        until = min(until, len(text))
        if place.word and (following is not None or place.position >= self.unmarked):
            return self._heard_of_word(place, following, until, position, text)
        if place.position == position:
            return Heard(min(place.character, len(text)), estimated=False)
        end = self.end if following is None else following.position
        if end is not None and end > place.position:
            share = (position - place.position) / (end - place.position)
            guess = place.character + share * (until - place.character)
        else:
            guess = place.character + (position - place.position) / rate * pace
        at = min(round(guess), until, len(text))
        while 0 < at < len(text) and not text[at - 1].isspace() and not text[at].isspace():
            at -= 1  # a word that was cut was not heard
        return Heard(max(at, place.character), estimated=True)

    @staticmethod
    def _heard_of_word(
        place: Place, following: Place | None, until: int, position: int, text: str
    ) -> Heard:
        """The text that was heard if the player stopped within the word of a mark. Marks say where
        words begin, not where they end: most of the time to the next one is the word's."""
        if following is None:  # the word may be followed by others whose marks have not arrived
            found = re.match(r"\S*\s*", text[place.character : until])
            after = place.character + (found.end() if found else 0)
            if after < until:
                return Heard(place.character, estimated=False)
            return Heard(min(until, len(text)), estimated=True)
        share = (position - place.position) / max(1, following.position - place.position)
        heard = until if share >= _WORD_SHARE else place.character
        return Heard(min(heard, len(text)), estimated=False)


class Playback:
    """The positions up to which speech is published, and played as the player reports it."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self.published = 0
        """All audio before this position is published."""
        self.published_at = 0.0
        """When audio was last published, by the monotonic clock."""
        self.played = 0
        """All audio before this position was played or dropped, as the player has said."""
        self.spoken: dict[int, Spoken] = {}
        """The utterances with audio that are not over, in order."""
        self.played_frames = 0
        """Frames that were played, in all."""
        self.waiting_since: float | None = None
        """Since when published audio has waited without any of it being played."""
        self.cut = 0
        """Where audio begins after the last cut: what was before it is not to be played."""
        self.stopped = False
        """Whether the player has reported since `expect_stop` that it has stopped at a cut."""
        self.paces: dict[str, tuple[int, float]] = {}
        """The characters and seconds of the phrases that each voice has spoken to their ends."""
        self._playing_since: float | None = None
        self._plays = False
        """Whether the player was playing at its last report."""
        self._reported_at: float | None = None

    def adopt(self, published: int, played: int, cut: int, now: float) -> None:
        """Continue where a former holder stopped."""
        self.published, self.played, self.cut = published, min(played, published), cut
        self.waiting_since = now if published > self.played else None
        self.listening(now)

    def listening(self, now: float) -> None:
        """Note that the player's reports arrive from now on: the next one is expected."""
        self._reported_at = now

    def publish(self, frames: int, now: float) -> None:
        """Note that audio was published."""
        if frames and self.waiting_since is None:
            self.waiting_since = now
        if frames:
            self.published_at = now
        self.published += frames

    def spoke(self, voice: str, characters: int, frames: int) -> None:
        """Note the length of a phrase that a voice has spoken to its end."""
        before = self.paces.get(voice, (0, 0.0))
        self.paces[voice] = before[0] + characters, before[1] + frames / self._rate

    def pace(self, voice: str | None, unknown: float = CHARACTERS_PER_SECOND) -> float:
        """Characters that a voice speaks in a second; `unknown` if it has not spoken a phrase."""
        characters, seconds = self.paces.get(voice or "", (0, 0.0))
        return characters / seconds if characters and seconds else unknown

    def drop(self) -> None:
        """Note a cut: nothing that is published is to be played any more."""
        self.played = self.cut = self.published
        self.waiting_since = self._playing_since = None

    def report(self, played: Played, now: float) -> None:
        """Take the report of a player. The greatest position counts."""
        self._reported_at = now
        self.stopped = self.stopped or played.state == "interrupted"
        moved = min(played.position, self.published) - self.played
        if moved > 0:
            self.played_frames += moved
            self.played += moved
        playing = self._plays = played.state == "playing"
        if moved > 0 or playing or self._playing_since is None:
            self._playing_since = now if playing else None
        if self.played >= self.published:
            self.waiting_since = None
        elif moved > 0 or playing:
            self.waiting_since = now

    def expect_stop(self) -> None:
        """Note that a cut is about to be published."""
        self.stopped = False

    def reachable(self, now: float) -> bool:
        """Whether the player's answer to a cut can be expected soon."""
        return self._reported_at is not None and now - self._reported_at < _REACHABLE_SECONDS

    def waits(self, now: float) -> bool:
        """Whether the player has played all that it has, as a report says that is not older than
        the next one would be."""
        recent = self._reported_at is not None and now - self._reported_at < _RECENT_SECONDS
        return recent and not self._plays

    def position(self, now: float) -> int:
        """The position that is being played now, as far as reports tell."""
        position = self.played
        if self._playing_since is not None:
            seconds = min(now - self._playing_since, _MAX_GUESS_SECONDS)
            position += round(seconds * self._rate)
        return min(position, self.published)

    def ahead_seconds(self, now: float) -> float:
        """The length of the published audio that is not played yet."""
        return (self.published - self.position(now)) / self._rate

    def stale(self, now: float, patience: float) -> bool:
        """True if published audio has waited for a player for longer than `patience` seconds."""
        return self.waiting_since is not None and now - self.waiting_since > patience

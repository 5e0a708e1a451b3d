"""Messages of turns, made from words, and what their finals must be."""

from __future__ import annotations

import itertools
from typing import Any

from natterjack.plugin.provider import (
    ProviderEvent,
    ProviderWord,
)
from worker.providers.deepgram_flux.clock import Clock
from worker.providers.deepgram_flux.open_turn import CommitRules
from worker.providers.deepgram_flux.protocol import TurnInfo
from worker.providers.deepgram_flux.transcript import Transcript

from ..emulated.streams import LINEAR_16K, finals

NEVER = CommitRules(updates=0)
EAGER = CommitRules(updates=2, seconds=0.5, length_seconds=0.0)


def spoken(seconds: float) -> Clock:
    clock = Clock(LINEAR_16K)
    clock.audio(2 * round(16000 * seconds))
    return clock


def words(text: str, start: float = 0.0, each: float = 0.3, gap: float = 0.1) -> Any:
    """Words of a message, consecutive from `start`."""
    return tuple(
        ProviderWord(word, start + n * (each + gap), start + n * (each + gap) + each, 0.9)
        for n, word in enumerate(text.split())
    )


def info(event: str, window_end: float, text: str = "", index: int = 0, **more: Any) -> TurnInfo:
    made: dict[str, Any] = {"words": words(text), "confidence": 0.5, **more}
    return TurnInfo(event, index, window_end, text, **made)


def partition(events: list[ProviderEvent]) -> None:
    """Check that finals never overlap and contain their words."""
    frontier = 0.0
    for final in finals(events):
        assert final.start >= frontier - 1e-9
        assert final.end >= final.start
        frontier = final.end
        for before, after in itertools.pairwise(final.words):
            assert before.start is not None
            assert after.start is not None
            assert before.start <= after.start
        for word in final.words:
            assert word.end is not None
            assert word.end <= final.end + 1e-6


def committed(text: str = "one two three four five six", head: int = 3) -> tuple[Transcript, Any]:
    """A transcript with a head of `head` words in its open turn, and the events so far."""
    transcript = Transcript(spoken(60), EAGER)
    events: list[ProviderEvent] = []
    made = [list(word) for word in words(text)]
    for index in range(head, len(made)):
        made[index][1] += 0.1
        made[index][2] += 0.1
    spread = tuple(ProviderWord(*word) for word in made)
    for n in range(2):
        events += transcript.receive(info("Update", 3 + n, text, words=spread))
    assert finals(events)[0].text.split() == text.split()[:head]
    return transcript, events

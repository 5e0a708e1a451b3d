"""Recorded messages of all protocols, changed in one place each, lose no text and double no word.

`python -m tests.worker.providers.test_mutations` counts the mutations. A run tries a hundred of
each recording, always the same ones, and with TEST_SEARCH=30 9,000 new ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from natterjack.emulators.mutations import mutations as of_message
from natterjack.plugin.errors import ProviderError
from natterjack.plugin.provider import Final
from tests.searching import SEARCH, tried
from worker.providers.guard import Guard

from .recorded import BYTES_PER_SECOND, RECORDINGS, Recording

_SAMPLE = 300


class Mutation(NamedTuple):
    """A message that is not what the server would send."""

    place: int
    """Index of the message in its recording."""
    what: str
    message: str | bytes


def mutations(recording: Recording) -> Iterator[Mutation]:
    """All mutations of a recording."""
    for place, (message, _) in enumerate(recording.messages):
        for what, changed in of_message(message):
            yield Mutation(place, what, changed)


class Outcome(NamedTuple):
    """The result of a stream for its session."""

    words: list[str]
    """Words of the finals that were published."""
    frontier: float
    """Where another stream would begin."""
    error: ProviderError | None
    finals: list[Final]


def play(recording: Recording, mutation: Mutation | None = None) -> Outcome:
    """Decode a recording with one message replaced, as the session does; any other error than a
    ProviderError is raised."""
    player, guard = recording.player(), Guard("p")
    step = _bytes_per_second(recording) // 4
    finals: list[Final] = []
    heard = 0

    def take(events: list[Any], sent: float) -> None:
        for event in events:
            checked = guard.check(event, sent)
            if isinstance(checked, Final):
                checked.text.encode()
                finals.append(checked)

    error = None
    try:
        for place, (message, sent) in enumerate(recording.messages):
            while heard < sent:
                audio = recording.audio[heard : min(heard + step, sent)]
                heard += len(audio)
                take(player.audio(audio), heard / _bytes_per_second(recording))
            text: str | bytes = json.dumps(message)
            if mutation is not None and mutation.place == place:
                text = mutation.message
            seconds = sent / _bytes_per_second(recording)
            take(player.receive(text, seconds), seconds)
        take(player.end(), heard / _bytes_per_second(recording))
    except ProviderError as raised:
        error = raised
    words = [word for final in finals for word in final.text.split()]
    return Outcome(words, guard.frontier, error, finals)


def _bytes_per_second(recording: Recording) -> int:
    return 2 * BYTES_PER_SECOND if "channels" in recording.name else BYTES_PER_SECOND


def _places(outcome: Outcome) -> list[tuple[str, float]]:
    """The words of a recording that was not changed, and the middles of their audio."""
    return [
        (word.text, ((word.start or 0) + (word.end or 0)) / 2)
        for final in outcome.finals
        for word in final.words
    ]


def problem(recording: Recording, plain: Outcome, mutation: Mutation) -> str | None:
    """Describe the problem with the outcome of a mutation; None if there is none."""
    outcome = play(recording, mutation)
    expected = plain.words
    if outcome.error is not None:
        # Another stream transcribes what is not final.
        expected = [text for text, middle in _places(plain) if middle < outcome.frontier]
    if [word.lower() for word in outcome.words] == [word.lower() for word in expected]:
        return None
    kind = recording.messages[mutation.place].message
    return (
        f"{recording}, message {mutation.place}, {mutation.what}: {outcome.words} instead of "
        f"{expected} ({outcome.error}); {json.dumps(kind)[:300]}"
    )


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_no_mutation_loses_text_or_doubles_a_word(recording: Recording) -> None:
    plain = play(recording)
    assert plain.error is None
    assert len(plain.words) == 9
    chance = random.Random(None if SEARCH else 7)
    every = list(mutations(recording))
    sample = chance.sample(every, min(len(every), tried(_SAMPLE)))
    problems = [found for one in sample if (found := problem(recording, plain, one))]
    assert not problems, f"{len(problems)} of {len(sample)}\n" + "\n".join(problems[:10])


if __name__ == "__main__":
    for one in RECORDINGS:
        print(f"{one.name:25} {sum(1 for _ in mutations(one)):7,} mutations")

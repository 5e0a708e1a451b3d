"""The guard with random streams: overlaps, repetitions, times that go back or are no times."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from natterjack.events import FinalEvent, InterimEvent
from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    ProviderWord,
    Turn,
    Usage,
)
from natterjack.spec import SessionSpec
from tests.searching import examples
from tests.worker.session.in_memory import Published
from worker.metrics import Metrics
from worker.providers.guard import Guard
from worker.session.output.events import EventWriter
from worker.session.output.timeline import Timeline

RATE = 16_000
SENT = 100.0

odd: st.SearchStrategy[Any] = (
    st.sampled_from(
        [None, "4.1", math.nan, math.inf, -math.inf, -1, -0.01, 1e300, 10**400, True, [], {}, b""]
    )
    | st.floats(-5, SENT + 5)
    | st.integers(-5, 105)
)
odd_text: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", " ", "one", "two", "one two", "One, two.", "\ud800", "\u65e5\u672c", "\x00", 7, b"x"]
)
odd_word: st.SearchStrategy[Any] = st.builds(
    ProviderWord, odd_text, odd, odd, odd, odd_text
) | st.sampled_from([None, (), ("one",), ("one", 1, 2), {"word": "one"}, "one"])
odd_words: st.SearchStrategy[Any] = (
    st.lists(odd_word, max_size=4).map(tuple) | st.lists(odd_word, max_size=4) | odd_text
)
odd_event: st.SearchStrategy[ProviderEvent] = (
    st.builds(Final, odd_text, odd, odd, odd_words, odd, odd_text, odd)
    | st.builds(Interim, odd_text, odd, odd, odd_words, odd, odd_text, odd)
    | st.builds(Turn, st.sampled_from(["started", "ended", "x", None, []]), odd, odd_text, odd)
    | st.builds(Usage, odd, odd, odd)
    | st.builds(Notice, st.sampled_from(["malformed", "", None, "x" * 99]), odd_text)
)


class Session:
    """Publishes what the guard lets through, as a session does. A fault of the stream opens another
    one where finals end."""

    def __init__(self) -> None:
        self.outlet = Published()
        spec = SessionSpec(
            session_id="session-1", tenant="t", conversation="c", speaker="s", sample_rate=RATE,
            opened_at="2026-01-01T00:00:00Z",
        )  # fmt: skip
        self.writer = EventWriter(self.outlet, spec, 1, "w", Metrics(1))
        self.faults = 0
        self.connect()

    def connect(self) -> None:
        self.guard = Guard("p")
        self.offset = self.writer.position / RATE
        self.timeline = Timeline(RATE, self.writer.position)
        self.timeline.advance(round(SENT * RATE) - self.writer.position, 0.0, 0)

    async def receive(self, event: ProviderEvent) -> None:
        try:
            checked = self.guard.check(event, self.timeline.sent_seconds)
        except RemoteProtocolError:
            self.faults += 1
            self.connect()
            return
        if isinstance(checked, Final):
            await self.writer.final(self.timeline, checked)
        elif isinstance(checked, Interim):
            await self.writer.interim(self.timeline, checked)

    @property
    def finals(self) -> list[FinalEvent]:
        return [event for event in self.outlet.events if isinstance(event, FinalEvent)]

    def check(self) -> None:
        """No times that are impossible, and no overlap."""
        end = 0.0
        for final in self.finals:
            assert end <= final.start <= final.end <= SENT
            end = final.end
        transcripts: list[FinalEvent | InterimEvent] = [*self.finals, *self.outlet.interims]
        for event in transcripts:
            assert event.start <= event.end
            assert event.confidence is None or 0 <= event.confidence <= 1
            for word in event.words:
                assert word.text.strip()
                if word.start is not None and word.end is not None:
                    assert 0 <= word.start <= word.end <= SENT
                assert word.confidence is None or 0 <= word.confidence <= 1


@examples(300)
@given(events=st.lists(odd_event, max_size=8))
async def test_any_values_make_events_that_are_possible(events: list[ProviderEvent]) -> None:
    session = Session()
    for event in events:
        await session.receive(event)
    session.check()


class Stretch:
    """One final of a regular stream: a few words, each with a name of its own."""

    def __init__(self, number: int, count: int) -> None:
        self.start, self.end = 2.0 * number, 2.0 * number + 2
        self.words = tuple(
            ProviderWord(f"w{number}x{n}", self.start + 0.2 + 0.3 * n, self.start + 0.4 + 0.3 * n)
            for n in range(count)
        )

    def final(self, **values: Any) -> Final:
        words = values.pop("words", self.words)
        text = " ".join(word.text for word in self.words)
        given = {"text": text, "start": self.start, "end": self.end, "words": words} | values
        return Final(**given)


@examples(200)
@given(data=st.data(), counts=st.lists(st.integers(0, 5), min_size=1, max_size=8))
async def test_no_word_is_lost_or_doubled(data: st.DataObject, counts: list[int]) -> None:
    """Finals that say earlier words again, and single values that are unusable."""
    session = Session()
    stretches = [Stretch(number, count) for number, count in enumerate(counts)]
    for number, stretch in enumerate(stretches):
        kind = data.draw(st.sampled_from(["plain", "again", "longer", "value", "word", "words"]))
        if kind == "again":
            await session.receive(stretch.final())
            await session.receive(stretches[data.draw(st.integers(0, number))].final())
        elif kind == "longer":
            before = stretches[data.draw(st.integers(0, number))]
            words = tuple(w for one in stretches[: number + 1] for w in one.words)
            words = tuple(w for w in words if w.start is not None and w.start >= before.start)
            text = " ".join(word.text for word in words)
            await session.receive(stretch.final(text=text, start=before.start, words=words))
        elif kind == "value":
            name = data.draw(
                st.sampled_from(["start", "confidence", "language", "times_estimated"])
            )
            await session.receive(stretch.final(**{name: data.draw(odd)}))
        elif kind == "word" and stretch.words:
            place = data.draw(st.integers(0, len(stretch.words) - 1))
            name = data.draw(st.sampled_from(["start", "end", "confidence", "speaker"]))
            no_use: Any = data.draw(st.sampled_from([None, "1", math.nan, math.inf, -9, {}]))
            changed = [*stretch.words]
            changed[place] = changed[place]._replace(**{name: no_use})
            await session.receive(stretch.final(words=tuple(changed)))
        elif kind == "words":
            no_use = data.draw(st.sampled_from([None, "words", 7, (None,), {}, stretch.words[1:]]))
            await session.receive(stretch.final(words=no_use))
        else:
            await session.receive(stretch.final())
    session.check()
    assert not session.faults
    published = Counter(token for final in session.finals for token in final.text.split())
    assert published == Counter(word.text for stretch in stretches for word in stretch.words)


@examples(100)
@given(
    counts=st.lists(st.integers(1, 5), min_size=3, max_size=8),
    lost=st.integers(1, 7),
)
async def test_a_clock_that_begins_again_loses_nothing(counts: list[int], lost: int) -> None:
    """From some final on, times begin at zero again; after the fault, another stream begins."""
    session = Session()
    stretches = [Stretch(number, count) for number, count in enumerate(counts)]
    at = min(lost, len(stretches) - 1)
    for stretch in stretches[:at]:
        await session.receive(stretch.final())
    back = stretches[at].start
    words = tuple(
        word._replace(start=(word.start or 0) - back, end=(word.end or 0) - back)
        for word in stretches[at].words
    )
    await session.receive(stretches[at].final(start=0.0, end=2.0, words=words))
    assert session.faults == 1
    for stretch in stretches[at:]:
        moved = tuple(
            word._replace(start=(word.start or 0) - back, end=(word.end or 0) - back)
            for word in stretch.words
        )
        await session.receive(
            stretch.final(start=stretch.start - back, end=stretch.end - back, words=moved)
        )
    session.check()
    published = Counter(token for final in session.finals for token in final.text.split())
    assert published == Counter(word.text for stretch in stretches for word in stretch.words)

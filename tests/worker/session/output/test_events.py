"""The session turns a provider's events into its own."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.events import TurnEvent, TurnKind
from natterjack.plugin.provider import Final, Interim, ProviderWord, Turn
from natterjack.spec import SessionSpec
from natterjack.values import Account, Gap
from worker.errors import LeaseLost
from worker.metering.ledger import Ledger
from worker.metering.prices import Price
from worker.metering.tally import Tally
from worker.metrics import Metrics
from worker.session.output.events import EventWriter, Turns, UsageSchedule
from worker.session.output.timeline import Timeline

from ..in_memory import Published

RATE = 16_000
SPEC = SessionSpec(
    session_id="session-1", tenant="t", conversation="c", speaker="s", sample_rate=RATE, model="m"
)


@pytest.fixture
def outlet() -> Published:
    return Published()


@pytest.fixture
def writer(outlet: Published) -> EventWriter:
    writer = EventWriter(outlet, SPEC, 2, "w", Metrics(1))
    writer.provider = "deepgram"
    return writer


def timeline(seconds: float, start: int = 0) -> Timeline:
    """A stream on which so much audio was sent."""
    line = Timeline(RATE, start)
    line.advance(round(seconds * RATE), 0.0, 1_000_000_000)
    return line


def _event(kind: TurnKind, turn: int) -> TurnEvent:
    return TurnEvent(
        session_id="s", tenant="t", conversation="c", speaker="p", epoch=1, sequence=0,
        turn=turn, event=kind, published_at=datetime.now(UTC),
    )  # fmt: skip


def test_turns_are_numbered_and_neither_started_nor_ended_twice() -> None:
    turns = Turns()
    assert turns.admit("ended") is None
    assert turns.admit("started") == 0
    assert turns.admit("started") is None
    assert turns.admit("eager_end") == 0
    assert turns.admit("resumed") == 0
    assert turns.admit("ended") == 0
    assert turns.admit("resumed") is None
    assert turns.admit("started") == 1


def test_an_open_turn_stays_open_over_a_handover() -> None:
    turns = Turns(_event("eager_end", 4))
    assert turns.admit("started") is None
    assert turns.admit("ended") == 4
    assert Turns(_event("ended", 4)).admit("started") == 5


async def test_a_final_is_published_on_the_sessions_clock(
    writer: EventWriter, outlet: Published
) -> None:
    line = timeline(2, start=3 * RATE)
    words = (ProviderWord("toad", 0.5, 1.0, 0.9),)
    assert await writer.final(line, Final("toad", 0.25, 1.0, words=words, confidence=0.9))
    (event,) = outlet.events
    assert (event.start, event.end, event.text) == (3.25, 4.0, "toad")
    assert (event.words[0].start, event.words[0].end) == (3.5, 4.0)
    assert (event.epoch, event.provider, event.model, event.segment) == (2, "deepgram", "m", 0)
    assert writer.position == 4 * RATE


def long_final(count: int) -> Final:
    words = tuple(ProviderWord(f"w{n:03d}", n + 0.25, n + 0.75, 0.5) for n in range(count))
    return Final(" ".join(word.text for word in words), 0.0, float(count), words)


async def test_a_final_that_is_too_large_is_published_as_several(
    writer: EventWriter, outlet: Published
) -> None:
    outlet.limit = 1800
    line = timeline(100, start=3 * RATE)
    await writer.final(line, Final("before", 0.0, 0.0))
    assert await writer.final(line, long_final(100))
    finals = outlet.events[1:]
    assert len(finals) == 8
    assert [e.segment for e in outlet.events] == [*range(len(outlet.events))]
    assert " ".join(e.text for e in finals) == long_final(100).text
    assert [word.start for e in finals for word in e.words] == [3.25 + n for n in range(100)]
    assert (finals[0].start, finals[-1].end, writer.position) == (3, 103, 103 * RATE)
    assert all(a.end == b.start for a, b in itertools.pairwise(finals))
    assert not any(e.shortened or e.times_estimated for e in finals)
    assert finals[-1].started_at - finals[0].started_at == timedelta(seconds=finals[-1].start - 3)


async def test_a_successor_resumes_between_the_parts_of_a_final(outlet: Published) -> None:
    former = EventWriter(outlet, SPEC, 1, "w", Metrics(1))
    outlet.limit = 2000
    outlet.most = 3
    with pytest.raises(LeaseLost):
        await former.final(timeline(100), long_final(100))
    successor = EventWriter(outlet, SPEC, 2, "w", Metrics(1))
    outlet.most = None
    await successor.resume()
    assert successor.position == round(outlet.events[-1].end * RATE) == former.position
    rest = [
        word for word in long_final(100).words if (word.start or 0) * RATE >= successor.position
    ]
    final = Final(" ".join(word.text for word in rest), 0.0, 100.0, tuple(rest))
    await successor.final(timeline(100), final)
    assert [w.text for e in outlet.events for w in e.words] == [f"w{n:03d}" for n in range(100)]
    assert [event.sequence for event in outlet.events] == [*range(len(outlet.events))]


async def test_other_events_that_are_too_large_are_shortened(
    outlet: Published,
) -> None:
    metrics = Metrics(1)
    writer = EventWriter(outlet, SPEC, 1, "w", metrics)
    outlet.limit = 900
    gaps = [Gap(start=n, end=n + 1, cause="edge") for n in range(100)]
    await writer.turn(Turn("started", 0.0, text="hm " * 1000), 1.0)
    await writer.status("closed", "because " * 1000, account=Account(gaps=gaps))
    await writer.status("closed", "because")
    await writer.interim(timeline(100), Interim("so " * 1000, 0.0, 9.0, long_final(50).words))
    turn, long, short = outlet.events
    assert (turn.shortened, turn.text[:6], turn.text[-1]) == (True, "hm hm ", "…")
    assert (long.shortened, long.reason[-1], len(long.account.gaps) < 9) == (True, "…", True)
    assert (short.shortened, short.reason) == (False, "because")
    (interim,) = outlet.interims
    assert (interim.shortened, interim.words, interim.text[-1]) == (True, [], "…")
    for kind, count in (("turn", 1), ("status", 1), ("interim", 1), ("final", 0)):
        name = "natterjack_oversized_events_total"
        assert metrics.registry.get_sample_value(name, {"kind": kind}) == count


async def test_an_event_for_which_there_is_no_room_at_all(
    writer: EventWriter, outlet: Published
) -> None:
    outlet.limit = 100
    with pytest.raises(MessageTooLarge):
        await writer.final(timeline(9), Final("one two", 0.0, 2.0))
    with pytest.raises(MessageTooLarge):
        await writer.status("streaming")
    await writer.interim(timeline(9), Interim("one", 0.0, 2.0))
    assert not outlet.events + outlet.interims


async def test_a_final_without_text_moves_the_position_only(
    writer: EventWriter, outlet: Published
) -> None:
    assert await writer.final(timeline(2), Final("", 0.0, 1.5)) is None
    assert not outlet.events
    assert writer.position == 1.5 * RATE


async def test_segments_are_counted_and_never_overlap(
    writer: EventWriter, outlet: Published
) -> None:
    line = timeline(5)
    await writer.final(line, Final("one", 0.0, 2.0))
    await writer.final(line, Final("two", 1.0, 3.0))
    await writer.final(line, Final("late", 0.5, 1.0))
    assert [(e.segment, e.start, e.end) for e in outlet.events] == [(0, 0, 2), (1, 2, 3), (2, 3, 3)]


async def test_interims_belong_to_the_next_segment_and_move_nothing(
    writer: EventWriter, outlet: Published
) -> None:
    line = timeline(5)
    await writer.final(line, Final("one", 0.0, 2.0))
    assert await writer.interim(line, Interim("two", 1.0, 3.0))
    assert await writer.interim(line, Interim("", 1.0, 3.0)) is None
    (event,) = outlet.interims
    assert (event.segment, event.start) == (1, 2.0)
    assert writer.position == 2 * RATE


async def test_a_successor_resumes_where_finals_and_turns_end(outlet: Published) -> None:
    former = EventWriter(outlet, SPEC, 1, "w1", Metrics(1))
    await former.turn(Turn("started", 0.0), 0.5)
    await former.final(timeline(5), Final("one", 0.0, 2.0))
    successor = EventWriter(outlet, SPEC, 2, "w2", Metrics(1))
    await successor.resume()
    assert successor.position == 2 * RATE
    await successor.turn(Turn("started", 0.0), 2.5)
    await successor.final(timeline(5), Final("two", 2.0, 3.0))
    await successor.end_turn()
    await successor.end_turn()
    kinds = [getattr(event, "event", event.type) for event in outlet.events]
    assert kinds == ["started", "final", "final", "ended"]
    assert outlet.events[2].segment == 1
    assert (outlet.events[3].turn, outlet.events[3].end) == (0, 3.0)
    assert [event.sequence for event in outlet.events] == [0, 1, 2, 3]


async def test_a_position_beyond_the_last_final_stays(outlet: Published) -> None:
    """The checkpoint may know of silence that no final covers."""
    writer = EventWriter(outlet, SPEC, 1, "w", Metrics(1))
    writer.position = 9 * RATE
    await writer.resume()
    assert writer.position == 9 * RATE


async def test_a_turn_has_a_start_or_an_end(writer: EventWriter, outlet: Published) -> None:
    await writer.turn(Turn("started", 0.0), 1.0)
    await writer.turn(Turn("eager_end", 0.0, text="hm"), 2.0)
    assert [(e.start, e.end, e.text) for e in outlet.events] == [
        (1.0, None, None),
        (None, 2.0, "hm"),
    ]


async def test_a_status_event_names_the_worker(writer: EventWriter, outlet: Published) -> None:
    await writer.status("recovering", "dropped: x")
    (event,) = outlet.events
    assert (event.state, event.reason, event.worker) == ("recovering", "dropped: x", "w")


async def test_usage_events_are_due_at_intervals_and_on_warnings(
    writer: EventWriter, outlet: Published
) -> None:
    ledger = Ledger("t", RATE, Metrics(1), Tally("w"))
    ledger.opened("deepgram", Price(3.6, "USD", "audio"), 0)
    ledger.progress(10 * RATE, 10.0, 11.0)
    schedule = UsageSchedule(60.0, 0.0)
    assert not schedule.check(59.0)
    assert schedule.check(60.0)
    schedule.warn(5.0)
    await schedule.publish(writer, ledger)
    warning, usage = outlet.events
    assert (warning.low, warning.credits_remaining_seconds) == (True, 5.0)
    assert (usage.low, usage.audio_seconds, usage.connected_seconds) == (False, 10.0, 11.0)
    assert usage.cost == pytest.approx(0.01)
    assert not schedule.check(61.0)
    schedule.warn(None)
    assert schedule.check(62.0)


async def test_a_session_says_at_its_beginning_and_its_end_what_it_is(outlet: Published) -> None:
    spec = SPEC.model_copy(update={"labels": {"queue": "sales"}, "language": "de"})
    writer = EventWriter(outlet, spec, 1, "w1", Metrics(1))
    told = {"labels": {"queue": "sales"}, "language": "de", "opened_at": spec.opened_at}
    for state in ("assigned", "closed", "failed"):
        await writer.status(state)
        assert {name: getattr(outlet.events[-1], name) for name in told} == told
    await writer.status("recovering")
    assert not {name for name in told if getattr(outlet.events[-1], name) is not None}

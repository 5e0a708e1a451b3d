"""Events are delivered in order and in time, without a broker: to one process, then to several that
die at any time."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from natterjack.consume.sharing.backlog import Backlog, Item
from natterjack.consume.sharing.record import Record
from natterjack.position import Position

EVENT = tuple[str, int, int]
"""Key, number within the key, and incarnation of the stream."""


def at(sequence: int, moment: int | None = None) -> Position:
    return Position(sequence, 1000 * (sequence if moment is None else moment))


def holding(*numbers: int, record: Record | None = None) -> Backlog[str]:
    backlog: Backlog[str] = Backlog()
    for number in numbers:
        backlog.hold(number, record or Record(), 1)
    backlog.begin()
    return backlog


def taken(backlog: Backlog[str], now: float = 0) -> list[Item[str]]:
    found = []
    while (item := backlog.take(now)) is not None:
        found.append(item)
    return found


def contents(items: list[Item[str]]) -> list[str]:
    return [item.content for item in items]


def test_a_key_has_one_event_under_way() -> None:
    backlog = holding(0)
    for sequence, key in enumerate("aabab", 1):
        assert backlog.add(at(sequence), 0, key, f"{key}{sequence}")
    first = taken(backlog)
    assert contents(first) == ["a1", "b3"]
    backlog.settle(first[1])
    assert contents(taken(backlog)) == ["b5"]
    backlog.settle(first[0])
    assert contents(taken(backlog)) == ["a2"]
    assert (backlog.out, backlog.size) == (2, 3)


def test_an_event_that_is_tried_again_holds_back_its_key_only() -> None:
    backlog = holding(0)
    for sequence, key in enumerate("aab", 1):
        backlog.add(at(sequence), 0, key, f"{key}{sequence}")
    one, other = taken(backlog)
    backlog.take_back(one, due=50)
    backlog.settle(other)
    backlog.add(at(4), 0, "b", "b4")
    assert contents(taken(backlog, now=49)) == ["b4"]
    assert backlog.next_due() == 50
    assert not backlog.stuck
    (again,) = taken(backlog, now=50)
    assert (again.content, again.attempts) == ("a1", 2)


def test_a_batch_has_several_events_of_a_key_and_gives_back_what_follows_one_that_failed() -> None:
    backlog = holding(0)
    for sequence, key in enumerate("aaab", 1):
        backlog.add(at(sequence), 0, key, f"{key}{sequence}")
    lanes: dict[object, None] = {}
    items = [backlog.take(0, lanes) for _ in range(5)]  # type: ignore[arg-type]
    batch = [item for item in items if item is not None]
    assert sorted(contents(batch)) == ["a1", "a2", "a3", "b4"]
    first, second, third = sorted(batch, key=lambda item: item.number)[:3]
    backlog.settle(third)
    backlog.settle(first)
    before = third.delivery
    backlog.take_back(second, due=0)
    assert third.delivery != before
    assert contents(taken(backlog)) == ["a2"]
    backlog.settle(second)
    assert contents(taken(backlog)) == ["a3"]


def test_events_of_other_shares_are_left_out() -> None:
    backlog = holding(0)
    assert not backlog.add(at(1), 1, "a", "a1")
    assert not backlog.add(at(2), 0, "b", None)
    assert taken(backlog) == []
    record = backlog.record(backlog.shares[0], "me")
    assert record == Record("me", at(2), at(2))


def test_progress_names_the_keys_that_are_behind() -> None:
    backlog = holding(0)
    for sequence, key in enumerate("abca", 1):
        backlog.add(at(sequence), 0, key, f"{key}{sequence}")
    a, b, c = taken(backlog)
    backlog.settle(a)
    backlog.settle(c)
    backlog.take_back(b, due=7)
    record = Record.decode(backlog.record(backlog.shares[0], "me").encode())
    assert record.read == at(4)
    assert record.floor == at(1)
    assert {key: (*cursor,) for key, cursor in record.behind.items()} == {
        "a": (at(4), 0, 0.0), "b": (at(2), 1, 7.0),
    }  # fmt: skip
    successor = holding(0, record=record)
    assert successor.position == at(1)
    for sequence, key in enumerate("bcac", 2):
        successor.add(at(sequence), 0, key, f"{key}{sequence}")
    assert contents(taken(successor, now=6)) == ["a4", "c5"]
    (last,) = taken(successor, now=7)
    assert (last.content, last.attempts) == ("b2", 2)


def test_nothing_is_delivered_while_it_is_doubted_that_the_share_is_held() -> None:
    backlog = holding(0)
    backlog.add(at(1), 0, "a", "a1")
    backlog.doubt()
    share = backlog.shares[0]
    assert taken(backlog) == []
    backlog.saved(share, 2, None, certain=False)
    assert taken(backlog) == []
    backlog.saved(share, 3, None, certain=True)
    assert contents(taken(backlog)) == ["a1"]


def test_a_share_that_was_taken_over_leaves_nothing() -> None:
    backlog = holding(0, 1)
    backlog.add(at(1), 0, "a", "a1")
    backlog.add(at(2), 1, "b", "b2")
    (a, b) = taken(backlog)
    backlog.drop(0)
    assert (backlog.out, backlog.size) == (1, 1)
    assert a.delivery != 1
    assert b.delivery == 1


def test_more_keys_than_progress_can_name_count_as_not_read() -> None:
    backlog = holding(0)
    for sequence in range(1, 1001):
        backlog.add(at(sequence), 0, f"key{sequence}", "x")
    record = backlog.record(backlog.shares[0], "me")
    assert len(record.behind) == 256
    assert record.read == at(256)
    assert len(record.encode()) < 32_768


def test_it_is_stuck_when_everything_waits_for_a_time() -> None:
    backlog = holding(0)
    for sequence in range(1, 4):
        backlog.add(at(sequence), 0, "a", f"a{sequence}")
    assert not backlog.stuck
    (first,) = taken(backlog)
    assert not backlog.stuck
    backlog.take_back(first, due=50)
    assert taken(backlog, now=49) == []
    assert backlog.stuck


class Simulation:
    """Processes that share one durable consumer, and a broker that keeps events and progress.

    Everything happens in an order that a seed decides. Processes die without notice; their shares
    are taken over with the progress that was stored last.
    """

    SHARES, KEYS = 3, 6

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.stream: list[tuple[Position, str, EVENT]] = []
        self.clock, self.incarnation = 1000, 0
        self.numbers = dict.fromkeys(map(str, range(self.KEYS)), 0)
        self.records = [Record() for _ in range(self.SHARES)]
        self.processes: list[tuple[Backlog[EVENT], Iterator[tuple[Position, str, EVENT]]]] = []
        self.under_way: list[tuple[Backlog[EVENT], Item[EVENT], int]] = []
        self.settled: dict[str, list[EVENT]] = {key: [] for key in self.numbers}
        self.twins = 0

    def publish(self) -> None:
        key = self.random.choice(list(self.numbers))
        sequence = self.stream[-1][0].sequence + 1 if self.stream else 1
        # Now and then the clock of the server is set back a little.
        self.clock += self.random.choice((1, 1, 1, 5, -3))
        event = (key, self.numbers[key], self.incarnation)
        self.numbers[key] += 1
        self.stream.append((Position(sequence, self.clock), key, event))

    def stored_after(self, position: Position | None) -> Iterator[tuple[Position, str, EVENT]]:
        """Yield the events that a reader reads from `position` on, including those that are
        published later."""
        index, since = 0, None
        if position is not None:
            known = [stored[0] for stored in self.stream]
            if position in known:
                index = known.index(position) + 1
            else:
                since = position.stored_ns + 1
        incarnation = self.incarnation
        while incarnation == self.incarnation:
            if index >= len(self.stream):
                yield from ()
                return
            stored = self.stream[index]
            index += 1
            if since is None or stored[0].stored_ns >= since:
                yield stored

    def start(self) -> None:
        held = {number for backlog, _ in self.processes for number in backlog.shares}
        free = [number for number in range(self.SHARES) if number not in held]
        if not free:
            return
        backlog: Backlog[EVENT] = Backlog()
        for number in self.random.sample(free, self.random.randint(1, len(free))):
            backlog.hold(number, self.records[number], 1)
        self.processes.append((backlog, iter(())))
        self.read_on(len(self.processes) - 1)

    def read_on(self, index: int) -> None:
        """Begin to read, or go on at the end of what was read."""
        backlog, _ = self.processes[index]
        backlog.begin()
        self.processes[index] = (backlog, self.stored_after(backlog.position))

    def claim_more(self) -> None:
        held = {number for backlog, _ in self.processes for number in backlog.shares}
        free = [number for number in range(self.SHARES) if number not in held]
        if free and self.processes:
            index = self.random.randrange(len(self.processes))
            number = self.random.choice(free)
            self.processes[index][0].hold(number, self.records[number], 1)
            self.read_on(index)

    def read(self) -> None:
        if not self.processes:
            return
        index = self.random.randrange(len(self.processes))
        backlog, source = self.processes[index]
        found = next(source, None)
        if found is None:
            self.read_on(index)
            return
        position, key, event = found
        backlog.add(position, int(key) % self.SHARES, key, event)

    def take(self) -> None:
        if not self.processes:
            return
        backlog, _ = self.random.choice(self.processes)
        lanes: dict[object, None] = {}
        for _ in range(self.random.choice((1, 1, 4))):
            item = backlog.take(self.clock, lanes)  # type: ignore[arg-type]
            if item is not None:
                self.under_way.append((backlog, item, item.delivery))

    def settle(self) -> None:
        self.under_way = [w for w in self.under_way if w[1].delivery == w[2]]
        if not self.under_way:
            return
        # The application works on the events of a batch in their order.
        index = self.random.randrange(len(self.under_way))
        item = self.under_way[index][1].lane.out[0]
        backlog = self.under_way[index][0]
        if self.random.random() < 0.2:
            backlog.take_back(item, self.clock + self.random.choice((0, 20)))
            return
        self.note(item.content)
        backlog.settle(item)
        self.under_way = [w for w in self.under_way if w[1] is not item]

    def note(self, event: EVENT) -> None:
        """An event is done: all before it of its key and incarnation must be."""
        done = self.settled[event[0]]
        if event in done:
            self.twins += 1
            return
        before = [e for e in done if e[2] == event[2]]
        assert not before or before[-1][1] == event[1] - 1, (event, done)
        assert before or event[1] == 0 or self.incarnation > 0, (event, done)
        done.append(event)

    def save(self) -> None:
        for backlog, _ in self.processes:
            for share in backlog.shares.values():
                if self.random.random() < 0.5:
                    self.records[share.number] = Record.decode(backlog.record(share, "me").encode())

    def die(self) -> None:
        if self.processes:
            backlog, _ = self.processes.pop(self.random.randrange(len(self.processes)))
            self.under_way = [w for w in self.under_way if w[0] is not backlog]

    def replace_stream(self) -> None:
        """The stream is recreated, empty: nobody can read again what was not read."""
        for key, events in self.settled.items():
            left = [e for _, k, e in self.stream if k == key and e not in events]
            events += left  # lost with the stream, or delivered from memory
        self.stream, self.incarnation = [], self.incarnation + 1
        self.clock += 10
        self.numbers = dict.fromkeys(self.numbers, 0)
        self.processes, self.under_way = [], []

    def finish(self) -> None:
        for _ in range(20_000):
            left = [e for _, k, e in self.stream if e not in self.settled[k]]
            if not left:
                return
            self.clock += 1
            for step in (self.start, self.claim_more, self.read, self.take, self.settle):
                step()
        raise AssertionError(f"never delivered: {left}")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_lost_or_out_of_order_whoever_dies(seed: int, replaced: bool) -> None:
    simulation = Simulation(seed)
    steps = (
        *[simulation.publish] * 6, *[simulation.read] * 8, *[simulation.take] * 6,
        *[simulation.settle] * 6, *[simulation.save] * 3, simulation.start, simulation.claim_more,
        simulation.die,
    )  # fmt: skip
    for step in range(1500):
        if replaced and step == 900:
            simulation.replace_stream()
        simulation.random.choice(steps)()
    simulation.finish()
    events = sum(len(done) for done in simulation.settled.values())
    assert events > 100
    assert simulation.twins > 0

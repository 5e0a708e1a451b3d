"""Slots of a worker, and the loans of held sessions."""

from __future__ import annotations

import random

from tests.searching import tried
from worker.capacity.slots import LOANS_PER_SLOT, Slots


def test_a_held_session_lends_its_slot() -> None:
    slots, freed = Slots(2), []
    slots.on_free = lambda: freed.append(slots.free)
    slots.take()
    slots.take()
    assert slots.free == 0
    assert slots.lend()
    assert freed == [1]
    slots.take()
    assert slots.free == 0


def test_a_session_goes_on_only_in_a_slot() -> None:
    slots = Slots(1)
    slots.take()
    assert slots.lend()
    slots.take()
    assert not slots.end_loan(), "its slot is taken: it is handed over"
    slots.give_back()
    assert slots.free == 0
    assert slots.lend()
    assert slots.end_loan()
    assert slots.free == 0


def test_a_held_session_that_ends_gives_back_nothing_that_it_lent() -> None:
    slots = Slots(1)
    slots.take()
    assert slots.lend()
    slots.end_loan()
    slots.give_back()
    assert (slots.taken, slots.lent, slots.free) == (0, 0, 1)


def test_loans_are_limited() -> None:
    slots = Slots(2)
    for _ in range(2 * LOANS_PER_SLOT):
        slots.take()
        assert slots.lend()
    slots.take()
    assert not slots.lend()
    assert slots.free == 1


def test_no_more_sessions_run_than_there_are_slots() -> None:
    """The limit holds for any sequence of events, whenever the worker claims."""
    for seed in range(tried(200)):
        choose, slots = random.Random(seed), Slots(3)
        running = held = 0
        for _ in range(200):
            act = choose.choice(["claim", "lend", "go on", "end", "end held"])
            if act == "claim" and slots.free:
                slots.take()
                running += 1
            elif act == "lend" and running and slots.lend():
                running, held = running - 1, held + 1
            elif act in ("go on", "end held") and held:
                held -= 1
                if slots.end_loan() and act == "go on":
                    running += 1
                else:
                    slots.give_back()
            elif act == "end" and running:
                running -= 1
                slots.give_back()
            assert running <= slots.total
            assert (slots.lent, slots.taken) == (held, held + running)
            assert slots.free == slots.total - running

"""The limits on what a stream sends in a minute."""

from __future__ import annotations

import random

from worker.voices.deepgram_aura.pace import Window


def test_what_was_taken_comes_back_after_the_window() -> None:
    window = Window(2400, seconds=60)
    assert window.room(0) == 2400
    window.take(0, 2000)
    window.take(10, 400)
    assert window.room(59.9) == 0
    assert window.when(30, 100) == 60
    assert window.when(30, 2100) == 70
    assert window.room(60) == 2000
    assert window.room(70) == 2400


def test_more_than_the_limit_needs_all_of_it() -> None:
    window = Window(20, seconds=60)
    assert window.when(5, 50) == 5
    window.take(5, 1)
    assert window.when(6, 50) == 65


def test_no_window_holds_more_than_the_limit() -> None:
    window, chance, now = Window(100, seconds=60), random.Random(7), 0.0
    taken: list[tuple[float, int]] = []
    for _ in range(500):
        amount = chance.randint(1, 120)
        now = max(now + chance.random() * 5, window.when(now, amount))
        amount = min(amount, window.room(now))
        assert amount
        window.take(now, amount)
        taken.append((now, amount))
        assert sum(n for at, n in taken if at > now - 60) <= 100

from __future__ import annotations

import itertools

from edge_capture.sources.arrival_clock import ArrivalClock

RATE, S = 16_000, 1_000_000_000
T = 1_800_000_000 * S
BLOCK_NS = S // 50


def test_late_and_early_deliveries_do_not_change_the_time() -> None:
    clock = ArrivalClock(RATE)
    late = itertools.cycle([0, 30, 7, 0, 90])
    times = [clock.feed(320, T + (n + 1) * BLOCK_NS + next(late) * 1_000_000) for n in range(6000)]
    assert times == [T + n * BLOCK_NS for n in range(6000)]
    assert clock.end_ns == T + 6000 * BLOCK_NS


def test_the_time_follows_a_clock_that_differs() -> None:
    """A sender that is 200 ppm fast would be 17 s off after a day."""
    clock, worst = ArrivalClock(RATE), 0
    for n in range(50 * 3600 // 5):
        arrived = T + round((n + 1) * 5 * BLOCK_NS / 1.0002)
        time_ns = clock.feed(5 * 320, arrived)
        worst = max(worst, abs(time_ns + 5 * BLOCK_NS - arrived))
    assert worst < 0.05 * S


def test_a_pause_is_a_gap() -> None:
    clock = ArrivalClock(RATE)
    assert clock.gap(T, 320) == 0, "nothing was there before"
    clock.feed(320, T + BLOCK_NS)
    assert clock.gap(T + 10 * S, 320) == 10 * RATE - 640
    assert clock.feed(320, T + 10 * S) == T + 10 * S - BLOCK_NS
    assert clock.gap(T + 10 * S, 3200) == 0, "it comes all at once"

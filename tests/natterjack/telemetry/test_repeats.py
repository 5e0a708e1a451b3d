from __future__ import annotations

from natterjack.telemetry.repeats import Repeats


def test_a_line_that_does_not_change_is_logged_less_and_less_often() -> None:
    now = 0.0
    repeats = Repeats(5.0, 60.0, lambda: now)
    logged = []
    for second in range(0, 300, 5):
        now = float(second)
        if repeats.due("capturing"):
            logged.append(second)
    assert logged == [0, 5, 15, 35, 75, 135, 195, 255]


def test_a_line_that_changes_is_logged_at_once() -> None:
    now = 0.0
    repeats = Repeats(5.0, 60.0, lambda: now)
    assert repeats.due("waiting")
    now = 1.0
    assert not repeats.due("waiting")
    assert repeats.due("streaming")
    assert repeats.due("waiting"), "again, since it was something else"
    now = 6.0
    assert repeats.due("waiting")

"""The rows and lines that show how far a transcription is."""

from __future__ import annotations

import io

import pytest

from natterjack.local.recordings.progress import Progress, Row, duration, row_text
from natterjack.process.terminal import width
from tests.natterjack.consume.screen import Screen


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (36_000, "10:00:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def halfway(seconds: float | None = 600) -> Row:
    return Row("a long name of a recording.m4a", seconds, 0, position=300)


def test_a_row_tells_share_speed_and_time() -> None:
    assert row_text(halfway(), 120, 10) == (
        "a long name of a recording.m4a  [##########..........]  50%  "
        "5:00 of 10:00, 30.0 times real time, 0:10 left"
    )
    assert row_text(halfway(None), 120, 10) == (
        "a long name of a recording.m4a        5:00, 30.0 times real time"
    )


@pytest.mark.parametrize("room", range(1, 130, 3))
def test_a_row_fits(room: int) -> None:
    text = row_text(halfway(), room, 10)
    assert width(text) <= room
    assert room < 18 or "50%" in text


def test_what_an_earlier_run_has_done_is_not_counted_as_speed() -> None:
    row = Row("a.wav", 1000, 0, first=500, position=600)
    assert row.times(10) == "10:00 of 16:40, 10.0 times real time, 0:40 left"


def test_a_length_that_is_too_short_does_not_go_beyond_the_end() -> None:
    assert "100%" in row_text(halfway(100), 120, 10)


def test_where_there_are_no_rows_lines_come_now_and_then() -> None:
    out, now = io.StringIO(), [0.0]
    with Progress(out, now=lambda: now[0]) as progress:
        row = progress.begin("a.wav", 100)
        for second in range(25):
            now[0] = second
            progress.reached(row, float(second))
        progress.end(row)
        progress.say("a.wav: done")
    assert out.getvalue().splitlines() == [
        "a.wav: 0:10 of 1:40, 1.0 times real time, 1:30 left",
        "a.wav: 0:20 of 1:40, 1.0 times real time, 1:20 left",
        "a.wav: done",
    ]


def test_rows_are_rewritten_and_removed() -> None:
    screen = Screen(100)
    with Progress(screen, now=lambda: 10.0) as progress:
        first, second = progress.begin("a.wav", 100), progress.begin("b\x1b[2J.wav", 100)
        progress.reached(first, 50)
        progress.say("a line\x1b[2J")
        assert screen.text[0] == "a line\\x1b[2J"
        assert screen.text[1].startswith("a.wav  [##########..........]  50%")
        assert screen.text[2].startswith("b [2J.wav  [....")
        progress.end(first)
        progress.end(second)
    assert screen.text == ["a line\\x1b[2J", ""]


def test_quiet_says_only_what_is_done() -> None:
    screen = Screen(100)
    with Progress(screen, quiet=True) as progress:
        progress.reached(progress.begin("a.wav", 100), 50)
        progress.say("a.wav: done")
        assert screen.text == ["a.wav: done", ""]

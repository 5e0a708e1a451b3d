from __future__ import annotations

from edge_capture.playback.queue import Heard
from edge_capture.playback.reports import Reports
from natterjack.voice.spec import Played

PLAYING = Heard(100, 0, "playing")


def make(
    reports: Reports, now: float, heard: Heard = PLAYING, *, lost: bool = False,
    missing: int | None = None,
) -> Played | None:  # fmt: skip
    return reports.make(now, heard, lost=lost, missing=missing)


def test_about_five_reports_a_second_while_it_plays() -> None:
    reports = Reports("a-session")
    sent = [n / 100 for n in range(300) if make(reports, n / 100)]
    assert 14 <= len(sent) <= 16
    assert sent[0] == 0


def test_a_change_of_state_is_reported_at_once() -> None:
    reports = Reports("a-session")
    assert make(reports, 10)
    report = make(reports, 10.01, Heard(120, 1, "idle"))
    assert report == Played(session_id="a-session", utterance=1, position=120, state="idle")
    assert make(reports, 10.02, Heard(120, 1, "idle")) is None
    report = make(reports, 10.03, Heard(120, 1, "idle"), lost=True)
    assert report is not None
    assert report.state == "lost"


def test_other_states_are_repeated_each_second() -> None:
    reports = Reports("a-session")
    heard = Heard(0, 0, "starved")
    assert len([n for n in range(500) if make(reports, n / 100, heard)]) == 5


def test_what_is_missing_is_asked_for_at_once_and_then_each_second() -> None:
    reports = Reports("a-session")
    make(reports, 0)
    asked = []
    for n in range(1, 300):
        report = make(reports, n / 100, missing=7 + n)
        if report is not None and report.missing is not None:
            asked.append((n, report.missing))
    assert asked == [(1, 8), (101, 108), (201, 208)]
    make(reports, 3.0)  # it has come
    report = make(reports, 3.01, missing=400)
    assert report is not None
    assert report.missing == 400

from __future__ import annotations

import pytest

from edge_capture.playback import playout as module
from edge_capture.playback.order import Chunk
from edge_capture.playback.playout import PlayOptions, Playout

from .chunks import RATE, chunk, positions

OTHER = "another-session"


def playout(buffer_ms: int = 0) -> Playout:
    return Playout(PlayOptions(buffer_seconds=buffer_ms / 1000), RATE)


def receive(play: Playout, *chunks: Chunk, now: float = 0) -> list[bool]:
    return [play.receive(*one, now) for one in chunks]


def test_what_comes_is_played_and_reported() -> None:
    play = playout()
    assert play.report(0) is None
    receive(play, chunk(0), chunk(1, end=True))
    assert positions(play.pull(1000, 0)) == list(range(160))
    report = play.report(0.1)
    assert report is not None
    assert (report.position, report.state, report.utterance) == (160, "idle", 0)
    assert play.totals == {"played_seconds": 0.02, "late_seconds": 0, "underruns": 0}


def test_a_cut_makes_the_output_drop_what_it_has() -> None:
    play = playout()
    receive(play, *(chunk(seq) for seq in range(20)))
    play.pull(800, 0)
    assert receive(play, chunk(20, 1600, cut=True), now=0.05) == [True]
    assert receive(play, chunk(20, 1600, cut=True), now=0.05) == [False]
    report = play.report(0.05)
    assert report is not None
    assert (report.position, report.state) == (400, "interrupted")
    assert play.pull(800, 0.1) == b""
    play.hold()
    receive(play, chunk(21, 1600, utterance=1, end=True), now=0.1)
    assert play.pull(800, 0.1) == b""
    play.resume()
    assert positions(play.pull(800, 0.2)) == list(range(1600, 1680))


def test_the_newest_session_is_played() -> None:
    play = playout()
    receive(play, chunk(0), chunk(1))
    assert receive(play, chunk(0, session_id=OTHER)) == [True]
    assert receive(play, chunk(2), chunk(1, session_id=OTHER)) == [False, False]
    assert len(positions(play.pull(1000, 0))) == 160
    assert play.session_id == OTHER
    assert play.dropped == {"session": 1}
    assert not play.join("a-session", RATE, 1)
    assert play.session_id == OTHER


def test_a_player_that_joins_a_session_asks_for_what_was_published_before() -> None:
    play = playout()
    receive(play, chunk(7), now=10)
    play.tick(10.1)
    report = play.report(10.1)
    assert report is not None
    assert (report.missing, report.position) == (0, 0)
    assert play.pull(1000, 10.1) == b""
    receive(play, chunk(5), chunk(6), now=10.2)  # the others were played before
    play.tick(15)
    assert play.pull(1000, 15) == b""  # the worker may be dead: the next one tells
    play.answered(OTHER, 7, 15)
    assert play.pull(1000, 15) == b""
    play.answered("a-session", 5, 15)
    assert positions(play.pull(1000, 15)) == list(range(400, 640))
    play.answered("a-session", 7, 15)  # an answer to what it has asked since
    receive(play, chunk(8), now=15)
    assert positions(play.pull(1000, 15)) == list(range(640, 720))


def test_a_player_that_joins_a_session_plays_no_chunk_from_before_the_answer() -> None:
    play = playout()
    receive(play, chunk(3, end=True), chunk(7), now=10)
    play.answered("a-session", 6, 11)
    receive(play, chunk(6), now=11)
    assert positions(play.pull(1000, 11)) == list(range(480, 640))


def test_a_player_that_joins_a_session_plays_what_it_has_if_nobody_answers() -> None:
    play = playout()
    receive(play, chunk(7), now=10)
    play.tick(10 + module.HOLE_S - 0.1)
    assert play.pull(1000, 10 + module.HOLE_S) == b""
    play.tick(10 + module.HOLE_S)
    assert positions(play.pull(1000, 10 + module.HOLE_S)) == list(range(560, 640))


def test_a_player_that_joins_a_session_of_which_all_was_played() -> None:
    play = playout()
    play.join("a-session", RATE, 10)
    report = play.report(10)
    assert report is not None
    assert (report.missing, report.state) == (0, "starved")
    play.answered("a-session", 30, 10.2)
    for tenths in range(102, 160):
        play.tick(tenths / 10)
        play.report(tenths / 10)
    assert play.report(20) is None  # it has nothing to tell
    receive(play, chunk(30), now=20)
    assert positions(play.pull(1000, 20)) == list(range(2400, 2480))


def test_after_a_reconnect_it_asks_for_what_follows_the_last_chunk() -> None:
    play = playout()
    receive(play, chunk(0), chunk(1))
    assert (report := play.report(10)) is not None
    assert report.missing is None
    play.reconnected(10)
    assert (report := play.report(10)) is not None
    assert report.missing == 2
    play.tick(16)
    assert (report := play.report(16)) is not None
    assert report.missing is None


def test_a_hole_is_waited_for_and_then_given_up() -> None:
    play = playout()
    receive(play, chunk(0), chunk(2))
    play.tick(0)
    assert len(positions(play.pull(1000, 0))) == 80
    play.tick(module.HOLE_S - 0.1)
    assert play.pull(1000, module.HOLE_S) == b""
    play.tick(module.HOLE_S)
    assert positions(play.pull(1000, module.HOLE_S)) == list(range(160, 240))
    assert play.skipped == 1


def test_a_hole_is_not_given_up_while_what_came_before_is_played() -> None:
    """The worker speaks the rest again, but only once the player has nothing more to play."""
    play = playout()
    seconds = round(module.HOLE_S) + 10
    receive(play, chunk(0, count=seconds * RATE), chunk(2, (seconds + 1) * RATE))
    for now in range(seconds):
        play.tick(now)
        assert len(positions(play.pull(RATE, now))) == RATE
    play.tick(seconds - 0.1)
    assert play.pull(RATE, seconds) == b""
    play.tick(seconds + 1)
    assert play.skipped == 0
    play.tick(seconds + module.PLAYED_S)
    assert play.skipped == 1


def test_what_is_queued_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_S", 1.0)
    play = playout()
    receive(play, *(chunk(seq, count=800) for seq in range(20)))
    assert len(positions(play.pull(8000, 0))) == 8000
    play.tick(1)
    assert positions(play.pull(800, 1)) == list(range(8000, 8800))
    receive(play, chunk(20, 16_000, cut=True), now=2)  # a cut is not behind what waits
    assert play.pull(800, 2) == b""


def test_an_output_that_is_lost_and_found() -> None:
    play = playout()
    receive(play, chunk(0, count=800), chunk(1, count=800, end=True))
    play.pull(1600, 0)
    play.lose(0.1)
    report = play.report(0.1)
    assert report is not None
    assert (report.state, report.position) == ("lost", 800)
    play.find()
    assert positions(play.pull(1600, 3)) == list(range(800, 1600))
    report = play.report(3.2)
    assert report is not None
    assert (report.state, report.position) == ("idle", 1600)

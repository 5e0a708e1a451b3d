"""A playback knows the position that was played, and the text that was heard."""

from __future__ import annotations

from typing import Any

from natterjack.voice.spec import Played
from worker.voice.interrupts import heard_as_said
from worker.voice.playback import Heard, Playback, Spoken
from worker.voice.text.phrases import Phrase

RATE = 8000
TEXT = "One two three. Four five six seven."


def report(position: int, state: Any = "playing") -> Played:
    return Played(session_id="session-1", utterance=0, position=position, state=state)


def spoken() -> Spoken:
    one = Spoken(0, start=1000)
    one.begin_phrase(1000, 0, 14)
    one.begin_phrase(15_000, 14, len(TEXT))
    return one


def test_between_phrases_the_text_is_exact_and_inside_it_is_estimated() -> None:
    one = spoken()
    assert one.heard(500, TEXT, RATE) == Heard(0, estimated=False)
    assert one.heard(1000, TEXT, RATE) == Heard(0, estimated=False)
    assert one.heard(15_000, TEXT, RATE) == Heard(14, estimated=False)
    half = one.heard(8000, TEXT, RATE)
    assert half == Heard(len("One two"), estimated=True)


def test_before_the_end_is_known_the_speed_of_speech_is_assumed() -> None:
    one = spoken()
    heard = one.heard(15_000 + RATE // 2, TEXT, RATE)
    assert heard.estimated
    assert TEXT[: heard.characters] == "One two three. Four "
    assert one.heard(15_000 + 60 * RATE, TEXT, RATE) == Heard(len(TEXT), estimated=True)


def test_each_voice_has_a_pace_of_its_own() -> None:
    """A slow voice that has taken over from a fast one has not said as much in the same time."""
    playback = Playback(RATE)
    playback.spoke("fast", 100, 5 * RATE)
    playback.spoke("fast", 20, RATE)
    assert playback.pace("fast") == 20
    assert playback.pace("slow", 7.5) == 7.5
    playback.spoke("slow", 10, RATE)
    playback.spoke("silent", 1, 0)
    assert (playback.pace("slow"), playback.pace("fast")) == (10, 20)
    assert playback.pace("silent") == playback.pace(None) == 15


def test_everything_was_heard_at_the_end() -> None:
    one = spoken()
    one.end = 40_000
    assert one.heard(39_999, TEXT, RATE).estimated
    assert one.heard(40_000, TEXT, RATE) == Heard(len(TEXT), estimated=False)


def test_marks_of_words_are_exact() -> None:
    one = Spoken(0, start=0)
    one.begin_phrase(0, 0, 14)
    for position, character in ((0, 0), (4000, 4), (8000, 8)):
        one.begin_word(position, character)
    assert one.heard(4500, TEXT, RATE) == Heard(4, estimated=False), "the second word was cut"
    assert one.heard(7500, TEXT, RATE) == Heard(8, estimated=False)
    assert one.heard(9000, TEXT, RATE) == Heard(14, estimated=True), "how long the last one is"
    one.begin_phrase(12_000, 14, len(TEXT))
    assert one.heard(9000, TEXT, RATE) == Heard(8, estimated=False)
    assert one.heard(11_500, TEXT, RATE) == Heard(14, estimated=False)


def test_words_whose_marks_have_not_arrived_were_not_heard() -> None:
    one = Spoken(0, start=0)
    one.begin_phrase(0, 0, 14)
    one.begin_word(0, 0)
    assert one.heard(2000, TEXT, RATE) == Heard(0, estimated=False)


def test_words_whose_marks_have_not_come_again_may_have_been_heard() -> None:
    """The phrase is spoken again, of which 12,000 frames are published."""
    one = Spoken(0, start=0)
    one.begin_phrase(0, 0, 14)
    one.unmarked = 12_000
    one.begin_word(0, 0)
    assert one.heard(4500, TEXT, RATE) == Heard(8, estimated=True)
    one.begin_word(4000, 4)
    assert one.heard(3500, TEXT, RATE) == Heard(4, estimated=False)
    one.begin_word(12_000, 8)
    assert one.heard(11_500, TEXT, RATE) == Heard(8, estimated=False)


def test_a_phrase_that_is_spoken_again_has_its_places_once() -> None:
    one = spoken()
    one.begin_word(16_000, 15)
    one.begin_phrase(15_000, 14, len(TEXT))
    assert [place.position for place in one.places] == [1000, 15_000]


def test_the_position_goes_on_between_reports_but_not_for_long() -> None:
    playback = Playback(RATE)
    playback.publish(4 * RATE, 10.0)
    assert playback.ahead_seconds(10.0) == 4
    playback.report(report(RATE), 11.0)
    assert playback.position(11.5) == 1.5 * RATE
    assert playback.position(99.0) == 2 * RATE
    playback.report(report(RATE + 100, "starved"), 11.6)
    assert playback.position(12.0) == RATE + 100


def test_reports_that_are_late_or_beyond_what_is_published_do_not_move_it() -> None:
    playback = Playback(RATE)
    playback.publish(RATE, 1.0)
    playback.report(report(800, "idle"), 2.0)
    playback.report(report(400, "idle"), 2.1)
    assert playback.played == 800
    playback.report(report(10**12, "idle"), 2.2)
    assert playback.played == RATE


def test_speech_that_nobody_plays_becomes_stale() -> None:
    playback = Playback(RATE)
    assert not playback.stale(1000.0, 30)
    playback.publish(4 * RATE, 1000.0)
    assert not playback.stale(1029.0, 30)
    assert playback.stale(1031.0, 30)
    playback.report(report(RATE), 1031.0)
    assert not playback.stale(1060.0, 30)
    playback.report(report(RATE, "lost"), 1062.0)
    assert playback.stale(1062.0, 30), "a player without a device plays nothing"
    playback.report(report(4 * RATE, "idle"), 1063.0)
    assert not playback.stale(2000.0, 30)


def test_after_a_cut_nothing_is_ahead() -> None:
    playback = Playback(RATE)
    playback.publish(4 * RATE, 1.0)
    playback.report(report(RATE), 2.0)
    playback.drop()
    assert playback.ahead_seconds(2.5) == 0
    assert (playback.played, playback.cut, playback.played_frames) == (4 * RATE, 4 * RATE, RATE)
    playback.publish(RATE, 3.0)
    assert playback.ahead_seconds(3.0) == 1


def test_a_player_tells_where_it_has_stopped_at_a_cut() -> None:
    playback = Playback(RATE)
    playback.publish(40_000, now=0.0)
    assert not playback.reachable(0.0)
    playback.report(report(1000), now=0.0)
    assert playback.reachable(1.0)
    playback.report(report(2000, "interrupted"), now=0.5)
    playback.expect_stop()
    assert not playback.stopped, "that was an earlier cut"
    playback.report(report(9000), now=1.0)
    assert not playback.stopped
    playback.report(report(9500, "interrupted"), now=1.1)
    assert playback.stopped
    assert playback.played == 9500
    assert not playback.reachable(10.0)
    playback.listening(12.0)  # after the broker was away
    assert playback.reachable(13.0)
    assert not playback.reachable(20.0)


def test_a_player_waits_once_it_has_played_what_it_has() -> None:
    playback = Playback(RATE)
    playback.publish(40_000, now=0.0)
    assert not playback.waits(0.0)
    playback.report(report(1000), now=0.0)
    assert not playback.waits(0.1), "it plays"
    playback.report(report(9000, "starved"), now=1.0)
    assert playback.waits(1.5)
    assert not playback.waits(9.0), "that is long ago"


def test_what_the_provider_says_counts_if_the_player_was_within_its_phrase() -> None:
    one = spoken()
    second = Phrase(0, 14, len(TEXT), last=True, text=TEXT[14:])
    assert heard_as_said(" Four", second, one, 16_000, TEXT) == Heard(19, estimated=False)
    assert heard_as_said("", second, one, 16_000, TEXT) == Heard(15, estimated=False)
    assert heard_as_said("", second, one, 9000, TEXT) is None, "the first phrase was playing"
    assert heard_as_said("Five", second, one, 16_000, TEXT) is None, "it is another text"

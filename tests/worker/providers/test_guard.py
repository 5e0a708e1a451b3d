"""The guard: what the session gets of a plugin's events, however odd they are."""

from __future__ import annotations

import math
from typing import Any

import pytest

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Final, Interim, Notice, ProviderWord, Turn, Usage
from worker.providers.guard import Guard

SENT = 60.0


@pytest.fixture
def guard() -> Guard:
    return Guard("p")


def words(*timed: tuple[str, float, float]) -> tuple[ProviderWord, ...]:
    return tuple(ProviderWord(*one) for one in timed)


def said(*timed: tuple[str, float, float], start: float, end: float, text: str = "") -> Final:
    return Final(text or " ".join(one[0] for one in timed), start, end, words(*timed))


def texts(final: Any) -> list[tuple[str, float | None, float | None]]:
    assert isinstance(final, Final | Interim)
    return [(word.text, word.start, word.end) for word in final.words]


WALK = said(
    ("walk", 0.5, 0.9), ("into", 1.0, 1.3), ("the", 1.4, 1.6), ("tavern", 2.2, 2.8),
    start=0.0, end=3.0,
)  # fmt: skip


# ---- nothing twice --------------------------------------------------------------------------


def test_a_clean_event_is_passed_on_as_it_is(guard: Guard) -> None:
    interim = Interim("walk into", 0.0, 2.0, words(("walk", 0.5, 0.9), ("into", 1.0, 1.3)))
    assert guard.check(interim, SENT) is interim
    assert guard.check(WALK, SENT) is WALK
    assert guard.frontier == 3.0


@pytest.mark.parametrize("start", [2.1, 3.0])
def test_a_word_behind_the_frontier_is_left_out(guard: Guard, start: float) -> None:
    guard.check(WALK, SENT)
    overlapping = said(("tavern", 2.2, 2.8), ("and", 3.1, 3.3), ("look", 3.4, 3.8),
                       start=start, end=5.1)  # fmt: skip
    final = guard.check(overlapping, SENT)
    assert isinstance(final, Final)
    assert (final.text, final.start, final.end) == ("and look", 3.0, 5.1)
    assert texts(final) == [("and", 3.1, 3.3), ("look", 3.4, 3.8)]


def test_an_utterance_that_is_repeated_as_a_whole_only_moves_the_frontier(guard: Guard) -> None:
    guard.check(WALK, SENT)
    whole = Final(
        "Walk into the tavern.", 0.0, 3.3, (*WALK.words[:3], ProviderWord("tavern.", 2.2, 2.8))
    )
    final = guard.check(whole, SENT)
    assert isinstance(final, Final)
    assert (final.text, final.words, final.start, final.end) == ("", (), 3.0, 3.3)
    assert guard.check(WALK, SENT) is None


def test_punctuation_and_spaces_of_what_stays_are_kept(guard: Guard) -> None:
    guard.check(WALK, SENT)
    more = said(("tavern", 2.2, 2.8), ("look", 3.4, 3.8), ("around", 4.0, 4.4),
                start=2.0, end=5.0, text="tavern: look\u00a0around!")  # fmt: skip
    final = guard.check(more, SENT)
    assert isinstance(final, Final)
    assert final.text == "look\u00a0around!"


def test_equal_utterances_at_different_times_both_stay(guard: Guard) -> None:
    first = said(("yes", 0.2, 0.5), ("yes", 0.6, 0.9), start=0.0, end=1.0)
    second = said(("yes", 1.2, 1.5), ("yes", 1.6, 1.9), start=1.0, end=2.0)
    assert guard.check(first, SENT) is first
    assert guard.check(second, SENT) is second


def test_a_word_that_comes_twice_in_a_final_stays_once(guard: Guard) -> None:
    twice = said(("how", 0.2, 0.4), ("how", 0.2, 0.4), ("are", 0.5, 0.7), ("are", 0.5, 0.7),
                 start=0.0, end=1.0)  # fmt: skip
    final = guard.check(twice, SENT)
    assert isinstance(final, Final)
    assert (final.text, len(final.words)) == ("how are", 2)


def test_two_speakers_may_say_a_word_together(guard: Guard) -> None:
    word = ProviderWord("yes", 0.2, 0.4)
    both = Final("yes yes", 0.0, 1.0, (word._replace(speaker="0"), word._replace(speaker="1")))
    assert guard.check(both, SENT) == both


def test_a_word_that_was_ahead_of_its_final_is_not_repeated(guard: Guard) -> None:
    early = said(("walk", 0.5, 0.9), ("on", 3.1, 3.5), start=0.0, end=3.0)
    final = guard.check(early, SENT)
    assert isinstance(final, Final)
    assert final.text == "walk on"
    final = guard.check(said(("on", 3.1, 3.5), ("then", 3.6, 4.0), start=3.0, end=5.0), SENT)
    assert isinstance(final, Final)
    assert final.text == "then"


def test_a_word_at_the_end_of_silence_is_kept(guard: Guard) -> None:
    guard.check(WALK, SENT)
    guard.check(Final("", 3.0, 10.0), SENT)
    final = guard.check(said(("yes", 9.3, 9.6), ("sir", 9.8, 10.1), start=9.2, end=11.0), SENT)
    assert texts(final) == [("yes", 10.0, 10.0), ("sir", 10.0, 10.1)]
    assert guard.check(said(("sir", 9.8, 10.1), start=9.2, end=11.0), SENT) is None


def test_a_repeated_word_with_later_times_is_left_out(guard: Guard) -> None:
    guard.check(said(("to", 2.4, 2.6), ("tavern", 2.6, 3.0), start=0.0, end=3.0), SENT)
    again = said(("tavern", 2.75, 3.3), ("no", 3.4, 3.6), start=2.7, end=4.0)
    final = guard.check(again, SENT)
    assert texts(final) == [("no", 3.4, 3.6)]
    # Two equal words that follow one another are two, as are those of two speakers.
    assert guard.check(said(("no", 4.0, 4.2), ("no", 4.2, 4.5), start=4.0, end=4.4), SENT)
    assert guard.check(Final("no", 4.3, 7.0, (ProviderWord("no", 4.3, 4.6, None, "1"),)), SENT)


def test_text_without_words_that_repeats_the_end_is_shortened(guard: Guard) -> None:
    guard.check(WALK, SENT)
    final = guard.check(Final("The tavern, and look", 1.3, 5.0), SENT)
    assert isinstance(final, Final)
    assert (final.text, final.start) == ("and look", 3.0)
    assert guard.check(Final("into the", 1.0, 1.6), SENT) is None


def test_words_of_another_text_share_their_times_out(guard: Guard) -> None:
    guard.check(WALK, SENT)
    other = Final("tavern 21 22 23", 2.0, 6.0, words(
        ("tavern", 2.2, 2.8), ("twenty", 3.1, 3.3), ("one", 3.4, 3.8), ("twenty", 4.0, 4.4),
        ("two", 4.5, 4.6), ("twenty", 5.0, 5.2), ("three", 5.3, 5.6)))  # fmt: skip
    final = guard.check(other, SENT)
    assert isinstance(final, Final)
    assert (final.text, final.words) == ("21 22 23", ())


def test_interims_have_nothing_that_is_final(guard: Guard) -> None:
    guard.check(WALK, SENT)
    late = Interim("the tavern", 1.3, 2.9, WALK.words[2:])
    assert guard.check(late, SENT) is None
    more = Interim("tavern and", 2.1, 3.4, (WALK.words[3], ProviderWord("and", 3.1, 3.3)))
    interim = guard.check(more, SENT)
    assert isinstance(interim, Interim)
    assert (interim.text, interim.start) == ("and", 3.0)


# ---- a lost clock, and lost messages --------------------------------------------------------


def test_a_clock_that_begins_again_is_a_fault(guard: Guard) -> None:
    guard.check(WALK, SENT)
    guard.check(Final("", 3.0, 40.0), SENT)
    with pytest.raises(RemoteProtocolError, match="back in time") as caught:
        guard.check(said(("thanks", 0.5, 0.9), start=0.0, end=2.0), SENT)
    assert caught.value.readable is not None
    assert caught.value.readable.text == "thanks"
    assert caught.value.readable.start == 40.0
    with pytest.raises(RemoteProtocolError, match="back in time"):
        guard.check(Final("thanks", 0.0, 2.0), SENT)


def test_a_hole_after_a_skipped_message_is_a_fault(guard: Guard) -> None:
    guard.check(WALK, SENT)
    guard.check(Notice("malformed", "?"), SENT)
    later = said(("later", 6.0, 6.5), start=5.0, end=7.0)
    with pytest.raises(RemoteProtocolError, match="may have been a final") as caught:
        guard.check(later, SENT)
    assert caught.value.readable == later, "it is published if it comes again and again"


def test_a_message_that_is_certainly_no_final_leaves_no_hole(guard: Guard) -> None:
    guard.check(WALK, SENT)
    guard.check(Notice("malformed", "?", harmless=True), SENT)
    assert guard.check(said(("later", 6.0, 6.5), start=5.0, end=7.0), SENT)
    guard.end(heard=True)


def test_without_a_hole_a_skipped_message_was_no_final(guard: Guard) -> None:
    guard.check(WALK, SENT)
    guard.check(Notice("malformed", "?"), SENT)
    assert guard.check(said(("on", 3.1, 3.5), start=3.0, end=4.0), SENT)
    assert guard.check(said(("later", 9.0, 9.5), start=8.0, end=10.0), SENT)


# ---- values that are not usable -------------------------------------------------------------

NO_TIMES: list[Any] = [None, "1.5", math.nan, math.inf, -7.0, 1e9, 10**400, True, [1.0], {}]


@pytest.mark.parametrize("odd", NO_TIMES)
def test_a_word_keeps_its_text_without_a_time(guard: Guard, odd: Any) -> None:
    final = guard.check(
        Final("good morning", 0.0, 2.0, words(("good", 0.5, odd), ("morning", odd, 1.4))), SENT
    )
    assert isinstance(final, Final)
    assert final.text == "good morning"
    assert texts(final) == [("good", 0.5, None), ("morning", None, 1.4)]
    assert not final.times_estimated


@pytest.mark.parametrize("odd", NO_TIMES)
def test_an_end_that_is_no_time_is_estimated(guard: Guard, odd: Any) -> None:
    final = guard.check(said(("good", 0.5, 0.9), ("morning", 1.0, 1.4), start=0.0, end=odd), SENT)
    assert isinstance(final, Final)
    assert (final.start, final.end, final.times_estimated) == (0.0, 1.4, True)
    # Without a single time, little audio counts as final: what follows must not be behind it.
    final = guard.check(Final("and so on", odd, odd), SENT)
    assert isinstance(final, Final)
    assert final.start == 1.4
    assert final.end == pytest.approx(1.4 + 3 * 0.35)
    assert final.times_estimated


@pytest.mark.parametrize("odd", NO_TIMES)
def test_a_start_that_is_no_time_is_where_finals_end(guard: Guard, odd: Any) -> None:
    guard.check(WALK, SENT)
    final = guard.check(said(("and", 3.1, 3.3), start=odd, end=4.0), SENT)
    assert isinstance(final, Final)
    assert (final.text, final.start, final.end, final.times_estimated) == ("and", 3.0, 4.0, True)


def test_lengths_are_not_negative(guard: Guard) -> None:
    backwards = Final("good day", 2.0, 1.0, words(("good", 0.9, 0.5), ("day", 0.95, 0.95)))
    final = guard.check(backwards, SENT)
    assert isinstance(final, Final)
    assert (final.start, final.end) == (0.0, 1.0)
    assert texts(final) == [("good", 0.9, None), ("day", 0.95, 0.95)]


def test_only_the_word_that_is_out_of_order_loses_its_times(guard: Guard) -> None:
    final = guard.check(
        said(
            ("a", 0.1, 0.2), ("b", 9.0, 9.1), ("c", 0.5, 0.6), ("d", 0.7, 0.8), start=0.0, end=1.0
        ),
        SENT,
    )
    assert isinstance(final, Final)
    assert texts(final)[1] == ("b", None, None)
    assert [word.start for word in final.words] == [0.1, None, 0.5, 0.7]


def test_times_slightly_outside_the_audio_are_moved_into_it(guard: Guard) -> None:
    final = guard.check(said(("good", -0.01, 0.3), ("day", 0.9, 2.1), start=-0.01, end=2.2), 2.0)
    assert isinstance(final, Final)
    assert (final.start, final.end, final.times_estimated) == (0.0, 2.0, False)
    assert texts(final) == [("good", 0.0, 0.3), ("day", 0.9, 2.0)]


@pytest.mark.parametrize(
    "odd", [None, "words", 7, {}, (None,), ("a", "b"), ({"word": "good"},), ((),), ((b"good",),)]
)
def test_the_text_stays_without_its_words(guard: Guard, odd: Any) -> None:
    final = guard.check(Final("good morning", 0.0, 2.0, odd), SENT)
    assert final == Final("good morning", 0.0, 2.0)


@pytest.mark.parametrize("odd", [None, 7, b"good", "", " "])
def test_the_words_stay_without_their_text(guard: Guard, odd: Any) -> None:
    final = guard.check(Final(odd, 0.0, 2.0, words(("good", 0.5, 0.9), ("day", 1.0, 1.4))), SENT)
    assert isinstance(final, Final)
    assert final.text == "good day"


def test_the_text_wins_against_its_words(guard: Guard) -> None:
    other = Final("$20", 0.0, 2.0, words(("twenty", 0.5, 0.9), ("dollars", 1.0, 1.4)))
    assert guard.check(other, SENT) == Final("$20", 0.0, 2.0)
    corrected = Final("one 2", 2.0, 4.0, words(("one", 2.5, 2.9), ("two", 3.0, 3.4)))
    final = guard.check(corrected, SENT)
    assert texts(final) == [("one", 2.5, 2.9), ("2", 3.0, 3.4)]


def test_lone_surrogates_are_replaced(guard: Guard) -> None:
    final = guard.check(Final("a\ud800b \ud83d\ude00", 0.0, 2.0, language="e\udfff"), SENT)
    assert isinstance(final, Final)
    assert (final.text, final.language) == ("a\ufffdb \U0001f600", "e\ufffd")
    final = guard.check(Final("all else is clean", 2.0, 3.0, language="e\udfff"), SENT)
    assert isinstance(final, Final)
    assert final.language == "e\ufffd"


@pytest.mark.parametrize("odd", ["0.9", math.nan, math.inf, -0.1, 1.1, True, 10**400, [0.9]])
def test_a_confidence_is_from_0_to_1_or_absent(guard: Guard, odd: Any) -> None:
    final = guard.check(
        Final("good", 0.0, 2.0, (ProviderWord("good", 0.5, 0.9, odd),), confidence=odd), SENT
    )
    assert isinstance(final, Final)
    assert (final.confidence, final.words[0].confidence) == (None, None)
    assert final.words[0].end == 0.9


def test_labels_are_strings(guard: Guard) -> None:
    odd: Any = 1
    final = guard.check(
        Final("a", 0.0, 2.0, (ProviderWord("a", 0, 1, None, odd),), None, odd), SENT
    )
    assert isinstance(final, Final)
    assert (final.words[0].speaker, final.language) == ("1", "1")


def test_other_events(guard: Guard) -> None:
    odd: Any = "no number"
    turn = guard.check(Turn("started", odd), SENT)
    assert isinstance(turn, Turn)
    assert math.isnan(turn.at)
    assert guard.check(Turn("ended", 2, "text"), SENT) == Turn("ended", 2.0, "text")
    odd_kind: Any = "began"
    assert isinstance(guard.check(Turn(odd_kind, 1.0), SENT), Notice)
    odd_kind = ["ended"]
    assert isinstance(guard.check(Turn(odd_kind, 1.0), SENT), Notice)
    assert guard.check(Usage(math.nan, odd, odd), SENT) == Usage(None, None, low=False)
    assert guard.check(Usage(1.5, 2, True), SENT) == Usage(1.5, 2, low=True)
    assert guard.check(Notice(odd * 10, odd), SENT) == Notice("unknown", odd)
    assert guard.check(Notice("warning", "text"), SENT) == Notice("warning", "text")


def test_silence_moves_the_frontier(guard: Guard) -> None:
    assert guard.check(Final("", 0.0, 2.0), SENT) == Final("", 0.0, 2.0)
    assert guard.check(Final("", 0.0, 2.0), SENT) is None
    assert guard.frontier == 2.0

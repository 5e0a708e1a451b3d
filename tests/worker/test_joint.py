"""A session that is cut off in speech, and its successor: each word is in one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.plugin.provider import Final, ProviderWord, Turn
from tests.searching import examples
from worker.joint import Joint

WORD_S = 0.3


def final(*words: tuple[str, float], end: float | None = None) -> Final:
    spoken = tuple(ProviderWord(text, at, at + WORD_S) for text, at in words)
    stop = spoken[-1].end if end is None else end
    assert stop is not None
    return Final(" ".join(text for text, _ in words), words[0][1], stop, spoken)


def test_the_word_at_the_cut_is_left_to_the_successor() -> None:
    joint = Joint(10.0)
    assert joint.next(final(("toad", 3.0))) == []
    assert joint.next(final(("frog", 9.0), ("newt", 9.8), end=10.0)) == [final(("toad", 3.0))]
    assert joint.next(Final("", 10.0, 10.0)) == []
    last, end = joint.last()
    assert last is not None
    assert (last.text, [word.text for word in last.words]) == ("frog", ["frog"])
    assert 9.3 < end == last.end < 9.8


def test_turn_events_stay_behind_the_finals_that_belong_before_them() -> None:
    joint, toad = Joint(10.0), final(("toad", 3.0))
    ended, started, last = Turn("ended", 4.0), Turn("started", 9.0), Turn("ended", 10.0)
    assert joint.next(toad) == joint.next(ended) == joint.next(started) == []
    assert joint.next(final(("frog", 9.0), ("newt", 9.8))) == [toad, ended, started]
    assert joint.next(last) == []
    assert joint.turns == [last]


def test_a_final_of_one_word_is_left_to_the_successor_whole() -> None:
    joint = Joint(10.0)
    joint.next(final(("frog", 9.6)))
    assert joint.last() == (None, 9.6)


def test_a_final_whose_text_differs_from_its_words_is_not_divided() -> None:
    joint = Joint(10.0)
    words = (ProviderWord("twenty", 9.0, 9.3), ProviderWord("five", 9.5, 9.9))
    joint.next(Final("25", 9.0, 10.0, words))
    assert joint.last() == (None, 9.0)


def test_a_word_of_which_nothing_was_made_is_the_successors() -> None:
    joint = Joint(10.0)
    early = final(("toad", 3.0), end=10.0)
    joint.next(early)
    assert joint.last() == (replace(early, end=9.0), 9.0)
    late = final(("frog", 9.2), end=10.0)
    joint.next(late)
    assert joint.last() == (replace(late, end=9.5), 9.5)
    assert Joint(10.0).last() == (None, 9.0)
    assert Joint(0.4).last() == (None, 0.0)


@pytest.mark.parametrize(
    "untimed",
    [
        Final("toad frog", 2.0, 10.0),
        replace(final(("toad", 2.0), ("frog", 9.5)), times_estimated=True),
        Final("toad", 2.0, 10.0, (ProviderWord("toad"),)),
    ],
)
def test_a_final_without_the_times_of_its_words_is_not_divided(untimed: Final) -> None:
    joint = Joint(10.0)
    joint.next(untimed)
    assert joint.last() == (None, 2.0)
    assert joint.whole() == (untimed, 10.0)


@given(data=st.data())
@examples(200)
def test_each_word_is_in_one_of_two_sessions(data: st.DataObject) -> None:
    """The provider of the first session may make of the word at the cut what it likes, or nothing;
    that of the second hears each word that begins where it starts or later."""
    spoken, at = [], 0.0
    for number in range(data.draw(st.integers(1, 12))):
        at += data.draw(st.floats(0.05, 3.0))
        spoken.append((f"w{number}", at))
        at += WORD_S
    cut = data.draw(st.floats(0.1, at))
    whole = [word for word in spoken if word[1] + WORD_S <= cut]
    heard = [*whole]
    broken = next((word for word in spoken if word[1] < cut < word[1] + WORD_S), None)
    if broken is not None and data.draw(st.booleans()):
        heard.append((data.draw(st.sampled_from([broken[0], "other"])), broken[1]))
    joint, published = Joint(cut), []
    while heard:
        count = data.draw(st.integers(1, len(heard)))
        now, heard = heard[:count], heard[count:]
        following = heard[0][1] if heard else max(cut, now[-1][1] + WORD_S)
        end = data.draw(st.floats(now[-1][1] + WORD_S, following))
        for event in joint.next(final(*now, end=end)):
            assert isinstance(event, Final)
            published.append(event)
    last, end = joint.last()
    if last is not None:
        published.append(last)
    first = [word.text for each in published for word in each.words]
    assert all(each.end <= end for each in published)
    second = [text for text, start in spoken if start >= end]
    assert first + second == [text for text, _ in spoken]

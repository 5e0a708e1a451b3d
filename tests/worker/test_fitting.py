"""Events that exceed the broker's limit are made smaller; no word of a final is lost."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.plugin.provider import Final, ProviderWord
from natterjack.values import Account, Gap, ProviderUsage
from tests.searching import examples
from worker.fitting import divided, shortened

LETTERS = st.text("abcdéß語音e\u0301\u200d👩", min_size=1, max_size=8)
TIMES = st.one_of(st.none(), st.floats(0, 30), st.just(float("nan")))


@st.composite
def timed(draw: st.DrawFn) -> Final:
    """A final as providers make it: words that follow one another, with a space or none between."""
    texts = draw(st.lists(LETTERS, min_size=1, max_size=40))
    at, words = 0.0, []
    for text in texts:
        start = at + draw(st.floats(0, 1))
        at = start + draw(st.floats(0, 1))
        words.append(ProviderWord(text, start, at, 0.5, draw(st.sampled_from([None, "1"]))))
    joined = draw(st.sampled_from([" ", "", "\n", "  "])).join(texts)
    return Final(joined, 0.0, at + draw(st.floats(0, 1)), tuple(words), 0.9, "en")


@st.composite
def odd(draw: st.DrawFn) -> Final:
    """A final whose words have few times, or the wrong ones, and are not those of its text."""
    words = st.builds(ProviderWord, st.one_of(LETTERS, st.sampled_from(["", " "])), TIMES, TIMES)
    start = draw(st.floats(0, 10))
    return Final(
        draw(st.text("abc é\u0301語 ", max_size=60)),
        start,
        start + draw(st.floats(0, 30)),
        tuple(draw(st.lists(words, max_size=12))),
    )


def in_parts(final: Final, limit: int) -> list[Final]:
    """Divide a final until each part is no larger than `limit`, as far as it can be divided."""
    waiting, parts = [final], []
    while waiting:
        part = waiting.pop()
        smaller = () if size(part) <= limit else divided(part)
        if smaller:
            assert all(size(each) < size(part) for each in smaller)
            waiting += reversed(smaller)
        else:
            parts.append(part)
    return parts


def size(final: Final) -> int:
    return len(final.text) + sum(len(word.text) + 10 for word in final.words)


def solid(text: str) -> str:
    return "".join(text.split())


@examples(300)
@given(timed(), st.integers(20, 400))
def test_all_words_of_a_final_come_out_once_in_order_and_with_their_times(
    final: Final, limit: int
) -> None:
    parts = in_parts(final, limit)
    assert solid("".join(part.text for part in parts)) == solid(final.text)
    whole = [word for part in parts for word in part.words]
    if all(size(replace(final, text=w.text, words=(w,))) <= limit for w in final.words):
        assert tuple(whole) == final.words
    assert all(size(part) <= limit or len(part.text) < 2 for part in parts)
    assert (parts[0].start, parts[-1].end) == (final.start, final.end)
    for before, after in pairwise(parts):
        assert before.end == after.start
        assert before.start <= before.end <= after.end
    for part in parts:
        assert solid(part.text) == solid("".join(word.text for word in part.words))
        for word in part.words:
            assert word.start is not None
            assert word.end is not None
            assert part.start - 1e-9 <= word.start <= word.end <= part.end + 1e-9
        assert part.text == part.text.strip()
        assert (part.confidence, part.language) == (0.9, "en")


@examples(300)
@given(odd(), st.integers(1, 100))
def test_no_text_is_lost_however_odd_the_words_are(final: Final, limit: int) -> None:
    parts = in_parts(final, limit)
    assert solid("".join(part.text for part in parts)) == solid(final.text)
    assert all(size(part) <= limit or len(part.text.strip()) < 2 for part in parts)
    assert (parts[0].start, parts[-1].end) == (final.start, final.end)
    for before, after in pairwise(parts):
        assert before.end == after.start
        assert final.start <= before.start <= before.end <= after.end <= final.end
    for part in parts:
        for word in part.words:
            if word.start is not None and word.end is not None and word not in final.words:
                assert word.start <= word.end


def test_a_final_is_divided_in_the_pause_nearest_to_its_middle() -> None:
    spoken = ((0, 1), (1, 2.5), (2, 3), (4, 5), (5, 6), (6, 7))  # the middle ones overlap
    words = tuple(ProviderWord(f"w{n}", *times) for n, times in enumerate(spoken))
    first, second = divided(Final("w0 w1 w2 w3 w4 w5", 0, 8, words))
    assert (first.text, first.end, first.words) == ("w0 w1 w2", 3.5, words[:3])
    assert (second.text, second.start, second.words) == ("w3 w4 w5", 3.5, words[3:])
    assert not first.times_estimated
    first, second = divided(replace(first, words=words[:2], text="w0 w1"))
    assert (first.text, first.end, second.start) == ("w0", 1, 1)


def test_missing_times_are_estimated() -> None:
    words = (ProviderWord("a"), ProviderWord("b" * 9, None, 3.0), ProviderWord("c", 4.0, 5.0))
    first, second = divided(Final(f"a {'b' * 9} c", 1, 5, words))
    assert first.words == words[:1]
    assert first.times_estimated
    assert second.times_estimated
    assert 1 < first.end < 2


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("one two three", "one two", "three"),
        ("語音語音", "語音", "語音"),
        ("abce\u0301fg", "abc", "e\u0301fg"),
        (" a b ", "a", "b"),
    ],
)
def test_a_text_without_words_is_divided_by_length(text: str, first: str, second: str) -> None:
    one, two = divided(Final(text, 10, 20))
    assert (one.text, two.text) == (first, second)
    assert one.end == two.start
    assert 12 < one.end < 18
    assert one.times_estimated


def test_one_long_word_becomes_two_within_its_times() -> None:
    one, two = divided(Final("x" * 10, 0, 20, (ProviderWord("x" * 10, 12, 14, 0.5),)))
    assert one.words == (ProviderWord("xxxxx", 12, 13, 0.5),)
    assert two.words == (ProviderWord("xxxxx", 13, 14, 0.5),)
    assert (one.start, one.end, two.start, two.end) == (0, 13, 13, 20)


def test_a_final_that_cannot_be_divided_keeps_its_text() -> None:
    final = Final("x", 0, 1, (ProviderWord("y" * 1000, 0, 1),), 0.5, "en")
    (bare,) = divided(final)
    assert bare == Final("x", 0, 1)
    assert divided(bare) == ()


def test_the_longest_part_of_an_event_goes_first() -> None:
    gaps = [Gap(start=n, end=n + 1, cause="edge") for n in range(4)]
    account = Account(gaps=gaps, providers={"p": ProviderUsage()}, gap_seconds={"edge": 4})
    fields: dict[str, Any] | None = {
        "reason": "because " * 100, "detail": None, "account": account, "state": "closed",
    }  # fmt: skip
    steps = []
    while fields is not None:
        steps.append(fields)
        fields = shortened(fields)
    assert [step.get("shortened") for step in steps] == [None, *[True] * (len(steps) - 1)]
    assert steps[1]["reason"] == ("because " * 50).rstrip() + "…"
    assert [len(step["account"].gaps) for step in steps[1:4]] == [4, 4, 2]
    assert (steps[-1]["reason"], steps[-1]["account"].gaps) == ("…", [])
    assert [bool(step["account"].providers) for step in steps[-2:]] == [True, False]
    assert steps[-1]["account"].gap_seconds == {"edge": 4}
    assert steps[0]["account"] is account


def test_an_interim_loses_its_words_before_its_text() -> None:
    words = [{"text": "a"}] * 100
    smaller = shortened({"text": "a " * 100, "words": words})
    assert smaller == {"text": "a " * 100, "words": [], "shortened": True}
    again = shortened(smaller)
    assert again is not None
    assert again["text"] == ("a " * 50).rstrip() + "…"
    assert shortened({"text": "", "words": []}) is None
    assert shortened({"providers": {"p": 1}}) == {"providers": {}, "shortened": True}


def test_the_request_of_a_closing_event_goes_before_all_else() -> None:
    fields = {"reason": "because " * 100, "request": {"tenant": "t"}}
    smaller = shortened(fields)
    assert smaller == {"reason": fields["reason"], "request": None, "shortened": True}


def test_a_text_of_megabytes_without_spaces_is_divided_quickly() -> None:
    """Other sessions of the worker wait meanwhile."""
    started = time.process_time()
    first, second = divided(Final("x" * 10_000_000, 0.0, 2.0))
    assert len(first.text) == len(second.text) == 5_000_000
    assert time.process_time() - started < 1.0


def test_labels_go_after_the_request() -> None:
    fields = {"request": {"a": 1}, "labels": {"queue": "sales" * 100}, "reason": "r" * 40}
    smaller = shortened(fields)
    assert smaller == {**fields, "shortened": True, "request": None}
    assert shortened(smaller) == {**smaller, "labels": None}
    assert shortened({"labels": {}, "text": ""}) is None

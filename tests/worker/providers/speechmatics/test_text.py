"""Results joined into readable text."""

from __future__ import annotations

import pytest

from worker.providers.speechmatics.messages import Attaches, Result
from worker.providers.speechmatics.text import Joined, join


def word(text: str, language: str | None = None, attaches: Attaches = "none") -> Result:
    return Result(False, text, 1, 2, 0.5, language, "S1", attaches)


def mark(text: str, attaches: Attaches = "previous") -> Result:
    return Result(True, text, 2, 2, 1.0, attaches=attaches)


def joined(*results: Result, delimiter: str = " ", carry: str = "") -> Joined:
    return join(results, lambda language: "" if language == "ja" else delimiter, carry)


@pytest.mark.parametrize(
    ("results", "text", "words"),
    [
        ([], "", []),
        ([word("Hello")], "Hello", ["Hello"]),
        (
            [word("Hello"), mark(","), word("world"), mark(".")],
            "Hello, world.",
            ["Hello,", "world."],
        ),
        ([word("well"), mark("-", "both"), word("known")], "well-known", ["well-", "known"]),
        (
            [word("Hola"), mark(","), mark("¿", "next"), word("qué"), mark("?")],
            "Hola, ¿qué?",
            ["Hola,", "¿qué?"],
        ),
        (
            [mark("«", "next"), mark("¿", "next"), word("sí"), mark("?"), mark("»")],
            "«¿sí?»",
            ["«¿sí?»"],
        ),
        ([word("a"), mark("—", "none"), word("b")], "a — b", ["a —", "b"]),
        ([mark("—", "none"), word("b")], "— b", ["— b"]),
        ([word("rock"), word("'n", attaches="both"), word("roll")], "rock'nroll", None),
        # The word that these are attached to is in an earlier final.
        ([mark("."), word("Next")], "Next", ["Next"]),
        ([mark(".")], "", []),
        ([mark("-", "both"), word("known")], "known", ["known"]),
    ],
)
def test_marks_are_attached(results: list[Result], text: str, words: list[str] | None) -> None:
    found = joined(*results)
    assert found.text == text
    if words is not None:
        assert [one.text for one in found.words] == words
    assert found.carry == ""


def test_a_language_without_delimiter() -> None:
    found = joined(word("今日"), word("は"), mark("。"), delimiter="")
    assert found.text == "今日は。"
    assert [one.text for one in found.words] == ["今日", "は。"]


def test_each_language_has_its_delimiter() -> None:
    found = joined(word("Hi", "en"), word("今日", "ja"), word("は", "ja"), word("there", "en"))
    assert found.text == "Hi今日は there"
    assert found.language == "en"


def test_an_opening_mark_waits_for_its_word() -> None:
    first = joined(word("Hola"), mark("¿", "next"))
    assert (first.text, first.carry) == ("Hola", "¿")
    assert joined(carry=first.carry).carry == "¿"
    second = joined(word("qué"), carry=first.carry)
    assert (second.text, second.carry) == ("¿qué", "")


def test_attributes_of_words_are_kept() -> None:
    (found,) = joined(word("Hello"), mark(".")).words
    assert (found.start, found.end, found.confidence, found.speaker) == (1, 2, 0.5, "S1")
    assert joined(word("a"), word("b")).confidence == 0.5
    assert joined(mark(".")).confidence is None

"""JSON that a server can send: what is read of it, and what cannot be."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import Any

import pytest

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import ProviderWord
from worker.providers import wire
from worker.providers.estimate import with_times

HUGE = 10**5000


def kind_of(value: object) -> str:
    """The name of a test case; some values have no text."""
    return type(value).__name__


def test_json_outside_the_standard_is_read() -> None:
    text = f'\ufeff{{"a": NaN, "b": -Infinity, "c": 1e999, "d": -{"9" * 5000}, "e": "x\ty"}}'
    content = wire.parse("p", text)
    assert math.isnan(content["a"])
    assert (content["b"], content["c"], content["d"]) == (-math.inf, math.inf, -math.inf)
    assert content["e"] == "x\ty"


def test_the_last_of_two_equal_names_counts() -> None:
    assert wire.parse("p", '{"a": 1, "a": 2}') == {"a": 2}


def test_lone_surrogates_are_replaced() -> None:
    text = r'{"\ud800": "a\ud83d", "b": ["\udfff", "\ud83d\ude00"], "c": {"d": "\\ud800"}}'
    content = wire.parse("p", text)
    assert content == {"\ufffd": "a\ufffd", "b": ["\ufffd", "😀"], "c": {"d": r"\ud800"}}
    json.dumps(content, ensure_ascii=False).encode()


@pytest.mark.parametrize("levels", [90, 300, 5000, 200_000])
@pytest.mark.parametrize("nest", [("[", "]"), ('{"x": ', "}"), ('[{"x": "]", "y": ', "}]")])
def test_deep_values_become_null_and_the_rest_is_kept(levels: int, nest: tuple[str, str]) -> None:
    deep = nest[0] * levels + "7" + nest[1] * levels
    content = wire.parse("p", f'{{"a": [1, {deep}, "[{{"], "b": {deep}, "c": "text"}}')
    assert content["c"] == "text"
    assert content["a"][0] == 1
    assert content["a"][2] == "[{"
    assert ("7" in str(content["b"])) == (levels == 90)


def test_a_large_message_is_read() -> None:
    text = "word " * 3_000_000
    assert wire.parse("p", json.dumps({"a": text}))["a"] == text


@pytest.mark.parametrize("message", [r'{"a": "\ud800', r'{"a": "b", "c": "'], ids=["whole", "cut"])
def test_a_large_message_that_is_not_plain_json_is_read_quickly(message: str) -> None:
    """The time of a message that was cut must not grow with the square of its length."""
    started = time.process_time()
    with contextlib.suppress(RemoteProtocolError):
        wire.parse("p", message + r"\"" * 20_000 + ('"}' if "ud800" in message else ""))
    assert time.process_time() - started < 1.0


def test_binary_frames_are_read_like_text() -> None:
    assert wire.parse("p", '{"a": "é"}'.encode()) == {"a": "é"}
    assert wire.parse("p", b'{"a": "\xff"}') == {"a": "\ufffd"}


@pytest.mark.parametrize("message", [b"\x00\xff", "", "ping", "[]", "7", "[7", "[" * 100_000])
def test_without_any_text_a_message_is_harmless(message: str | bytes) -> None:
    with pytest.raises(wire.Harmless):
        wire.parse("p", message)


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "}",
        '{"a": "b"',
        'a": "b"}',
        '["a"]',
        '"a"',
        b'{"a": "b\xff',
        '{"a": "b"} {}',
        '{"a":' * 10_000,
    ],
)
def test_a_message_that_may_have_text_is_not_harmless(message: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        wire.parse("p", message)
    assert not isinstance(error.value, wire.Harmless)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "value",
    [None, True, 7, HUGE, -HUGE, math.nan, 1.5, "x" * 9999, [HUGE], {"a": HUGE}, b"x"],
    ids=kind_of,
)
def test_any_value_is_quoted_briefly(value: Any) -> None:
    assert 0 < len(wire.quoted(value)) <= 200


@pytest.mark.parametrize(
    "value", [None, True, "1", [], {}, math.nan, math.inf, -math.inf, HUGE, -HUGE], ids=kind_of
)
def test_fields_that_are_no_numbers(value: Any) -> None:
    assert wire.number(value) is wire.seconds(value) is wire.confidence(value) is None


def test_the_end_of_a_word_lies_in_its_transcript() -> None:
    assert wire.end_of(1.0, 1.4, 2.0) == 1.4
    assert wire.end_of(1.0, 2.4, 2.0) == 2.4, "slightly after it"
    assert wire.end_of(1.0, 9.0, 2.0) == 2.0, "it would cover what follows"
    assert wire.end_of(3.0, 9.0, 2.0) == 9.0, "the end of the transcript is wrong"
    assert [wire.end_of(None, 9.0, 2.0), wire.end_of(1.0, 9.0, None)] == [9.0, 9.0]
    assert wire.end_of(1.0, None, 2.0) is None


def test_numbers_and_their_limits() -> None:
    assert [wire.seconds(value) for value in (0, 0.0, 7, 1e300, -0.01)] == [0, 0, 7, 1e300, None]
    assert [wire.seconds(value, 5) for value in (5, 5.01)] == [5, None]
    assert [wire.confidence(value) for value in (0, 1, 1.0005, 1.1, -0.1)] == [0, 1, 1, None, None]
    assert [wire.index(value) for value in (0, 7, -1, True, 1.0, "1")] == [0, 7, *[None] * 4]
    flags = [True, False, 1, 0, "true", "False", 1.0, 2, "", None, []]
    found = [True, False, True, False, True, False, *[None] * 5]
    assert [wire.flag(value) for value in flags] == found
    labels = [0, "S1", "", "x" * 101, HUGE, True, 1.5, [1]]
    assert [wire.label(value) for value in labels] == ["0", "S1", *[None] * 6]
    assert [wire.first(value) for value in ([7, 8], [], None, "ab")] == [7, None, None, None]


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (1.0, 2.0, (1, 2)),
        (1, 2, (1, 2)),
        (1.0, None, (1, None)),
        (2.0, 1.0, (2, None)),
        (1.0, 99.0, (1, None)),
        (math.nan, 2.0, (None, 2)),
    ],
)
def test_times_of_a_word(start: Any, end: Any, found: tuple[Any, Any]) -> None:
    word = wire.word("a", start, end, 0.5, 0, latest=10)
    assert word == ProviderWord("a", *found, 0.5, "0")


def test_words_that_cannot_be_read_are_restored_from_the_text() -> None:
    a, c = ProviderWord("a", 1, 2), ProviderWord("c", 3, 4)
    assert wire.restored([a, c], "x y z") == (a, c)
    assert wire.restored([a, None, c], "A b C") == (a, ProviderWord("b"), c)
    plain = (ProviderWord("A"), ProviderWord("b"))
    assert wire.restored([a, None, c], "A b") == plain
    assert wire.restored([a, None], "") == (a,)


def test_missing_times_are_spread_between_the_neighbors() -> None:
    words = (ProviderWord("a"), ProviderWord("b"), ProviderWord("c", 4, 5), ProviderWord("d", 5))
    assert with_times(words, 2, 7) == (
        ProviderWord("a", 2, 3),
        ProviderWord("b", 3, 4),
        ProviderWord("c", 4, 5),
        ProviderWord("d", 5, 7),
    )
    assert with_times((), 0, 1) == ()
    late = (ProviderWord("a", 5, 6), ProviderWord("b"))
    assert with_times(late, 0, 1) == (ProviderWord("a", 5, 6), ProviderWord("b", 6, 6))

"""Tables of text, measured in terminal cells."""

from __future__ import annotations

import pytest

from natterjack.cli.table import end, middle, plain, start, table, width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand\x1b[31m red\x07", "two lines and [31m red"),
        ("left\u202eright\u2028next", "left right next"),
        ("कर्\u200dम", "कर्\u200dम"),  # a joiner that the script requires
        ("", ""),
    ],
)
def test_control_characters_are_removed(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_width_is_in_cells() -> None:
    assert [width(text) for text in ("abc", "日本", "e\u0301", "")] == [3, 4, 1, 0]


@pytest.mark.parametrize(
    ("cut", "room", "shown"),
    [
        (end, 9, "last words"[-8:].rjust(9, "…")),
        (end, 10, "last words"),
        (start, 5, "last…"),
        (middle, 7, "las…rds"),
        (end, 1, "…"),
        (end, 0, ""),
    ],
)
def test_long_text_is_cut(cut: object, room: int, shown: str) -> None:
    assert callable(cut)
    assert cut("last words", room) == shown


def test_wide_characters_are_not_split() -> None:
    for room in range(1, 9):
        for cut in (start, end, middle):
            assert width(cut("日本語の文字", room)) <= room


LINES = [
    ["KEY", "LAG", "WORDS"],
    ["tenant.a-long-conversation.speaker", "0.5", "the words that were said last of all"],
]


def test_columns_are_aligned_and_not_cut_without_a_width() -> None:
    head, line = table(LINES, right=(1,))
    assert line == "  ".join(LINES[1])
    assert head.index("LAG") == line.index("0.5")


@pytest.mark.parametrize("room", [100, 70, 50, 30, 10, 1])
def test_no_line_is_wider_than_the_terminal(room: int) -> None:
    for line in table(LINES, right=(1,), elastic=(0,), room=room):
        assert width(line) <= room


def test_elastic_columns_shrink_first() -> None:
    line = table(LINES, right=(1,), elastic=(0,), room=60)[1]
    assert line.startswith("tenant.a-long")
    assert line.endswith("said last of all")
    assert width(line) == 60


def test_a_last_column_that_is_too_narrow_is_omitted() -> None:
    head, line = table(LINES, right=(1,), elastic=(0,), room=22, least=10)
    assert head.split() == ["KEY", "LAG"]
    assert line.endswith("0.5")

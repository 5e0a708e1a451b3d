"""Tables of text, measured in terminal cells."""

from __future__ import annotations

import pytest

from natterjack.process.table import table
from natterjack.process.terminal import width

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


def test_control_characters_are_removed() -> None:
    assert table([["  na\x1b[31mme", "b"]]) == ["na [31mme  b"]
    assert table([["  name", "b"]]) == ["  name  b"]

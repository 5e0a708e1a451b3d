"""Text on a terminal: what is removed from it, its width in cells, and cutting it."""

from __future__ import annotations

import io
import os
import pty
import struct
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.cells import cell_len

from natterjack.process.terminal import (
    end,
    escaped,
    middle,
    plain,
    rewritable,
    size,
    start,
    styled,
    width,
)
from tests.searching import examples


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand\x1b[31m red\x07", "two lines and [31m red"),
        ("left\u202eright\u2028next", "left right next"),
        ("a\x9b2Jb\x7f\r\x08c", "a 2Jb c"),  # C1 controls are escape sequences of one character
        ("कर्\u200dम", "कर्\u200dम"),  # a joiner that the script requires
        ("שלום עולם", "שלום עולם"),
        ("", ""),
    ],
)
def test_control_characters_are_removed(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_control_characters_are_escaped_where_nothing_may_be_lost() -> None:
    assert escaped("name\x1b]0;title\x07\nנא 日") == "name\\x1b]0;title\\x07\nנא 日"


def test_width_is_in_cells() -> None:
    assert [width(text) for text in ("abc", "日本", "e\u0301", "กิ", "한", "")] == [3, 4, 1, 1, 2, 0]


@examples(300)
@given(some.text(max_size=30).map(plain))
def test_no_text_is_wider_than_it_is_measured(text: str) -> None:
    assert width(text) >= cell_len(text)


@pytest.mark.parametrize("text", ["❤\ufe0f", "👩\u200d🚀", "🇩🇪", "👍🏽", "1\ufe0f\u20e3"])
def test_emoji_are_not_wider_than_they_are_measured(text: str) -> None:
    assert width(text) >= cell_len(text) > 0


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


def test_a_letter_keeps_its_accent_or_loses_both() -> None:
    text = "e\u0301" * 5
    assert [end(text, 3), start(text, 3)] == ["…" + "e\u0301" * 2, "e\u0301" * 2 + "…"]
    assert end("e\u0301abc", 4) == "e\u0301abc"
    assert end("xe\u0301abc", 4) == "…abc"


@examples(300)
@given(some.text(max_size=30).map(plain), some.integers(0, 20))
def test_cut_text_has_room(text: str, room: int) -> None:
    for cut in (start, end, middle):
        shown = cut(text, room)
        assert width(shown) <= room
        assert shown == text or "…" in shown or room == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "can_rewrite", "can_style"),
    [
        ({}, True, True),
        ({"NO_COLOR": ""}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_the_environment_says_what_a_terminal_can(
    environment: dict[str, str],
    can_rewrite: bool,
    can_style: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (rewritable(Terminal()), styled(Terminal())) == (can_rewrite, can_style)
    assert not rewritable(io.StringIO())


@pytest.mark.parametrize(
    ("variable", "real", "columns"), [("40", 0, 40), ("40", 120, 40), ("200", 120, 120)]
)
def test_columns_may_make_a_terminal_narrower(
    variable: str, real: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", variable)
    ours, theirs = pty.openpty()
    try:
        ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, real, 0, 0))
        with os.fdopen(theirs, "w") as out:
            assert size(out).columns == columns
    finally:
        os.close(ours)
    assert size(io.StringIO()).columns == int(variable)

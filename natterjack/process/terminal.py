"""Text on a terminal: without control characters, measured in cells, and cut to a width."""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata
from typing import TextIO

_JOINERS = "\u200c\u200d"
_REMOVED_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_EMOJI_STYLE = "\ufe0f"
"""Makes the character before it as wide as an emoji, on some terminals."""
_HANGUL_VOWELS_AND_ENDS = ("\u1160", "\u11ff")
"""Drawn in the cells of the consonant before them."""


def rewritable(out: TextIO) -> bool:
    """Whether what `out` shows can be rewritten: it is a terminal, and TERM is not `dumb`."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def styled(out: TextIO) -> bool:
    """Whether text may be dim or colored: `out` is `rewritable`, and NO_COLOR is unset or empty."""
    return rewritable(out) and not os.environ.get("NO_COLOR")


def unread(error: OSError) -> bool:
    """Whether writing failed because nobody reads it any more: a closed pipe or terminal."""
    return error.errno in (errno.EPIPE, errno.EIO)


def size(out: TextIO) -> os.terminal_size:
    """Columns and lines of the terminal: COLUMNS and LINES, but no more than it really has."""
    wanted = shutil.get_terminal_size()
    try:
        real = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):  # not a terminal
        return wanted
    return os.terminal_size(
        min(want, have) if have else want for want, have in zip(wanted, real, strict=True)
    )


def plain(text: str) -> str:
    """`text` on one line, without control characters and marks that change text direction."""
    if not text.isprintable():
        text = "".join(
            char
            if char in _JOINERS or unicodedata.category(char) not in _REMOVED_CATEGORIES
            else " "
            for char in text
        )
    return " ".join(text.split())


def escaped(text: str) -> str:
    r"""`text` with control characters as escapes, such as `\x1b`. Line ends are kept."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def width(text: str) -> int:
    """Width in cells: wide East Asian characters take two, combining characters none.

    Where terminals differ, as for emoji made of several characters, it is the greatest width.
    """
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if char == _EMOJI_STYLE:
        return 1
    if char in _JOINERS or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    if _HANGUL_VOWELS_AND_ENDS[0] <= char <= _HANGUL_VOWELS_AND_ENDS[1]:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def end(text: str, room: int) -> str:
    """The end of `text`, cut to `room` cells; an ellipsis marks the cut."""
    if width(text) <= room:
        return text
    left, kept = room - 1, len(text)
    while kept and left >= _cells(text[kept - 1]):
        kept -= 1
        left -= _cells(text[kept])
    while kept < len(text) and not _cells(text[kept]):
        kept += 1  # a combining character whose letter is cut off
    return "…" + text[kept:] if room > 0 else ""


def start(text: str, room: int) -> str:
    """The start of `text`, cut to `room` cells; an ellipsis marks the cut."""
    if width(text) <= room:
        return text
    left, kept = room - 1, 0
    while kept < len(text) and left >= _cells(text[kept]):
        left -= _cells(text[kept])
        kept += 1
    return text[:kept] + "…" if room > 0 else ""


def middle(text: str, room: int) -> str:
    """The start and the end of `text`, cut to `room` cells in the middle."""
    if width(text) <= room:
        return text
    tail = end(text, room - room // 2)
    return start(text, room // 2 + 1)[:-1] + tail

"""Text of transcripts: cleaning, joining, and cutting without damage to any script."""

from __future__ import annotations

import re
import unicodedata

_SPACE = re.compile(r"\s*[^\S\u00a0\u2007\u202f]\s*")
"""White space at which a line may be broken."""
_REMOVED_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u3190-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\uff00-\uff60\U00020000-\U0003ffff]"
)
"""Characters of scripts that put no spaces between words: Chinese, Japanese, Thai, Lao, Burmese,
Khmer, and their punctuation."""
_JOINER = "\u200d"
_SKIN_TONES = ("\U0001f3fb", "\U0001f3ff")
_FLAGS = ("\U0001f1e6", "\U0001f1ff")
SENTENCE_ENDS = frozenset(
    ".?!…\u0589\u061f\u06d4\u0964\u0965\u104b\u1362\u17d4\u3002\uff01\uff0e\uff1f\uff61"
)
"""Ends of sentences in Latin, Armenian, Arabic, Devanagari, Burmese, Ethiopic, Khmer, Chinese and
Japanese."""
_QUOTES = "\"'"
RIGHT_TO_LEFT_MARK = "\u200f"


def clean(text: str) -> str:
    """`text` on one line, without control characters. Letters and marks of direction stay."""
    if not text.isprintable():
        text = "".join(
            " " if unicodedata.category(char) in _REMOVED_CATEGORIES else char for char in text
        )
    return _SPACE.sub(" ", text).strip()


def unspaced(char: str) -> bool:
    """Whether `char` belongs to a script that puts no spaces between words."""
    return char >= "\u0e00" and _UNSPACED.match(char) is not None


def separator(before: str, after: str) -> str:
    """Return the separator of two texts: a space, unless their script has none."""
    if not before or not after or unspaced(before[-1]) or unspaced(after[0]):
        return ""
    return " "


def join(texts: list[str]) -> str:
    """Texts that follow one another, as one."""
    parts: list[str] = []
    last = ""
    for text in texts:
        if text:
            parts += (separator(last, text), text)
            last = text
    return "".join(parts)


def last_mark(text: str) -> str:
    """The last character of `text`, or the one before closing quotation marks and brackets."""
    end = len(text)
    while end > 1 and (
        text[end - 1] in _QUOTES or unicodedata.category(text[end - 1]) in ("Pe", "Pf")
    ):
        end -= 1
    return text[end - 1 : end]


def right_to_left(text: str) -> bool:
    """Whether the first letter of `text` is of a script that is written from right to left."""
    for char in text:
        direction = unicodedata.bidirectional(char)
        if direction in ("L", "R", "AL"):
            return direction != "L"
    return False


def labeled(label: str, text: str, *, direction_of: str | None = None) -> str:
    """`text` behind a label. A mark keeps the direction of text that is written from right to left,
    which the label would turn."""
    turned = label and right_to_left(text if direction_of is None else direction_of)
    return f"{RIGHT_TO_LEFT_MARK if turned else ''}{label}{text}"


def clusters(text: str) -> list[str]:
    """The characters of `text` as readers see them: letters with their marks, whole emoji."""
    found: list[str] = []
    for char in text:
        if found and _continues(found[-1], char):
            found[-1] += char
        else:
            found.append(char)
    return found


def _continues(before: str, char: str) -> bool:
    if char == _JOINER or before[-1] == _JOINER or char == "\u200c":
        return True
    if unicodedata.category(char) in ("Mn", "Mc", "Me") or "\ufe00" <= char <= "\ufe0f":
        return True
    if _SKIN_TONES[0] <= char <= _SKIN_TONES[1]:
        return True
    return len(before) == 1 and all(_FLAGS[0] <= c <= _FLAGS[1] for c in (before, char))

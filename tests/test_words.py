"""A docstring says what a thing is or does, and a comment says why, in sentences that a stranger
understands: neither begins with a relative pronoun, or with "Of"."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "natterjack", "worker", "edge_capture", "gateway", "tests", "bench", "deploy", "docs",
    "examples",
)  # fmt: skip
_DOCSTRING = re.compile(r'[rR]?"""(Of|What|Whatever|Who|Whoever|Whom|Whose)\b')
_COMMENT = re.compile(r"#\s*(Of|What|Who|Whom|Whose)\b")
_SUSPECT = re.compile(rf"^\s*({_DOCSTRING.pattern})|{_COMMENT.pattern}", re.MULTILINE)


def riddles(text: str) -> Iterator[int]:
    """Yield the numbers of the lines on which such a docstring or comment begins."""
    if not _SUSPECT.search(text):  # reading tokens takes long; it tells comments from strings
        return
    statement = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        pattern = {tokenize.STRING: _DOCSTRING, tokenize.COMMENT: _COMMENT}.get(token.type)
        begins = statement or token.type == tokenize.COMMENT
        if pattern is not None and begins and pattern.match(token.string):
            yield token.start[0]
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            statement = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def test_docstrings_and_comments_say_what_a_thing_is() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for number in riddles(path.read_text())
    ]
    assert not found, 'begin with a noun or a verb, not with "What", "Who", "Whose" or "Of"'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('"""What it is."""\n', [1]),
        ('def f():\n    """Whose\n    name it is."""\n', [2]),
        ('x = 1\n# A constant\n\nr"""Of a session."""\n', [4]),
        ("x = 1  # Who waits\n# Of each\n", [1, 2]),
        ('"""A thing. What it is."""\n', []),
        ('"""Whatsoever, offered."""\n', []),
        ('f(\n    """What it is."""\n)\nx = """Of"""\n', []),
        ('x = """\n# What it is.\n"""\n', []),
        ("# Whoever may write one entry must not be able to replace all.\n", []),
    ],
)
def test_which_riddles_are_found(text: str, lines: list[int]) -> None:
    assert list(riddles(text)) == lines

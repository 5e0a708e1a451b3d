"""A test waits for a condition, with tests/waiting.py. One that sleeps says in a comment why the
time is right: the length of a fault, the pace of audio, a time in which nothing may happen."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

TESTS = Path(__file__).parent
_CONSTANT = re.compile(r"\bsleep\((?=[\d.]*[1-9])[\d_.]+\)")
"""A sleep of a number of seconds other than 0. A name of a constant says by itself what it is."""


def unexplained(text: str) -> Iterator[int]:
    """Numbers of the lines that sleep without a comment beside them or right above them."""
    lines = text.splitlines()
    suspects = {
        number
        for number, line in enumerate(lines, 1)
        if _CONSTANT.search(line)
        and "#" not in line
        and not (number > 1 and lines[number - 2].lstrip().startswith("#"))
    }
    if suspects:  # parsing takes long; it tells calls from programs in strings
        calls = {call.lineno for call in ast.walk(ast.parse(text)) if _sleeps(call)}
        yield from sorted(suspects & calls)


def _sleeps(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "sleep"


def test_every_sleep_says_why() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{number}"
        for path in sorted(TESTS.rglob("*.py"))
        if path.name != "waiting.py"
        for number in unexplained(path.read_text())
    ]
    assert not found, "wait for a condition (tests/waiting.py), or say in a comment why this long"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("time.sleep(1)\n", [1]),
        ("x = 1\nawait asyncio.sleep(0.5)\n", [2]),
        ("sleep(0.01)\n", [1]),
        ("time.sleep(1)  # the length of the fault\n", []),
        ("# the length of the fault\ntime.sleep(1)\n", []),
        ("await asyncio.sleep(0)\n", []),
        ("time.sleep(FAULT_SECONDS)\n", []),
        ("program = 'time.sleep(600)'\n", []),
    ],
)
def test_which_sleeps_are_found(text: str, lines: list[int]) -> None:
    assert list(unexplained(text)) == lines

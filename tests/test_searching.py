"""Random examples: how many there are is decided in one place."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.statements import statements

TESTS = Path(__file__).parent


def test_the_number_of_examples_is_that_of_searching() -> None:
    """So that TEST_SEARCH multiplies them, and `make soak` finds the module."""
    without = []
    for path in TESTS.rglob("test_*.py"):
        text = path.read_text()
        if "@given" not in text:
            continue
        for node in statements(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = {ast.unparse(each).partition("(")[0] for each in node.decorator_list}
                if "given" in names and "examples" not in names:
                    without.append(f"{path.relative_to(TESTS)}: {node.name}")
    assert without == []

"""The statements of a module's source, for tests that read the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield each statement inside `tree`, as ast.walk does, which also visits all expressions and
    thus takes nearly as long as parsing."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, ())
            if isinstance(inner, list):  # the body of a lambda or of `a if b else c` is none
                waiting += inner

"""Errors of task groups: each is raised by itself, on every release of Python."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from natterjack.errors import NatterjackError, UsageError, first_error, ungrouped

ROOT = Path(__file__).parents[1]
FOLDERS = ("natterjack", "worker", "edge_capture", "gateway", "bench", "examples")
ONE, OTHER = UsageError("one"), ValueError("other")


def raising(path: Path) -> list[str]:
    """The places of a module that raise in `except*`."""
    text = path.read_text()
    if "except*" not in text:
        return []
    return [
        f"{path.relative_to(ROOT)}:{inner.lineno}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.TryStar)
        for handler in node.handlers
        for inner in ast.walk(handler)
        if isinstance(inner, ast.Raise)
    ]


def test_nothing_is_raised_in_a_handler_of_groups() -> None:
    """Python 3.11.0 to 3.11.3, such as Debian 12's, puts such an error into a group again, so that
    nobody finds it. `natterjack.errors.ungrouped` raises it by itself."""
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert [place for path in modules for place in raising(path)] == []


def test_raising_in_a_handler_of_groups_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text("try:\n    f()\nexcept* ValueError as group:\n    raise group.exceptions[0]\n")
    assert raising(path) == ["module.py:4"]


@pytest.mark.parametrize(
    "group", [ExceptionGroup("", [ONE]), ExceptionGroup("", [ExceptionGroup("", [ONE]), ONE])]
)
def test_the_first_error_of_a_group_is_raised(group: BaseException) -> None:
    with pytest.raises(UsageError, match="one") as raised, ungrouped(NatterjackError):
        raise group
    assert raised.value is ONE
    assert raised.value.__suppress_context__
    assert first_error(group) is ONE


@pytest.mark.parametrize(
    "error", [ONE, OTHER, ExceptionGroup("", [OTHER]), ExceptionGroup("", [ONE, OTHER])]
)
def test_other_errors_are_raised_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, ungrouped(NatterjackError):
        raise error
    assert raised.value is error

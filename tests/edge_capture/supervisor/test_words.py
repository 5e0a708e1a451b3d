"""Messages of `natterjack-edge run` name the keys of its file, not the flags of other commands."""

from __future__ import annotations

import ast
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import edge_capture
from edge_capture.parser import make_parser

FOLDER = Path(edge_capture.__file__).parent
OTHERS = {
    "__main__.py", "parser.py", "probe.py", "settings.py", "fleet/single.py", "sources/listing.py",
    "transcript.py",
}  # fmt: skip
OTHER_ROOMS = ("check/", "enrollment/", "options/", "playback/")
"""Packages that `run` does not use."""
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
MODULES = [
    path
    for path in sorted(FOLDER.rglob("*.py"))
    if (name := path.relative_to(FOLDER).as_posix()) not in OTHERS
    and not name.startswith(OTHER_ROOMS)
]


def texts(tree: ast.Module) -> list[str]:
    """The texts of a module but for docstrings, those with values as one."""
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    lone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(each.value) for each in node.values
                                 if isinstance(each, ast.Constant)))  # fmt: skip
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in parts | lone
        ):
            found.append(node.value)
    return found


def flags_of_run() -> set[str]:
    shown = io.StringIO()
    with redirect_stdout(shown), pytest.raises(SystemExit):
        make_parser().parse_args(["run", "--help"])
    return set(FLAG.findall(shown.getvalue()))


def test_a_flag_that_run_lacks_is_named_with_the_key_of_its_file() -> None:
    known = flags_of_run()
    assert {"--config", "--check-config"} <= known
    seen = 0
    for path in MODULES:
        for text in texts(ast.parse(path.read_text())):
            # Other commands are whole, in backquotes or after their names.
            bare = re.sub(
                r"`natterjack[^`]*`|(natterjack-edge (send|stdin|mic)|pip install).*", "", text
            )
            for flag in set(FLAG.findall(bare)) - known:
                key = flag[2:].replace("-", "_")
                said = f"`{key}`" in text or f"{key} = " in text or "configuration file" in text
                assert said, f"{path.name}: {text!r} names {flag}, which `run` does not have"
                seen += 1
    assert seen > 3

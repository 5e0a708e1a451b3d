"""Names of the worker's functions that benchmarks look for: renames must not leave them behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import metered, stages

ROOT = Path(__file__).parents[2]
_LIBRARIES = ("prometheus_client/", "aiohttp/", "aio/client.py", "protocol/parser.py", "asyncio/")
"""Prefixes of marks that belong to libraries."""
MARKS = sorted(
    {mark for _, marks in stages.STAGES for mark in marks if not mark.startswith(_LIBRARIES)}
)


@pytest.mark.parametrize(
    ("owner", "names"), [*metered.METERED, (metered.ROSTER[0], metered.ROSTER[1:])]
)
def test_metered_methods_exist(owner: type, names: tuple[str, ...]) -> None:
    assert [name for name in names if name not in dir(owner)] == []


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_stages_exist(mark: str) -> None:
    """A mark is a part of a path, a class and the beginning of a method's name, or both."""
    path, _, name = (f"{mark}:" if "/" in mark and ":" not in mark else mark).rpartition(":")
    sources = [
        source.read_text()
        for package in ("natterjack", "worker")
        for source in (ROOT / package).rglob("*.py")
        if path in source.as_posix()
    ]
    owner, _, method = name.rpartition(".")
    wanted = [rf"^class \w*{owner}\b"] if owner else []
    wanted += [rf"^ *(?:async )?def {method}"] if method else []
    assert any(
        all(re.search(pattern, source, flags=re.M) for pattern in wanted) for source in sources
    ), f"{mark} matches no file or function"

"""The pure modules of the pages, by their own tests in Node."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from ...clients.npm import program
from ...waiting import bound

pytestmark = pytest.mark.process

UNIT = Path(__file__).parent / "unit"
ROOT = Path(__file__).parents[3]


def test_the_pure_modules_pass_their_tests() -> None:
    files = sorted(map(str, UNIT.glob("*.test.mjs")))
    assert files
    done = subprocess.run(
        [program("node"), "--test", *files],
        capture_output=True, text=True, check=False, timeout=bound(30),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# pass 0" not in done.stdout


def test_the_wheel_has_all_files() -> None:
    """Only those that are directly in the folder are packed."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "pages/static/*" in settings["tool"]["setuptools"]["package-data"]["gateway"]
    files = list((ROOT / "gateway" / "pages" / "static").iterdir())
    assert all(file.is_file() for file in files)
    served = {file.suffix for file in files if file.name != "package.json"}
    assert served == {".html", ".css", ".js", ".svg"}

"""The pure modules of the pages, by their own tests in Node."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ...clients.npm import program
from ...waiting import bound

pytestmark = pytest.mark.process

UNIT = Path(__file__).parent / "unit"


def test_the_pure_modules_pass_their_tests() -> None:
    files = sorted(map(str, UNIT.glob("*.test.mjs")))
    assert files
    done = subprocess.run(
        [program("node"), "--test", *files],
        capture_output=True, text=True, check=False, timeout=bound(30),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# pass 0" not in done.stdout

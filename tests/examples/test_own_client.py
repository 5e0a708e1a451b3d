"""The example of a client's own tests, as its reader runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_client_test.py"

pytestmark = pytest.mark.process


def tried(example: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest in the example's folder, with none of this project's options."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", example.name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", str(example.parent)],
        cwd=example.parent, env=environment, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip


def test_it_passes() -> None:
    done = tried(EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_it_fails_if_the_client_begins_anew_after_a_drop(tmp_path: Path) -> None:
    """So it would find that words are doubled."""
    text = EXAMPLE.read_text()
    assert "begin = done" in text
    copy = tmp_path / EXAMPLE.name
    copy.write_text(text.replace("begin = done", "begin = 0.0"))
    done = tried(copy)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert ">       assert tones.compare(" in done.stdout

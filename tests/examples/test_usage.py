"""An example that is started without its arguments says how it is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    "name", ["agent_assist", "captions_page", "echo", "index_into_sqlite", "talk_time"]
)
def test_without_arguments_an_example_shows_its_usage(name: str) -> None:
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"python examples/{name}.py acme" in done.stderr
    assert "Traceback" not in done.stderr

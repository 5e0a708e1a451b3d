"""What both programs begin with."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("package", "module", "program"),
    [("edge_capture", "rich", "natterjack-edge"), ("worker", "aiohttp", "natterjack-worker")],
)
def test_a_program_without_its_extra_names_it(package: str, module: str, program: str) -> None:
    extra = program.removeprefix("natterjack-")
    start = f"import sys; sys.modules[{module!r}] = None; from {package}.start import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    said = f"{program}: the module {module} is missing: pip install 'natterjack[{extra}]'\n"
    assert done.stderr == said

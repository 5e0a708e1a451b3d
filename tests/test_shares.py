"""Tests in forked processes: each runs once, and what goes wrong is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

_CONFTEST = "from tests.shares import pytest_runtestloop"
_MANY = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(100))
def test_many(number, tmp_path, capfd):
    print(number)
    assert capfd.readouterr().out == f"{number}\\n"
    with open(pathlib.Path(__file__).parent / "seen", "a") as file:
        file.write(f"{number} {os.getpid()} {tmp_path}\\n")
"""


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_it.py").write_text(module)
    environment = os.environ | {"TEST_SHARES": "3", "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-c", os.devnull, "--rootdir", folder, folder, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_each_test_runs_once(tmp_path: Path) -> None:
    done = run(tmp_path, _MANY)
    assert "100 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    numbers, processes, folders = zip(
        *(line.split() for line in (tmp_path / "seen").read_text().splitlines()), strict=True
    )
    assert sorted(map(int, numbers)) == list(range(100))
    assert 1 < len(set(processes)) <= 3
    assert len(set(folders)) == 100


def test_failures_are_shown(tmp_path: Path) -> None:
    done = run(tmp_path, _MANY + "    assert number != 50, 'the number is fifty'\n")
    assert "1 failed, 99 passed" in done.stdout, done.stdout + done.stderr
    assert "the number is fifty" in done.stdout
    assert done.returncode == 1


def test_the_first_failure_may_end_all(tmp_path: Path) -> None:
    done = run(tmp_path, _MANY + "    assert False\n", "-x")
    assert "stopping after 1 failures" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1


def test_a_process_that_ends_is_named_with_its_test(tmp_path: Path) -> None:
    done = run(tmp_path, _MANY + "    if number == 50: os._exit(9)\n")
    assert "test_it.py::test_many[50] ended its process with status 9" in done.stdout
    assert done.returncode == 3

"""Tests in forked processes: each runs once, and what goes wrong is shown."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .shares import batches
from .waiting import until

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


_WAITING = """
import pathlib, pytest, time

HERE = pathlib.Path(__file__).parent

def reached(state):
    end = time.monotonic() + 60  # of this test's own, if something is wrong
    while not (HERE / state).exists():
        assert time.monotonic() < end
        time.sleep(0.01)  # between two looks

@pytest.fixture(scope="module")
def used():
    yield
    (HERE / "ended").touch()

@pytest.mark.slow
def test_waits(used):
    (HERE / "begun").touch()
    reached("go on")

@pytest.mark.parametrize("number", range(40))
def test_many(used, number):
    reached("go on")
"""


def start(folder: Path, module: str, *arguments: str) -> subprocess.Popen[str]:
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_it.py").write_text(module)
    environment = os.environ | {"TEST_SHARES": "3", "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider",
         "-c", os.devnull, "--rootdir", folder, folder, *arguments],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, module, *arguments)
    output, _ = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def test_each_test_runs_once(tmp_path: Path) -> None:
    done = run(tmp_path, _MANY)
    assert "100 passed" in done.stdout, done.stdout
    assert done.returncode == 0
    numbers, processes, folders = zip(
        *(line.split() for line in (tmp_path / "seen").read_text().splitlines()), strict=True
    )
    assert sorted(map(int, numbers)) == list(range(100))
    assert 1 < len(set(processes)) <= 3
    assert len(set(folders)) == 100


def test_failures_are_shown(tmp_path: Path) -> None:
    done = run(tmp_path, _MANY + "    assert number != 50, 'the number is fifty'\n")
    assert "1 failed, 99 passed" in done.stdout, done.stdout
    assert "the number is fifty" in done.stdout
    assert done.returncode == 1


def test_the_first_failure_may_end_all(tmp_path: Path) -> None:
    done = run(tmp_path, _MANY + "    assert False\n", "-x")
    assert "stopping after 1 failures" in done.stdout, done.stdout
    assert done.returncode == 1


def test_a_process_that_ends_is_named_with_its_test(tmp_path: Path) -> None:
    done = run(tmp_path, _MANY + "    if number == 50: os._exit(9)\n")
    assert "test_it.py::test_many[50] ended its process with status 9" in done.stdout
    assert done.returncode == 3


_FAILING = """
# The process that runs the test that waits has taken one more.
@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_fails(number):
    reached("begun")
    (HERE / "go on").touch()
    assert False
"""


def test_when_one_fails_the_others_end_what_they_use(tmp_path: Path) -> None:
    done = run(tmp_path, _WAITING + _FAILING, "-x")
    assert "stopping after 1 failures" in done.stdout, done.stdout
    assert (tmp_path / "ended").exists()


_PASSING = """
@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_passes(number):
    pass
"""


def test_progress_is_shown_while_they_run(tmp_path: Path) -> None:
    process = start(tmp_path, _WAITING + _PASSING, "-v")
    assert process.stdout
    assert any(re.search(r"test_passes.* PASSED", line) for line in process.stdout)
    (tmp_path / "go on").touch()  # a test that waits for it too long fails
    output, _ = process.communicate()
    assert "46 passed" in output


async def test_interrupted_they_end_what_they_use(tmp_path: Path) -> None:
    process = start(tmp_path, _WAITING)
    await until(lambda: (tmp_path / "begun").exists(), "a test runs")
    process.send_signal(signal.SIGINT)
    (tmp_path / "go on").touch()
    output, _ = process.communicate()
    assert "KeyboardInterrupt" in output
    assert process.returncode == 2
    assert (tmp_path / "ended").exists()


class _Item:
    def __init__(self, *marks: str) -> None:
        self._marks = marks

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self._marks else None


def test_slow_tests_begin_first_and_alone() -> None:
    items: list[Any] = [*[_Item()] * 18, _Item("slow", "process"), *[_Item("process")] * 7]
    items += [_Item("slow"), _Item("slow"), _Item()]
    assert batches(items) == [
        (18, 19), (26, 27), (27, 28), (28, 29), (25, 26), (19, 25), (16, 18), (0, 16),
    ]  # fmt: skip

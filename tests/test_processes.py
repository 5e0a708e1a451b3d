"""Tests without the mark `process` start none; see conftest.py."""

from __future__ import annotations

import os
import subprocess

import pytest


def test_an_unmarked_test_can_start_no_process() -> None:
    with pytest.raises(AssertionError, match="without the mark `process`"):
        subprocess.run(["true"], check=True)
    with pytest.raises(AssertionError, match="without the mark `process`"):
        os.fork()


@pytest.mark.process
def test_a_marked_test_can() -> None:
    subprocess.run(["true"], check=True)


def test_fixtures_that_start_processes_set_the_mark(
    request: pytest.FixtureRequest, processes: None
) -> None:
    assert request.node.get_closest_marker("process")

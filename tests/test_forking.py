"""A forked program cannot tell that it is one, and neither can who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests import forking
from tests.forking import Process, launch
from tests.waiting import until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not forking.AVAILABLE, reason="programs are not forked here"),
]
_FROM_TESTS = "OPENBLAS_NUM_THREADS"
"""The package of the tests sets it, in a program that imports it, too."""
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    _FROM_TESTS: os.environ[_FROM_TESTS],
    **forking.early_variables(os.environ),
}


def obedient(*arguments: str) -> Process:
    pipe = subprocess.PIPE
    command = ("-m", "tests.obedient", *arguments)
    return launch(command, env=ENVIRONMENT, stdin=pipe, stdout=pipe, stderr=pipe)


def outcome(process: Process, line: str) -> tuple[int, str, str]:
    """Have the program run a line, and return its exit status and output."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    with process.stdout, process.stderr:
        assert process.stderr.readline() == b"ready\n"
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(f"{line}\n".encode())
        output, errors = process.stdout.read().decode(), process.stderr.read().decode()
    return process.wait(), output, errors.replace(f"{sys.executable}: ", "")


@pytest.mark.parametrize(
    "line",
    [
        "", "sys.exit(3)", "sys.exit('a reason')", "1 / 0", "raise KeyboardInterrupt",
        "os._exit(4)", "signal.raise_signal(signal.SIGTERM)", "signal.raise_signal(signal.SIGINT)",
    ],
)  # fmt: skip
def test_a_forked_program_behaves_as_one_in_an_interpreter_of_its_own(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = obedient("a", "b c")
    assert isinstance(forked, forking.ForkedProcess)
    monkeypatch.setattr(forking, "enabled", False)
    started = obedient("a", "b c")
    assert isinstance(started, subprocess.Popen)
    status, output, errors = outcome(forked, line)
    expected_status, expected_output, expected_errors = outcome(started, line)
    assert (status, output) == (expected_status, expected_output)
    assert errors.splitlines()[-1:] == expected_errors.splitlines()[-1:]
    assert forked.returncode == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_a_forked_program_is_ended_by_signals(number: signal.Signals) -> None:
    process = obedient()
    assert process.stderr
    process.stderr.readline()
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait() == -number
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream
        stream.close()


async def test_forked_programs_end_with_the_tests() -> None:
    """A test process that is killed leaves no program behind."""
    code = f"""
import subprocess, time
from tests import forking
forking.enabled = True
process = forking.launch(("-m", "tests.obedient"), env={ENVIRONMENT!r},
    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print(process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as tests:
        assert tests.stdout
        lines = [tests.stdout.readline()]
        pid = int(lines[0])
        os.kill(pid, 0)
        tests.kill()

    def gone() -> bool:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
        return True

    await until(gone, "the program has ended")

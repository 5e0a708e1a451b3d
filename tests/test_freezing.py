from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.freezing import freeze

pytestmark = pytest.mark.process

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def test_a_frozen_process_answers_nothing_until_it_goes_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        for number in range(20):
            freeze(process.pid)
            os.set_blocking(process.stdout.fileno(), False)
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
            assert process.stdout.read() is None
            os.kill(process.pid, signal.SIGCONT)
            os.set_blocking(process.stdout.fileno(), True)
            assert process.stdout.readline() == b"%d\n" % number

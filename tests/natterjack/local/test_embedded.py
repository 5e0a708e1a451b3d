"""The nats-server of a program that may be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until

pytestmark = pytest.mark.process

PROGRAM = """
import sys, time
from pathlib import Path
from tests.nats_server import NatsServer

server = NatsServer(Path(sys.argv[1]), tied=True)
server.start(60)
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_a_tied_server_ends_with_a_killed_program(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path], stdout=subprocess.PIPE, text=True
    ) as program:
        try:
            assert program.stdout is not None
            pid = int(program.stdout.readline())
            os.kill(pid, 0)
        finally:
            program.kill()

    def gone() -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return stat.rpartition(")")[2].split()[0] == "Z"  # whoever inherits it may reap it late

    await until(gone, "the server has ended", 20)

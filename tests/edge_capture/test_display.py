from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import soundfile

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.program import only_recording, requests, tone
from tests.edge_capture.test_faults import say, status_event
from tests.waiting import until


async def test_a_terminal_shows_the_session_live(
    ready_broker: Broker, nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 60, 16000), 16000)
    terminal, inner = pty.openpty()
    os.set_blocking(terminal, False)
    shown = ""

    def shows(words: str) -> bool:
        nonlocal shown
        with contextlib.suppress(OSError):  # nothing new, or the program has ended
            shown += os.read(terminal, 65536).decode(errors="replace")
        return words in shown

    process = subprocess.Popen(
        [sys.executable, "-m", "edge_capture", "file", str(tmp_path / "a.wav")],
        env=os.environ | {"NATS_URL": nats_server.url, "COLUMNS": "140", "TERM": "xterm"},
        stdin=subprocess.DEVNULL, stdout=inner, stderr=inner,
    )  # fmt: skip
    os.close(inner)
    try:
        await until(lambda: shows("waiting for a worker"), "the state is shown", 20)
        await until(lambda: shows("█"), "the meter moves")
        (spec,) = await requests(ready_broker)
        assert shows(str(spec.key))
        await say(ready_broker, status_event(spec, 0, "streaming"))
        await until(lambda: shows("streaming by worker-1"), "the worker's state is shown")
        nats_server.kill()
        await until(lambda: shows("NATS connection lost"), "the loss is shown")
        nats_server.start()
        process.send_signal(2)
        await until(lambda: shows("everything is published and acknowledged"), "the summary", 20)
        await until(lambda: shows("\x1b[?25h"), "the cursor is back")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    await until(lambda: ready_broker.connected, "the test is connected")
    (await only_recording(ready_broker)).check_whole()

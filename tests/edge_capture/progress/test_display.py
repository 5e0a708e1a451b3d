"""The display of an edge on terminals of all kinds, and its output elsewhere."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import soundfile

from edge_capture.progress.display import LOG_S, columns_within
from edge_capture.sources import microphone
from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from natterjack.process.terminal import width
from natterjack.telemetry.repeats import Repeats
from tests.edge_capture.program import only_recording, requests, tone
from tests.edge_capture.test_faults import say, status_event
from tests.natterjack.local.endings import Run
from tests.waiting import bound, until


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
        assert process.wait(bound(20)) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    await until(lambda: ready_broker.connected, "the test is connected")
    (await only_recording(ready_broker)).check_whole()


def test_the_columns_of_narrow_terminals() -> None:
    assert columns_within(120) == [
        "speaker", "level", "dBFS", "position", "published", "unacknowledged", "state",
    ]  # fmt: skip
    assert columns_within(80) == ["speaker", "level", "position", "published", "state"]
    assert columns_within(50) == ["speaker", "position", "state"]
    assert columns_within(20) == ["speaker", "state"]


def test_a_day_of_four_sources_is_at_most_200_lines() -> None:
    """In which nothing happens: progress, the drift of each device, and two lines of each key."""
    now, lines = 0.0, 0
    sources = [Repeats(LOG_S, clock=lambda: now) for _ in range(4)]
    while now < 24 * 3600:
        now += LOG_S
        lines += sum(each.due("capturing: streaming by worker-1") for each in sources)
    drift = 24 * 3600 / microphone._DRIFT_REPORT_S
    assert lines + 4 * (drift + 2) <= 200


@pytest.fixture
async def runs() -> AsyncIterator[list[Run]]:
    runs: list[Run] = []
    yield runs
    for run in runs:
        await run.clean_up()


def record(tmp_path: Path, name: str) -> str:
    soundfile.write(tmp_path / name, tone(440, 60, 8000), 8000)
    return name


@pytest.mark.parametrize("columns", [20, 24, 40, 80])
async def test_a_narrow_terminal(
    columns: int,
    tmp_path: Path,
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    runs: list[Run],
) -> None:
    """The name of the file has wide characters, and what rich would take for markup."""
    name = record(
        tmp_path, "[b]\N{CJK UNIFIED IDEOGRAPH-9332}\N{CJK UNIFIED IDEOGRAPH-97F3}[red].wav"
    )
    environment = {"NATS_URL": nats_server.url}
    runs.append(
        Run(tmp_path, "edge_capture", "file", name, columns=columns, environment=environment)
    )
    await until(lambda: "waiting" in runs[0].text, "the state is shown")
    unstyled = re.sub(r"\x1b\[[0-9;]*m", "", runs[0].output)
    rows = re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", unstyled)
    table = [row for row in rows if row.startswith(("file", "speaker"))]
    assert table
    assert all(width(row) <= columns for row in table), table
    assert any("state" in row for row in table)
    assert "[b]" in "".join(rows)
    assert "[red]" in "".join(rows)
    runs[0].press("c")
    assert await runs[0].ended() == 0, runs[0].text
    assert "Traceback" not in runs[0].text


async def test_no_color(tmp_path: Path, nats_server: EmbeddedServer, runs: list[Run]) -> None:
    environment = {"NATS_URL": nats_server.url, "NO_COLOR": "1", "COLORTERM": "truecolor"}
    arguments = ("file", record(tmp_path, "a.wav"))
    runs.append(Run(tmp_path, "edge_capture", *arguments, environment=environment))
    await until(lambda: "\N{FULL BLOCK}" in runs[0].text, "the meter is shown")
    styles = re.findall(r"\x1b\[([0-9;]*)m", runs[0].output)
    assert not {int(n) for style in styles for n in style.split(";") if n} & {*range(30, 50)}


@pytest.mark.parametrize("terminal", [True, False], ids=["TERM=dumb", "redirected"])
@pytest.mark.parametrize("force_color", ["", "1"])
async def test_where_nothing_can_be_rewritten(
    terminal: bool, force_color: str, tmp_path: Path, nats_server: EmbeddedServer, runs: list[Run]
) -> None:
    environment = {"NATS_URL": nats_server.url, "FORCE_COLOR": force_color}
    environment |= {"TERM": "dumb"} if terminal else {}
    arguments = ("file", record(tmp_path, "a.wav"))
    runs.append(
        Run(tmp_path, "edge_capture", *arguments, terminal=terminal, environment=environment)
    )
    await until(lambda: "capturing" in runs[0].text, "progress is logged")
    assert "\x1b" not in runs[0].output
    assert not re.search(r"\r(?!\n)", runs[0].output)

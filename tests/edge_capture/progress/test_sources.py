"""The table of an agent's sources on a terminal."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from edge_capture.progress.display import METER_CELLS
from edge_capture.progress.sources import Line, line_of, table_of
from natterjack.broker.connection import Broker
from natterjack.fleet.edges import EdgePresence, Level, SourcePresence
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.supervisor.agents import Counter, pipe
from tests.natterjack.local.endings import Run
from tests.waiting import until


def test_a_line_says_what_is_wrong_and_what_is_missing() -> None:
    source = SourcePresence(
        name="room", state="capturing", level=Level(rms_dbfs=-31.4), findings=["input_clipping"],
        key="t.room-20261201.speaker",
    )  # fmt: skip
    gaps = {"device_lost": 8.24, "busy": 0.01}
    name, state, dbfs, session, remarks = line_of(source, gaps)
    assert (name, state, dbfs, session) == ("room", "capturing", -31.4, "room-20261201")
    first, second = remarks.split("; ")
    assert "clip" in first
    assert second == "missing: device_lost 8.2 s"


def test_a_line_of_a_source_that_waits() -> None:
    source = SourcePresence(name="hall", state="waiting", error="waiting for a microphone")
    assert line_of(source, {}) == Line("hall", "waiting", None, "", "waiting for a microphone")


def test_the_loudest_level_has_a_meter() -> None:
    class Loud:
        """An agent with one source at full scale."""

        def presence(self) -> EdgePresence:
            now = datetime.now(UTC)
            source = SourcePresence(name="hall", state="capturing", level=Level(rms_dbfs=0.0))
            return EdgePresence(
                tenant="t", agent="lobby", started_at=now, seen_at=now, sources=[source]
            )

        def gap_seconds(self) -> dict[str, dict[str, float]]:
            return {}

        def trouble(self) -> str | None:
            return None

    console = Console(width=120, file=io.StringIO())
    with console.capture() as drawn:
        console.print(table_of(Loud(), 120))
    assert "█" * METER_CELLS in drawn.get()


async def test_a_terminal_shows_a_line_for_each_source(
    tmp_path: Path, ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    assert ready_broker.connected
    counter = Counter(tmp_path / "in")
    os.mkfifo(tmp_path / "silent")
    silent = f'[[sources]]\nname = "silent"\nkind = "pipe"\npath = "{tmp_path / "silent"}"\n'
    (tmp_path / "edge.toml").write_text(pipe("hall", counter) + silent)
    environment = {"NATS_URL": nats_server.url}
    run = Run(
        tmp_path, "edge_capture", "run", "--config", "edge.toml", "--agent", "lobby", columns=100,
        environment=environment,
    )  # fmt: skip
    try:
        await counter.write(40)
        await until(lambda: "hall" in run.text and "capturing" in run.text, "it is shown", 20)
        await until(lambda: "default.lobby" in run.text, "the agent is shown")
        await until(lambda: "waiting for a writer" in run.text, "what is waited for is shown")
        run.press("c")
        assert await run.ended() == 0, run.text
        assert "Traceback" not in run.text
        await until(lambda: "\x1b[?25h" in run.output, "the cursor is back")
    finally:
        counter.close()
        await run.clean_up()

"""`natterjack-edge stdin` as the center sees and steers it, as a process."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from natterjack.broker.connection import Broker
from natterjack.fleet.edge_reader import EdgeRow, EdgesReader
from natterjack.fleet.edges import EdgeReply, parse_reply
from natterjack.subjects import edge_subject
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import Edge
from tests.waiting import until


async def test_standard_input_is_shown_muted_and_seen_to_stop(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    """And it is muted still when it was killed meanwhile."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as audio, os.fdopen(writing, "wb") as writer:

        def start() -> Edge:
            return start_edge(
                "stdin", "--raw", "--live", "--tenant", "acme", "--agent", "room-12",
                "--presence-seconds", "1", "--spool", tmp_path / "spool",
                stdin=audio, stdout=subprocess.DEVNULL,
            )  # fmt: skip

        edge = start()
        writer.write(bytes(64_000))
        writer.flush()
        reader = EdgesReader(ready_broker)
        await reader.start()

        async def shown() -> EdgeRow | None:
            return next(iter((await reader.read("acme")).rows), None)

        async def ask(op: str) -> EdgeReply:
            data = f'{{"op": "{op}"}}'.encode()
            answer = await ready_broker.client.request(edge_subject("acme", "room-12"), data, 60)
            reply = parse_reply(answer.data)
            assert reply is not None
            return reply

        row = await until(shown, "the edge is shown")
        assert (row.name, row.state) == ("acme.room-12", "running")
        assert row.presence.sources[0].kind == "stdin"
        assert (row.presence.sources[0].key or "").startswith("acme.")
        muted = await ask("mute")
        assert muted.ok
        assert muted.presence is not None
        assert muted.presence.sources[0].state == "muted"
        assert (await ask("mute")).detail == "it is muted already"
        edge.kill()
        edge = start()
        writer.write(bytes(64_000))
        writer.flush()

        async def muted_again() -> bool:
            found = await shown()
            assert found is not None
            if found.presence.instance == row.presence.instance or not found.presence.sources:
                return False
            return found.presence.sources[0].state == "muted"

        await until(muted_again, "the next start is muted")
        assert (await ask("unmute")).detail == "no longer muted"
        rotated = await ask("rotate")
        assert not rotated.ok
        assert "natterjack-edge run --config" in rotated.detail

        edge.process.send_signal(signal.SIGTERM)

        async def stopped() -> bool:
            now = await shown()
            return now is not None and now.state == "stopped"

        await until(stopped, "it says that it has stopped")
        await edge.exit_code()

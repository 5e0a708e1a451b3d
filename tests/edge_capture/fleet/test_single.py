"""`natterjack-edge stdin` as the center sees and steers it, as a process."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from edge_capture.errors import SteeringError
from edge_capture.fleet.single import SingleEdge
from edge_capture.settings import SpoolSettings
from edge_capture.spool import Spool
from natterjack.broker.connection import Broker
from natterjack.fleet.edge_reader import EdgeRow, EdgesReader
from natterjack.fleet.edges import EdgeReply, parse_reply
from natterjack.subjects import edge_subject
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import Edge
from tests.waiting import until


@pytest.mark.parametrize(("command", "words"), [
    ("file", "a file cannot be muted"),
    ("stdin", "standard input without --live cannot be muted"),
])  # fmt: skip
async def test_what_is_read_later_cannot_be_muted(command: str, words: str) -> None:
    edge = SingleEdge(command, "acme", "room-12", [command], None, can_wait=True)
    with pytest.raises(SteeringError, match=words):
        await edge.act("mute", None)


async def test_a_source_may_be_muted_before_it_has_audio(tmp_path: Path) -> None:
    spool = Spool(SpoolSettings(spool=tmp_path))
    edge = SingleEdge("mic", "acme", "room-12", ["a", "b"], spool, can_wait=False)
    with pytest.raises(SteeringError, match="are muted together"):
        await edge.act("mute", "a")
    assert await edge.act("mute", None) == "muted"
    sources = edge.presence().sources
    assert [(each.name, each.state) for each in sources] == [("a", "muted"), ("b", "muted")]
    again = SingleEdge("mic", "acme", "room-12", ["a", "b"], spool, can_wait=False)
    assert again.presence().sources[0].state == "muted"
    await spool.close()


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

        row = await until(shown, "the edge is shown before it has audio")
        assert (row.name, row.state) == ("acme.room-12", "running")
        (source,) = row.presence.sources
        assert (source.kind, source.state) == ("stdin", "waiting")
        assert source.error == "waiting for its first audio"
        writer.write(bytes(64_000))
        writer.flush()

        async def captures() -> EdgeRow | None:
            found = await shown()
            return found if found and found.presence.sources[0].state == "capturing" else None

        row = await until(captures, "it captures")
        assert row.presence.instance
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

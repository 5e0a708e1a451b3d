"""A microphone that disappears while the broker is away, with a real sound server and broker."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.conftest import SoundServer, StartEdge
from tests.edge_capture.program import only_recording
from tests.edge_capture.test_microphone import LOST, check_jump, hears, melody, sounds
from tests.waiting import until

pytestmark = pytest.mark.sound
__all__ = ["melody"]


@pytest.mark.parametrize("spool", [False, True])
async def test_a_microphone_that_comes_back_before_the_broker_continues_its_session(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    sound_server: SoundServer,
    melody: Path,
    tmp_path: Path,
    spool: bool,
) -> None:
    """The agent goes on looking for it, for longer than `EDGE_DEVICE_WAIT_SECONDS`."""
    edge = start_edge(
        "mic", "--device-wait-seconds", 0.5, "--log-level", "info",
        *(["--spool", tmp_path / "spool"] if spool else []),
        environment=sound_server.environment,
    )  # fmt: skip
    await sounds(ready_broker)
    nats_server.kill()
    await edge.says("NATS connection lost")
    sound_server.kill()
    gone = time.monotonic()
    await edge.says("waiting for it until the broker has stored the audio")
    await edge.says("\"waiting for microphone 'default'\"")
    away = time.monotonic() - gone
    await sound_server.start()
    await edge.says("the microphone is back")
    played_at = time.time()
    sound_server.play(melody)
    await until(lambda: time.time() - played_at > 3, "the tune is recorded")
    nats_server.start()
    await until(lambda: ready_broker.connected, "the test is connected")
    await hears(ready_broker, 1.9)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    check_jump(await only_recording(ready_broker), away - 0.5, played_at)


@pytest.mark.parametrize("patience", [0, 0.5])
async def test_a_microphone_that_stays_away_ends_its_session_when_the_broker_is_back(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    sound_server: SoundServer,
    patience: float,
) -> None:
    edge = start_edge(
        "mic", "--device-wait-seconds", patience, environment=sound_server.environment
    )
    await sounds(ready_broker)
    nats_server.kill()
    await edge.says("NATS connection lost")
    sound_server.kill()
    await edge.says("waiting for it until the broker has stored the audio")
    assert "ending the session" not in edge.stderr
    nats_server.start()
    assert await edge.exit_code() == 1
    assert re.search(f"{LOST}; ending the session", edge.stderr)
    assert "everything is published and acknowledged" in edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    assert (await only_recording(ready_broker)).headers[-1].end


async def test_a_signal_while_both_are_away(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    sound_server: SoundServer,
) -> None:
    edge = start_edge(
        "mic", "--device-wait-seconds", 0, "--finish-seconds", 0.5,
        environment=sound_server.environment,
    )  # fmt: skip
    await sounds(ready_broker)
    nats_server.kill()
    await edge.says("NATS connection lost")
    sound_server.kill()
    await edge.says("waiting for it until the broker has stored the audio")
    edge.interrupt()
    assert await edge.exit_code() == 1
    assert "chunks are unacknowledged" in edge.stderr

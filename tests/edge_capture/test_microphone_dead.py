"""A microphone whose device never responds again, with a real sound server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from tests.edge_capture.conftest import SoundServer, StartEdge
from tests.edge_capture.program import only_recording
from tests.edge_capture.test_microphone import check_jump, hears, melody, sounds

pytestmark = pytest.mark.sound
__all__ = ["melody"]


@pytest.mark.parametrize(("device", "dead"), [("mic", 0), ("pulse", 1)])
async def test_a_sound_server_that_hangs_is_replaced(
    ready_broker: Broker,
    start_edge: StartEdge,
    sound_server: SoundServer,
    melody: Path,
    device: str,
    dead: int,
) -> None:
    """The agent records from the new one, although the old one still has its connection. PortAudio
    has a stream that never responds again."""
    edge = start_edge("mic", "--device", device, environment=sound_server.environment)
    await sounds(ready_broker)
    await sound_server.replace()
    await edge.says("the microphone is back", 40)
    assert edge.stderr.count("an audio device does not respond") == dead
    played_at = time.time()
    sound_server.play(melody)
    await hears(ready_broker, 1.9)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    # It is given up after 5 s; the new server may deliver what its source has had just before.
    check_jump(await only_recording(ready_broker), 4.8, played_at)

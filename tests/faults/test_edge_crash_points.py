"""An edge with a spool is killed or loses its connection at each point of its order of operations.
`docs/explanation/guarantees.md` describes the outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile

from natterjack.audio import AUDIO_END
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer

from ..edge_capture.conftest import StartEdge
from ..edge_capture.program import only_recording
from ..waiting import until
from .proxy import NatsProxy

pytestmark = pytest.mark.process

POINTS = {
    "request": ("stt.session.>", 1, b""),
    "first-chunk": ("stt.audio.>", 1, b""),
    "twentieth-chunk": ("stt.audio.>", 20, b""),
    "last-chunk": ("stt.audio.>", 1, AUDIO_END.encode()),
}
"""Subject, number of the message, and a part of its headers."""


@pytest.mark.parametrize("mode", ["kill", "blip"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS)
async def test_crash_point(
    point: str,
    after: bool,
    mode: Literal["kill", "blip"],
    nats_server: EmbeddedServer,
    ready_broker: Broker,
    start_edge: StartEdge,
    tmp_path: Path,
) -> None:
    """`before`: the message does not reach the broker. `after`: only its reply is lost."""
    subject, n, header_part = POINTS[point]
    speech = tmp_path / "speech.wav"
    noise = np.random.default_rng(1).integers(-9000, 9000, 48_000, np.int16)
    soundfile.write(speech, noise, 16000)
    arguments = ("file", speech, "--spool", tmp_path / "spool", "--resume", "--speed")
    js = ready_broker.client.jetstream()
    async with NatsProxy(nats_server.port) as proxy:
        trigger = (proxy.after if after else proxy.before)(
            subject,
            (lambda: edge.kill()) if mode == "kill" else None,
            n=n,
            where=lambda message: header_part in message.headers,
        )
        edge = start_edge(*arguments, "10", environment={"NATS_URL": proxy.url})
        await until(trigger.fired.is_set, f"the edge reaches {point}", 20)
        if mode == "kill":
            stream = streams.SESSIONS if point == "request" else streams.AUDIO
            count = (await js.stream_info(stream)).state.messages
            number = 38 if point == "last-chunk" else n
            assert count >= number if after else count == number - 1
            edge = start_edge(*arguments, "max")
        assert await edge.exit_code() == 0, edge.stderr
    recording = (await only_recording(ready_broker)).once_each()
    recording.check_whole()
    assert (recording.samples == noise).all()

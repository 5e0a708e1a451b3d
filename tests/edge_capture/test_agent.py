from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.agent import Agent, RunOptions
from edge_capture.session import make_keys, make_sessions
from edge_capture.settings import EdgeSettings, PublishSettings, RequestSettings
from edge_capture.sources.file import FileSource
from natterjack.audio import AudioFormat
from natterjack.broker.connection import Broker
from natterjack.settings import BrokerSettings
from tests.edge_capture.program import only_recording
from tests.waiting import soon, until

pytestmark = pytest.mark.process


async def test_a_connection_closed_for_good_is_replaced(
    ready_broker: Broker, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, 160_000, np.int16)
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    edge, publish = EdgeSettings(), PublishSettings()
    source = FileSource(tmp_path / "a.wav", 5, publish.chunk_ms)
    sessions = make_sessions(
        make_keys(edge), source.format, source.can_wait, edge, publish, RequestSettings()
    )
    agent = Agent(source, sessions, broker_settings, RunOptions(quiet=True))
    running = asyncio.create_task(agent.run(asyncio.Event()))
    await until(lambda: sessions[0].publisher.acknowledged > 5, "some chunks are stored")
    assert agent.broker is not None
    await agent.broker.client.close()
    assert await soon(running, 20) == 0
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert (recording.samples == noise).all()


async def test_a_successor_is_waited_for_although_its_channel_had_finished(
    broker_settings: BrokerSettings,
) -> None:
    """It opens while another channel is waited for, and its request is sent before the exit."""
    edge = EdgeSettings(split_channels="a,b")
    stereo = AudioFormat("linear16", 16000, 2)
    sessions = make_sessions(
        make_keys(edge), stereo, False, edge, PublishSettings(), RequestSettings()
    )
    agent = Agent(None, sessions, broker_settings, RunOptions(quiet=True))
    a, b = (session.publisher for session in sessions)
    storing = asyncio.create_task(agent._all_stored())

    async def turns() -> bool:
        for _ in range(10):
            await asyncio.sleep(0)
        return storing.done()

    a.finished.set()
    assert not await turns()
    a.open(a.backlog.current)
    b.finished.set()
    assert not await turns()
    a.finished.set()
    await soon(storing, 20)

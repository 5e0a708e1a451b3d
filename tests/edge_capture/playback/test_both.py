"""The program captures and plays. Its microphone records what its loudspeaker plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.broker.streams import ensure
from natterjack.emulators import tones
from natterjack.settings import KINDS, StreamSettings
from tests.edge_capture.conftest import SoundServer, StartEdge
from tests.edge_capture.program import only_recording, requests
from tests.edge_capture.test_microphone import lost
from tests.waiting import until

from .speaker import Voice, heard, speaking

pytestmark = pytest.mark.process

ROOM = ("--tenant", "acme", "--conversation", "room", "--log-level", "debug")
BOTH = ("mic", "--play", *ROOM, "--play-latency-ms", "500")
WORDS = tones.sequence(20)


@pytest.fixture
async def voices(broker: Broker) -> Broker:
    """A broker with the streams of both kinds of session."""
    await ensure(broker, StreamSettings(kinds=KINDS))
    return broker


async def played(voice: Voice) -> None:
    await until(
        lambda: voice.reports and voice.last.state == "idle" and voice.played >= voice.pos,
        "everything is played",
    )


async def captured(broker: Broker) -> list[str]:
    recording = await only_recording(broker)
    return heard(recording.payload, 16_000)


async def test_what_is_played_is_captured(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge = start_edge(*BOTH, environment=sound_server.environment)
    voice = Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await until(lambda: requests(voices), "the session is open", 20)
        await voice.say(WORDS[:6])
        await played(voice)

        async def all_captured() -> bool:
            return await captured(voices) == WORDS[:6]

        await until(all_captured, "the microphone has recorded it")
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert '"played_seconds"' in edge.stderr
    assert (await only_recording(voices)).headers[-1].end


async def test_devices_that_come_back_record_and_play_on(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge = start_edge(*BOTH, environment=sound_server.environment)
    voice = Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await until(lambda: requests(voices), "the session is open", 20)
        await voice.say(WORDS[:3])
        await played(voice)
        sound_server.kill()
        await edge.says("loudspeaker 'default' is gone; waiting for it to return")
        await lost(edge)
        await sound_server.start()
        await edge.says("the loudspeaker is back")
        await edge.says("the microphone is back")
        await voice.say(WORDS[3:6])
        await played(voice)

        async def all_captured() -> bool:
            return await captured(voices) == WORDS[:6]

        await until(all_captured, "the microphone has recorded it")
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr


async def test_the_capture_goes_on_if_another_agent_plays_the_key(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer, tmp_path: Path
) -> None:
    player = start_edge("play", *ROOM, "--file", tmp_path / "played.wav")
    await player.says("ready to play")
    edge = start_edge(*BOTH, environment=sound_server.environment)
    await edge.says("nothing is played: acme.room.assistant is being played by agent")
    await until(lambda: requests(voices), "the session is open", 20)
    edge.interrupt()
    assert await edge.exit_code() == 1, edge.stderr
    assert "everything is published and acknowledged" in edge.stderr
    assert "Traceback" not in edge.stderr


async def test_a_loudspeaker_that_does_not_exist_is_named_before_anything_is_published(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge = start_edge(
        "mic", "--play", *ROOM[:4], "--play-device", "kitchen",
        environment=sound_server.environment,
    )  # fmt: skip
    assert await edge.exit_code() == 2
    assert "no loudspeaker is named 'kitchen'" in edge.stderr
    assert edge.stderr.count("\n") == 1
    assert not await requests(voices)

"""Microphones of a sound server by their names, with a real server."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.sources.pulse.listing import list_sources
from natterjack.broker.connection import Broker
from natterjack.notices import DEVICE_FALLBACK, DEVICE_LOST, parse_notes
from tests.edge_capture.conftest import SoundServer, StartEdge
from tests.edge_capture.program import only_recording, requests, tone
from tests.edge_capture.test_microphone import run_script, sounds
from tests.waiting import bound

pytestmark = pytest.mark.sound


async def test_a_fallback_is_recorded_until_the_preferred_microphone_is_back(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    sound_server.plug_in("usb-headset")
    edge = start_edge(
        "mic", "--device", "headset,camera,mic", "--device-return-seconds", 1,
        environment=sound_server.environment,
    )  # fmt: skip
    await sounds(ready_broker)
    sound_server.unplug("usb-headset")
    await edge.says("microphone 'headset' is not there; recording 'mic' until it is back")
    await edge.says('"microphone": "mic", "instead_of": "usb-headset"')
    sound_server.plug_in("usb-headset")
    await edge.says("microphone 'usb-headset' is there again; switching back to it")
    await edge.says('"microphone": "usb-headset", "instead_of": "mic"')
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    assert edge.stderr.count("another microphone is recorded") == 2
    recording = await only_recording(ready_broker)
    headers = recording.headers
    assert [header.seq for header in headers] == list(range(len(headers)))
    noted = [note for header in headers for note in parse_notes(header.note)]
    assert [str(note) for note in noted if note.code == DEVICE_FALLBACK] == [
        "device_fallback", "device_fallback:end",
    ]  # fmt: skip
    assert [note.ended for note in noted if note.code == DEVICE_LOST].count(True) == 2
    for header, following in pairwise(headers):
        assert following.pos >= header.pos
        seconds = (following.time_ns - headers[0].time_ns) / 1e9
        assert seconds == pytest.approx(following.pos / 16000, abs=bound(0.5))


async def test_a_microphone_is_waited_for_at_the_start(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    """As `systemd` starts it before the sound server, or without a microphone."""
    sound_server.kill()
    edge = start_edge("mic", "--device", "mic", environment=sound_server.environment)
    await edge.says("waiting for a microphone: plug one in, or name another one as `device`")
    assert not await requests(ready_broker)
    await sound_server.start()
    await sounds(ready_broker)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    assert edge.stderr.count("waiting for a microphone") < 3


async def test_a_wait_for_a_microphone_ends(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    """With an exit status after which a service is started again."""
    edge = start_edge(
        "mic", "--device", "none", "--device-wait-seconds", 2,
        environment=sound_server.environment,
    )  # fmt: skip
    assert await edge.exit_code() == 1
    assert "natterjack-edge: no microphone is named 'none'; available: mic" in edge.stderr
    assert not await requests(ready_broker)


_SEVERAL = """
import asyncio
import numpy as np
from edge_capture.settings import MicrophoneSettings
from edge_capture.sources.microphone import MicrophoneSource

async def main():
    sources = [
        MicrophoneSource(MicrophoneSettings(device=device, device_channels=channels), None)
        for device, channels in (("mic", "2"), ("quiet", ""), ("virt.monitor", "2,1"))
    ]
    for source in sources:
        await source.open(0)
    playing = await asyncio.create_subprocess_exec("paplay", "-d", "virt", "tone.wav")
    assert await playing.wait() == 0
    for source in sources:
        loudest, frames = 0, 0
        async for block in source.blocks():
            loudest = np.maximum(loudest, np.abs(block.samples.astype(int)).max(axis=0))
            frames += len(block.samples)
            if frames > source.format.sample_rate * 1.5:
                break
        print(source.name, *(loudest > 1000))
        source.close()

asyncio.run(main())
"""


async def test_several_microphones_and_channels_in_one_process(
    sound_server: SoundServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the left channel of one of them has audio."""
    monkeypatch.chdir(tmp_path)
    left = np.stack([tone(440, 1, 48000), np.zeros(48000)], axis=1)
    soundfile.write("tone.wav", left, 48000)
    sound_server.plug_in("quiet", "elsewhere.monitor")
    ended = await run_script(_SEVERAL, sound_server)
    assert ended.stdout.splitlines() == [
        "mic False", "quiet False", "virt.monitor False True",
    ], ended.stderr  # fmt: skip


def test_a_server_that_is_not_there_has_no_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/none")
    assert list_sources() is None

"""The microphone with a real sound server and PortAudio."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from natterjack.audio import decode_chunk_headers
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.conftest import SoundServer, StartEdge
from tests.edge_capture.program import (
    Edge,
    Recording,
    loudest_hertz,
    nothing_published,
    only_recording,
    recordings,
    requests,
    stored,
    tone,
)
from tests.freezing import freeze
from tests.waiting import bound, until

pytestmark = pytest.mark.sound


@pytest.fixture
def melody(tmp_path: Path) -> Path:
    """2 s with 440 Hz on the left and 1000 Hz on the right."""
    both = np.stack([tone(440, 2, 48000), tone(1000, 2, 48000)], axis=1)
    soundfile.write(tmp_path / "melody.wav", both, 48000)
    return tmp_path / "melody.wav"


async def so_far(broker: Broker) -> Recording | None:
    """Return what is stored of the only session, which is running."""
    specs = await requests(broker)
    if not specs:
        return None
    recording = Recording(specs[0], [], [])
    for message in await stored(broker, AUDIO):
        recording.headers.append(
            decode_chunk_headers(message.headers, len(message.data), specs[0].audio_format)
        )
        recording.payloads.append(message.data)
    return recording


async def hears(broker: Broker, seconds: float) -> None:
    """Wait until so much loud audio is stored."""

    async def enough() -> bool:
        recording = await so_far(broker)
        if recording is None:
            return False
        loud = np.abs(recording.samples.astype(np.int32)) > 1000
        return bool(loud.sum() > seconds * 16000 * 0.9)  # a sine is quiet near its zeros

    await until(enough, "the tone is heard", 20)


def loud_part(recording: Recording) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    loud = np.flatnonzero(np.abs(recording.samples.astype(np.int32)) > 1000)
    return recording.samples[loud[0] : loud[-1]]


async def run_script(script: str, sound_server: SoundServer) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that uses the sound server."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        env=os.environ | sound_server.environment,
        capture_output=True,
        text=True,
        timeout=bound(30),
        check=False,
    )


async def test_audio_from_the_microphone_is_published(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer, melody: Path
) -> None:
    edge = start_edge("mic", environment=sound_server.environment)
    await until(lambda: requests(ready_broker), "the session is open", 20)
    sound_server.play(melody)
    await hears(ready_broker, 1.9)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    recording = await only_recording(ready_broker)
    assert [header.seq for header in recording.headers] == list(range(len(recording.headers)))
    assert recording.headers[-1].end
    tune = loud_part(recording)
    assert loudest_hertz(tune, 16000) in (pytest.approx(440, abs=2), pytest.approx(1000, abs=2))
    assert len(tune) / 16000 == pytest.approx(2, abs=0.5)
    # Positions are continuous, and capture times follow them. The tolerance is for what the sound
    # server of a busy machine skips or delivers late; a wrong unit or origin would be far off.
    first = recording.headers[0]
    for header, payload, following in zip(
        recording.headers, recording.payloads, recording.headers[1:], strict=False
    ):
        assert following.pos == header.pos + len(payload) // 2
        seconds = (header.time_ns - first.time_ns) / 1e9
        assert seconds == pytest.approx(header.pos / 16000, abs=bound(2))


async def test_channels_of_a_microphone(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer, melody: Path
) -> None:
    edge = start_edge(
        "mic", "--split-channels", "left,right", "--device", "puls", "--device-rate", "48000",
        environment=sound_server.environment,
    )  # fmt: skip

    async def both() -> bool:
        return len(await requests(ready_broker)) == 2

    await until(both, "the sessions are open", 20)
    sound_server.play(melody)

    async def heard() -> bool:
        samples = (await recordings(ready_broker))["left"].samples.astype(np.int32)
        return bool((np.abs(samples) > 1000).sum() > 8000)

    await until(heard, "the tones are heard", 20)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    found = await recordings(ready_broker)
    assert loudest_hertz(loud_part(found["left"]), 16000) == pytest.approx(440, abs=2)
    assert loudest_hertz(loud_part(found["right"]), 16000) == pytest.approx(1000, abs=2)


async def test_recording_runs_before_the_broker_is_there(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    sound_server: SoundServer,
    melody: Path,
) -> None:
    nats_server.kill()
    edge = start_edge("mic", "--log-level", "info", environment=sound_server.environment)
    await edge.says("no NATS at")
    sound_server.play(melody)
    await until(lambda: _captured_seconds(edge) > 2.5, "it has recorded the tune", 20)
    nats_server.start()
    await until(lambda: ready_broker.connected, "the test is connected")
    await hears(ready_broker, 1.9)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    recording = await only_recording(ready_broker)
    assert recording.headers[0].pos == 0
    assert len(loud_part(recording)) / 16000 == pytest.approx(2, abs=0.5)


def _captured_seconds(edge: Edge) -> float:
    """Return the position in the last line of progress."""
    _, found, rest = edge.stderr.rpartition('"position": "0:')
    return float(rest.partition('"')[0]) if found else 0.0


async def test_a_microphone_that_vanishes_ends_its_session(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer, melody: Path
) -> None:
    edge = start_edge("mic", "--device-wait-seconds", 0, environment=sound_server.environment)
    await until(lambda: requests(ready_broker), "the session is open", 20)
    sound_server.play(melody)
    await hears(ready_broker, 0.5)
    os.kill(sound_server.pid, signal.SIGKILL)
    assert await edge.exit_code() == 1
    assert re.search(f"{LOST}; ending the session", edge.stderr)
    assert "everything is published and acknowledged" in edge.stderr
    # Every line is a log line: the libraries print nothing.
    assert all(line.startswith("{") for line in edge.stderr.splitlines())
    assert (await only_recording(ready_broker)).headers[-1].end


async def test_a_microphone_that_delivers_nothing_ends_its_session(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge = start_edge("mic", "--device-wait-seconds", 0, environment=sound_server.environment)
    await until(lambda: requests(ready_broker), "the session is open", 20)
    freeze(sound_server.pid)
    assert await edge.exit_code() == 1
    assert "microphone 'default' has delivered no audio for 5 s" in edge.stderr
    assert (await only_recording(ready_broker)).headers[-1].end


LOST = r"microphone 'default' (is gone|has delivered no audio for 5 s)"
"""The program's message after the sound server was killed. libpulse does not always notice it."""


async def lost(edge: Edge) -> None:
    """Wait until the program has noticed that the microphone is gone, and waits for it."""
    words = f"{LOST}; waiting for it to return"
    try:
        await until(lambda: re.search(words, edge.stderr), "the microphone is gone", 20)
    except AssertionError as error:
        raise AssertionError(f"{error}: {edge.stderr}") from None


async def sounds(broker: Broker) -> None:
    """Wait until some audio is stored, which may be silence."""

    async def some() -> bool:
        recording = await so_far(broker)
        return recording is not None and len(recording.payloads) > 5

    await until(some, "some audio is stored", 20)


def check_jump(recording: Recording, away: float, played_at: float) -> None:
    """Assert that positions jump once, by `away` seconds or more, and are right after that.

    The tone that was played at `played_at` (time.time()) must be at its position.
    """
    headers, starts = recording.headers, []
    assert [header.seq for header in headers] == list(range(len(headers)))
    assert headers[-1].end
    jumps = []
    pos = 0
    for header, payload in zip(headers, recording.payloads, strict=True):
        if header.pos != pos:
            jumps.append((header.pos - pos) / 16000)
        seconds = (header.time_ns - headers[0].time_ns) / 1e9
        assert seconds == pytest.approx(header.pos / 16000, abs=bound(0.5))
        samples = np.frombuffer(payload, "<i2").astype(np.int32)
        starts += [header.pos + int(at) for at in np.flatnonzero(np.abs(samples) > 1000)[:1]]
        pos = header.pos + len(samples)
    (jump,) = jumps
    assert jump > away
    began = headers[0].time_ns / 1e9 + starts[0] / 16000
    assert -bound(0.5) < began - played_at < bound(5)  # the player takes a while to start


async def test_a_microphone_that_comes_back_continues_its_session(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer, melody: Path
) -> None:
    edge = start_edge("mic", environment=sound_server.environment)
    await sounds(ready_broker)
    sound_server.kill()
    killed = time.monotonic()
    await lost(edge)
    await until(lambda: time.monotonic() - killed > 3, "it is away for a while")
    away = time.monotonic() - killed
    await sound_server.start()
    await edge.says("the microphone is back")
    played_at = time.time()
    sound_server.play(melody)
    await hears(ready_broker, 1.9)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    assert (edge.stderr.count("; waiting for it"), edge.stderr.count("is back")) == (1, 1)
    recording = await only_recording(ready_broker)
    check_jump(recording, away - 0.5, played_at)
    assert loudest_hertz(loud_part(recording), 16000) == pytest.approx(440, abs=2)


async def test_a_microphone_that_comes_back_twice(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge = start_edge("mic", "--publish-sample-rate", 0, environment=sound_server.environment)
    await sounds(ready_broker)
    gone = "; waiting for it to return"
    for times in (1, 2):
        sound_server.kill()
        await until(lambda times=times: edge.stderr.count(gone) == times, "it is gone", 20)
        await sound_server.start()
        await until(lambda times=times: edge.stderr.count("is back") == times, "it is back", 20)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    recording = await only_recording(ready_broker)
    rate = recording.spec.sample_rate
    first = recording.headers[0]
    for header in recording.headers:
        seconds = (header.time_ns - first.time_ns) / 1e9
        assert seconds == pytest.approx(header.pos / rate, abs=bound(0.5))


async def test_a_microphone_that_delivers_nothing_for_a_while(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer, melody: Path
) -> None:
    edge = start_edge("mic", environment=sound_server.environment)
    await sounds(ready_broker)
    freeze(sound_server.pid)
    try:
        await edge.says(
            "microphone 'default' has delivered no audio for 5 s; waiting for it to return"
        )
    finally:
        os.kill(sound_server.pid, signal.SIGCONT)
    await edge.says("the microphone is back")
    played_at = time.time()
    sound_server.play(melody)
    await hears(ready_broker, 1.9)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    check_jump(await only_recording(ready_broker), 4.5, played_at)


async def test_a_microphone_that_stays_away_ends_its_session(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge = start_edge("mic", "--device-wait-seconds", 1.5, environment=sound_server.environment)
    await sounds(ready_broker)
    sound_server.kill()
    assert await edge.exit_code() == 1
    assert re.search(f"{LOST}; waiting for it to return", edge.stderr)
    assert re.search(f"{LOST}; ending the session", edge.stderr)
    assert (await only_recording(ready_broker)).headers[-1].end


@pytest.mark.parametrize(
    ("fault", "number"), [(signal.SIGKILL, signal.SIGTERM), (signal.SIGSTOP, signal.SIGINT)]
)
async def test_a_signal_while_the_microphone_is_away(
    ready_broker: Broker,
    start_edge: StartEdge,
    sound_server: SoundServer,
    fault: signal.Signals,
    number: signal.Signals,
) -> None:
    edge = start_edge("mic", environment=sound_server.environment)
    await sounds(ready_broker)
    os.kill(sound_server.pid, fault)
    await edge.says("waiting for it to return")
    edge.process.send_signal(number)
    assert await edge.exit_code(10) == 0
    assert "everything is published and acknowledged" in edge.stderr
    assert all(line.startswith("{") for line in edge.stderr.splitlines())
    assert (await only_recording(ready_broker)).headers[-1].end


_REFUSED = """
import asyncio, logging
import sounddevice
from edge_capture.settings import MicrophoneSettings
from edge_capture.sources import microphone

logging.basicConfig()
real, tried = sounddevice.RawInputStream, []

def refuse(*, samplerate, **how):
    tried.append(samplerate)
    if samplerate not in works:
        raise sounddevice.PortAudioError("Invalid sample rate", -9997)
    return real(samplerate=samplerate, **how)

async def main():
    global works
    sounddevice.RawInputStream = refuse
    source = microphone.MicrophoneSource(MicrophoneSettings(device="pulse"), None)
    works = [32000, 22050]
    await source.open()
    print(*tried, source.format.sample_rate)
    blocks = source.blocks()
    await anext(blocks)
    works = [16000]
    recording = source._opener.recording
    recording.close()  # as if the device were gone, which is noticed at once
    recording._finished()
    while not (block := await anext(blocks)).lost_frames:
        pass
    frames, started = len(block.samples), block.time_ns
    for _ in range(50):
        block = await anext(blocks)
        frames += len(block.samples)
    print(source.format.sample_rate, abs(frames / 32000 - 1) < 0.1)
    await blocks.aclose()
    source.close()
    works = []
    source = microphone.MicrophoneSource(MicrophoneSettings(device="pulse"), None)
    try:
        await source.open(0)
    except microphone.SourceError as error:
        print(error)

asyncio.run(main())
"""


async def test_a_device_that_refuses_its_rate_is_tried_at_others(sound_server: SoundServer) -> None:
    """The source keeps its rate, whatever a device that comes back can do."""
    ended = await run_script(_REFUSED, sound_server)
    opened, reopened, refused = ended.stdout.splitlines()
    assert opened == "44100 48000 32000 32000", ended.stderr
    assert reopened == "32000 True"
    cause = "microphone 'pulse' cannot be recorded: Invalid sample rate"
    tried = "44100, 48000, 32000, 96000, 24000, 22050, 16000, 11025, 8000"
    assert refused == f"{cause} (tried {tried} Hz)"
    for rate in (32000, 16000):
        assert ended.stderr.count(f"{cause}; recording at {rate} Hz") == 1
    assert ended.stderr.count("the microphone is back") == 1


async def test_devices_lists_microphones_and_loudspeakers(
    start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge = start_edge("devices", environment=sound_server.environment)
    assert await edge.exit_code() == 0, edge.stderr
    for kind in ("microphones:\n", "loudspeakers:\n"):
        listed = edge.stdout.partition(kind)[2]
        assert "pulse  (ALSA" in listed
    microphones, _, loudspeakers = edge.stdout.partition("loudspeakers:\n")
    for listed, name in (
        (microphones, "mic: Remapped Monitor of Null Output  (PulseAudio, 2 channels, 48000 Hz)"),
        (loudspeakers, "default  (ALSA, 32 channels, 44100 Hz)"),
    ):
        (default,) = [line for line in listed.splitlines() if line.startswith("*")]
        assert name in default
    assert edge.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--device", "webcam", "--once"],
            "no microphone is named 'webcam'; available: mic, virt.monitor, 0 pulse",
        ),
        (["--device-rate", "1"], "EDGE_DEVICE_RATE: Input should be greater than or equal to 4000"),
        (["--split-channels", ",".join(map(str, range(40)))], "names 40 speakers, microphone"),
    ],
)
async def test_an_unusable_device_is_reported_in_one_line(
    ready_broker: Broker,
    start_edge: StartEdge,
    sound_server: SoundServer,
    arguments: list[str],
    words: str,
) -> None:
    edge = start_edge("mic", *arguments, environment=sound_server.environment)
    assert await edge.exit_code() == 2
    assert edge.stderr.startswith("natterjack-edge: ")
    assert words in edge.stderr
    assert edge.stderr.count("\n") == 1
    assert await nothing_published(ready_broker)


@pytest.mark.parametrize("command", ["mic", "devices"])
async def test_no_sound_device_at_all(
    start_edge: StartEdge, sound_server: SoundServer, command: str
) -> None:
    sound_server.kill()
    arguments = ["--once"] if command == "mic" else []
    edge = start_edge(command, *arguments, environment=sound_server.environment)
    assert await edge.exit_code() == 2
    assert edge.stderr.startswith("natterjack-edge: no microphone found")
    assert "libasound2-plugins" in edge.stderr
    assert edge.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["mic", "devices"])
async def test_no_portaudio(start_edge: StartEdge, tmp_path: Path, command: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes.util\nctypes.util.find_library = lambda name: None\n"
    )
    edge = start_edge(command, environment={"PYTHONPATH": str(tmp_path)})
    assert await edge.exit_code() == 2
    assert edge.stderr.startswith(
        "natterjack-edge: the PortAudio library is not installed: apt-get"
    )
    assert edge.stderr.count("\n") == 1


_STALLED = """
import asyncio, time
from edge_capture.settings import MicrophoneSettings
from edge_capture.sources import microphone
from edge_capture.sources.recording import base

base._QUEUE_S = base._LEAST_QUEUE_S = 0.2

async def main():
    source = microphone.MicrophoneSource(MicrophoneSettings(device="pulse"), None)
    await source.open()
    blocks, frames, lost = source.blocks(), 0, 0
    await anext(blocks)
    started = time.monotonic()
    time.sleep(1)  # the loop hangs
    while time.monotonic() - started < 1.5:
        block = await anext(blocks)
        frames += len(block.samples)
        lost += block.lost_frames
    await blocks.aclose()
    source.close()
    rate = source.format.sample_rate
    print(0.5 < lost / rate, 1.2 < (frames + lost) / rate)

asyncio.run(main())
"""


async def test_a_stalled_program_counts_what_it_lost(sound_server: SoundServer) -> None:
    ended = await run_script(_STALLED, sound_server)
    assert ended.stdout == "True True\n", ended.stderr
    assert "s of audio were lost: this machine was too busy" in ended.stderr


_DROPPING = """
import asyncio, logging, time
import sounddevice
from edge_capture.settings import MicrophoneSettings
from edge_capture.sources import microphone
from edge_capture.sources.boot_clock import boot_time

logging.basicConfig()
real, dropped = sounddevice.RawInputStream, 0

def dropping(*, callback, blocksize, **how):
    def drop(data, frames, times, status):  # as a driver does whose buffer is full
        global dropped
        block = count[0]
        count[0] += 1
        if 150 <= block < 200 or 400 <= block < 412 or 600 <= block < 605:
            dropped += frames
        else:
            callback(data, frames, times, status)
    count = [0]
    return real(callback=drop, blocksize=blocksize, **how)

async def main():
    sounddevice.RawInputStream = dropping
    started = time.time()
    source = microphone.MicrophoneSource(MicrophoneSettings(device="pulse"), None)
    await source.open()
    rate, position, gaps = source.format.sample_rate, 0, []
    async for block in source.blocks():
        if block.lost_frames:
            gaps.append((position / rate, block.lost_frames / rate, block.cause))
        position += block.lost_frames + len(block.samples)
        if time.time() - started > 17:
            break
    for start, seconds, cause in gaps:
        print(f"{start:.3f} {seconds:.3f} {cause}")
    ends = block.time_ns / 1e9 + len(block.samples) / rate
    print(f"{position / rate - (ends - started):.3f}")
    source.close()

asyncio.run(main())
"""


async def test_what_a_driver_drops_is_a_gap_at_its_place(sound_server: SoundServer) -> None:
    """It drops 1 s at 3 s, 0.24 s at 8 s, and 0.1 s at 12 s, which is too short for a gap."""
    ended = await run_script(_DROPPING, sound_server)
    *gaps, late = ended.stdout.splitlines()
    found = [line.split() for line in gaps]
    assert [cause for _, _, cause in found] == ["busy"] * len(found), ended.stderr
    places = [(float(start), float(seconds)) for start, seconds, _ in found]
    expected = [(3.0, 1.0), (8.0, 0.24)]
    assert len(places) == len(expected), ended.stdout
    for (start, seconds), (at, lost) in zip(places, expected, strict=True):
        assert start == pytest.approx(at, abs=bound(0.2))
        assert seconds == pytest.approx(lost, abs=bound(0.05))
    assert -bound(0.5) < float(late) < bound(0.2)  # the device takes a while to start
    assert ended.stderr.count("s of audio were lost: this machine was too busy") == 2

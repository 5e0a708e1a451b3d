"""The program plays on a loudspeaker. What is audible is recorded."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from natterjack.broker.connection import Broker
from natterjack.broker.streams import ensure
from natterjack.emulators import tones
from natterjack.settings import KINDS, StreamSettings
from tests.edge_capture.conftest import SoundServer, StartEdge
from tests.edge_capture.test_microphone import run_script
from tests.freezing import freeze
from tests.waiting import bound, until

from .speaker import RATE, Voice, heard, speaking

pytestmark = pytest.mark.process

PLAY = (
    "play", "--tenant", "acme", "--conversation", "room", "--log-level", "debug",
    # A busy machine interrupts nothing that is recorded.
    "--latency-ms", "500",
)  # fmt: skip
WORDS = tones.sequence(40)
RECORDED = 48_000


@pytest.fixture
async def voices(broker: Broker) -> Broker:
    """A broker with the streams of voice sessions."""
    await ensure(broker, StreamSettings(kinds=KINDS))
    return broker


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return tmp_path / "recorded.raw"


def recorded_words(path: Path) -> list[str]:
    return heard(path.read_bytes(), RECORDED)


def audible_frames(path: Path) -> npt.NDArray[np.intp]:
    """The indexes of frames that are not silent."""
    samples = np.frombuffer(path.read_bytes(), "<i2").astype(np.int32)
    return np.flatnonzero(np.abs(samples) > 1000)


async def idle(voice: Voice) -> None:
    await until(
        lambda: voice.reports and voice.last.state == "idle" and voice.played >= voice.pos,
        "everything is played",
    )


async def audible(path: Path, words: list[str]) -> None:
    """Wait until these words, and no others, are recorded."""
    try:
        await until(lambda: recorded_words(path) == words, "the words are audible")
    except AssertionError as error:
        raise AssertionError(f"{error}: {recorded_words(path)}") from None


async def test_each_word_is_audible_once(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer, recording: Path
) -> None:
    edge, voice = start_edge(*PLAY, environment=sound_server.environment), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await sound_server.record(recording)
        await voice.say(WORDS[:6])
        await voice.say(WORDS[6:9])
        await idle(voice)
        await audible(recording, WORDS[:9])
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert all(line.startswith("{") for line in edge.stderr.splitlines())


async def test_a_cut_is_heard_at_once(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer, recording: Path
) -> None:
    edge, voice = start_edge(*PLAY, environment=sound_server.environment), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await sound_server.record(recording)
        await voice.say(WORDS[:20])
        await until(lambda: voice.played > RATE, "a second is played")
        await voice.cut()
        await until(lambda: voice.last.state == "interrupted", "it is interrupted")
        interrupted_at = voice.last.position / RATE
        size = recording.stat().st_size

        def grown() -> bool:
            return recording.stat().st_size > size + 2 * RECORDED

        await until(grown, "a second more is recorded")
        loud = audible_frames(recording)
        spoken = (loud[-1] - loud[0]) / RECORDED
        # The first word begins after a lead of 0.1 s.
        assert spoken + 0.1 == pytest.approx(interrupted_at, abs=bound(0.25))
        before = recorded_words(recording)
        await voice.say(WORDS[20:23])
        await idle(voice)
        await audible(recording, [*before, *WORDS[20:23]])
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert before == WORDS[: len(before)]


_LATE = """
import asyncio
from edge_capture.playback.outputs import loudspeaker
from edge_capture.playback.playout import Playout, PlayOptions
from edge_capture.options.playing import PlaySettings
from edge_capture.sources.boot_clock import boot_time
from natterjack.voice.audio import SpeechHeader
from natterjack.emulators import tones

async def main():
    # The device has a second of audio when it is to be silent.
    output = loudspeaker.Loudspeaker(PlaySettings(latency_ms=1000))
    playout = Playout(PlayOptions(), output.rate)
    playing = asyncio.create_task(output.play(playout))
    header = SpeechHeader("a-session", 1, 0, 0, 0, 24_000)
    playout.receive(header, tones.encode(tones.sequence(20), 24_000), boot_time())
    while playout.heard(boot_time()).position < 24_000:
        await asyncio.sleep(0.01)
    playout.hold()
    playout.receive(header._replace(seq=1, pos=240_000, cut=True), b"", boot_time())
    await output.drop()
    playout.resume()
    print(playout.heard(boot_time()).position / 24_000)
    await asyncio.sleep(1.5)
    playing.cancel()
    output.close()

asyncio.run(main())
"""


async def test_the_device_drops_what_it_has_at_a_cut(
    sound_server: SoundServer, recording: Path
) -> None:
    await sound_server.record(recording)
    ended = await run_script(_LATE, sound_server)
    assert ended.returncode == 0, ended.stderr
    loud = audible_frames(recording)
    spoken = (loud[-1] - loud[0]) / RECORDED
    assert spoken == pytest.approx(float(ended.stdout), abs=min(0.8, bound(0.25)))


async def test_a_loudspeaker_that_comes_back_plays_on(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer, tmp_path: Path
) -> None:
    edge, voice = start_edge(*PLAY, environment=sound_server.environment), Voice(voices)
    first, second = tmp_path / "first.raw", tmp_path / "second.raw"
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await sound_server.record(first)
        await voice.say(WORDS[:20])
        await until(lambda: voice.played > 2 * RATE, "two seconds are played")
        sound_server.kill()
        await edge.says("loudspeaker 'default' is gone; waiting for it to return")
        await until(lambda: voice.last.state == "lost", "it is reported")
        lost_at = voice.last.position
        await sound_server.start()
        await sound_server.record(second)
        await edge.says("the loudspeaker is back")
        await idle(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    before, after = recorded_words(first), recorded_words(second)
    assert before == WORDS[: len(before)]
    assert after == WORDS[20 - len(after) : 20]
    # A word that was interrupted is in neither, and the recorder starts when the server has.
    assert 15 <= len(before) + len(after) <= 21
    assert lost_at < voice.pos


async def test_a_loudspeaker_that_takes_nothing_is_lost(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge, voice = start_edge(*PLAY, environment=sound_server.environment), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await voice.say(WORDS[:3])
        await idle(voice)
        freeze(sound_server.pid)
        try:
            await edge.says("loudspeaker 'default' has taken no audio for 5 s; waiting for it")
            await until(lambda: voice.last.state == "lost", "it is reported")
        finally:
            os.kill(sound_server.pid, signal.SIGCONT)
        await edge.says("the loudspeaker is back")
        await voice.say(WORDS[3:5])
        await idle(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr


async def test_a_signal_while_the_loudspeaker_is_away(
    voices: Broker, start_edge: StartEdge, sound_server: SoundServer
) -> None:
    edge = start_edge(*PLAY, environment=sound_server.environment)
    await edge.says("ready to play")
    freeze(sound_server.pid)
    edge.interrupt()
    assert await edge.exit_code(10) == 0, edge.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "kitchen"], "no loudspeaker is named 'kitchen'; available: 0 pulse"),
        (["--device", "ul"], "several loudspeakers match 'ul'; use a whole name or an index"),
    ],
    ids=["unknown", "several"],
)
async def test_an_unusable_loudspeaker_is_reported_in_one_line(
    start_edge: StartEdge, sound_server: SoundServer, arguments: list[str], words: str
) -> None:
    edge = start_edge(*PLAY[:5], *arguments, environment=sound_server.environment)
    assert await edge.exit_code() == 2
    assert edge.stderr.startswith("natterjack-edge: ")
    assert words in edge.stderr
    assert edge.stderr.count("\n") == 1


async def test_no_loudspeaker_at_all(start_edge: StartEdge, sound_server: SoundServer) -> None:
    sound_server.kill()
    edge = start_edge(*PLAY[:5], environment=sound_server.environment)
    assert await edge.exit_code() == 2
    assert edge.stderr.startswith("natterjack-edge: no loudspeaker found")
    assert edge.stderr.count("\n") == 1

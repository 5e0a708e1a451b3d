"""The program plays into a file and into a pipe."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.hold.exchange import machine_name
from natterjack.broker.connection import Broker
from natterjack.broker.streams import ensure
from natterjack.emulators import tones
from natterjack.errors import BrokerUnreachable
from natterjack.settings import KINDS, StreamSettings
from natterjack.subjects import speech_subject
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.nats_server import NatsServer
from tests.waiting import bound, until

from .speaker import KEY, RATE, Voice, heard, speaking

PLAY = ("play", "--tenant", "acme", "--conversation", "room", "--log-level", "debug")
WORDS = tones.sequence(40)


async def make_streams(broker: Broker) -> None:
    """Make the streams of voice sessions, once the broker serves them."""

    async def made() -> bool:
        try:
            await ensure(broker, StreamSettings(kinds=KINDS))
        except BrokerUnreachable:
            return False
        return True

    await until(made, "the streams are made")


@pytest.fixture
async def voices(broker: Broker) -> Broker:
    """A broker with the streams of voice sessions."""
    await make_streams(broker)
    return broker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "played.wav"


def played_words(path: Path) -> list[str]:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return heard(file.readframes(file.getnframes()), file.getframerate())


def seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


async def all_played(voice: Voice, state: str = "idle") -> None:
    await until(
        lambda: voice.reports and voice.last.state == state and voice.played >= voice.pos,
        f"everything is played ({voice.pos}), and it is {state}",
    )


async def test_an_utterance_is_played_once_and_reported(
    voices: Broker, start_edge: StartEdge, path: Path
) -> None:
    edge, voice = start_edge(*PLAY, "--file", path), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await voice.say(WORDS[:8])
        await all_played(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert played_words(path) == WORDS[:8]
    assert seconds(path) == pytest.approx(voice.pos / RATE, abs=0.001)
    states = [report.state for report in voice.reports]
    assert "playing" in states
    assert {report.position for report in voice.reports} > {voice.pos}
    positions = [report.position for report in voice.reports if report.state == "playing"]
    assert positions == sorted(positions)
    assert voice.last.state == "lost"  # it has ended


async def test_a_cut_drops_what_was_not_played(
    voices: Broker, start_edge: StartEdge, path: Path
) -> None:
    edge, voice = start_edge(*PLAY, "--file", path), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await voice.say(WORDS[:20])  # 6.7 s
        await until(lambda: voice.played > RATE, "a second is played")
        await voice.cut()
        await until(lambda: voice.last.state == "interrupted", "it is interrupted")
        heard_until = voice.last.position
        assert RATE < heard_until < voice.pos
        await voice.say(WORDS[20:22])
        await all_played(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    words = played_words(path)
    before = words[: words.index(WORDS[20])]
    assert words == [*before, *WORDS[20:22]]
    assert before == WORDS[: len(before)]
    played = heard_until / RATE
    said = seconds(path) - (voice.pos - voice.published[-1][0].pos) / RATE
    assert said > played - 0.1
    # Words are cut off where the report says, but for what a thread writes at a time.
    assert len(before) == pytest.approx(played / (tones.WORD_SECONDS + tones.GAP_SECONDS), abs=1)


async def test_lost_chunks_are_asked_for_and_played_in_their_place(
    voices: Broker, start_edge: StartEdge, path: Path
) -> None:
    edge, voice = start_edge(*PLAY, "--file", path), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await voice.say(WORDS[:10], lost=(3, 4, 9, 20))
        await all_played(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert played_words(path) == WORDS[:10]
    assert '"skipped": 0' in edge.stderr


async def test_a_player_that_starts_later_plays_what_was_published_before(
    voices: Broker, start_edge: StartEdge, path: Path
) -> None:
    voice = Voice(voices)
    async with speaking(voices, voice):
        await voice.say(WORDS[:6])
        edge = start_edge(*PLAY, "--file", path)
        await all_played(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert played_words(path) == WORDS[:6]


async def test_a_player_that_is_killed_is_continued_by_the_next(
    voices: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.wav", tmp_path / "second.wav"
    voice = Voice(voices)
    edge = start_edge(*PLAY, "--file", first)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await voice.say(WORDS[:20])
        await until(lambda: voice.played > 2 * RATE, "two seconds are played")
        edge.kill()
        reported = voice.played
        again = start_edge(*PLAY, "--file", second)
        await all_played(voice)
        again.interrupt()
        assert await again.exit_code() == 0, again.stderr
    before, after = played_words(first), played_words(second)  # valid although it was killed
    assert before == WORDS[: len(before)]
    # It began with the chunk that was being played, so a word may be cut off or heard again.
    assert len(before) > 4
    assert after == WORDS[20 - len(after) : 20]
    assert 18 <= len(before) + len(after) <= 22
    assert reported / RATE <= seconds(first) + 0.1


async def test_speech_that_is_too_old_is_not_played(
    voices: Broker, start_edge: StartEdge, path: Path
) -> None:
    voice = Voice(voices)
    async with speaking(voices, voice):
        await voice.say(WORDS[:3])
        published = time.monotonic()
        await until(lambda: time.monotonic() - published > 1.5, "it becomes old")
        edge = start_edge(*PLAY, "--file", path, "--max-age-seconds", 1)
        await edge.says("ready to play")
        assert not voice.reports
        await voice.say(WORDS[3:6])
        await until(lambda: voice.reports and voice.last.state == "idle", "it has played")
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    # The worker of the tests publishes again all that was not played.
    assert played_words(path)[-3:] == WORDS[3:6]


async def test_it_goes_on_after_the_broker_was_away(
    voices: Broker, start_edge: StartEdge, path: Path, nats_server: NatsServer
) -> None:
    edge, voice = start_edge(*PLAY, "--file", path), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await voice.say(WORDS[:10], end=False)
        await until(lambda: voice.played > RATE, "a second is played")
        nats_server.kill()
        await edge.says("NATS connection lost")
        nats_server.start()
        await until(lambda: voices.connected, "the test is connected")
        await make_streams(voices)  # speech was in memory
        await voice.say(WORDS[10:20])
        await all_played(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert played_words(path) == WORDS[:20]


async def test_the_newest_session_is_played(
    voices: Broker, start_edge: StartEdge, path: Path
) -> None:
    edge = start_edge(*PLAY, "--file", path)
    old, new = Voice(voices), Voice(voices, "another-session", 16_000)
    async with speaking(voices, old, new):
        await edge.says("ready to play")
        await old.say(WORDS[:20])
        await until(lambda: old.played > RATE, "a second is played")
        await new.say(WORDS[20:25])
        await old.publish(tones.encode(WORDS[30:33], RATE))  # by a worker that does not know
        await all_played(new)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    words = played_words(path)
    assert words[-5:] == WORDS[20:25]
    assert words[:-5] == WORDS[: len(words) - 5]


async def test_invalid_chunks_are_not_played(
    voices: Broker, start_edge: StartEdge, path: Path
) -> None:
    edge, voice = start_edge(*PLAY, "--file", path), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        subject = speech_subject(KEY)
        for headers in (None, {"Session-Id": "x"}, {"Audio-Seq": "9" * 400}):
            await voices.client.publish(subject, b"noise", headers=headers)
        await voice.say(WORDS[:3], end=False)
        header, payload = voice.published[0]
        for wrong in (
            header._replace(seq=99, sample_rate=8000), header._replace(pos=2**53 - 1),
            header._replace(seq=2**53 - 1, pos=2**53 - 1), header._replace(epoch=0, seq=5),
        ):  # fmt: skip
            await voice._send(wrong, payload)
        await voice.say(WORDS[3:5])
        await all_played(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert played_words(path) == WORDS[:5]
    assert edge.stderr.count("a chunk of speech is invalid") == 1
    assert '"invalid_chunks": 5' in edge.stderr


async def test_an_underrun_is_reported_and_not_counted_as_played(
    voices: Broker, start_edge: StartEdge, path: Path
) -> None:
    edge, voice = start_edge(*PLAY, "--file", path), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await voice.say(WORDS[:3], end=False)
        await all_played(voice, "starved")
        await voice.say(WORDS[3:6])
        await all_played(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    assert '"underruns": 1' in edge.stderr
    assert played_words(path) == WORDS[:6]


async def test_a_pipe_has_the_speech_and_silence(voices: Broker, start_edge: StartEdge) -> None:
    edge, voice = start_edge(*PLAY, "--file", "-", "--sample-rate", 16_000), Voice(voices)
    async with speaking(voices, voice):
        await edge.says("ready to play")
        await voice.say(WORDS[:4])
        await all_played(voice)
        edge.interrupt()
        assert await edge.exit_code() == 0, edge.stderr
    audio = edge.output
    assert heard(audio, 16_000) == WORDS[:4]
    assert len(audio) / 32_000 > voice.pos / RATE  # silence before


async def test_a_reader_that_ends_ends_the_player(voices: Broker, start_edge: StartEdge) -> None:
    read, write = os.pipe()
    edge = start_edge(*PLAY, "--file", "-", stdout=write)
    os.close(write)
    await edge.says("ready to play")
    assert os.read(read, 100) == bytes(100)
    os.close(read)
    assert await edge.exit_code() == 0, edge.stderr
    assert "nobody reads standard output" in edge.stderr
    assert "Traceback" not in edge.stderr


async def test_a_reader_that_stands_still_does_not_keep_the_player(
    voices: Broker, start_edge: StartEdge
) -> None:
    read, write = os.pipe()
    edge = start_edge(*PLAY, "--file", "-", stdout=write)
    os.close(write)
    voice = Voice(voices)
    try:
        async with speaking(voices, voice):
            await edge.says("ready to play")
            await voice.say(WORDS[:20])
            await until(lambda: voice.reports, "it reports")
            edge.interrupt()
            assert await edge.exit_code() == 0, edge.stderr
            assert voice.played < voice.pos
    finally:
        os.close(read)


async def test_a_terminal_shows_what_is_played(
    voices: Broker, nats_server: NatsServer, path: Path
) -> None:
    terminal, inner = pty.openpty()
    os.set_blocking(terminal, False)
    shown = ""

    def shows(words: str) -> bool:
        nonlocal shown
        with contextlib.suppress(OSError):  # nothing new, or the program has ended
            shown += os.read(terminal, 65536).decode(errors="replace")
        return words in shown

    process = subprocess.Popen(
        [sys.executable, "-m", "edge_capture", *PLAY[:5], "--file", str(path)],
        env=os.environ | {"NATS_URL": nats_server.url, "COLUMNS": "200", "TERM": "xterm"},
        stdin=subprocess.DEVNULL, stdout=inner, stderr=inner,
    )  # fmt: skip
    os.close(inner)
    voice = Voice(voices)
    try:
        async with speaking(voices, voice):
            await until(lambda: shows("nothing has been said"), "the line is shown", 20)
            await until(lambda: shows("ready to play"), "it is ready", 20)
            await voice.say(WORDS[:4])
            await until(lambda: shows("playing, "), "it plays")
            await until(lambda: shows("silent, "), "it has played")
            nats_server.kill()
            await until(lambda: shows("NATS connection lost"), "the loss is shown")
            process.send_signal(2)
            await until(lambda: shows("\x1b[?25h"), "the cursor is back")
            assert process.wait(bound(20)) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


async def test_a_second_player_is_refused_by_name(
    voices: Broker, start_edge: StartEdge, path: Path, tmp_path: Path
) -> None:
    first, voice = start_edge(*PLAY, "--file", path), Voice(voices)
    await first.says("ready to play")
    second = start_edge(*PLAY, "--file", tmp_path / "second.wav")
    assert await second.exit_code() == 3
    assert (
        f"natterjack-edge: acme.room.assistant is being played by agent {machine_name()} since"
        in second.stderr
    )
    assert "Traceback" not in second.stderr
    assert not (tmp_path / "second.wav").exists()
    other = start_edge(*PLAY, "--file", tmp_path / "other.wav", "--speaker", "guest")
    await other.says("ready to play")
    async with speaking(voices, voice):
        await voice.say(WORDS[:2])
        await all_played(voice)
    assert played_words(path) == WORDS[:2]


async def test_a_key_is_captured_and_played_at_the_same_time(
    voices: Broker, start_edge: StartEdge, path: Path, tmp_path: Path
) -> None:
    """One does not take the key from the other."""
    noise = np.random.default_rng(1).integers(-9000, 9000, 16_000, np.int16)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    player = start_edge(*PLAY, "--speaker", "speaker", "--file", path)
    await player.says("ready to play")
    room = ("--tenant", "acme", "--conversation", "room")
    capture = start_edge("file", tmp_path / "noise.wav", *room)
    assert await capture.exit_code() == 0, capture.stderr
    assert player.process.poll() is None


async def test_a_disk_that_is_full_ends_the_player(voices: Broker, start_edge: StartEdge) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "wb") as full:
        edge = start_edge(*PLAY, "--file", "-", stdout=full)
    assert await edge.exit_code() == 1
    assert "standard output: No space left on device" in edge.stderr
    assert "Traceback" not in edge.stderr


_EARLIER = """
authorization {
  users = [
    {user: edge, password: edge, permissions: {
      publish: {allow: ["stt.session.acme.*.*", "stt.audio.acme.*.*"]}
      subscribe: {allow: ["_INBOX_edge.>", "stt.transcript.acme.*.*.status"]}
    }}
  ]
}
"""


@pytest.fixture
def earlier_server(tmp_path: Path, processes: None) -> Iterator[NatsServer]:
    """A server whose edges may not play."""
    configuration = tmp_path / "earlier.conf"
    configuration.write_text(_EARLIER)
    server = NatsServer(tmp_path / "earlier", extra_arguments=("-c", str(configuration)))
    server.start()
    yield server
    server.stop()


async def test_without_permission_it_names_the_cure(
    earlier_server: NatsServer, start_edge: StartEdge, path: Path
) -> None:
    environment = {
        "NATS_URL": earlier_server.url, "NATS_USER": "edge", "NATS_PASSWORD": "edge",
        "NATS_INBOX_PREFIX": "_INBOX_edge",
    }  # fmt: skip
    edge = start_edge(*PLAY, "--file", path, environment=environment)
    assert await edge.exit_code() == 2
    assert edge.stderr.splitlines()[-1].startswith(
        "natterjack-edge: this user may not subscribe to tts.audio.acme.room.assistant: let "
        "WORKER_KINDS have `speak`"
    )
    assert "Traceback" not in edge.stderr


async def test_a_player_on_a_broker_without_voice_says_so(
    broker: Broker, start_edge: StartEdge, path: Path
) -> None:
    edge = start_edge(*PLAY, "--file", path)
    await edge.says("stream TTS_AUDIO does not answer")
    await edge.says("ready to play")
    assert edge.stderr.count("WORKER_KINDS has `speak`") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--file", "x.wav"], "--conversation NAME"),
        (["--conversation", "a.b", "--file", "x.wav"], "conversation 'a.b' is not valid"),
        (["--conversation", "c", "--file", "/no/such/x.wav"], "/no/such/x.wav: No such file"),
        (["--conversation", "c", "--file", __file__], "exists: remove it, or name another file"),
        (["--conversation", "c", "--volume", "9"], "EDGE_PLAY_VOLUME"),
        (["--conversation", "c", "--sample-rate", "1"], "EDGE_PLAY_SAMPLE_RATE"),
    ],
    ids=["conversation", "token", "directory", "exists", "volume", "rate"],
)
def test_a_mistake_is_named_in_one_line(
    run_edge: RunEdge, arguments: list[str], words: str
) -> None:
    ended = run_edge("play", *arguments)
    assert ended.code == 2
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1

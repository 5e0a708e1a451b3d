"""The `natterjack` command in processes of its own, with a real terminal and real speech."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import soundfile

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.events import Event
from natterjack.local.demo import bundled_recording
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import StreamSettings
from natterjack.subjects import transcript_subject
from natterjack.voice.spec import VoiceSpec
from tests.natterjack.consume.events import final, interim
from tests.natterjack.consume.screen import Screen
from tests.natterjack.speaking.by_hand import Hand
from tests.waiting import soon, until

from .commands import Command

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first seconds of the bundled recording, and half a second of silence."""
    samples, rate = soundfile.read(bundled_recording(), frames=48_000 * 5)
    path = tmp_path_factory.mktemp("clip") / "clip.flac"
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture
async def publishing(ready_broker: Broker) -> Broker:
    js = ready_broker.client.jetstream()
    for n in range(3):
        event = final(n)
        await js.publish(transcript_subject(event.key, "final"), event.encode())
    return ready_broker


# ---- demo -----------------------------------------------------------------------------------


async def test_demo_on_a_file_shows_captions_and_the_account(clip: Path, tmp_path: Path) -> None:
    arguments = ("demo", str(clip), "--store", str(tmp_path / "demo"))
    async with Command(*arguments, terminal=True) as command:
        assert await command.status() == 0, command.out + command.errors
    shown = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", command.out)
    assert re.search(r"0:0\d\.\d +It was the best of times", shown)
    assert command.out.count("\x1b[K") >= 3, "no interims were rewritten on the terminal"
    assert "[closed (end of audio)]" in shown
    assert re.search(r"words +\d+ in \d+ finals", shown)
    assert re.search(r"end of speech to final: median \d\.\d\d s", shown)
    assert re.search(r"worker CPU +\d", shown)
    assert "STT_TRANSCRIPTS of nats://127.0.0.1:" in shown
    assert "demo --provider deepgram" in shown
    assert command.errors == ""


async def test_ctrl_c_ends_the_session_of_the_demo(tmp_path: Path) -> None:
    async with Command("demo", "--store", str(tmp_path / "demo")) as command:
        await until(lambda: "0:0" in command.out, "the first final", 60)
        command.signal(signal.SIGINT)
        assert await command.status() == 0, command.out + command.errors
    assert "[closed (end of audio)]" in command.out
    assert command.errors == ""


async def test_demo_with_a_file_that_is_not_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"this is not audio")
    async with Command("demo", str(path)) as command:
        assert await command.status() == 2
    assert command.errors.startswith(f"natterjack demo: {path} is not a readable audio file: ")
    assert command.errors.count("\n") == 1
    assert "starting a broker" not in command.out


async def test_demo_with_a_provider_without_a_key(tmp_path: Path) -> None:
    async with Command("demo", "--provider", "deepgram", DEEPGRAM_API_KEY="") as command:
        assert await command.status() == 2
    assert "DEEPGRAM_API_KEY" in command.errors
    assert command.errors.count("\n") == 1


# ---- up -------------------------------------------------------------------------------------


async def test_up_runs_a_stack_that_other_commands_use(clip: Path, tmp_path: Path) -> None:
    """Also from a folder with a user's own modules of the same names as ours."""
    for name in ("worker", "natterjack", "edge_capture"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not natterjack')\n")
    arguments = ("up", "--port", "-1", "--store", str(tmp_path / "up"))
    async with Command(*arguments, folder=str(tmp_path)) as up:
        await until(lambda: "Ctrl-C stops everything" in up.out, "up", 60)
        url = re.search(r"export NATS_URL=(\S+)", up.out)
        assert url is not None
        async with Command("tail", "--from-start", "--json", NATS_URL=url[1]) as tail:
            edge = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edge_capture", "file", str(clip), "--wait", "--speed", "2",
                env={**os.environ, "NATS_URL": url[1]},
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            assert await soon(edge.wait(), 60) == 0
            await until(lambda: '"closed"' in tail.out, "the closing event")
            events = [json.loads(line) for line in tail.out.splitlines()]
        assert {"interim", "final", "status"} <= {event["type"] for event in events}
        up.signal(signal.SIGINT)
        assert await up.status() == 0, up.errors
    assert up.errors == ""


# ---- tail -----------------------------------------------------------------------------------


async def test_tail_shows_stored_finals_first(
    publishing: Broker, nats_server: EmbeddedServer
) -> None:
    async with Command("tail", "--from-start", NATS_URL=nats_server.url) as tail:
        await until(lambda: tail.out.count("\n") == 3, "three finals")
    assert tail.out.splitlines()[0] == " 0:00.0  c.s: final 0"


async def test_tail_of_voice_sessions_that_do_not_exist(
    broker: Broker, nats_server: EmbeddedServer
) -> None:
    await streams.ensure(broker, StreamSettings(kinds=("transcribe",)))
    async with Command("tail", "--voice", NATS_URL=nats_server.url) as tail:
        assert await tail.status() == 2
    assert "voice is not switched on" in tail.errors


async def test_tail_shows_what_is_said_if_asked(
    publishing: Broker, nats_server: EmbeddedServer
) -> None:
    arguments = ("tail", "--from-start", "--voice")
    hand = Hand(publishing, VoiceSpec(tenant="t", conversation="c", speaker="bot"))
    await hand.status("streaming")
    await hand.utterance(0, "finished", text_spoken="Good morning.")
    async with Command(*arguments, NATS_URL=nats_server.url) as tail:
        await until(lambda: tail.out.count("\n") == 5, "finals and speech")
        await hand.utterance(
            1, "interrupted", text_spoken="I ", text_remaining="can.", reason="turn", start=1.5
        )
        await until(lambda: tail.out.count("\n") == 6, "what is said now")
    speech = [line for line in tail.out.splitlines() if "bot" in line]
    assert speech == [
        "         c.bot: [streaming]",
        " 0:00.0  c.bot says: Good morning.",
        " 0:01.5  c.bot says: I [interrupted (turn); not heard: can.]",
    ]
    async with Command("tail", "--from-start", NATS_URL=nats_server.url) as tail:
        await until(lambda: tail.out.count("\n") == 3, "finals")
    assert "bot" not in tail.out


def by(speaker: str, event: Event) -> Event:
    """The same event of a session of this speaker."""
    return event.model_copy(update={"speaker": speaker, "session_id": f"session of {speaker}"})


async def test_tail_on_a_terminal_keeps_apart_who_speaks_at_once(
    ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    client, js = ready_broker.client, ready_broker.client.jetstream()
    speakers = [f"s{n}" for n in range(9)]

    async def partial(speaker: str, segment: int, text: str) -> None:
        event = by(speaker, interim(segment, text))
        await client.publish(transcript_subject(event.key, "interim"), event.encode())

    async def speak(speaker: str) -> None:
        for n in range(5):
            await partial(speaker, n, f"{speaker} says")
            event = by(speaker, final(n).model_copy(update={"text": f"{n}\x1b[2J\rwords"}))
            await js.publish(transcript_subject(event.key, "final"), event.encode())

    def lines() -> list[str]:
        screen = Screen(50)
        screen.write(re.sub(r"\x1b[^A-Za-z]*$", "", tail.out))  # what was read may end within one
        return screen.text

    size = {"COLUMNS": "50", "LINES": "10", "TERM": "xterm", "NO_COLOR": ""}
    arguments = ("tail", "--from-start")
    async with Command(*arguments, terminal=True, NATS_URL=nats_server.url, **size) as tail:
        await asyncio.gather(*map(speak, speakers))
        await until(lambda: len([x for x in lines() if "[2J words" in x]) == 45, "all finals")
        for speaker in speakers:
            await partial(speaker, 5, f"{speaker} goes on")
        await until(lambda: "".join(lines()[-6:]).count("goes on") == 4, "the rows")
        finals, rows = lines()[:-6], lines()[-6:]
        tail.signal(signal.SIGINT)
        assert await tail.status() == 130
    assert tail.errors == ""
    for speaker in speakers:
        mine = [line for line in finals if f" c.{speaker}: " in line]
        assert mine == [f" 0:0{n}.0  c.{speaker}: {n} [2J words" for n in range(5)]
    assert len(finals) == 45
    shown = [re.fullmatch(r"c\.(s\d): \1 goes on", row) for row in rows[:4]]
    assert all(shown), rows
    assert rows[4:] == ["and 5 more", ""]
    assert lines() == [*finals, ""], "the rows are removed at the end"


@pytest.mark.parametrize("no_color", ["", "1"])
async def test_tail_on_a_narrow_terminal_without_color(
    ready_broker: Broker, nats_server: EmbeddedServer, no_color: str
) -> None:
    """Each open session has one row: conversation, speaker and the end of the interim text."""
    client, js = ready_broker.client, ready_broker.client.jetstream()
    environment = {"COLUMNS": "24", "LINES": "12", "TERM": "xterm", "NO_COLOR": no_color}

    def lines() -> list[str]:
        screen = Screen(24)
        screen.write(re.sub(r"\x1b[^A-Za-z]*$", "", tail.out))
        return screen.text

    async with Command(
        "tail", "--from-start", terminal=True, NATS_URL=nats_server.url, **environment
    ) as tail:
        stored = by("anna", final(0))
        await js.publish(transcript_subject(stored.key, "final"), stored.encode())
        await until(lambda: "final 0" in tail.out, "a final")
        for speaker in ("anna", "ben"):
            event = by(speaker, interim(1, "what is said goes on and on"))
            await client.publish(transcript_subject(event.key, "interim"), event.encode())
        await until(lambda: len([x for x in lines() if "on and on" in x]) == 2, "two rows")
        rows = lines()[-3:-1]
        tail.signal(signal.SIGINT)
        assert await tail.status() == 130
    assert rows == ["c.anna: …goes on and on", "c.ben: … goes on and on"]
    assert ("\x1b[2m" in tail.out) == (not no_color)


async def test_redirected_tail_has_no_control_characters(
    ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    js = ready_broker.client.jetstream()
    async with Command("tail", "--from-start", NATS_URL=nats_server.url, COLUMNS="20") as tail:
        for n, speaker in enumerate(("anna", "ben")):
            text = "\x1b]0;title\x07two\r\nlines\x9b2J and more than a narrow terminal shows"
            event = by(speaker, final(n).model_copy(update={"text": text}))
            await js.publish(transcript_subject(event.key, "final"), event.encode())
        await until(lambda: tail.out.count("\n") == 2, "two finals")
    assert tail.out.splitlines() == [
        f" 0:0{n}.0  c.{speaker}: ]0;title two lines 2J and more than a narrow terminal shows"
        for n, speaker in enumerate(("anna", "ben"))
    ]

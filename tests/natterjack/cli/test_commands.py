"""The `natterjack` command as its users meet it: real processes, a real terminal, real speech."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path

import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.local.demo import bundled_recording
from natterjack.local.embedded import EmbeddedServer
from natterjack.subjects import transcript_subject
from tests.natterjack.consume.test_listener import final, interim
from tests.waiting import soon, until

pytestmark = pytest.mark.process


class Command:
    """`python -m natterjack ...` with its output, on a pipe or on a terminal."""

    def __init__(self, *arguments: str, terminal: bool = False, **environment: str) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self._terminal = terminal
        self.out = ""
        self.errors = ""
        self._reading: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Command:
        pipe = asyncio.subprocess.PIPE
        ours, theirs = pty.openpty() if self._terminal else (-1, pipe)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "natterjack", *self._arguments,
            env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=pipe,
        )  # fmt: skip
        if self._terminal:
            os.close(theirs)
            self._reading.append(asyncio.create_task(asyncio.to_thread(self._read_terminal, ours)))
        else:
            assert self._process.stdout is not None
            self._reading.append(asyncio.create_task(self._read(self._process.stdout, "out")))
        assert self._process.stderr is not None
        self._reading.append(asyncio.create_task(self._read(self._process.stderr, "errors")))
        return self

    async def _read(self, stream: asyncio.StreamReader, where: str) -> None:
        while data := await stream.read(4096):
            setattr(self, where, getattr(self, where) + data.decode(errors="replace"))

    def _read_terminal(self, terminal: int) -> None:
        # EIO: the last process that had the terminal has ended.
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 4096):
                self.out += data.decode(errors="replace")
        os.close(terminal)

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            await self.status()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def status(self, timeout: float = 60) -> int:
        assert self._process is not None
        status = await soon(self._process.wait(), timeout)
        await asyncio.gather(*self._reading)
        return status


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


async def test_demo_ends_in_order_on_ctrl_c(tmp_path: Path) -> None:
    async with Command("demo", "--store", str(tmp_path / "demo")) as command:
        await until(lambda: "0:0" in command.out, "the first final", 60)
        command.signal(signal.SIGINT)
        assert await command.status() == 0, command.out + command.errors
    assert "[closed (end of audio)]" in command.out
    assert command.errors == ""


@pytest.mark.parametrize("content", [b"", b"this is no sound", None])
async def test_demo_on_what_is_no_recording(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    async with Command("demo", str(path)) as command:
        assert await command.status() == 2
    assert str(path) in command.errors
    assert command.errors.count("\n") == 1
    assert "Traceback" not in command.errors


async def test_demo_with_a_provider_that_has_no_key(tmp_path: Path) -> None:
    async with Command("demo", "--provider", "deepgram", DEEPGRAM_API_KEY="") as command:
        assert await command.status() == 2
    assert "DEEPGRAM_API_KEY" in command.errors
    assert command.errors.count("\n") == 1


# ---- up -------------------------------------------------------------------------------------


async def test_up_keeps_a_stack_that_the_other_commands_use(clip: Path, tmp_path: Path) -> None:
    async with Command("up", "--port", "-1", "--store", str(tmp_path / "up")) as up:
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
    assert tail.out.splitlines()[0] == " 0:00.0  s: final 0"


async def test_tail_on_a_terminal_rewrites_interims(
    publishing: Broker, nats_server: EmbeddedServer
) -> None:
    async with Command("tail", "--from-start", terminal=True, NATS_URL=nats_server.url) as tail:
        await until(lambda: "final 2" in tail.out, "stored finals")
        event = interim(3, "half a thou")
        await publishing.client.publish(transcript_subject(event.key, "interim"), event.encode())
        await until(lambda: "half a thou" in tail.out, "the interim")
        whole = final(3)
        js = publishing.client.jetstream()
        await js.publish(transcript_subject(whole.key, "final"), whole.encode())
        await until(lambda: "final 3" in tail.out, "the final")
    assert "half a thou\x1b[0m\r\x1b[K" in tail.out, "the final did not take the interim's line"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tail", "--nats-url", "nats://127.0.0.1:9"), "no NATS at nats://127.0.0.1:9: connection"),
        (("tail", "--tenant", "a.b"), "tenant 'a.b' is not valid"),
        (("tail", "--log-level", "loud"), "NATTERJACK_LOG_LEVEL"),
    ],
)
async def test_mistakes_are_one_line_and_status_2(arguments: tuple[str, ...], says: str) -> None:
    async with Command(*arguments) as command:
        assert await command.status() == 2
    assert says in command.errors
    assert command.errors.count("\n") == 1


# ---- plugins --------------------------------------------------------------------------------


async def test_plugins_lists_what_is_installed() -> None:
    async with Command("plugins") as command:
        assert await command.status() == 0
    assert re.search(r"^sherpa  \(natterjack \d", command.out, re.MULTILINE)
    assert "DEEPGRAM_API_KEY" in command.out
    async with Command("plugins", "--json") as command:
        assert await command.status() == 0
    plugins = {plugin["name"]: plugin for plugin in json.loads(command.out)}
    assert plugins["deepgram"]["capabilities"]["words"] == "timed"
    assert plugins["sherpa"]["capabilities"]["words"] == "estimated"

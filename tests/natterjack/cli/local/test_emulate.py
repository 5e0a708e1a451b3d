"""`natterjack emulate`: what it prints, what its words are, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request

import aiohttp
import pytest
import soundfile

from natterjack.emulators import tones
from natterjack.emulators.canned import PASSAGE
from natterjack.emulators.catalog import EMULATORS, TRANSCRIBING
from natterjack.local.demo import bundled_recording
from tests.ports import free_port
from tests.waiting import until, within

from ..commands import Command, run

pytestmark = pytest.mark.process


def exports(out: str) -> dict[str, str]:
    """The settings that a command tells its user to set."""
    lines = [line.strip() for line in out.splitlines()]
    pairs = [line.removeprefix("export ").split("=", 1) for line in lines if "export " in line]
    return dict(pairs)


@pytest.mark.parametrize("provider", sorted(EMULATORS))
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_and_stops_by_a_signal(
    provider: str, stop: signal.Signals
) -> None:
    port = free_port()
    async with Command("emulate", provider, "--port", str(port)) as command:
        await until(lambda: "control on " in command.out, "it is ready", 30)
        url, control = (line.split()[-1] for line in command.out.splitlines()[:2])
        assert url.partition("://")[2] == f"127.0.0.1:{port}"
        with urllib.request.urlopen(f"{control}/_emulator/log", timeout=10) as answer:
            assert json.load(answer) == {"connections": []}
        command.signal(stop)
        assert await command.status() == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    warned = "NOT what is said" in command.errors
    assert warned == (provider in TRANSCRIBING)
    settings = exports(command.out)
    if provider != "vosk":  # a provider of nobody but its how-to
        assert any(
            value.endswith(f"127.0.0.1:{port}") or "/v2" in value for value in settings.values()
        )
        assert "WORKER_PROVIDER" in settings or "WORKER_VOICE" in settings
        assert any(name.endswith(("_API_KEY", "_TOKEN")) for name in settings)
    assert "Traceback" not in command.errors


async def words(url: str, audio: bytes, rate: int, key: str = "any") -> list[str]:
    query = f"model=nova-3&encoding=linear16&sample_rate={rate}"
    found: list[str] = []
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Token {key}"}) as session,
        session.ws_connect(f"{url}/v1/listen?{query}") as stream,
        within(20),
    ):
        for at in range(0, len(audio), 9600):
            await stream.send_bytes(audio[at : at + 9600])
        await stream.send_json({"type": "CloseStream"})
        async for frame in stream:
            message = frame.json()
            if message["type"] == "Results" and message["is_final"]:
                found += message["channel"]["alternatives"][0]["transcript"].split()
    return found


async def test_a_voice_is_answered_with_the_passage_and_the_log_says_so() -> None:
    samples, rate = soundfile.read(bundled_recording(), dtype="int16", frames=480_000)
    async with Command("emulate", "deepgram") as command:
        await until(lambda: "control on " in command.out, "it is ready", 30)
        found = await words(command.out.split()[2], samples.tobytes(), rate)
        assert len(found) > 15
        assert found == list(PASSAGE[: len(found)])
        await until(lambda: "closed: server 1000" in command.errors, "the end is logged", 10)
    assert "10.0 s of audio" in command.errors


async def test_tones_a_key_and_faults() -> None:
    faults = json.dumps({"handshake_status": 503, "handshakes": 1})
    arguments = ("--words", "tones", "--api-key", "right", "--faults", faults)
    async with Command("emulate", "deepgram", *arguments) as command:
        await until(lambda: "control on " in command.out, "it is ready", 30)
        url, sent = command.out.split()[2], tones.sequence(5)
        for key, status in (("right", 503), ("wrong", 401)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await words(url, b"", 16_000, key)
            assert refused.value.status == status
        assert await words(url, tones.encode(sent), 16_000, "right") == sent
        await until(lambda: "closed: server" in command.errors, "the end is logged", 10)
    assert "NOT what is said" not in command.errors
    assert "refused with 401" in command.errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nobody"], "invalid choice: 'nobody'"),
        (["deepgram", "--faults", "{"], "--faults: not JSON"),
        (["deepgram", "--faults", "[]"], "--faults: not a JSON object"),
        (["deepgram", "--faults", '{"dorp": 1}'], "--faults: dorp"),
        (["deepgram", "--faults", '{"port": 1}'], "are not faults"),
        (["deepgram", "--port", "70000"], "is not a number from 0 to 65535"),
        (["deepgram", "--receive-timeout-seconds", "never"], "invalid float value"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str) -> None:
    result = run("emulate", *arguments)
    assert result.status == 2
    assert complaint in result.errors
    assert not result.out


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("emulate", "deepgram", "--port", str(port))
    assert result.status == 2
    assert "choose another" in result.errors
    assert f"port {port} is taken by another program" in result.errors

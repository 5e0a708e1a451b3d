"""The check of sources: what is heard, and that a device that does not respond ends the check."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
import soundfile

from edge_capture.check import inputs
from edge_capture.check.configured import agent_of_config
from edge_capture.check.inputs import Input, Listened, judged
from edge_capture.errors import SourceError
from edge_capture.input.measure import Level
from edge_capture.input.watch import DEAD, LOW
from edge_capture.input.watch import Finding as Began
from edge_capture.progress.input_report import Heard
from edge_capture.settings import FleetSettings, StdinSettings
from edge_capture.sources import Source
from edge_capture.sources.stdin import StdinSource
from natterjack.broker.connection import Broker
from tests.edge_capture.conftest import RunEdge, SoundServer, StartEdge
from tests.edge_capture.program import nothing_published, tone


def test_what_was_heard_is_judged() -> None:
    level = Level(-12.2, -31.4, 0.0, 0.0, 0.0, 5.0)
    heard = Listened("mic", "48000 Hz, 1 channel", level)
    (found,) = judged("input", heard)
    text = "mic, 48000 Hz, 1 channel: -31 dBFS, peak -12 dBFS over 5 s"
    assert (found.state, found.found) == ("ok", text)
    (found,) = judged("input", heard._replace(level=level._replace(correlation=-0.984)))
    assert found.found == f"{text}, correlation of its channels -0.98"
    (found,) = judged("input", heard._replace(level=None))
    assert (found.state, "delivers no audio" in found.found) == ("failed", True)
    findings = (Heard(None, Began(DEAD, True, 0, "zeros")), Heard(1, Began(LOW, True, 0, "low")))
    dead, low = judged("input", heard._replace(findings=findings))
    assert (dead.state, low.state) == ("failed", "warning")
    assert f"{DEAD}: zeros" in dead.found
    assert f"channel 2: {LOW}: low" in low.found


async def test_a_source_is_listened_to(tmp_path: Path) -> None:
    path = tmp_path / "tone.raw"
    path.write_bytes((tone(440, 3, 16_000) * 32767).astype("<i2").tobytes())

    async def opened() -> Source:
        source = StdinSource(descriptor.fileno(), StdinSettings(raw=True), None, 80)
        await source.open()
        return source

    with path.open("rb") as descriptor:
        (found,) = await inputs.examine(Input("pipe", opened), 2)
    assert (found.state, found.check) == ("ok", "input pipe")
    assert "-9 dBFS, peak -6 dBFS" in found.found


async def test_sources_that_do_not_open_or_do_not_respond(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused() -> Source:
        raise SourceError("there is no microphone 'x'")

    (found,) = await inputs.examine(Input("", refused, cure=inputs.MICROPHONE_CURE), 1)
    assert (found.state, found.found) == ("failed", "there is no microphone 'x'")
    assert "natterjack-edge devices" in found.cure
    monkeypatch.setattr(inputs, "_OPEN_S", 0.05)

    async def hangs() -> Source:
        await asyncio.sleep(60)  # for ever: the limit is 0.05 s
        raise AssertionError

    (found,) = await inputs.examine(Input("", hangs), 0.1)
    assert (found.state, found.found) == ("failed", "the device does not respond")


@pytest.mark.process
async def test_each_source_of_a_file_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NATS_URL")
    os.mkfifo(tmp_path / "fifo")
    soundfile.write(tmp_path / "tone.wav", tone(440, 2, 16_000), 16_000)
    (tmp_path / "edge.toml").write_text(
        f"""
        agent = "room-7"
        tenant = "acme"
        nats.url = "tls://nats.example:4333"
        spool.directory = "{tmp_path}/spool"
        [[sources]]
        name = "pipe"
        kind = "pipe"
        path = "{tmp_path}/fifo"
        speaker = "a"
        [[sources]]
        name = "none"
        kind = "pipe"
        path = "{tmp_path}/tone.wav"
        speaker = "a"
        [[sources]]
        name = "file"
        kind = "file"
        path = "{tmp_path}/tone.wav"
        speed = "max"
        split_channels = ["b"]
        [[sources]]
        name = "program"
        kind = "command"
        command = ["no-such-program"]
        """
    )
    agent = agent_of_config(tmp_path / "edge.toml", FleetSettings(), None, ())
    assert agent.name == "room-7"
    assert agent.broker.url == "tls://nats.example:4333"
    assert agent.spool.spool == tmp_path / "spool"
    assert agent.keys == (("acme", "a"), ("acme", "b"), ("acme", "speaker"))
    found = [(await inputs.examine(each, 1))[0] for each in agent.inputs]
    assert [each.check for each in found] == [
        f"input {s}" for s in ("pipe", "none", "file", "program")
    ]
    assert [each.state for each in found] == ["skipped", "failed", "ok", "failed"]
    assert "is not a named pipe" in found[1].found
    assert "no-such-program is not installed" in found[3].found


def test_wrong_settings_end_with_2(run_edge: RunEdge) -> None:
    for arguments in (
        ("--tenant", "a.b"),
        ("--listen", "0"),
        ("--nats-url", "http://x"),
        ("--config", "absent.toml"),
    ):
        # At this level, standard error stays as it is.
        ended = run_edge("check", *arguments, environment={"NATTERJACK_LOG_LEVEL": "debug"})
        assert (ended.code, ended.stdout) == (2, "")
        assert "Traceback" not in ended.stderr


@pytest.mark.process
@pytest.mark.sound
async def test_the_program_checks_a_microphone(
    start_edge: StartEdge, sound_server: SoundServer, ready_broker: Broker
) -> None:
    environment = {**sound_server.environment, "EDGE_SPOL": "x"}
    edge = start_edge("check", "--listen", "1", "--json", environment=environment)
    assert await edge.exit_code(60) == 1, edge.stderr
    findings = {each["check"]: each for each in json.loads(edge.stdout)}
    assert "did you mean EDGE_SPOOL?" in findings["settings"]["found"]
    assert findings["input"]["state"] == "failed"  # nobody plays anything
    assert DEAD in findings["input"]["found"]
    assert findings["streams"]["state"] == "ok"
    assert await nothing_published(ready_broker)
    assert edge.stderr == ""
    absent = start_edge("check", "--device", "none such", environment=environment)
    assert await absent.exit_code(60) == 1
    assert "-> name one that `natterjack-edge devices` lists" in absent.stdout

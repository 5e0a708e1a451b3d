"""`natterjack export` on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from tests.nats_server import NatsServer
from tests.natterjack.consume.test_conversation import publish
from tests.natterjack.transcripts.events import Session
from tests.waiting import soon

from .commands import Result, run, run_async


async def export(server: NatsServer, *arguments: str | Path, status: int = 0) -> Result:
    result = await run_async("export", *map(str, arguments), NATS_URL=server.url)
    assert result.status == status, result.out + result.errors
    return result


async def call(broker: Broker, conversation: str = "call-7", *, ended: bool = True) -> Session:
    """A conversation of two speakers and a voice."""
    agent = Session(f"session-a-{conversation}", conversation=conversation)
    assistant = Session(f"session-v-{conversation}", "assistant", conversation=conversation)
    await publish(
        broker,
        agent.final("Good morning.", 0, 1),
        assistant.utterance(0, "finished", 3, text_spoken="Hello.", end=1),
        assistant.voice_status("closed"),
        *([agent.closed(4)] if ended else []),
    )
    return agent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The server's data is beside it."""
    return tmp_path / "transcripts"


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


async def test_named_conversations_are_written_in_all_formats(
    ready_broker: Broker, nats_server: NatsServer, folder: Path
) -> None:
    await call(ready_broker)
    await call(ready_broker, "call-8", ended=False)
    out = folder / "a" / "b"
    result = await export(
        nats_server, "acme.call-7", "acme.call-8", "-o", out, "--format", "txt,SRT,vtt,md,json"
    )
    forms = ["json", "md", "srt", "txt", "vtt"]
    assert files(out) == [f"acme/call-{n}.{form}" for n in (7, 8) for form in forms]
    assert "acme.call-8: 0:00:03, has not ended: wrote" in result.out
    assert result.out.endswith("conversations: 2, files written: 10\n")
    assert (out / "acme" / "call-7.txt").read_text() == (
        "[0:00:00] agent: Good morning.\n[0:00:02] assistant: Hello.\n"
    )
    assert json.loads((out / "acme" / "call-7.json").read_text())["conversation"] == "call-7"


async def test_what_is_unchanged_is_left_alone(
    ready_broker: Broker, nats_server: NatsServer, folder: Path
) -> None:
    agent = await call(ready_broker, ended=False)
    written = folder / "acme" / "call-7.txt"
    await export(nats_server, "acme.call-7", "-o", folder)
    os.utime(written, (1, 1))
    again = await export(nats_server, "acme.call-7", "-o", folder)
    assert "unchanged: 1" in again.out
    assert written.stat().st_mtime == 1
    await publish(ready_broker, agent.final("Anything else?", 6, 7))
    await export(nats_server, "acme.call-7", "-o", folder)
    assert "Anything else?" in written.read_text()


async def test_conversations_of_a_tenant_that_have_changed_are_written(
    ready_broker: Broker, nats_server: NatsServer, folder: Path
) -> None:
    await call(ready_broker)
    spoken = Session("session-s", "assistant", conversation="spoken")
    await publish(
        ready_broker, spoken.utterance(0, "finished", 3, text_spoken="Hello.", end=1),
        spoken.voice_status("closed"),
    )  # fmt: skip
    await export(nats_server, "--tenant", "acme", "--since", "1h", "-o", folder)
    assert files(folder) == ["acme/call-7.txt", "acme/spoken.txt"]
    after = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    ever = await export(nats_server, "--tenant", "acme", "--since", f"{10**11}h", "-o", folder)
    assert "unchanged: 2" in ever.out
    nothing = await export(nats_server, "--tenant", "acme", "--since", after, "-o", folder)
    assert nothing.out == "conversations: 0, files written: 0\n"
    await export(nats_server, "--tenant", "acme", "--since", "1h", "-o", folder / "2", "--no-voice")
    assert files(folder / "2") == ["acme/call-7.txt"]


async def test_conversations_that_have_not_ended_can_be_left_out(
    ready_broker: Broker, nats_server: NatsServer, folder: Path
) -> None:
    await call(ready_broker)
    await call(ready_broker, "call-8", ended=False)
    arguments = ("--tenant", "acme", "--since", "1h", "-o", folder, "--ended")
    result = await export(nats_server, *arguments)
    assert files(folder) == ["acme/call-7.txt"]
    assert "not ended: 1" in result.out


async def test_a_conversation_whose_beginning_has_expired_replaces_no_whole_one(
    ready_broker: Broker, nats_server: NatsServer, folder: Path
) -> None:
    agent = Session("session-a")
    await publish(ready_broker, agent.final("One.", 0, 1), agent.final("Two.", 5, 6))
    await export(nats_server, "acme.call-7", "-o", folder)
    js = ready_broker.client.jetstream()
    await js.delete_msg("STT_TRANSCRIPTS", 1)
    await publish(ready_broker, agent.closed(6))
    await export(nats_server, "acme.call-7", "-o", folder)
    assert files(folder) == ["acme/call-7%from-20261130T120005Z.txt", "acme/call-7.txt"]
    assert "One." in (folder / "acme" / "call-7.txt").read_text()


async def test_one_conversation_goes_to_standard_output(
    ready_broker: Broker, nats_server: NatsServer
) -> None:
    await call(ready_broker)
    result = await export(nats_server, "acme.call-7", "-o", "-", "--format", "json")
    assert json.loads(result.out)["open"] is False
    missing = await export(nats_server, "acme.call-9", "-o", "-", status=1)
    assert missing.out == ""
    assert missing.errors == "natterjack export: acme.call-9: nothing is stored of it\n"


async def test_standard_output_has_any_script_and_may_be_closed(
    ready_broker: Broker, nats_server: NatsServer
) -> None:
    agent = Session("session-a")
    lines = [agent.final(f"Grüße {n}, مرحبا.", n * 5, n * 5 + 1) for n in range(3000)]
    await publish(ready_broker, *lines, agent.closed(15_000))
    command = f"{sys.executable} -m natterjack export acme.call-7 -o - --no-voice"
    environment = {**os.environ, "NATS_URL": nats_server.url, "LC_ALL": "C", "PYTHONUTF8": "0"}
    for script, told in (
        (f"{command} | tail -n 1", "Grüße 2999, مرحبا."),
        (f"{command} | true", ""),
    ):
        process = await asyncio.create_subprocess_exec(
            "bash", "-o", "pipefail", "-c", script, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        output, errors = await soon(process.communicate(), 60)
        assert (process.returncode, errors.decode()) == (0, "")
        assert output.decode().strip("\n").endswith(told)


async def test_nothing_stored_and_files_that_cannot_be_written_are_failures(
    ready_broker: Broker, nats_server: NatsServer, folder: Path
) -> None:
    await call(ready_broker)
    missing = await export(nats_server, "acme.call-9", "acme.call-7", "-o", folder, status=1)
    assert "acme.call-9: nothing is stored of it" in missing.out
    assert missing.out.endswith("conversations: 1, files written: 1, failed: 1\n")
    (folder / "file").touch()
    result = await export(nats_server, "acme.call-7", "-o", folder / "file", status=1)
    assert f"{folder / 'file'}" in result.out
    assert "failed: 1" in result.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "either a CONVERSATION or --tenant"),
        (("call-7",), "<tenant>.<conversation>"),
        (("acme.call-7", "--tenant", "acme", "--since", "1h"), "either a CONVERSATION or"),
        (("--tenant", "acme"), "belong together"),
        (("acme.call-7", "--since", "1h"), "belong together"),
        (("acme.call-7", "acme.call-8", "-o", "-"), "standard output has room for one"),
        (("--tenant", "a.b", "--since", "1h"), "tenant 'a.b' is not valid"),
        (("--tenant", "acme", "--since", "soon"), "--since soon"),
        (("acme.call-7", "--format", "pdf"), "'pdf' is not one of txt"),
    ],
)
def test_wrong_usage_is_told_before_connecting(arguments: tuple[str, ...], told: str) -> None:
    result = run("export", *arguments, NATS_URL="nats://127.0.0.1:1")
    assert result.status == 2
    assert told in result.errors


def test_no_broker_is_told(folder: Path) -> None:
    result = run("export", "acme.call-7", "-o", str(folder), NATS_URL="nats://127.0.0.1:1")
    assert result.status == 2
    assert "127.0.0.1:1" in result.errors

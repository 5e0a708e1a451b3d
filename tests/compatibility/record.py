"""Record what a release writes: `python -m tests.compatibility.record VERSION`.

Real processes (nats-server, a provider's emulator, workers, an edge agent, the `natterjack`
command) hold sessions that meet whatever makes a message of another form: a killed worker, a
drained one, a limit, a budget, a refusal, a hole in the sound, control requests. What the broker
had is written to tests/compatibility/fixtures/VERSION as it was, ids and times too.

`--source DIR` runs the programs of another checkout, such as that of an older release. What it has
no commands for is left out, and said.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import soundfile
from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import CONSUMER
from natterjack.control import ControlRequest
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey, audio_subject, control_subject

from ..emulators import pcm, tones
from ..emulators.process import RemoteEmulator, emulator_process
from ..waiting import until
from ..worker.programs import Speaker, WorkerProcess
from .messages import FIXTURES, KINDS, MODELS, REPLY, Message, kind_of, samples

ROOT = Path(__file__).parents[2]
RATE = 8000
"""Of what the edge publishes: fixtures are to be small."""
PHRASE: dict[str, Any] = {"phrase_words": 8, "pause_seconds": 0.8, "lead_seconds": 0.3}
WORDS = 30
SPOOLED = SessionKey("acme", "call-11", "agent")
SPOOLED_WORDS = 16
NOBODY = "nats://127.0.0.1:1"
"""Where no broker is."""
_CHUNK_BYTES = RATE * 2 * 80 // 1000
OWN = "beta"
"""Tenant of the sessions that this program opens itself."""
INTERRUPTED = SessionKey("acme", "call-7", "agent")
STREAMS = ("STT_SESSIONS", "STT_AUDIO", "STT_TRANSCRIPTS", "STT_SLOTS", "KV_stt_sessions",
           "KV_stt_workers", "KV_stt_usage", "KV_stt_budgets", "KV_stt_providers")  # fmt: skip

_SCHEMAS = """
import importlib, json, sys
from pydantic import TypeAdapter
found = {}
for kind, name in json.loads(sys.argv[1]).items():
    module, _, model = name.partition(":")
    try:
        found[kind] = TypeAdapter(getattr(importlib.import_module(module), model)).json_schema()
    except (ImportError, AttributeError):
        pass
print(json.dumps(found))
"""


@dataclass
class Recording:
    """All that the broker had."""

    messages: dict[str, list[Message]] = field(default_factory=lambda: {k: [] for k in KINDS})
    """By kind, in order."""
    interrupted: dict[str, list[Message]] = field(default_factory=dict)
    """By kind: a session whose worker was killed, before anybody took it over; its sound to the
    end."""
    spool: dict[str, bytes] = field(default_factory=dict)
    """By path: what a killed edge that had no broker has left in its spool."""
    streams: dict[str, Any] = field(default_factory=dict)
    """Configurations by name, as the broker tells them, and that of the consumer."""
    schemas: dict[str, Any] = field(default_factory=dict)
    """By kind: what the release's own models read, as JSON Schema."""
    left_out: list[str] = field(default_factory=list)


class Tape:
    """Hears all that is published."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.durable: list[Message] = []
        """Events that are stored, in order."""

    async def listen(self, broker: Broker) -> None:
        # Not all there is: who listens to everybody's inboxes is taken for a dead worker.
        for subject in ("stt.>", "$KV.>"):
            await broker.client.listen(subject, self._heard)

    def _heard(self, subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        kind = kind_of(subject.decode())
        message = Message(subject.decode(), (headers or b"").decode(), bytes(data))
        if kind is None or not (data or kind == "chunk"):
            return  # an empty value: a slot that is free, a worker that has left
        if kind in ("request", "chunk") and f".{OWN}." in message.subject:
            return  # not written by a program of the checkout
        self._recording.messages[kind].append(message)
        if kind in ("final", "turn", "status", "usage"):
            self.durable.append(message)

    def of(self, kind: str, key: SessionKey) -> list[Message]:
        """What was heard of a session; not for chunks."""
        every = self._recording.messages[kind]
        return [m for m in every if f".{key}" in m.subject or str(key).encode() in m.payload]


class Programs:
    """Processes of one checkout."""

    def __init__(self, source: Path, url: str, provider: str) -> None:
        self._source = source
        self._url = url
        self._provider = provider
        self._stack = contextlib.AsyncExitStack()
        self.workers: dict[str, WorkerProcess] = {}
        clean = ("NATS_", "EDGE_", "WORKER_", "NATTERJACK_", "DEEPGRAM_")
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(clean)},
            # Only this checkout's packages, not those beside the current directory.
            **{"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1", "NATS_URL": url},
            "EDGE_SAMPLE_RATE": str(RATE),
        }

    async def __aenter__(self) -> Programs:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def worker(self, name: str) -> WorkerProcess:
        """A worker that is ready."""
        worker = WorkerProcess(
            self._url, self._provider, WORKER_NAME=name, WORKER_USAGE_SECONDS="2",
            WORKER_BUDGET_WARNINGS="0.3,0.6", WORKER_HOLE_SECONDS="0.5",
            WORKER_PRICES="deepgram=0.36", DEEPGRAM_CATCH_UP_RATE="4",
            PYTHONPATH=str(self._source), PYTHONSAFEPATH="1",
        )  # fmt: skip
        self.workers[name] = worker
        self._stack.push_async_callback(worker.stop)
        await worker.start()
        return worker

    async def run(self, module: str, *arguments: str) -> tuple[int, str]:
        """Run one of the programs to its end; its exit status, and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, env=self._environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def edge(self, wav: Path, key: SessionKey, *arguments: str) -> None:
        """Play a file as the session `key`, to the end."""
        status, said = await self.run(
            "edge_capture", "file", str(wav), "--tenant", key.tenant,
            "--conversation", key.conversation, "--speaker", key.speaker,
            "--language", "en-US", "--once", *arguments,
        )  # fmt: skip
        assert status == 0, f"edge of {key}: {said}"

    async def spooled(self, directory: Path, key: SessionKey, audio: bytes) -> str:
        """Have an edge that finds no broker keep `audio`, and kill it; what it said at once if it
        ended by itself."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_capture", "stdin", "--spool", str(directory),
            "--tenant", key.tenant, "--conversation", key.conversation, "--speaker", key.speaker,
            "--sample-rate", str(RATE), env={**self._environment, "NATS_URL": NOBODY},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        ended = asyncio.create_task(process.wait())
        process.stdin.write(audio)

        def kept() -> int:
            return sum(path.stat().st_size for path in directory.glob("*/0*"))

        await until(lambda: ended.done() or kept() >= len(audio) - 2 * _CHUNK_BYTES, "spooled", 30)
        if ended.done():
            assert process.stderr is not None
            return (await process.stderr.read()).decode()
        process.kill()
        await ended
        return ""

    def schemas(self) -> dict[str, Any]:
        """What the checkout's models read."""
        said = subprocess.run(
            [sys.executable, "-c", _SCHEMAS, json.dumps(MODELS)], env=self._environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(said.stdout)
        return found


@dataclass
class _Stage:
    """Where it is recorded."""

    directory: Path
    settings: BrokerSettings
    broker: Broker
    provider: RemoteEmulator
    programs: Programs
    recording: Recording
    tape: Tape

    # What has been heard

    async def heard(
        self, kind: str, key: SessionKey, says: Callable[[Any], bool] = lambda told: True
    ) -> None:
        """Return when a message of which `says` holds has been heard of the session."""

        def found() -> bool:
            return any(says(message.json) for message in self.tape.of(kind, key))

        await until(found, f"{kind} of {key}", 40)

    async def closed(self, key: SessionKey) -> None:
        await self.heard("checkpoint", key, lambda told: bool(told["closed"]))

    async def asked(self, key: SessionKey, *, ok: bool = True, **request: Any) -> None:
        """Ask the session's worker until it answers so."""

        async def answered() -> bool:
            wanted = ControlRequest.model_validate(request).model_dump_json().encode()
            try:
                answer = await self.broker.client.request(control_subject(key), wanted, 5)
            except NatsError:
                return False  # between two workers
            message = Message("", "", answer.data)
            self.recording.messages[REPLY].append(message)
            return bool(message.json["ok"] is ok)

        await until(answered, f"answer to {request}", 20)

    # What is done

    async def interrupt(self) -> None:
        """A worker is killed behind the second final of a session; another takes it to its end."""
        first = await self.programs.worker("worker-1")
        wav = _wav(self.directory / "words.wav", WORDS)
        more = ("--speed", "2", "--keyterm", "natterjack", "--label", "team=support")
        playing = asyncio.create_task(self.programs.edge(wav, INTERRUPTED, *more))
        second = tones.places(tones.sequence(WORDS), **PHRASE)[2 * PHRASE["phrase_words"] - 1]
        await self.heard(
            "checkpoint", INTERRUPTED, lambda told: bool(told["position"] >= second.end * RATE)
        )
        first.signal(signal.SIGKILL)
        await first.wait()
        await playing
        self.recording.interrupted = {
            "request": self.tape.of("request", INTERRUPTED)[:1],
            "chunk": list(self.recording.messages["chunk"]),
            "event": list(self.tape.durable),
            # Of a bucket the last entry is what is there.
            "checkpoint": self.tape.of("checkpoint", INTERRUPTED)[-1:],
            "roster": self.tape.of("roster", INTERRUPTED)[-1:],
        }
        await self.programs.worker("worker-2")
        await self.closed(INTERRUPTED)

    async def limits(self) -> bool:
        """Set a limit and budgets, if the checkout has commands for them."""
        commands = (
            ("limits", "set", "deepgram", "--connections", "1", "--dials-per-second", "5"),
            (
                "budget",
                "set",
                "acme",
                "--seconds-per-day",
                "36000",
                "--cost-per-day",
                "25",
                "--currency",
                "EUR",
            ),
            ("budget", "set", "--default", "--seconds-per-day", "600"),
        )
        for command in commands:
            status, said = await self.programs.run("natterjack", *command)
            if "invalid choice" in said:
                return False
            assert status == 0, said
        return True

    async def wait_in_turn(self) -> None:
        """Two sessions for one connection, which is refused for a moment; both have an end."""
        wav = _wav(self.directory / "more.wav", 16)
        first, second = (SessionKey("acme", "call-8", name) for name in ("agent", "caller"))
        playing = asyncio.create_task(self.programs.edge(wav, first, "--max-seconds", "6"))
        await self.heard("interim", first)
        await self.provider.set(handshake_status=429, handshakes=1)
        await self.provider.drop()
        await self.programs.edge(wav, second, "--speed", "4", "--max-seconds", "4")
        await playing
        await self.closed(first)
        await self.closed(second)
        status, said = await self.programs.run("natterjack", "limits", "remove", "deepgram")
        assert status == 0, said

    async def control(self) -> None:
        """Requests to a session, which is handed over and then stopped."""
        speaker = Speaker(self.settings, 120, speed=2, tenant=OWN, conversation="call-9")
        key = speaker.spec.key
        speaking = asyncio.create_task(speaker.speak())
        try:
            await self.heard("interim", key)
            await self.asked(key, command="configure", settings={"keyterms": ["toad"]})
            await self.asked(key, ok=False, command="configure", settings={"mood": "cheerful"})
            await self.asked(key, command="finalize")
            await self.programs.worker("worker-3")
            old = self.programs.workers["worker-2"]
            old.signal(signal.SIGTERM)
            assert await old.wait(30) == 0, "a drained worker ended with an error"
            await self.heard("status", key, lambda told: bool(told["state"] == "handed_over"))
            await self.asked(key, command="stop", reason="enough")
            await self.closed(key)
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    async def hole(self) -> None:
        """An edge of another make leaves out some of the sound, and publishes what is none."""
        speaker = Speaker(self.settings, 16, speed=4, tenant=OWN, conversation="call-10")
        speaker.left_out = set(range(30, 36))
        speaking = asyncio.create_task(speaker.speak())
        await self.heard("interim", speaker.spec.key)
        await self.broker.client.publish(audio_subject(speaker.spec.key), b"no chunk")
        await speaking
        await self.closed(speaker.spec.key)

    async def spool(self) -> None:
        """An edge is killed that had no broker to publish to."""
        directory, audio = self.directory / "spool", _audio(SPOOLED_WORDS)
        said = await self.programs.spooled(directory, SPOOLED, audio)
        if said:
            assert "unrecognized arguments" in said, said
            self.recording.left_out.append("the edge's spool: it has none")
        self.recording.spool = {
            str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }

    async def streams(self) -> dict[str, Any]:
        """The configurations of the streams and the consumer there are."""
        questions = {name: f"STREAM.INFO.{name}" for name in STREAMS}
        questions[CONSUMER] = f"CONSUMER.INFO.STT_SESSIONS.{CONSUMER}"
        found = {}
        for name, question in questions.items():
            answer = await self.broker.client.request(f"$JS.API.{question}", b"", 5)
            told = json.loads(answer.data)
            if "config" in told:
                found[name] = told["config"]
        return found


async def record(source: Path = ROOT) -> Recording:
    """Have the programs of `source` write every kind of message; takes most of a minute."""
    recording = Recording()
    with tempfile.TemporaryDirectory() as name:
        async with _stage(Path(name), source, recording) as stage:
            recording.schemas = await asyncio.to_thread(stage.programs.schemas)
            await stage.tape.listen(stage.broker)
            await stage.interrupt()
            if await stage.limits():
                await stage.wait_in_turn()
            else:
                recording.left_out.append("limits and budgets: it has no commands for them")
            await stage.control()
            if source != ROOT:
                recording.messages["control_request"].clear()
                recording.left_out.append("control requests: those are of this checkout")
            await stage.hole()
            await stage.spool()
            recording.streams = await stage.streams()
    return recording


@contextlib.asynccontextmanager
async def _stage(directory: Path, source: Path, recording: Recording) -> AsyncIterator[_Stage]:
    server = EmbeddedServer(directory / "nats")
    server.start()
    try:
        settings = BrokerSettings(url=server.url)
        async with (
            emulator_process("deepgram") as provider,
            connected(settings, name="tape", once=True) as broker,
            Programs(source, server.url, provider.url) as programs,
        ):
            tape = Tape(recording)
            yield _Stage(directory, settings, broker, provider, programs, recording, tape)
    finally:
        server.stop()


def _audio(words: int) -> bytes:
    return tones.encode(tones.sequence(words), RATE, tail_seconds=0.5, **PHRASE)


def _wav(path: Path, words: int) -> Path:
    soundfile.write(path, pcm.to_samples(_audio(words), "linear16"), RATE)
    return path


# ---- fixtures -----------------------------------------------------------------------------------


def write(recording: Recording, directory: Path, about: dict[str, Any]) -> None:
    """Make the fixtures of a release anew."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.iterdir():
        stale.unlink()
    for kind, messages in recording.messages.items():
        chosen = [message.as_dict() for message in samples(kind, messages)]
        if chosen:
            _write(directory / f"{kind}.json", {"messages": chosen})
    told: dict[str, Any] = {"words": tones.sequence(WORDS), "phrase": PHRASE}
    for kind, messages in recording.interrupted.items():
        told[kind] = [message.as_dict() for message in messages]
    for chunk, message in zip(told["chunk"], recording.interrupted["chunk"], strict=True):
        del chunk["base64"]
        chunk["bytes"] = len(message.payload)
    _write(directory / "interrupted.json", told)
    sound = b"".join(message.payload for message in recording.interrupted["chunk"])
    (directory / "interrupted.pcm.gz").write_bytes(gzip.compress(sound, 9, mtime=0))
    if recording.spool:
        files = {
            name: base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
            for name, content in recording.spool.items()
        }
        spooled = {"words": tones.sequence(SPOOLED_WORDS), "phrase": PHRASE, "files": files}
        _write(directory / "spool.json", spooled)
    _write(directory / "streams.json", recording.streams)
    _write(directory / "schemas.json", recording.schemas)
    _write(directory / "recorded.json", {**about, "left_out": recording.left_out})


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.compatibility.record", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("version", help="name of the release: of the fixtures' directory")
    parser.add_argument("--source", type=Path, default=ROOT, help="checkout whose programs run")
    arguments = parser.parse_args()
    recording = asyncio.run(record(arguments.source.resolve()))
    git = ["git", "-C", str(arguments.source), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    about = {"commit": commit, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    write(recording, FIXTURES / arguments.version, about)
    for kind, messages in recording.messages.items():
        print(f"{kind:16} {len(messages):5} messages, {len(samples(kind, messages))} kept")
    print(*recording.left_out, sep="\n")


if __name__ == "__main__":
    main()

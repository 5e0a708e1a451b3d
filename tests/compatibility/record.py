"""Record the messages of a release: `python -m tests.compatibility.record VERSION`.

Real processes (nats-server, a provider's emulator, workers, an edge, the `natterjack` command) run
sessions through every event that changes the form of a message: a killed worker, a drained worker,
a limit, a budget, a refusal, a gap in the audio, control requests. All messages are written to
tests/compatibility/fixtures/VERSION unchanged, including ids and times.

`--source DIR` runs the programs of another checkout, for example an older release. Steps for which
that checkout has no command are skipped and listed.
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
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import soundfile
from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import CONSUMER
from natterjack.control import ControlRequest
from natterjack.emulators import pcm, tones
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey, audio_subject, control_subject
from tests.nats_server import NatsServer

from ..emulators.process import RemoteEmulator, emulator_process
from ..forking import launch
from ..waiting import until
from ..worker.programs import Speaker, WorkerProcess
from .messages import (
    AUDIO_KINDS,
    FIXTURES,
    KINDS,
    MODELS,
    REPLY,
    VOICE_KINDS,
    Message,
    kind_of,
    samples,
)

ROOT = Path(__file__).parents[2]
RATE = 8000
"""Sample rate of the edge's audio, low to keep the fixtures small."""
PHRASE: dict[str, Any] = {"phrase_words": 8, "pause_seconds": 0.8, "lead_seconds": 0.3}
WORDS = 30
SPOOLED = SessionKey("acme", "call-11", "agent")
SPOOLED_WORDS = 16
NOBODY = "nats://127.0.0.1:1"
"""An address without a broker."""
_CHUNK_BYTES = RATE * 2 * 80 // 1000
_OF_CLIENTS = ("request", "chunk", "voice_request", "text", "played")
"""Kinds that applications, edges and players write."""
OWN_TENANT = "beta"
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
    """Everything that was published and stored."""

    messages: dict[str, list[Message]] = field(
        default_factory=lambda: {kind: [] for kind in (*KINDS, *VOICE_KINDS)}
    )
    """All messages by kind, in order."""
    interrupted: dict[str, list[Message]] = field(default_factory=dict)
    """Messages by kind of a session whose worker was killed, before another worker took it over.
    The audio is complete."""
    spool: dict[str, bytes] = field(default_factory=dict)
    """Files by path that a killed edge without a broker left in its spool."""
    streams: dict[str, Any] = field(default_factory=dict)
    """Configurations by name, as the broker reports them, and that of the consumer."""
    schemas: dict[str, Any] = field(default_factory=dict)
    """JSON Schema by kind, from the release's own models."""
    left_out: list[str] = field(default_factory=list)


class Tape:
    """Records everything that is published."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.durable: list[Message] = []
        """Durable events, in order."""

    async def listen(self, broker: Broker) -> None:
        # Not `>`: a subscriber to all inboxes would be taken for a dead worker.
        for subject in ("stt.>", "tts.>", "$KV.>"):
            await broker.client.listen(subject, self._received)

    def _received(self, subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        kind = kind_of(subject.decode())
        message = Message(subject.decode(), (headers or b"").decode(), bytes(data))
        if kind is None or not (data or kind in AUDIO_KINDS):
            return  # an empty value: a free permit, or a worker that has left
        if kind in _OF_CLIENTS and f".{OWN_TENANT}." in message.subject:
            return  # not written by a program of this checkout
        self._recording.messages[kind].append(message)
        if kind in ("final", "turn", "status", "usage", "voice_status", "utterance", "voice_usage"):
            self.durable.append(message)

    def of(self, kind: str, key: SessionKey) -> list[Message]:
        """Return the recorded messages of a session. Not for chunks."""
        received = self._recording.messages[kind]
        return [m for m in received if f".{key}" in m.subject or str(key).encode() in m.payload]


class Programs:
    """Processes of one checkout."""

    def __init__(self, source: Path, url: str, provider: str) -> None:
        self._url = url
        self._provider = provider
        self._stack = contextlib.AsyncExitStack()
        self.workers: dict[str, WorkerProcess] = {}
        clean = ("NATS_", "EDGE_", "WORKER_", "NATTERJACK_", "DEEPGRAM_")
        self._path: dict[str, str] = {}
        if source != ROOT:  # only its packages, not those beside the current directory
            self._path = {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(clean)},
            **self._path,
            "NATS_URL": url,
            "EDGE_SAMPLE_RATE": str(RATE),
        }

    async def __aenter__(self) -> Programs:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def worker(self, name: str, **settings: str) -> WorkerProcess:
        """Start a worker and wait until it is ready."""
        worker = WorkerProcess(
            self._url, self._provider, WORKER_NAME=name, WORKER_USAGE_SECONDS="2",
            WORKER_BUDGET_WARNINGS="0.3,0.6", WORKER_HOLE_SECONDS="0.5",
            WORKER_PRICES="deepgram=0.36", DEEPGRAM_CATCH_UP_RATE="4",
            **self._path, **settings,
        )  # fmt: skip
        self.workers[name] = worker
        self._stack.push_async_callback(worker.stop)
        await worker.start()
        return worker

    async def run(self, module: str, *arguments: str) -> tuple[int, str]:
        """Run one of the programs to its end, or until cancelled. Return its exit status and its
        standard error."""
        with tempfile.TemporaryFile() as errors:
            process = launch(
                ("-m", module, *arguments), env=self._environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
            try:
                await until(lambda: process.poll() is not None, f"the end of {module}", 120)
            except asyncio.CancelledError:
                process.terminate()
                process.wait()
                raise
            errors.seek(0)
            return process.wait(), errors.read().decode()

    async def edge(self, wav: Path, key: SessionKey, *arguments: str) -> None:
        """Play a file as the session `key` to its end. With `--max-seconds`, the session may end
        before, which is an error of the edge."""
        status, stderr = await self.run(
            "edge_capture", "file", str(wav), "--tenant", key.tenant,
            "--conversation", key.conversation, "--speaker", key.speaker,
            "--language", "en-US", "--once", *arguments,
        )  # fmt: skip
        cut_short = "--max-seconds" in arguments
        assert status == 0 or (status == 1 and cut_short), f"edge of {key}: {stderr}"

    async def spooled(self, directory: Path, key: SessionKey, audio: bytes) -> str:
        """Let an edge without a broker spool `audio`, then kill it.

        Return its standard error if it exited by itself, else an empty string.
        """
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

        def spooled_bytes() -> int:
            return sum(path.stat().st_size for path in directory.glob("*/0*"))

        wanted = len(audio) - 2 * _CHUNK_BYTES
        await until(lambda: ended.done() or spooled_bytes() >= wanted, "spooled", 30)
        if ended.done():
            assert process.stderr is not None
            return (await process.stderr.read()).decode()
        process.kill()
        await ended
        return ""

    def schemas(self) -> dict[str, Any]:
        """Return the JSON Schemas of the checkout's models, by kind."""
        done = subprocess.run(
            [sys.executable, "-c", _SCHEMAS, json.dumps(MODELS)], env=self._environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@dataclass
class Stage:
    """The processes and connections of a recording."""

    directory: Path
    settings: BrokerSettings
    broker: Broker
    provider: RemoteEmulator
    programs: Programs
    recording: Recording
    tape: Tape

    # Waiting for messages

    async def received(
        self, kind: str, key: SessionKey, matches: Callable[[Any], bool] = lambda message: True
    ) -> None:
        """Wait for a message of the session for which `matches` is true."""

        def found() -> bool:
            return any(matches(message.json) for message in self.tape.of(kind, key))

        await until(found, f"{kind} of {key}", 40)

    async def closed(self, key: SessionKey) -> None:
        await self.received("checkpoint", key, lambda message: bool(message["closed"]))

    async def request(self, key: SessionKey, *, ok: bool = True, **request: Any) -> None:
        """Send a control request until the answer's `ok` is as given."""

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

    # Steps

    async def interrupt(self) -> None:
        """Kill a worker after the second final of a session; another worker finishes it."""
        first = await self.programs.worker("worker-1")
        wav = _wav(self.directory / "words.wav", WORDS)
        more = ("--speed", "2", "--keyterm", "natterjack", "--label", "team=support")
        playing = asyncio.create_task(self.programs.edge(wav, INTERRUPTED, *more))
        second = tones.places(tones.sequence(WORDS), **PHRASE)[2 * PHRASE["phrase_words"] - 1]
        await self.received(
            "checkpoint", INTERRUPTED, lambda found: bool(found["position"] >= second.end * RATE)
        )
        first.signal(signal.SIGKILL)
        await first.wait()
        await playing
        self.recording.interrupted = {
            "request": self.tape.of("request", INTERRUPTED)[:1],
            "chunk": list(self.recording.messages["chunk"]),
            "event": list(self.tape.durable),
            # A bucket holds only the last entry of a key.
            "checkpoint": self.tape.of("checkpoint", INTERRUPTED)[-1:],
            "roster": self.tape.of("roster", INTERRUPTED)[-1:],
        }
        await self.programs.worker("worker-2")
        await self.closed(INTERRUPTED)

    async def limits(self) -> bool:
        """Set a limit and budgets. Return False if the checkout has no commands for them."""
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
            status, stderr = await self.programs.run("natterjack", *command)
            if "invalid choice" in stderr:
                return False
            assert status == 0, stderr
        return True

    async def share_one_permit(self) -> None:
        """Run two sessions under a limit of one connection, which the provider refuses once."""
        wav = _wav(self.directory / "more.wav", 16)
        first, second = (SessionKey("acme", "call-8", name) for name in ("agent", "caller"))
        playing = asyncio.create_task(self.programs.edge(wav, first, "--max-seconds", "6"))
        await self.received("interim", first)
        await self.provider.set(handshake_status=429, handshakes=1)
        await self.provider.drop()
        await self.programs.edge(wav, second, "--speed", "4", "--max-seconds", "4")
        await playing
        await self.closed(first)
        await self.closed(second)
        status, stderr = await self.programs.run("natterjack", "limits", "remove", "deepgram")
        assert status == 0, stderr

    async def control(self) -> None:
        """Send control requests to a session, hand it over, and stop it."""
        speaker = Speaker(self.settings, 120, speed=2, tenant=OWN_TENANT, conversation="call-9")
        key = speaker.spec.key
        speaking = asyncio.create_task(speaker.speak())
        try:
            await self.received("interim", key)
            await self.request(key, command="configure", settings={"keyterms": ["toad"]})
            await self.request(key, ok=False, command="configure", settings={"mood": "cheerful"})
            await self.request(key, command="finalize")
            speaker.pause()
            await self.programs.worker("worker-3")
            speaker.go_on()
            old = self.programs.workers["worker-2"]
            old.signal(signal.SIGTERM)
            assert await old.wait(30) == 0, "a drained worker ended with an error"
            await self.received("status", key, lambda event: bool(event["state"] == "handed_over"))
            await self.request(key, command="stop", reason="enough")
            await self.closed(key)
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    async def gap(self) -> None:
        """Publish a session with missing chunks and an invalid one, as a foreign edge might."""
        speaker = Speaker(self.settings, 16, speed=4, tenant=OWN_TENANT, conversation="call-10")
        speaker.left_out = set(range(30, 36))
        speaking = asyncio.create_task(speaker.speak())
        await self.received("interim", speaker.spec.key)
        await self.broker.client.publish(audio_subject(speaker.spec.key), b"no chunk")
        await speaking
        await self.closed(speaker.spec.key)

    async def spool(self) -> None:
        """Kill an edge that had no broker to publish to, and keep its spool."""
        directory, audio = self.directory / "spool", _audio(SPOOLED_WORDS)
        stderr = await self.programs.spooled(directory, SPOOLED, audio)
        if stderr:
            assert "unrecognized arguments" in stderr, stderr
            self.recording.left_out.append("the edge's spool: it has none")
        self.recording.spool = {
            str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }

    async def streams(
        self, names: Sequence[str] = STREAMS, queue: str = "STT_SESSIONS"
    ) -> dict[str, Any]:
        """Return the configurations of the existing streams and of the queue's consumer."""
        requests = {name: f"STREAM.INFO.{name}" for name in names}
        requests[CONSUMER] = f"CONSUMER.INFO.{queue}.{CONSUMER}"
        found = {}
        for name, request in requests.items():
            answer = await self.broker.client.request(f"$JS.API.{request}", b"", 5)
            reply = json.loads(answer.data)
            if "config" in reply:
                found[name] = reply["config"]
        return found


async def record(source: Path = ROOT) -> Recording:
    """Let the programs of `source` write every kind of message. Takes almost a minute."""
    recording = Recording()
    with tempfile.TemporaryDirectory() as name:
        async with staged(Path(name), source, recording) as stage:
            recording.schemas = await asyncio.to_thread(stage.programs.schemas)
            await stage.tape.listen(stage.broker)
            await stage.interrupt()
            if await stage.limits():
                await stage.share_one_permit()
            else:
                recording.left_out.append("limits and budgets: it has no commands for them")
            await stage.control()
            if source != ROOT:
                recording.messages["control_request"].clear()
                recording.left_out.append("control requests: those are of this checkout")
            await stage.gap()
            await stage.spool()
            recording.streams = await stage.streams()
    return recording


@contextlib.asynccontextmanager
async def staged(
    directory: Path, source: Path, recording: Recording, provider: str = "deepgram"
) -> AsyncIterator[Stage]:
    """The broker, the emulator of `provider`, and the programs of `source`."""
    server = NatsServer(directory / "nats")
    server.start()
    try:
        settings = BrokerSettings(url=server.url)
        async with (
            emulator_process(provider) as emulator,
            connected(settings, name="tape", once=True) as broker,
            Programs(source, server.url, emulator.url) as programs,
        ):
            tape = Tape(recording)
            yield Stage(directory, settings, broker, emulator, programs, recording, tape)
    finally:
        server.stop()


def _audio(words: int) -> bytes:
    return tones.encode(tones.sequence(words), RATE, tail_seconds=0.5, **PHRASE)


def _wav(path: Path, words: int) -> Path:
    soundfile.write(path, pcm.to_samples(_audio(words), "linear16"), RATE)
    return path


# ---- fixtures -----------------------------------------------------------------------------------


def write(recording: Recording, directory: Path, about: dict[str, Any]) -> None:
    """Replace the fixtures of a release."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.iterdir():
        stale.unlink()
    for kind, messages in recording.messages.items():
        chosen = [message.as_dict() for message in samples(kind, messages)]
        if chosen:
            _write(directory / f"{kind}.json", {"messages": chosen})
    session: dict[str, Any] = {"words": tones.sequence(WORDS), "phrase": PHRASE}
    for kind, messages in recording.interrupted.items():
        session[kind] = [message.as_dict() for message in messages]
    (kind,) = (kind for kind in AUDIO_KINDS if kind in session)
    for chunk, message in zip(session[kind], recording.interrupted[kind], strict=True):
        del chunk["base64"]
        chunk["bytes"] = len(message.payload)
    _write(directory / "interrupted.json", session)
    audio = b"".join(message.payload for message in recording.interrupted[kind])
    (directory / "interrupted.pcm.gz").write_bytes(gzip.compress(audio, 9, mtime=0))
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
    parser.add_argument("version", help="name of the release and of its fixtures' directory")
    parser.add_argument("--source", type=Path, default=ROOT, help="checkout whose programs run")
    parser.add_argument("--voice", action="store_true", help="record voice sessions")
    arguments = parser.parse_args()
    if arguments.voice:
        from .record_voice import record_voice as recorder
    else:
        recorder = record
    recording = asyncio.run(recorder(arguments.source.resolve()))
    git = ["git", "-C", str(arguments.source), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    about = {"commit": commit, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    write(recording, FIXTURES / arguments.version, about)
    for kind, messages in recording.messages.items():
        if not messages:
            continue
        print(f"{kind:16} {len(messages):5} messages, {len(samples(kind, messages))} kept")
    print(*recording.left_out, sep="\n")


if __name__ == "__main__":
    main()

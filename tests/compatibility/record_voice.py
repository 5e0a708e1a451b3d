"""Record the messages of voice sessions: `python -m tests.compatibility.record VERSION --voice`.

Real processes speak: a worker that is killed, one that is drained, `natterjack say`, a player, and
an application that interrupts and configures. As `record`, which writes the fixtures.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from natterjack.emulators import tones
from natterjack.subjects import SessionKey, voice_control_subject
from natterjack.voice.control import VoiceRequest

from ..waiting import until
from ..worker.voice.player import Application, playing
from .messages import VOICE_KINDS, VOICE_REPLY, Message
from .record import OWN_TENANT, ROOT, Recording, Stage, staged

RATE = 8000
WORDS = 24
SPOKEN = SessionKey("acme", "call-21", "assistant")
STREAMS = ("TTS_SESSIONS", "TTS_TEXT", "TTS_AUDIO", "TTS_EVENTS", "KV_tts_sessions")
_WORKER = {
    "WORKER_KINDS": "transcribe,speak", "WORKER_VOICE": "deepgram-flux-voice",
    "WORKER_VOICE_AHEAD_SECONDS": "3", "NATTERJACK_LEASE_SECONDS": "1",
}  # fmt: skip


def text(words: int = WORDS) -> str:
    """Sentences of tone words."""
    all_words = tones.sequence(words)
    groups = [all_words[at : at + 6] for at in range(0, words, 6)]
    return " ".join(f"{' '.join(group).capitalize()}." for group in groups)


async def record_voice(source: Path = ROOT) -> Recording:
    """Let the programs of `source` write every kind of message of voice sessions. Takes half a
    minute."""
    recording = Recording()
    with tempfile.TemporaryDirectory() as name:
        async with staged(Path(name), source, recording, "deepgram-flux-speak") as stage:
            schemas = await asyncio.to_thread(stage.programs.schemas)
            recording.schemas = {kind: schemas[kind] for kind in VOICE_KINDS if kind in schemas}
            await stage.tape.listen(stage.broker)
            await _interrupt(stage)
            await _control(stage)
            await _fail(stage)
            recording.streams = await stage.streams(STREAMS, "TTS_SESSIONS")
            if source != ROOT:
                recording.messages["voice_control_request"].clear()
                recording.left_out.append("control requests: those are of this checkout")
    return recording


async def _received(stage: Stage, kind: str, key: SessionKey, **values: Any) -> None:
    def matches(content: Any) -> bool:
        return all(content.get(name) == value for name, value in values.items())

    await stage.received(kind, key, matches)


async def _interrupt(stage: Stage) -> None:
    """Kill a worker in the middle of an utterance; another one speaks the rest."""
    first = await stage.programs.worker("worker-1", **_WORKER)
    async with _player(stage, stage.directory / "played.wav"):
        saying = asyncio.create_task(
            stage.programs.run(
                "natterjack", "say", text(), "--to", str(SPOKEN), "--sample-rate", str(RATE),
                "--language", "en", "--model", "flux-haley-en", "--voice",
                "deepgram-flux-voice,deepgram-aura", "--interrupt-on", "acme.call-21.caller",
            )
        )  # fmt: skip
        await stage.received(
            "voice_checkpoint", SPOKEN, lambda found: bool(found["position"] > 3 * RATE)
        )
        first.signal(signal.SIGKILL)
        await first.wait()
        kinds = ("voice_request", "text", "speech")
        messages, tape = stage.recording.messages, stage.tape
        stage.recording.interrupted = {
            **{kind: list(messages[kind]) for kind in kinds},
            "event": list(tape.durable),
            "voice_checkpoint": tape.of("voice_checkpoint", SPOKEN)[-1:],
            "roster": tape.of("roster", SPOKEN)[-1:],
        }
        await stage.programs.worker("worker-2", **_WORKER)
        status, stderr = await saying
        assert status == 0, stderr
        await _received(stage, "voice_checkpoint", SPOKEN, closed=True)


@contextlib.asynccontextmanager
async def _player(stage: Stage, path: Path) -> AsyncIterator[None]:
    """Play what is spoken on SPOKEN into a file."""
    arguments = (
        "edge_capture", "play", "--tenant", SPOKEN.tenant, "--conversation", SPOKEN.conversation,
        "--speaker", SPOKEN.speaker, "--file", str(path),
    )  # fmt: skip
    playing = asyncio.create_task(stage.programs.run(*arguments))
    try:
        holds = stage.recording.messages["player_hold"]
        await until(lambda: bool(holds) or playing.done(), "a player", 30)
        assert not playing.done(), playing.result()
        yield
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


async def _request(stage: Stage, key: SessionKey, *, ok: bool = True, **request: Any) -> None:
    """Send a control request until the answer's `ok` is as given."""
    payload = VoiceRequest.model_validate(request).model_dump_json().encode()

    async def answered() -> bool:
        try:
            answer = await stage.broker.client.request(voice_control_subject(key), payload, 5)
        except NatsError:
            return False  # between two workers
        message = Message("", "", answer.data)
        stage.recording.messages[VOICE_REPLY].append(message)
        return bool(message.json["ok"] is ok)

    await until(answered, f"answer to {request}", 20)


async def _control(stage: Stage) -> None:
    """Configure, interrupt, hand over and close a session."""
    application = Application(
        stage.broker, tenant=OWN_TENANT, conversation="call-22", speaker="assistant",
        sample_rate=RATE,
    )  # fmt: skip
    key = application.spec.key
    await application.open()
    await application.say(text())
    async with playing(stage.broker, application.spec, speed=2) as player:
        await until(lambda: player.position > RATE, "some of it is played", 30)
        await _request(stage, key, command="configure", settings={"speed": 1.2})
        await _request(stage, key, ok=False, command="configure", settings={"mood": 7})
        await _request(
            stage, key, command="interrupt", reason="enough", session_id=application.spec.session_id
        )
        await _received(stage, "utterance", key, event="interrupted")
        await application.say(text(12))
        await stage.programs.worker("worker-3", **_WORKER)
        old = stage.programs.workers["worker-2"]
        old.signal(signal.SIGTERM)
        assert await old.wait(30) == 0, "a drained worker ended with an error"
        await _received(stage, "voice_status", key, state="handed_over")
        await _received(stage, "utterance", key, utterance=1, event="finished")
        await _request(stage, key, command="close", reason="enough")
        await _received(stage, "voice_status", key, state="closed")


async def _fail(stage: Stage) -> None:
    """Ask for a voice that does not exist, with text that the worker finds when it refuses."""
    application = Application(
        stage.broker, tenant=OWN_TENANT, conversation="call-23", speaker="assistant", voice="nobody"
    )
    await application.say("Nobody says this.")
    await application.open()
    await _received(stage, "voice_status", application.spec.key, state="failed")

"""A session of another release's worker continues, with no word lost or doubled."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from natterjack.audio import MSG_ID
from natterjack.broker import streams
from natterjack.broker.client.wire import parse_headers
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux_speak import DeepgramFluxSpeakEmulator
from natterjack.events import StatusEvent
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import KINDS, StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import played_subject
from natterjack.voice.events import UtteranceEvent, VoiceStatusEvent
from natterjack.voice.spec import Played, VoiceSpec

from ..faults.audit import audit
from ..waiting import until
from ..worker.programs import StartWorker, WorkerProcess, closed, queue_empty
from ..worker.voice.player import Application
from ..worker.voice.player import words as spoken
from .messages import EARLY, FIXTURES, RELEASE, VOICE, Message, with_new_fields
from .record import RATE
from .record_voice import WORDS


class Interrupted:
    """The messages that a killed worker left in the broker, and the audio that followed."""

    audio_kind = "chunk"
    published: tuple[str, ...] = ()
    """Kinds of further messages that were published."""

    def __init__(self, version: str, *, newer: bool) -> None:
        """Load the recording. With `newer`, every message has additional fields."""
        recording = json.loads((FIXTURES / version / "interrupted.json").read_text())
        self.words: list[str] = recording["words"]
        self.places = tones.places(self.words, **recording["phrase"])
        self._newer = newer
        self._recording = recording
        self._audio = gzip.decompress((FIXTURES / version / "interrupted.pcm.gz").read_bytes())
        self._read()

    def _read(self) -> None:
        (self.request,) = self._messages("request")
        (self.checkpoint,) = self._messages("checkpoint")
        self.spec = SessionSpec.model_validate_json(self.request.payload)

    @property
    def seconds(self) -> float:
        return len(self._audio) / 2 / RATE

    def _messages(self, kind: str) -> list[Message]:
        messages = [Message.from_dict(stored) for stored in self._recording[kind]]
        if not self._newer:
            return messages
        payloads = [json.dumps(with_new_fields(message.json)).encode() for message in messages]
        return [m._replace(payload=p) for m, p in zip(messages, payloads, strict=True)]

    def _chunks(self) -> Iterator[Message]:
        at = 0
        for chunk in self._recording[self.audio_kind]:
            headers = chunk["headers"]
            if self._newer:
                headers = headers.removesuffix("\r\n") + "Audio-Mood: cheerful\r\n\r\n"
            yield Message(chunk["subject"], headers, self._audio[at : at + chunk["bytes"]])
            at += chunk["bytes"]
        assert at == len(self._audio)

    async def put(self, broker: Broker) -> None:
        """Store all messages in their original order."""
        more = [message for kind in self.published for message in self._messages(kind)]
        for message in (self.request, *more, *self._chunks(), *self._messages("event")):
            await _publish(broker, message)
        await _publish(broker, self.checkpoint)
        for message in self._messages("roster"):
            await _publish(broker, message)


class InterruptedVoice(Interrupted):
    """As Interrupted, for a voice session."""

    audio_kind = "speech"
    published = ("text",)

    def _read(self) -> None:
        (self.request,) = self._messages("voice_request")
        (self.checkpoint,) = self._messages("voice_checkpoint")
        self.voice = VoiceSpec.model_validate_json(self.request.payload)


async def _publish(broker: Broker, message: Message) -> None:
    """Publish a recorded message without its `Nats-Expected-*` conditions."""
    headers = parse_headers(message.headers.encode())
    kept = {name: value for name, value in headers.items() if "Expected" not in name}
    await broker.client.jetstream().publish(message.subject, message.payload, headers=kept)


@pytest.mark.parametrize("newer", [False, True], ids=["unchanged", "with-more-fields"])
@pytest.mark.parametrize("version", [RELEASE, EARLY])
async def test_a_session_of_another_release_continues(
    version: str, newer: bool, start_worker: StartWorker, ready_broker: Broker
) -> None:
    interrupted = Interrupted(version, newer=newer)
    before = interrupted.checkpoint.json
    assert 0 < before["position"] < interrupted.seconds * RATE, (
        "the recording must stop in mid-session"
    )
    await interrupted.put(ready_broker)
    await _redeliver(ready_broker)
    await start_worker()
    transcript = await closed(ready_broker, interrupted.spec, 60)
    found = audit(
        transcript.events,
        interrupted.words,
        interrupted.places,
        captured_seconds=interrupted.seconds,
    )  # checks the account too, which the killed worker began
    assert found.clean, f"{found}\n{transcript.describe()}"
    epochs = [event.epoch for event in transcript.events]
    assert set(epochs) == {before["epoch"], before["epoch"] + 1}
    # No audio before the checkpoint is transcribed again.
    first = next(final for final in transcript.finals if final.epoch > before["epoch"])
    assert first.start * RATE >= before["position"] - 1
    _check_usage(before, transcript.closing[0])
    await queue_empty(ready_broker)


@pytest.mark.parametrize("newer", [False, True], ids=["unchanged", "with-more-fields"])
async def test_a_voice_session_of_another_release_continues(
    newer: bool, broker: Broker, nats_server: EmbeddedServer, processes: None
) -> None:
    interrupted = InterruptedVoice(VOICE, newer=newer)
    before, spec = interrupted.checkpoint.json, interrupted.voice
    assert 0 < before["position"] <= interrupted.seconds * RATE
    await streams.ensure(broker, StreamSettings(kinds=KINDS))
    await interrupted.put(broker)
    await _redeliver(broker, streams.VOICE_SESSIONS)
    application = Application(broker, **spec.model_dump())
    async with DeepgramFluxSpeakEmulator(speech_pace=20) as emulator:
        worker = WorkerProcess(nats_server.url, emulator.url, WORKER_KINDS="speak")
        try:
            await worker.start()
            # A player that is quick: a position beyond the audio counts to its end.
            report = Played(session_id=spec.session_id, utterance=0, position=2**50, state="idle")

            async def over() -> bool:
                await broker.client.publish(played_subject(spec.key), report.encode())
                return any(
                    isinstance(event, VoiceStatusEvent) and event.closing
                    for event in await application.events()
                )

            await until(over, "the session is over", 60)
        finally:
            await worker.stop()
    chunks = await application.stored_chunks()
    position = 0
    for number, (header, audio) in enumerate(chunks):
        assert (header.seq, header.pos) == (number, position)
        position += len(audio) // 2
    assert {header.epoch for header, _ in chunks} == {before["epoch"], before["epoch"] + 1}
    words = tones.sequence(WORDS)
    audio = b"".join(audio for _, audio in chunks)
    assert tones.compare(words, spoken(audio, spec.sample_rate)) == tones.Counts()
    text = "".join(message.json["text"] for message in interrupted._messages("text"))
    events = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    assert [(e.event, e.text_spoken) for e in events] == [("started", None), ("finished", text)]
    used = before["account"]["providers"]["deepgram-flux-voice"]
    assert (await application.usage()).characters > used["characters"]


async def _redeliver(broker: Broker, queue: str = streams.SESSIONS) -> None:
    """Take the request once and return it, so that the next worker gets a second delivery."""
    js = broker.client.jetstream()
    leases = await js.pull_subscribe_bind(durable=streams.CONSUMER, stream=queue)
    (request,) = await leases.fetch(1)
    await request.nak()
    await leases.unsubscribe()


def _check_usage(checkpoint: dict[str, Any], closing: StatusEvent) -> None:
    """The account still includes the killed worker's use."""
    assert closing.account is not None
    for name, used in checkpoint["account"].get("providers", {}).items():
        now = closing.account.providers[name]
        assert now.connections == used["connections"] + 1
        assert now.sent_seconds > used["sent_seconds"]
        assert now.billed_seconds > used["billed_seconds"]


@pytest.mark.parametrize("version", [RELEASE, EARLY, VOICE])
def test_recorded_messages_have_ids(version: str) -> None:
    """Without a message ID the broker would store a repeated message twice."""
    made = InterruptedVoice if version == VOICE else Interrupted
    interrupted = made(version, newer=False)
    more = [message for kind in made.published for message in interrupted._messages(kind)]
    events = interrupted._messages("event")
    for message in (interrupted.request, *interrupted._chunks(), *more, *events):
        assert MSG_ID in parse_headers(message.headers.encode())

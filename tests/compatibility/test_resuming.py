"""A session that another release's worker left behind goes on, with no word lost or doubled."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from natterjack.audio import MSG_ID
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.wire import parse_headers
from natterjack.events import StatusEvent
from natterjack.spec import SessionSpec

from ..emulators import tones
from ..faults.audit import audit
from ..worker.programs import StartWorker, closed, queue_empty
from .messages import EARLY, FIXTURES, RELEASE, Message, with_news
from .record import RATE


class Interrupted:
    """What a killed worker has left in the broker, and the sound that came after."""

    def __init__(self, version: str, *, newer: bool) -> None:
        """`newer`: as if a release had written it that has more fields."""
        told = json.loads((FIXTURES / version / "interrupted.json").read_text())
        self.words: list[str] = told["words"]
        self.places = tones.places(self.words, **told["phrase"])
        self._newer = newer
        self._told = told
        self._sound = gzip.decompress((FIXTURES / version / "interrupted.pcm.gz").read_bytes())
        (self.request,) = self._messages("request")
        (self.checkpoint,) = self._messages("checkpoint")
        self.spec = SessionSpec.model_validate_json(self.request.payload)

    @property
    def seconds(self) -> float:
        return len(self._sound) / 2 / RATE

    def _messages(self, kind: str) -> list[Message]:
        messages = [Message.of(told) for told in self._told[kind]]
        if not self._newer:
            return messages
        news = [json.dumps(with_news(message.json)).encode() for message in messages]
        return [m._replace(payload=p) for m, p in zip(messages, news, strict=True)]

    def _chunks(self) -> Iterator[Message]:
        at = 0
        for told in self._told["chunk"]:
            headers = told["headers"]
            if self._newer:
                headers = headers.removesuffix("\r\n") + "Audio-Mood: cheerful\r\n\r\n"
            yield Message(told["subject"], headers, self._sound[at : at + told["bytes"]])
            at += told["bytes"]
        assert at == len(self._sound)

    async def put(self, broker: Broker) -> None:
        """Store all of it, in the order in which it was stored."""
        for message in (self.request, *self._chunks(), *self._messages("event")):
            await _publish(broker, message)
        await _publish(broker, self.checkpoint)
        for message in self._messages("roster"):
            await _publish(broker, message)


async def _publish(broker: Broker, message: Message) -> None:
    """As it was stored, but for the conditions under which it was: they were met then."""
    headers = parse_headers(message.headers.encode())
    kept = {name: value for name, value in headers.items() if "Expected" not in name}
    await broker.client.jetstream().publish(message.subject, message.payload, headers=kept)


@pytest.mark.parametrize("newer", [False, True], ids=["as it was", "with more fields"])
@pytest.mark.parametrize("version", [RELEASE, EARLY])
async def test_a_session_of_another_release_goes_on(
    version: str, newer: bool, start_worker: StartWorker, ready_broker: Broker
) -> None:
    left = Interrupted(version, newer=newer)
    before = left.checkpoint.json
    assert 0 < before["position"] < left.seconds * RATE, "it was recorded in mid-session"
    await left.put(ready_broker)
    await _lapse(ready_broker)
    await start_worker()
    transcript = await closed(ready_broker, left.spec, 60)
    found = audit(
        transcript.events, left.words, left.places, captured_seconds=left.seconds
    )  # the account too: it began with the worker that was killed
    assert found.clean, f"{found}\n{transcript.told()}"
    epochs = [event.epoch for event in transcript.events]
    assert set(epochs) == {before["epoch"], before["epoch"] + 1}
    # Nothing that was final before was heard again.
    first = next(final for final in transcript.finals if final.epoch > before["epoch"])
    assert first.start * RATE >= before["position"] - 1
    _goes_on(before, transcript.closing[0])
    await queue_empty(ready_broker)


async def _lapse(broker: Broker) -> None:
    """The request has been delivered once, and comes again."""
    js = broker.client.jetstream()
    leases = await js.pull_subscribe_bind(durable=streams.CONSUMER, stream=streams.SESSIONS)
    (request,) = await leases.fetch(1)
    await request.nak()
    await leases.unsubscribe()


def _goes_on(checkpoint: dict[str, Any], closing: StatusEvent) -> None:
    """What the killed worker had used is still on the bill."""
    assert closing.account is not None
    for name, used in checkpoint["account"].get("providers", {}).items():
        now = closing.account.providers[name]
        assert now.connections == used["connections"] + 1
        assert now.sent_seconds > used["sent_seconds"]
        assert now.billed_seconds > used["billed_seconds"]


@pytest.mark.parametrize("version", [RELEASE, EARLY])
def test_what_was_recorded_is_a_session_with_names_for_its_messages(version: str) -> None:
    """Else the broker would take a repeated message for a new one."""
    left = Interrupted(version, newer=False)
    for message in (left.request, *left._chunks(), *left._messages("event")):
        assert MSG_ID in parse_headers(message.headers.encode())

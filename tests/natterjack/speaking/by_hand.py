"""A worker's messages for a voice session, published by hand, and the messages that it receives."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.subjects import VoiceEventKind, voice_control_subject, voice_event_subject
from natterjack.voice.control import VoiceReply, VoiceRequest
from natterjack.voice.spec import TextPiece, VoiceSpec, parse_piece
from tests.waiting import until


async def request_of(broker: Broker) -> VoiceSpec:
    """The newest request in the queue."""
    js = broker.client.jetstream()
    state = (await js.stream_info(streams.VOICE_SESSIONS)).state
    message = await js.get_msg(streams.VOICE_SESSIONS, state.last_seq)
    return VoiceSpec.model_validate_json(message.data or b"")


async def stored_pieces(broker: Broker) -> list[TextPiece]:
    """All pieces of text, in the order in which they were stored."""
    js = broker.client.jetstream()
    state = (await js.stream_info(streams.TEXT)).state
    messages = [
        await js.get_msg(streams.TEXT, sequence)
        for sequence in range(state.first_seq, state.last_seq + 1)
        if state.messages
    ]
    return [parse_piece(message.data or b"") for message in messages]


class Hand:
    """Publishes the events of a session, and answers its control requests."""

    def __init__(self, broker: Broker, spec: VoiceSpec) -> None:
        self._broker, self._spec = broker, spec
        self._sequence = 0
        self.requests: list[VoiceRequest] = []

    async def publish(self, kind: VoiceEventKind, **fields: Any) -> None:
        event = {
            "type": kind, "session_id": self._spec.session_id, **self._spec.key._asdict(),
            "epoch": 1, "sequence": self._sequence, "worker": "by hand",
            "published_at": datetime.now(UTC).isoformat(), **fields,
        }  # fmt: skip
        self._sequence += 1
        await self._broker.client.jetstream().publish(
            voice_event_subject(self._spec.key, kind), json.dumps(event).encode()
        )

    async def status(self, state: str, **fields: Any) -> None:
        await self.publish("status", state=state, **fields)

    async def utterance(self, number: int, event: str, **fields: Any) -> None:
        await self.publish("utterance", utterance=number, event=event, **fields)

    async def answer(self) -> None:
        """Answer control requests from now on."""

        async def received(message: Msg) -> None:
            request = VoiceRequest.model_validate_json(message.data)
            self.requests.append(request)
            reply = VoiceReply(ok=True, session_id=self._spec.session_id, utterance=0)
            await message.respond(reply.model_dump_json().encode())

        subject = voice_control_subject(self._spec.key)
        await self._broker.client.subscribe(subject, cb=received)
        await self._broker.client.flush()


async def claimed(broker: Broker, spec: VoiceSpec) -> Hand:
    """Take a session: it is assigned."""
    assert (await request_of(broker)).session_id == spec.session_id
    hand = Hand(broker, spec)
    await hand.answer()
    await hand.status("assigned")
    return hand


async def text_stored(broker: Broker, text: str) -> None:
    """Wait until the stored pieces make up this text."""

    async def complete() -> bool:
        return "".join(piece.text for piece in await stored_pieces(broker)) == text

    await until(complete, f"{text!r} is stored")

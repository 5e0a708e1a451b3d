"""Today's code reads every message of a recorded release, and messages with newer fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from nats.aio.msg import Msg

from natterjack.audio import (
    AUDIO_POS,
    AUDIO_SEQ,
    AUDIO_TIME,
    SESSION_ID,
    AudioFormat,
    chunk_header_prefix,
    decode_chunk_headers,
    read_chunk_headers,
)
from natterjack.broker import streams
from natterjack.broker.client.wire import parse_headers
from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored, StreamStore
from natterjack.control import ControlReply, ControlRequest
from natterjack.description.asyncapi import document
from natterjack.errors import UsageError
from natterjack.events import parse_event
from natterjack.fleet.budgets import parse_budget, parse_usage
from natterjack.fleet.limits import parse_account_limit
from natterjack.fleet.roster import parse_page
from natterjack.hold import parse_hold
from natterjack.settings import KINDS as KINDS_OF_SESSION
from natterjack.settings import Kind, StreamSettings
from natterjack.subjects import SLOT_PREFIX
from natterjack.voice.audio import decode_speech_headers, encode_speech_headers
from natterjack.voice.control import VoiceReply, VoiceRequest
from natterjack.voice.events import parse_voice_event
from natterjack.voice.spec import parse_piece, parse_played
from worker.capacity.governor import Refusal
from worker.capacity.permits import Holder, PermitPool
from worker.claim import parse_request, parse_voice_request
from worker.session.checkpoint import Checkpoint
from worker.voice.checkpoint import VoiceCheckpoint

from .messages import (
    AUDIO_KINDS,
    EARLY,
    EVENTS,
    FIXTURES,
    KINDS,
    MODELS,
    RELEASE,
    VOICE,
    VOICE_KINDS,
    VOICE_REPLY,
    Message,
    recorded,
    with_new_fields,
    without_new_fields,
)
from .record import RATE

VERSIONS = (RELEASE, EARLY, VOICE)
WITH_AUDIO = (RELEASE, EARLY)
WRITTEN_BY_USERS = ("budget", "limit")
"""Kinds that users write. An unknown field is refused as a typo."""


def _event(kind: str) -> Callable[[Message], Any]:
    def read(message: Message) -> Any:
        event = parse_event(message.payload)
        assert event.type == kind
        return json.loads(event.encode())

    return read


def _request(message: Message) -> Any:
    request = parse_request(message.subject, message.payload)
    assert request.problem is None
    return request.spec.model_dump(mode="json")


def _voice_event(message: Message) -> Any:
    event = parse_voice_event(message.payload)
    assert event.type == message.subject.rpartition(".")[2]
    return json.loads(event.encode())


def _voice_request(message: Message) -> Any:
    request = parse_voice_request(message.subject, message.payload)
    assert request.problem is None
    return request.spec.model_dump(mode="json")


def _hold(message: Message) -> Any:
    found = parse_hold(message.payload)
    assert found is not None
    return found.model_dump(mode="json")


def _checkpoint(message: Message) -> Any:
    found = Checkpoint.decode(message.payload)
    assert found.account is not None
    return json.loads(found.encode(found.account.model_dump_json()))


def _voice_checkpoint(message: Message) -> Any:
    found = VoiceCheckpoint.decode(message.payload)
    assert found.account is not None
    return json.loads(found.encode(found.account.model_dump_json()))


def _roster(message: Message) -> Any:
    page = parse_page(Stored(1, message.headers.encode(), message.payload))
    assert page is not None
    return page.model_dump(mode="json")


def _day_use(message: Message) -> Any:
    use = parse_usage(message.subject, message.payload)
    assert use is not None
    return use.model_dump(mode="json")


def _slot(message: Message) -> Any:
    claim = Holder.parse(message.payload)
    assert claim is not None
    assert claim.id, "the message was not recognized as a permit holder's"
    return claim.model_dump(mode="json")


READERS: dict[str, Callable[[Message], Any]] = {
    "request": _request,
    **{kind: _event(kind) for kind in EVENTS},
    "checkpoint": _checkpoint,
    "roster": _roster,
    "day_use": _day_use,
    "budget": lambda message: parse_budget(message.payload).model_dump(mode="json"),
    "limit": lambda message: parse_account_limit(message.payload).model_dump(mode="json"),
    "provider_news": lambda m: Refusal.model_validate_json(m.payload).model_dump(mode="json"),
    "slot": _slot,
    "dial": _slot,
    "control_request": lambda m: ControlRequest.model_validate_json(m.payload).model_dump(),
    "control_reply": lambda m: ControlReply.model_validate_json(m.payload).model_dump(),
    "voice_request": _voice_request,
    "text": lambda message: parse_piece(message.payload).model_dump(mode="json"),
    "played": lambda message: parse_played(message.payload).model_dump(mode="json"),
    "voice_status": _voice_event,
    "utterance": _voice_event,
    "voice_usage": _voice_event,
    "voice_checkpoint": _voice_checkpoint,
    "player_hold": _hold,
    "voice_control_request": lambda m: VoiceRequest.model_validate_json(m.payload).model_dump(),
    "voice_control_reply": lambda m: VoiceReply.model_validate_json(m.payload).model_dump(),
}
"""Reader of each kind: decodes a message with today's code and returns it as JSON again."""


def _lost(wrote: Any, read: Any, path: str = "") -> list[str]:
    """List the fields that were written but not read."""
    if isinstance(wrote, dict):
        if not isinstance(read, dict):
            return [f"{path}: {read!r}"]
        return [p for name in wrote for p in _lost(wrote[name], read.get(name), f"{path}.{name}")]
    if isinstance(wrote, list):
        if not isinstance(read, list) or len(read) != len(wrote):
            return [f"{path}: {read!r}"]
        pairs = enumerate(zip(wrote, read, strict=True))
        return [p for n, (w, r) in pairs for p in _lost(w, r, f"{path}[{n}]")]
    return [] if _same(wrote, read) else [f"{path}: {wrote!r} was read as {read!r}"]


def _same(wrote: Any, read: Any) -> bool:
    if isinstance(wrote, str) and isinstance(read, str) and wrote != read:
        try:
            return datetime.fromisoformat(wrote) == datetime.fromisoformat(read)
        except ValueError:
            return False
    if _number(wrote) and _number(read):
        return bool(wrote == read)
    return type(wrote) is type(read) and bool(wrote == read)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cases() -> list[Any]:
    return [
        pytest.param(kind, message, id=f"{version}-{kind}-{number}")
        for version in VERSIONS
        for kind in READERS
        for number, message in enumerate(recorded(version, kind))
    ]


def test_every_kind_is_recorded() -> None:
    assert {kind for kind in KINDS if recorded(RELEASE, kind)} == set(KINDS)
    assert {kind for kind in VOICE_KINDS if recorded(VOICE, kind)} == set(VOICE_KINDS)
    assert {*READERS, *AUDIO_KINDS, "waiting"} == {*KINDS, *VOICE_KINDS}
    for version in (RELEASE, VOICE):
        about = json.loads((FIXTURES / version / "recorded.json").read_text())
        assert about["left_out"] == []
    # The early recording is worth keeping: its checkpoints have an older form.
    assert all("holder" not in message.json for message in recorded(EARLY, "checkpoint"))


@pytest.mark.parametrize(("kind", "message"), _cases())
def test_every_recorded_field_is_read(kind: str, message: Message) -> None:
    assert _lost(message.json, READERS[kind](message)) == []


@pytest.mark.parametrize(("kind", "message"), _cases())
def test_fields_of_a_newer_release_are_ignored(kind: str, message: Message) -> None:
    newer = message._replace(payload=json.dumps(with_new_fields(message.json)).encode())
    if kind in WRITTEN_BY_USERS:
        with pytest.raises(UsageError, match="from_a_newer_release"):
            READERS[kind](newer)
    else:
        assert without_new_fields(READERS[kind](newer)) == READERS[kind](message)


@pytest.mark.parametrize("version", WITH_AUDIO)
def test_fast_and_general_header_parsers_agree(version: str) -> None:
    chunks = recorded(version, "chunk")
    assert len(chunks) == 3, "the first two and the last"
    layout = AudioFormat("linear16", RATE, 1)
    for number, chunk in enumerate(chunks):
        named = parse_headers(chunk.headers.encode())
        last = number == len(chunks) - 1
        header = decode_chunk_headers(named, len(chunk.payload), layout)
        assert header.end is last
        assert header.session_id == named[SESSION_ID]
        place = header.seq, header.pos, header.time_ns
        assert place == tuple(int(named[name]) for name in (AUDIO_SEQ, AUDIO_POS, AUDIO_TIME))
        if not last:
            assert place[:2] == (number, number * RATE * 80 // 1000)
            same = chunk_header_prefix(header.session_id)
            assert read_chunk_headers(chunk.headers.encode(), same) == place


@pytest.mark.parametrize("version", WITH_AUDIO)
def test_headers_of_a_newer_release_are_ignored(version: str) -> None:
    layout = AudioFormat("linear16", RATE, 1)
    for chunk in recorded(version, "chunk"):
        named = parse_headers(chunk.headers.encode())
        size, same = len(chunk.payload), chunk_header_prefix(named[SESSION_ID])
        newer = chunk.headers.removesuffix("\r\n") + "Audio-Mood: cheerful\r\n\r\n"
        first = newer.replace("\r\n", "\r\nAudio-Mood: cheerful\r\n", 1)
        for raw in (newer.encode(), first.encode()):
            assert decode_chunk_headers(parse_headers(raw), size, layout) == (
                decode_chunk_headers(named, size, layout)
            )
        expected = read_chunk_headers(chunk.headers.encode(), same)
        assert read_chunk_headers(newer.encode(), same) == expected


def test_speech_of_another_release_is_read_with_more_headers_too() -> None:
    chunks = recorded(VOICE, "speech")
    assert len(chunks) == 4, "the first two, the end of an utterance, and a cut"
    headers = []
    for chunk in chunks:
        named = parse_headers(chunk.headers.encode())
        header = decode_speech_headers(named, len(chunk.payload))
        newer = chunk.headers.removesuffix("\r\n") + "Audio-Mood: cheerful\r\n\r\n"
        again = decode_speech_headers(parse_headers(newer.encode()), len(chunk.payload))
        assert again == header
        assert named.items() >= {**encode_speech_headers(header)}.items()
        headers.append(header)
    assert [(h.end, h.cut) for h in headers] == [
        (False, False), (False, False), (True, False), (False, True),
    ]  # fmt: skip
    assert [h.seq for h in headers[:2]] == [0, 1]
    assert headers[1].pos == len(chunks[0].payload) // 2


@pytest.mark.parametrize("kind", VOICE_KINDS)
def test_recorded_messages_of_voice_sessions_are_those_of_the_asyncapi_document(kind: str) -> None:
    if kind not in MODELS or kind in ("voice_checkpoint", "roster", "day_use"):
        return  # of workers only, or bytes
    made = document()
    name = MODELS[kind].partition(":")[2]
    validator = Draft202012Validator({**made, "$ref": f"#/components/schemas/{name}"})
    for message in recorded(VOICE, kind):
        validator.validate(message.json)
    addresses = {channel["address"] for channel in made["channels"].values()}
    token = message.subject.rpartition(".")[2] if "event" in message.subject else ""
    address = ".".join(message.subject.split(".")[:2])
    assert kind == VOICE_REPLY or any(
        one is not None and one.startswith(address) and one.endswith(token) for one in addresses
    )


async def test_waiting_sessions_of_another_release_are_counted(ready_broker: Broker) -> None:
    (message, *_) = [m for m in recorded(RELEASE, "waiting") if any(m.json["waiting"].values())]
    js, store = ready_broker.client.jetstream(), StreamStore(ready_broker, streams.SLOTS)
    account = message.subject.rpartition(".")[2]
    for payload in (message.payload, json.dumps(with_new_fields(message.json)).encode()):
        pool = PermitPool(ready_broker, js, store, SLOT_PREFIX, account, "we", 15.0, lambda: None)
        await pool._received_waiting(Msg(ready_broker.client, message.subject, "", payload))
        published = {tenant: len(ages) for tenant, ages in message.json["waiting"].items()}
        tenants = [one.tenant for one in pool._waiting_elsewhere(0.0)]
        assert {tenant: tenants.count(tenant) for tenant in tenants} == published


@pytest.mark.parametrize("version", [RELEASE, VOICE])
async def test_streams_of_a_recorded_release_are_accepted_unchanged(
    broker: Broker, version: str
) -> None:
    """A worker that may not create streams accepts them."""
    recorded_configs = json.loads((FIXTURES / version / "streams.json").read_text())
    if version == VOICE:
        await streams.ensure(broker, StreamSettings())
    queue = streams.SESSIONS if version == RELEASE else streams.VOICE_SESSIONS
    for name, config in recorded_configs.items():
        operation = "STREAM.CREATE." + name
        request: Any = config
        if name == streams.CONSUMER:
            operation = f"CONSUMER.DURABLE.CREATE.{queue}.{name}"
            request = {"stream_name": queue, "config": config}
        subject = f"$JS.API.{operation}"
        answer = await broker.client.request(subject, json.dumps(request).encode(), 5)
        assert "error" not in json.loads(answer.data), answer.data
    kinds: tuple[Kind, ...] = KINDS_OF_SESSION if version == VOICE else ("transcribe",)
    await streams.ensure(broker, StreamSettings(create_streams=False, kinds=kinds))

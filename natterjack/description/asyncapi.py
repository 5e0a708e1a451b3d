"""The AsyncAPI document of all messages on the wire, generated from the models.

`make docs` writes it to docs/reference/asyncapi.json, and a test compares the two.
(AsyncAPI 3.0.0, https://www.asyncapi.com/docs/reference/specification/v3.0.0)
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .. import audio, notices
from ..control import ControlReply, ControlRequest
from ..events import FinalEvent, InterimEvent, NoticeEvent, StatusEvent, TurnEvent, UsageEvent
from ..hold import Hold
from ..spec import SessionSpec
from ..subjects import (
    AUDIO_PREFIX,
    CONTROL_PREFIX,
    DURABLE_KINDS,
    HOLD_PREFIX,
    PLAYED_PREFIX,
    PLAYER_HOLD_PREFIX,
    SESSION_PREFIX,
    SPEECH_PREFIX,
    TEXT_PREFIX,
    TOKEN_PATTERN,
    TRANSCRIPT_PREFIX,
    VOICE_CONTROL_PREFIX,
    VOICE_EVENT_PREFIX,
    VOICE_SESSION_PREFIX,
)
from ..voice.audio import AUDIO_ANSWER, AUDIO_CUT, AUDIO_FENCE, EPOCH, SAMPLE_RATE, UTTERANCE
from ..voice.control import VoiceReply, VoiceRequest
from ..voice.events import UtteranceEvent, VoiceStatusEvent, VoiceUsage
from ..voice.spec import Played, TextPiece, VoiceSpec
from .schemas import plain

_EVENTS: dict[str, type[BaseModel]] = {
    "interim": InterimEvent,
    "final": FinalEvent,
    "turn": TurnEvent,
    "status": StatusEvent,
    "usage": UsageEvent,
    "notice": NoticeEvent,
}
_VOICE_EVENTS: dict[str, type[BaseModel]] = {
    "status": VoiceStatusEvent,
    "utterance": UtteranceEvent,
    "usage": VoiceUsage,
}
_KEY = "{tenant}.{conversation}.{speaker}"
_PARAMETERS = {
    name: {"description": f"{name} of the session; matches {TOKEN_PATTERN}"}
    for name in ("tenant", "conversation", "speaker")
}
_SCHEMAS = "#/components/schemas/"
_FLAG = {"type": "string", "enum": ["1"]}
_NATS = {"nats": {"bindingVersion": "0.1.0"}}
"""Bindings of each operation. (https://github.com/asyncapi/bindings/tree/master/nats)"""
_SERVER = {
    "host": "{host}:{port}",
    "protocol": "nats",
    "description": "nats-server with JetStream, from 2.11 on; with TLS if it is configured.",
    "variables": {
        "host": {"default": "127.0.0.1", "description": "name or address of a server"},
        "port": {"default": "4222", "description": "port for clients"},
    },
    "security": [
        {"$ref": f"#/components/securitySchemes/{name}"}
        for name in ("nkey", "password", "certificate")
    ],
}
_SECURITY = {
    "nkey": {
        "type": "asymmetricEncryption",
        "description": "An NKey, alone or with a JWT, signs the nonce of the server.",
    },
    "password": {"type": "userPassword", "description": "Name and password of a user."},
    "certificate": {"type": "X509", "description": "A client certificate."},
}


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").splitlines()[0]


def _chunk_headers() -> dict[str, Any]:
    number = {"type": "string", "pattern": "^[0-9]+$"}
    return {
        "type": "object",
        "required": [audio.SESSION_ID, audio.AUDIO_SEQ, audio.AUDIO_POS, audio.AUDIO_TIME],
        "properties": {
            audio.SESSION_ID: {"type": "string"},
            audio.AUDIO_SEQ: {
                **number,
                "description": "number of the chunk: 0, 1, 2 ... without holes",
            },
            audio.AUDIO_POS: {**number, "description": "position of the chunk's first frame"},
            audio.AUDIO_TIME: {
                **number,
                "description": "wall-clock time of that frame, nanoseconds since the epoch",
            },
            audio.AUDIO_END: {**_FLAG, "description": "present on the last chunk only"},
            audio.AUDIO_NOTE: {
                "type": "string",
                "pattern": f"^{notices.NOTE_PATTERN}$",
                "description": "conditions of the audio: `code` begins at this chunk, `code:end` "
                "ended before it. If the position jumps at this chunk, one of these has the "
                f"cause: {', '.join(map(notices.gap_note, notices.GAP_CAUSES))}",
            },
            audio.MSG_ID: {"type": "string", "description": "<session_id>:<seq>"},
        },
    }


def _speech_headers() -> dict[str, Any]:
    number = {"type": "string", "pattern": "^[0-9]{1,16}$"}
    return {
        "type": "object",
        "required": [
            audio.SESSION_ID,
            EPOCH,
            UTTERANCE,
            audio.AUDIO_SEQ,
            audio.AUDIO_POS,
            SAMPLE_RATE,
        ],
        "properties": {
            audio.SESSION_ID: {"type": "string"},
            EPOCH: {
                **number,
                "description": "the worker's lease; players drop chunks of an earlier one than "
                "the newest that they have received",
            },
            UTTERANCE: {**number, "description": "number of the utterance"},
            audio.AUDIO_SEQ: {
                **number,
                "description": "number of the chunk: 0, 1, 2 ... without holes",
            },
            audio.AUDIO_POS: {
                **number,
                "description": "position of the chunk's first frame, from the session's first",
            },
            SAMPLE_RATE: {**number, "description": "hertz, the same for all chunks of a session"},
            audio.AUDIO_END: {**_FLAG, "description": "the utterance ends with this chunk"},
            AUDIO_CUT: {
                **_FLAG,
                "description": "audio of earlier chunks that was not played is to be dropped; the "
                "payload is empty",
            },
            AUDIO_FENCE: {
                **_FLAG,
                "description": "stored by a worker that takes the session over; not a part of the "
                "speech: players ignore it, unless it is an answer. The payload is empty",
            },
            AUDIO_ANSWER: {
                **_FLAG,
                "description": "of a fence that is not stored: the worker has published again what "
                "a player lacks. Audio-Seq is the first chunk to be played",
            },
            audio.MSG_ID: {"type": "string", "description": "<session_id>:<seq>"},
        },
    }


def _channel(address: str, summary: str, message: str) -> dict[str, Any]:
    return {
        "address": address,
        "summary": summary,
        "parameters": _PARAMETERS,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def document() -> dict[str, Any]:
    """The document as JSON values."""
    wire = (
        SessionSpec, *_EVENTS.values(), ControlRequest, ControlReply, Hold,
        VoiceSpec, TextPiece, Played, VoiceRequest, VoiceReply, *_VOICE_EVENTS.values(),
    )  # fmt: skip
    models = [(model, "serialization") for model in wire]
    _, schemas = models_json_schema(models, ref_template=_SCHEMAS + "{model}")  # type: ignore[arg-type]
    channels: dict[str, Any] = {
        "session": _channel(
            f"{SESSION_PREFIX}.{_KEY}",
            "An edge requests a session; Nats-Msg-Id is the session_id. Stored in STT_SESSIONS.",
            "session",
        ),
        "audio": _channel(
            f"{AUDIO_PREFIX}.{_KEY}",
            "An edge publishes the session's chunks. Stored in STT_AUDIO.",
            "chunk",
        ),
    }
    messages: dict[str, Any] = {
        "session": {
            "summary": _summary(SessionSpec),
            "contentType": "application/json",
            "payload": {"$ref": f"{_SCHEMAS}{SessionSpec.__name__}"},
        },
        "chunk": {
            "summary": "Raw PCM in the format given in the session's request.",
            "contentType": "application/octet-stream",
            "headers": _chunk_headers(),
            "payload": {"type": "string", "format": "binary", "maxLength": audio.MAX_CHUNK_BYTES},
        },
    }
    operations: dict[str, Any] = {
        "openSession": {"action": "send", "channel": {"$ref": "#/channels/session"}},
        "publishAudio": {"action": "send", "channel": {"$ref": "#/channels/audio"}},
    }
    for kind, model in _EVENTS.items():
        stored = " Stored in STT_TRANSCRIPTS." if kind in DURABLE_KINDS else ""
        channels[kind] = _channel(
            f"{TRANSCRIPT_PREFIX}.{_KEY}.{kind}", f"{_summary(model)}{stored}", kind
        )
        messages[kind] = {
            "summary": _summary(model),
            "contentType": "application/json",
            "payload": {"$ref": f"{_SCHEMAS}{model.__name__}"},
        }
        operations[f"receive{kind.capitalize()}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{kind}"},
        }
    channels["control"] = _channel(
        f"{CONTROL_PREFIX}.{_KEY}",
        "Requests to the worker that holds the session, which replies on the reply subject.",
        "request",
    )
    channels["hold"] = _channel(
        f"{HOLD_PREFIX}.{_KEY}",
        "An edge asks whether another one captures the key. Edges that do, or have asked before, "
        "reply on the reply subject. Not stored.",
        "hold",
    )
    channels["playerHold"] = _channel(
        f"{PLAYER_HOLD_PREFIX}.{_KEY}",
        "An edge asks whether another one plays the key. Edges that do, or have asked before, "
        "reply on the reply subject. Not stored.",
        "hold",
    )
    # The address is unknown here: each request names its own reply subject.
    for channel, message in (
        ("controlReply", "reply"),
        ("holdReply", "hold"),
        ("playerHoldReply", "hold"),
    ):
        channels[channel] = {
            "address": None,
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        }
    for name, model in (("request", ControlRequest), ("reply", ControlReply), ("hold", Hold)):
        messages[name] = {
            "summary": _summary(model),
            "contentType": "application/json",
            "payload": {"$ref": f"{_SCHEMAS}{model.__name__}"},
        }
    for operation, action, channel in (
        ("control", "send", "control"),
        ("askForKey", "send", "hold"),
        ("answerForKey", "receive", "hold"),
        ("askToPlayKey", "send", "playerHold"),
        ("answerToPlayKey", "receive", "playerHold"),
    ):
        operations[operation] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "reply": {"channel": {"$ref": f"#/channels/{channel}Reply"}},
        }
    _add_voice(channels, messages, operations)
    for operation in operations.values():
        operation["bindings"] = _NATS
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "natterjack",
            "version": version("natterjack"),
            "description": "Live speech to live transcripts over NATS, from the viewpoint of a "
            "service that opens sessions, publishes audio and receives transcripts.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"nats": _SERVER},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {name: plain(schema) for name, schema in schemas["$defs"].items()},
            "securitySchemes": _SECURITY,
        },
    }


def _add_voice(
    channels: dict[str, Any], messages: dict[str, Any], operations: dict[str, Any]
) -> None:
    """Add what is on the wire of voice sessions."""
    models: dict[str, type[BaseModel]] = {
        "voiceSession": VoiceSpec, "text": TextPiece, "played": Played,
        "voiceRequest": VoiceRequest, "voiceReply": VoiceReply,
    }  # fmt: skip
    for name, operation, action, address, summary in (
        (
            "voiceSession", "openVoiceSession", "send", VOICE_SESSION_PREFIX,
            "An application requests a voice session; Nats-Msg-Id is the session_id. Stored in "
            "TTS_SESSIONS.",
        ),
        (
            "text", "publishText", "send", TEXT_PREFIX,
            "An application publishes text to speak, piece by piece. Stored in TTS_TEXT.",
        ),
        (
            "speech", "receiveSpeech", "receive", SPEECH_PREFIX,
            "A worker publishes the session's speech, ahead of playback. Stored in TTS_AUDIO.",
        ),
        (
            "played", "publishPlayed", "send", PLAYED_PREFIX,
            "A player reports how far it has played, several times a second. Not stored.",
        ),
        (
            "voiceRequest", "controlVoice", "send", VOICE_CONTROL_PREFIX,
            "Requests to the worker that holds the voice session, which replies on the reply "
            "subject.",
        ),
    ):  # fmt: skip
        channels[name] = _channel(f"{address}.{_KEY}", summary, name)
        operations[operation] = {"action": action, "channel": {"$ref": f"#/channels/{name}"}}
    channels["voiceReply"] = {
        "address": None,
        "messages": {"voiceReply": {"$ref": "#/components/messages/voiceReply"}},
    }
    operations["controlVoice"]["reply"] = {"channel": {"$ref": "#/channels/voiceReply"}}
    for kind, model in _VOICE_EVENTS.items():
        name = f"voice{kind.capitalize()}"
        models[name] = model
        channels[name] = _channel(
            f"{VOICE_EVENT_PREFIX}.{_KEY}.{kind}", f"{_summary(model)} Stored in TTS_EVENTS.", name
        )
        operations[f"receive{name[0].upper()}{name[1:]}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{name}"},
        }
    for name, model in models.items():
        messages[name] = {
            "summary": _summary(model),
            "contentType": "application/json",
            "payload": {"$ref": f"{_SCHEMAS}{model.__name__}"},
        }
    messages["speech"] = {
        "summary": "Raw 16-bit PCM of one channel, at the rate in the session's request.",
        "contentType": "application/octet-stream",
        "headers": _speech_headers(),
        "payload": {"type": "string", "format": "binary", "maxLength": audio.MAX_CHUNK_BYTES},
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2)
    sys.stdout.write("\n")

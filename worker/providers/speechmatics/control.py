"""Messages that Speechmatics' realtime API (`/v2`) and Agent STT (`/v2/agent`) share: the upgrade,
the start and the end of a session, acknowledgements, errors and notices. No sockets, clocks,
environment or broker.

"Specification" is the vendor's AsyncAPI document of the API; names in comments are its schemas, or
pages of the vendor's documentation ("Speechmatics docs").
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.plugin.provider import Notice
from natterjack.plugin.websocket import ConnectRequest

from .. import wire
from ..wire import MAX_QUOTE
from .messages import (
    AudioAdded,
    Control,
    DurationLimit,
    EndOfTranscript,
    Error,
    RecognitionStarted,
)

KINDS: Final = frozenset(
    {"AudioAdded", "RecognitionStarted", "EndOfTranscript", "Error", "Warning", "Info"}
)
"""The messages that `decode` reads."""
_NOTICE_TYPES: Final = frozenset(
    {
        # Warning (specification, WarningTypeEnum), except duration_limit_exceeded
        "unsupported_translation_pair",
        "idle_timeout",
        "session_timeout",
        "empty_translation_target_list",
        "add_audio_after_eos",
        "speaker_id",
        "unsupported_language",
        # Info (InfoTypeEnum)
        "recognition_quality",
        "concurrent_session_usage",
    }
)
"""Types of Warning and Info that become notice codes, which are metric labels."""


@dataclass(frozen=True)
class Recognition:
    """Parameters of a stream, merged from options, session and settings."""

    audio_format: dict[str, Any]
    transcription_config: dict[str, Any]
    format: AudioFormat
    turn_config: dict[str, Any] | None = None
    """Agent STT: how turns end."""


# ---- out ------------------------------------------------------------------------------------


def connect_request(url: str, key: SecretStr, app: str, request_id: str) -> ConnectRequest:
    """The upgrade request of a stream.

    `key` is an API key or a temporary one; servers send either in the header (Speechmatics docs,
    "Authentication"). `request_id` is for tracing.
    """
    headers = {"Authorization": f"Bearer {key.get_secret_value()}", "X-Request-Id": request_id}
    if app:
        url += f"{'&' if '?' in url else '?'}sm-app={quote(app, safe='')}"
    return ConnectRequest(url, headers)


def encode_start(recognition: Recognition) -> str:
    """The first message, which starts the session ("StartRecognition")."""
    message = {
        "message": "StartRecognition",
        "audio_format": recognition.audio_format,
        "transcription_config": recognition.transcription_config,
    }
    if recognition.turn_config is not None:
        message["turn_config"] = recognition.turn_config
    return json.dumps(message)


def encode_end_of_stream(last_seq_no: int) -> str:
    """The end of the audio ("EndOfStream"); remaining transcripts and EndOfTranscript follow.

    `last_seq_no` is the number of frames sent on this connection, which are numbered from 1.
    """
    return json.dumps({"message": "EndOfStream", "last_seq_no": last_seq_no})


def encode_force_end_of_utterance(seconds: float) -> str:
    """A request for a final of the audio up to `seconds` ("ForceEndOfUtterance")."""
    return json.dumps({"message": "ForceEndOfUtterance", "timestamp": round(seconds, 3)})


def encode_config(config: Mapping[str, Any], names: Iterable[str]) -> str:
    """SetRecognitionConfig with the settings of `names`, the ones that the message may have.

    It repeats all of them, since it is not documented whether omitted ones keep their values.
    """
    sent = {name: config[name] for name in names if name in config}
    return json.dumps({"message": "SetRecognitionConfig", "transcription_config": sent})


# ---- in -------------------------------------------------------------------------------------


def decode(provider: str, kind: str, content: dict[str, Any]) -> Control:
    """Decode a message of a kind in KINDS. Raises: wire.Harmless."""
    match kind:
        case "AudioAdded":
            number = wire.index(content.get("seq_no"))
            return AudioAdded(wire.required(number, provider, content, "seq_no"))
        case "RecognitionStarted":
            return _started(content)
        case "EndOfTranscript":
            return EndOfTranscript()
        case "Error":
            # Fatal in any case, so no field is required.
            return Error(_quoted(content, "type"), _quoted(content, "reason"))
        case _:
            return _notice(content, kind)


def metadata(content: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a message; empty if they cannot be read."""
    value = content.get("metadata")
    return value if isinstance(value, dict) else {}


def speaker(value: Any) -> str | None:
    """A speaker's label. Speechmatics docs, "Diarization": UU is an unidentified speaker."""
    label = wire.label(value)
    return None if label == "UU" else label


def _started(content: dict[str, Any]) -> RecognitionStarted:
    pack = content.get("language_pack_info")
    delimiter = pack.get("word_delimiter") if isinstance(pack, dict) else None
    name = content.get("id")
    return RecognitionStarted(
        id=name if isinstance(name, str) else None,
        delimiter=delimiter if isinstance(delimiter, str) else " ",
    )


def _notice(content: dict[str, Any], kind: str) -> DurationLimit | Notice:
    type_, reason = _quoted(content, "type"), _quoted(content, "reason")
    if type_ == "duration_limit_exceeded":
        return DurationLimit(reason)
    if type_ == "concurrent_session_usage":
        usage, quota = wire.label(content.get("usage")), wire.label(content.get("quota"))
        if usage is not None:  # Agent STT has the reason only
            reason = f"{usage} of {quota}"
    return Notice(type_ if type_ in _NOTICE_TYPES else kind.lower(), reason)


def _quoted(content: dict[str, Any], name: str) -> str:
    return (wire.text(content.get(name)) or "")[:MAX_QUOTE]

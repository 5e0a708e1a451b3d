"""Wire protocol of Speechmatics' realtime API: no sockets, clocks, environment or broker.

"Specification" is the vendor's AsyncAPI document of the realtime API; names in comments are its
schemas, or pages of the vendor's documentation ("Speechmatics docs").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from urllib.parse import quote

from pydantic import SecretStr
from pydantic_core import from_json

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Notice
from natterjack.plugin.websocket import ConnectRequest

from .messages import (
    Attaches,
    AudioAdded,
    DurationLimit,
    EndOfTranscript,
    EndOfUtterance,
    Error,
    LanguageInfo,
    Message,
    RecognitionStarted,
    Result,
    Transcript,
)
from .options import NAME, Recognition, parse_changes

MAX_QUOTE: Final = 200
"""Length to which quotes from the provider are cut in errors and notices, in characters."""

_MID_STREAM: Final = (
    "language",
    "max_delay",
    "max_delay_mode",
    "enable_partials",
    "audio_filtering_config",
    "conversation_config",
)
"""All fields of SetRecognitionConfig (specification, MidSessionTranscriptionConfig)."""
_NOTICE_TYPES: Final = frozenset(
    {
        # Warning (specification, WarningTypeEnum), except duration_limit_exceeded
        "unsupported_translation_pair",
        "idle_timeout",
        "session_timeout",
        "empty_translation_target_list",
        "add_audio_after_eos",
        "speaker_id",
        # Info (InfoTypeEnum)
        "recognition_quality",
        "concurrent_session_usage",
    }
)
"""Types of Warning and Info that become notice codes, which are metric labels."""
_UNREQUESTED: Final = frozenset(
    {
        "ChannelAudioAdded",
        "AddPartialTranslation",
        "AddTranslation",
        "AudioEventStarted",
        "AudioEventEnded",
        "SpeakersResult",
    }
)
"""Messages for features that this client never requests."""


_ATTACHES: Final[dict[str, Attaches]] = {
    "next": "next",
    "previous": "previous",
    "none": "none",
    "both": "both",
}


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
    return json.dumps(
        {
            "message": "StartRecognition",
            "audio_format": recognition.audio_format,
            "transcription_config": recognition.transcription_config,
        }
    )


def encode_end_of_stream(last_seq_no: int) -> str:
    """The end of the audio ("EndOfStream"); remaining transcripts and EndOfTranscript follow.

    `last_seq_no` is the number of frames sent on this connection, which are numbered from 1.
    """
    return json.dumps({"message": "EndOfStream", "last_seq_no": last_seq_no})


def encode_force_end_of_utterance(seconds: float) -> str:
    """A request for a final of the audio up to `seconds` ("ForceEndOfUtterance")."""
    return json.dumps({"message": "ForceEndOfUtterance", "timestamp": round(seconds, 3)})


def encode_changes(config: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[str, Any]:
    """SetRecognitionConfig, and the stream's new configuration.

    The message repeats all settings that can change, since it is not documented whether omitted
    ones keep their values. Raises: RequestRefused.
    """
    new = {**config, **parse_changes(changes)}
    sent = {name: new[name] for name in _MID_STREAM if name in new}
    return json.dumps({"message": "SetRecognitionConfig", "transcription_config": sent}), new


# ---- in -------------------------------------------------------------------------------------


class BadFinal(RemoteProtocolError):
    """A malformed AddTranscript. It may hold words that no later message repeats, so it cannot be
    skipped."""


def decode(message: str | bytes) -> Message:
    """Decode a message. A well-formed message of an unknown type becomes a Notice.

    Raises: BadFinal for a malformed final; RemoteProtocolError for any other malformed message.
    """
    if isinstance(message, bytes):
        _protocol_error("unexpected binary frame")
    try:
        content = _parsed(message)
    except (ValueError, RecursionError):
        _protocol_error(f"not JSON: {message[:MAX_QUOTE]!r}")
    # `message` is the discriminator; some messages also have a `type`.
    if not isinstance(content, dict) or not isinstance(content.get("message"), str):
        _protocol_error(f"not an object with a message: {message[:MAX_QUOTE]!r}")
    kind: str = content["message"]
    match kind:
        case "AudioAdded":
            return AudioAdded(_count(content, "seq_no"))
        case "AddTranscript" | "AddPartialTranscript":
            try:
                return _transcript(content, final=kind == "AddTranscript")
            except RemoteProtocolError as error:
                if kind == "AddTranscript":
                    reason = str(error).removeprefix(f"{NAME}: ")
                    raise BadFinal(NAME, f"malformed final: {reason}") from None
                raise
        case "EndOfUtterance":
            return EndOfUtterance(_seconds(_object(content, "metadata"), "end_time"))
        case "RecognitionStarted":
            return _started(content)
        case "EndOfTranscript":
            return EndOfTranscript()
        case "Error":
            # Fatal in any case, so no field is required.
            return Error(_quoted(content, "type"), _quoted(content, "reason"))
        case "Warning" | "Info":
            return _notice(content, kind)
        case "LanguageInfo":
            language, delimiter = content.get("language"), content.get("word_delimiter")
            if isinstance(language, str) and isinstance(delimiter, str):
                return LanguageInfo(language, delimiter)
            _protocol_error("LanguageInfo without a language")
    if kind in _UNREQUESTED:
        return Notice("not_asked_for", kind)
    return Notice("unknown", f"message {kind[:MAX_QUOTE]!r}")


def _parsed(message: str) -> Any:
    try:
        return from_json(message, cache_strings="keys")
    except ValueError:
        # Slower, but accepts unpaired surrogates.
        return json.loads(message)


def _started(content: dict[str, Any]) -> RecognitionStarted:
    pack = content.get("language_pack_info")
    delimiter = pack.get("word_delimiter") if isinstance(pack, dict) else None
    name = content.get("id")
    return RecognitionStarted(
        id=name if isinstance(name, str) else None,
        delimiter=delimiter if isinstance(delimiter, str) else " ",
    )


def _transcript(content: dict[str, Any], *, final: bool) -> Transcript:
    metadata = _object(content, "metadata")
    start, end = _seconds(metadata, "start_time"), _seconds(metadata, "end_time")
    results = content.get("results")
    if not isinstance(results, list):
        _protocol_error("transcript without results")
    if end < start:
        _protocol_error(f"transcript from {start} to {end}")
    parsed = [_result(result, final=final) for result in results]
    return Transcript(final, start, end, tuple([result for result in parsed if result is not None]))


def _result(result: Any, *, final: bool) -> Result | None:
    """Parse a result; None if it has no alternatives or an unknown type."""
    if not isinstance(result, dict):
        _protocol_error("result that is not an object")
    kind, alternatives = result.get("type"), result.get("alternatives")
    if kind not in ("word", "entity", "punctuation") or not alternatives:
        return None
    best = alternatives[0] if isinstance(alternatives, list) else None
    text = best.get("content") if isinstance(best, dict) else None
    if not isinstance(best, dict) or not isinstance(text, str):
        _protocol_error("result without content")
    text = text.strip()
    if not text:
        return None
    start, end = _seconds(result, "start_time"), _seconds(result, "end_time")
    speaker, language = best.get("speaker"), best.get("language")
    attached = result.get("attaches_to")
    return Result(
        punctuation=kind == "punctuation",
        text=text,
        start=start,
        end=end if end > start else start,
        # "AddPartialTranscript": confidences of partials are meaningless.
        confidence=_confidence(best) if final else None,
        language=language if isinstance(language, str) else None,
        # Speechmatics docs, "Diarization": UU is an unidentified speaker.
        speaker=speaker if isinstance(speaker, str) and speaker != "UU" else None,
        attaches=(_ATTACHES.get(attached) if isinstance(attached, str) else None)
        or ("previous" if kind == "punctuation" else "none"),
    )


def _notice(content: dict[str, Any], kind: str) -> DurationLimit | Notice:
    type_, reason = _quoted(content, "type"), _quoted(content, "reason")
    if type_ == "duration_limit_exceeded":
        return DurationLimit(reason)
    if type_ == "concurrent_session_usage":
        reason = f"{content.get('usage')} of {content.get('quota')}"[:MAX_QUOTE]
    return Notice(type_ if type_ in _NOTICE_TYPES else kind.lower(), reason)


def _object(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        _protocol_error(f"{content.get('message')} without {name}")
    return value


def _quoted(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    return value[:MAX_QUOTE] if isinstance(value, str) else ""


def _count(content: dict[str, Any], name: str) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _protocol_error(f"{name} is {value!r:.{MAX_QUOTE}}")
    return value


def _number(content: dict[str, Any], name: str) -> float:
    value = content.get(name)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer too large for a float
        pass
    _protocol_error(f"{name} is {value!r:.{MAX_QUOTE}}")


def _seconds(content: dict[str, Any], name: str) -> float:
    value = content.get(name)
    if type(value) is float and 0 <= value < math.inf:  # the usual case
        return value
    value = _number(content, name)
    if value < 0:
        _protocol_error(f"{name} is {value}")
    return value


def _confidence(best: dict[str, Any]) -> float | None:
    return None if best.get("confidence") is None else _number(best, "confidence")


def _protocol_error(what: str) -> NoReturn:
    raise RemoteProtocolError(NAME, what)

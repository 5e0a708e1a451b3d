"""The messages of `/v1/realtime` in transcription sessions (OpenAI API reference, "Realtime").

Two forms of the same: that of 2025 (`session.update`), and the older beta with flat members
(`transcription_session.update`). Pure.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import uuid4

from natterjack.audio import Encoding

from ..parsing import parsed
from .errors import ApiError

MAX_APPEND_BYTES = 15 << 20
"""API reference, "input_audio_buffer.append"."""
MAX_MESSAGE_BYTES = (MAX_APPEND_BYTES + 2) // 3 * 4 + 4096
"""An append in base64, and the text around it."""
_LIFE_S = 3600
_MIN_RATE, _MAX_RATE = 8000, 48_000
_BETA_FORMATS: dict[str, tuple[Encoding, int]] = {
    "pcm16": ("linear16", 24_000), "g711_ulaw": ("mulaw", 8000), "g711_alaw": ("alaw", 8000),
}  # fmt: skip
_SELF_COMMITTED = ("gpt-realtime-whisper", "gpt-live-transcribe")
"""Models without turn detection, whose clients commit."""

Message = dict[str, Any]


class Client(NamedTuple):
    """A message of the client."""

    kind: str
    content: Mapping[str, Any]
    event_id: str | None


class Format(NamedTuple):
    """The audio that a client sends."""

    encoding: Encoding = "linear16"
    sample_rate: int = 24_000


_PCM = Format()
_VAD: Message = {
    "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The configuration of a session."""

    format: Format = _PCM
    transcription: Message = field(default_factory=dict)
    turn_detection: Message | None = field(default_factory=lambda: dict(_VAD))
    """None if the client commits."""
    noise_reduction: Message | None = None
    include: tuple[str, ...] = ()
    beta: bool = False
    """Whether the client speaks the beta form."""

    @property
    def language(self) -> str | None:
        """The language, if there is exactly one."""
        languages = self.transcription.get("languages") or []
        if not languages and (language := self.transcription.get("language")):
            languages = [language]
        return languages[0] if len(languages) == 1 else None

    @property
    def model(self) -> str | None:
        return self.transcription.get("model")

    @property
    def keywords(self) -> tuple[str, ...]:
        return tuple(self.transcription.get("keywords") or ())

    @property
    def silence_ms(self) -> int | None:
        """Silence after which an item ends, if the client names it."""
        detection = self.turn_detection or {}
        return detection.get("silence_duration_ms")


def decode(text: str) -> Client:
    """Decode a message of the client. Raises: ApiError."""
    try:
        content = parsed(text)
    except ValueError:
        raise ApiError("the message is not JSON", code="invalid_json") from None
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        raise ApiError("a message is an object with a type", code="invalid_event", param="type")
    event_id = content.get("event_id")
    return Client(content["type"], content, event_id if isinstance(event_id, str) else None)


def audio(content: Mapping[str, Any]) -> bytes:
    """The audio of `input_audio_buffer.append`. Raises: ApiError."""
    encoded = content.get("audio")
    if not isinstance(encoded, str):
        raise ApiError("audio is text in base64", code="invalid_type", param="audio")
    try:
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        raise ApiError("audio is not base64", code="invalid_value", param="audio") from None
    if len(data) > MAX_APPEND_BYTES:
        raise ApiError(
            f"audio has {len(data)} bytes, and at most {MAX_APPEND_BYTES} are taken at once",
            code="audio_too_large", param="audio",
        )  # fmt: skip
    return data


# ---- configuration -------------------------------------------------------------------------------


def changed(config: Config, message: Client) -> Config:
    """The configuration after `session.update` or `transcription_session.update`. What the client
    leaves out stays as it is. Raises: ApiError."""
    session = _object(message.content, "session", "")
    if message.kind == "transcription_session.update":
        return _changed_beta(config, session)
    kind = session.get("type", "transcription")
    if kind != "transcription":
        raise ApiError(
            f"this server transcribes: a session has the type transcription, not {kind!r}",
            code="invalid_value", param="session.type",
        )  # fmt: skip
    where = "session.audio.input"
    part = _object(_object(session, "audio", "session.", {}), "input", "session.audio.", {})
    if "format" in part:
        config = replace(config, format=_format(_object(part, "format", f"{where}.")))
    return _changed_common(
        config, where, part.get("transcription"), part, "noise_reduction",
        session.get("include"),
    )  # fmt: skip


def _changed_beta(config: Config, session: Mapping[str, Any]) -> Config:
    if "input_audio_format" in session:
        name = session["input_audio_format"]
        if not isinstance(name, str) or name not in _BETA_FORMATS:
            raise ApiError(
                f"input_audio_format is one of {', '.join(_BETA_FORMATS)}",
                code="invalid_value", param="session.input_audio_format",
            )  # fmt: skip
        config = replace(config, format=Format(*_BETA_FORMATS[name]))
    return _changed_common(
        replace(config, beta=True), "session", session.get("input_audio_transcription"), session,
        "input_audio_noise_reduction", session.get("include"),
    )  # fmt: skip


def _changed_common(
    config: Config, where: str, transcription: object, part: Mapping[str, Any], noise: str,
    include: object,
) -> Config:  # fmt: skip
    if transcription is not None:
        new = _transcription(transcription, f"{where}.transcription")
        config = replace(config, transcription={**config.transcription, **new})
        if (config.model or "").startswith(_SELF_COMMITTED):
            config = replace(config, turn_detection=None)
    if "turn_detection" in part:
        config = replace(config, turn_detection=_detection(part, where))
    if noise in part:
        reduction = part[noise]
        if reduction is not None and not isinstance(reduction, dict):
            raise _wrong_type(f"{where}.{noise}", "an object or null")
        config = replace(config, noise_reduction=reduction)
    if include is not None:
        if not _texts(include):
            raise _wrong_type("session.include", "a list of texts")
        config = replace(config, include=tuple(include))  # type: ignore[arg-type]
    return config


def _format(content: Mapping[str, Any]) -> Format:
    where = "session.audio.input.format"
    kind = content.get("type")
    if kind == "audio/pcmu":
        return Format("mulaw", 8000)
    if kind == "audio/pcma":
        return Format("alaw", 8000)
    if kind != "audio/pcm":
        raise ApiError(
            "a format has the type audio/pcm, audio/pcmu or audio/pcma",
            code="invalid_value", param=f"{where}.type",
        )  # fmt: skip
    rate = content.get("rate", 24_000)
    # OpenAI has 24,000 alone; clients of servers that follow it send 16,000.
    if not isinstance(rate, int) or isinstance(rate, bool) or not _MIN_RATE <= rate <= _MAX_RATE:
        raise ApiError(
            f"a rate is a number of hertz from {_MIN_RATE} to {_MAX_RATE}",
            code="invalid_value", param=f"{where}.rate",
        )  # fmt: skip
    return Format("linear16", rate)


def _transcription(content: object, where: str) -> Message:
    if not isinstance(content, dict):
        raise _wrong_type(where, "an object")
    known: Message = {}
    for name in ("model", "language", "prompt", "delay"):
        value = content.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise _wrong_type(f"{where}.{name}", "text")
        known[name] = value
    for name in ("languages", "keywords"):
        value = content.get(name)
        if value is None:
            continue
        if not _texts(value):
            raise _wrong_type(f"{where}.{name}", "a list of texts")
        known[name] = value
    return known


def _detection(part: Mapping[str, Any], where: str) -> Message | None:
    content, where = part["turn_detection"], f"{where}.turn_detection"
    if content is None:
        return None
    if not isinstance(content, dict):
        raise _wrong_type(where, "an object or null")
    kind = content.get("type", "server_vad")
    if kind == "semantic_vad":
        return {"type": kind, "eagerness": content.get("eagerness", "auto")}
    if kind != "server_vad":
        raise ApiError(
            "turn_detection has the type server_vad or semantic_vad, or is null",
            code="invalid_value", param=f"{where}.type",
        )  # fmt: skip
    detection = dict(_VAD)
    for name in ("threshold", "prefix_padding_ms", "silence_duration_ms"):
        value = content.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e5:
            raise _wrong_type(f"{where}.{name}", "a number")
        detection[name] = value if name == "threshold" else int(value)
    return detection


def _object(
    content: Mapping[str, Any], name: str, where: str, default: Message | None = None
) -> Mapping[str, Any]:
    value = content.get(name, default)
    if not isinstance(value, dict):
        raise _wrong_type(f"{where}{name}", "an object")
    return value


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _wrong_type(param: str, expected: str) -> ApiError:
    return ApiError(f"{param} is not {expected}", code="invalid_type", param=param)


# ---- messages of the server ----------------------------------------------------------------------


def identifier(kind: str) -> str:
    """An ID of the kind `event`, `item` or `sess`."""
    return f"{kind}_{uuid4().hex[:24]}"


def event(kind: str, **members: Any) -> Message:
    """A message of the server."""
    return {"type": kind, "event_id": identifier("event"), **members}


def error(problem: ApiError, event_id: str | None = None) -> Message:
    """Return the message that reports a problem with a client's message, whose ID may be
    `event_id`."""
    return event("error", error={**problem.body, "event_id": event_id})


def session(config: Config, session_id: str, now: float, *, created: bool) -> Message:
    """`session.created` or `session.updated`, in the form of the client."""
    verb = "created" if created else "updated"
    expires_at = int(now) + _LIFE_S
    common = {"id": session_id, "object": "realtime.transcription_session"}
    include = list(config.include) or None
    if config.beta:
        names = {Format(*value): name for name, value in _BETA_FORMATS.items()}
        content = {
            **common, "expires_at": expires_at,
            "input_audio_format": names.get(config.format, "pcm16"),
            "input_audio_transcription": config.transcription or None,
            "turn_detection": config.turn_detection,
            "input_audio_noise_reduction": config.noise_reduction,
            "modalities": ["audio", "text"], "include": include,
        }  # fmt: skip
        return event(f"transcription_session.{verb}", session=content)
    kinds = {"linear16": "audio/pcm", "mulaw": "audio/pcmu", "alaw": "audio/pcma"}
    form: Message = {"type": kinds[config.format.encoding]}
    if config.format.encoding == "linear16":
        form["rate"] = config.format.sample_rate
    sound = {
        "format": form, "transcription": config.transcription or None,
        "turn_detection": config.turn_detection, "noise_reduction": config.noise_reduction,
    }  # fmt: skip
    content = {
        **common, "type": "transcription", "expires_at": expires_at, "audio": {"input": sound},
        "include": include,
    }  # fmt: skip
    return event(f"session.{verb}", session=content)

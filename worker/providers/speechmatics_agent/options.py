"""Options of a session for the `speechmatics-agent` provider, and the configuration built from
them.

Names and rules are those of `transcription_config` in the vendor's specification of Agent STT. An
option overrides the session's own fields, which override the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from natterjack.plugin.errors import RequestRefused
from natterjack.plugin.options import parse_options
from natterjack.plugin.provider import StreamRequest

from ..speechmatics.control import Recognition
from ..speechmatics.options import (
    SpeakerDiarization,
    Strict,
    Text,
    TranscriptFiltering,
    Word,
    add_speakers,
    plain,
    split_language,
    vocabulary,
)
from .settings import SpeechmaticsAgentSettings

NAME: Final = "speechmatics-agent"


class Changes(Strict):
    """Settings that can change on an open stream (specification, MidSessionTranscriptionConfig).
    The message may also name the language but not change it."""

    enable_partials: bool | None = None


class Options(Changes):
    """Schema of `StreamRequest.options`. Types are strict: `"true"` is not a boolean."""

    language: Text | None = None
    model: Text | None = None
    domain: Text | None = None
    output_locale: Text | None = None
    additional_vocab: list[Text | Word] = Field(default_factory=list)
    diarization: Literal["none", "speaker"] | None = None
    emit_sentences: bool | None = None
    speaker_diarization_config: SpeakerDiarization | None = None
    transcript_filtering_config: TranscriptFiltering | None = None


CONFIGURABLE: Final = frozenset(Changes.model_fields)
"""Names of the settings that `configure` changes."""


def parse_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Check the changes for `configure`, since the server responds to an invalid one with an Error,
    which ends the session. Raises: RequestRefused that names the invalid one."""
    return plain(parse_options(NAME, Changes, changes, "configure"))


def recognition(settings: SpeechmaticsAgentSettings, request: StreamRequest) -> Recognition:
    """Build the configuration of a stream. Raises: RequestRefused."""
    options = parse_options(NAME, Options, request.options)
    encoding, sample_rate, _ = request.format
    if encoding != "linear16":
        raise RequestRefused(NAME, "request", f"encoding {encoding} is not supported")
    tag = options.language or request.language or settings.agent_language
    language, locale = split_language(tag)
    config: dict[str, Any] = {
        "language": language,
        "model": options.model or request.model or settings.agent_model,
        "enable_partials": settings.agent_enable_partials,
        "emit_sentences": settings.agent_emit_sentences,
        "diarization": settings.agent_diarization,
    }
    if settings.agent_domain is not None:
        config["domain"] = settings.agent_domain
    if (locale := settings.agent_output_locale or locale) is not None:
        config["output_locale"] = locale
    if words := vocabulary(options.additional_vocab, request.keyterms):
        config["additional_vocab"] = words
    given = plain(options)
    for name in ("language", "model", "additional_vocab"):
        given.pop(name, None)
    config.update(given)
    add_speakers(NAME, config, options.speaker_diarization_config, settings.agent_max_speakers)
    return Recognition(
        audio_format={"type": "raw", "encoding": "pcm_s16le", "sample_rate": sample_rate},
        transcription_config=config,
        format=request.format,
        turn_config={"turn_detection_mode": settings.agent_turn_detection_mode},
    )

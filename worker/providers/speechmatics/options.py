"""Options of a session for the `speechmatics` provider, and the configuration built from them.

Names and rules are those of `transcription_config` in the vendor's specification of
StartRecognition. An option overrides the session's own fields, which override the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from natterjack.audio import AudioFormat, Encoding
from natterjack.plugin.errors import RequestRefused
from natterjack.plugin.options import parse_options
from natterjack.plugin.provider import StreamRequest

from .settings import Model, SpeechmaticsSettings

NAME: Final = "speechmatics"

_MAX_SPEAKER_IDENTIFIERS: Final = 50
"""Limit for all speakers together (specification, SpeakerDiarizationConfig)."""
_ENCODINGS: Final[dict[Encoding, str]] = {"linear16": "pcm_s16le", "mulaw": "mulaw"}
_ENGLISH_LOCALES: Final = ("en-AU", "en-GB", "en-US")
"""Speechmatics docs, "Output locale"."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


_Text = Annotated[str, Field(min_length=1)]
_Share = Annotated[float, Field(ge=0, le=1)]


class Word(_Strict):
    """An entry of the custom dictionary (specification, AdditionalVocabObject)."""

    content: _Text
    sounds_like: Annotated[list[_Text], Field(min_length=1)] | None = None


class Speaker(_Strict):
    """A known voice (specification, SpeakersInputItem). Its label must differ from the engine's
    labels."""

    label: Annotated[str, Field(pattern=r"^\S(.*\S)?$")]
    speaker_identifiers: Annotated[list[_Text], Field(min_length=1)]


def _bounded(speakers: list[Speaker]) -> list[Speaker]:
    if sum(len(speaker.speaker_identifiers) for speaker in speakers) > _MAX_SPEAKER_IDENTIFIERS:
        raise ValueError(f"more than {_MAX_SPEAKER_IDENTIFIERS} speaker identifiers")
    for speaker in speakers:
        if speaker.label == "UU" or (speaker.label[0] == "S" and speaker.label[1:].isdigit()):
            raise ValueError(f"the label {speaker.label!r} is reserved for the engine")
    return speakers


class SpeakerDiarization(_Strict):
    max_speakers: Annotated[int, Field(ge=2)] | None = None
    speaker_sensitivity: _Share | None = None
    prefer_current_speaker: bool | None = None
    speakers: Annotated[list[Speaker], AfterValidator(_bounded)] | None = None


class AudioFiltering(_Strict):
    volume_threshold: Annotated[float, Field(ge=0, le=100)]


class Replacement(_Strict):
    from_: Annotated[str, Field(alias="from")]
    to: str


class TranscriptFiltering(_Strict):
    remove_disfluencies: bool | None = None
    replacements: list[Replacement] | None = None


class Punctuation(_Strict):
    permitted_marks: list[Annotated[str, Field(pattern="^(.|all)$")]] | None = None
    sensitivity: _Share | None = None


class Conversation(_Strict):
    end_of_utterance_silence_trigger: Annotated[float, Field(ge=0, le=2)]


class Changes(_Strict):
    """Settings that can change on an open stream (specification, MidSessionTranscriptionConfig).
    The message may also name the language but not change it."""

    max_delay: Annotated[float, Field(ge=0.7, le=4)] | None = None
    max_delay_mode: Literal["flexible", "fixed"] | None = None
    enable_partials: bool | None = None
    audio_filtering_config: AudioFiltering | None = None
    conversation_config: Conversation | None = None


class Options(Changes):
    """Schema of `StreamRequest.options`. Types are strict: `"true"` is not a boolean."""

    language: _Text | None = None
    model: Model | None = None
    operating_point: Model | None = None
    domain: _Text | None = None
    output_locale: _Text | None = None
    additional_vocab: list[_Text | Word] = []
    # `channel` and `channel_and_speaker` require JSON messages with audio of several channels; a
    # session of natterjack has one speaker and is sent as binary frames.
    diarization: Literal["none", "speaker"] | None = None
    enable_entities: bool | None = None
    speaker_diarization_config: SpeakerDiarization | None = None
    transcript_filtering_config: TranscriptFiltering | None = None
    punctuation_overrides: Punctuation | None = None


CONFIGURABLE: Final = frozenset(Changes.model_fields)
"""Names of the settings that `configure` changes."""


def refused(message: str) -> RequestRefused:
    """The error for a request that this provider cannot serve."""
    return RequestRefused(NAME, "request", message)


def parse_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Check the changes for `configure`, since the server responds to an invalid one with an Error,
    which ends the session. Raises: RequestRefused that names the invalid one."""
    return _plain(parse_options(NAME, Changes, changes, "configure"))


@dataclass(frozen=True)
class Recognition:
    """Parameters of a stream, merged from options, session and settings."""

    audio_format: dict[str, Any]
    transcription_config: dict[str, Any]
    format: AudioFormat


def recognition(settings: SpeechmaticsSettings, request: StreamRequest) -> Recognition:
    """Build the configuration of a stream. Raises: RequestRefused."""
    options = parse_options(NAME, Options, request.options)
    encoding, sample_rate, _ = request.format
    if encoding not in _ENCODINGS:
        raise refused(f"encoding {encoding} is not supported")
    language, locale = _language(options.language or request.language or settings.language)
    config: dict[str, Any] = {
        "language": language,
        **_model(options, settings, request),
        "max_delay": settings.max_delay_seconds,
        "max_delay_mode": settings.max_delay_mode,
        "enable_partials": settings.enable_partials,
        "enable_entities": settings.enable_entities,
        "diarization": settings.diarization,
        "conversation_config": {
            "end_of_utterance_silence_trigger": settings.end_of_utterance_silence_seconds
        },
    }
    if settings.domain is not None:
        config["domain"] = settings.domain
    if (locale := settings.output_locale or locale) is not None:
        config["output_locale"] = locale
    if vocabulary := _vocabulary(options, request):
        config["additional_vocab"] = vocabulary
    given = _plain(options)
    for name in ("language", "model", "operating_point", "additional_vocab"):
        given.pop(name, None)
    config.update(given)
    _speakers(config, options, settings)
    return Recognition(
        audio_format={
            "type": "raw",
            "encoding": _ENCODINGS[encoding],
            "sample_rate": sample_rate,
        },
        transcription_config=config,
        format=request.format,
    )


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)


def _language(tag: str) -> tuple[str, str | None]:
    """Split a language tag into ISO code and output locale. The vendor's codes have no region, and
    only English has several spellings. Codes such as `cmn_en` are passed on unchanged."""
    code, _, region = tag.partition("-")
    locale = f"{code.lower()}-{region.upper()}"
    return (code.lower() if region else tag), (locale if locale in _ENGLISH_LOCALES else None)


def _model(
    options: Options, settings: SpeechmaticsSettings, request: StreamRequest
) -> dict[str, str]:
    """The parameter `model`, or its deprecated name `operating_point`, never both."""
    if options.model is not None and options.operating_point is not None:
        raise refused("option 'operating_point': cannot be combined with 'model'")
    if options.operating_point is not None:
        return {"operating_point": options.operating_point}
    named = options.model
    if named is None and request.model is not None:
        named = parse_options(NAME, Options, {"model": request.model}, "session's").model
    if settings.operating_point is not None:
        return {"operating_point": named or settings.operating_point}
    return {"model": named or settings.model}


def _vocabulary(options: Options, request: StreamRequest) -> list[str | dict[str, Any]]:
    """The custom dictionary: the session's keyterms, overridden by the option's entries."""
    entries: dict[str, str | dict[str, Any]] = {term: term for term in request.keyterms if term}
    for entry in options.additional_vocab:
        if isinstance(entry, str):
            entries.setdefault(entry, entry)
        else:
            entries[entry.content] = _plain(entry)
    return list(entries.values())


def _speakers(config: dict[str, Any], options: Options, settings: SpeechmaticsSettings) -> None:
    """Add the configuration of diarization, which is only allowed with diarization."""
    if config["diarization"] == "none":
        if options.speaker_diarization_config is not None:
            raise refused("option 'speaker_diarization_config': needs 'diarization'")
        return
    if settings.max_speakers is not None:
        given = config.get("speaker_diarization_config", {})
        config["speaker_diarization_config"] = {"max_speakers": settings.max_speakers, **given}

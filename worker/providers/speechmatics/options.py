"""Options of a session for the `speechmatics` provider, and the configuration built from them.

Names and rules are those of `transcription_config` in the vendor's specification of
StartRecognition. An option overrides the session's own fields, which override the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from natterjack.audio import Encoding
from natterjack.plugin.errors import RequestRefused
from natterjack.plugin.options import parse_options
from natterjack.plugin.provider import StreamRequest

from .control import Recognition
from .settings import Model, SpeechmaticsSettings

NAME: Final = "speechmatics"

_MAX_SPEAKER_IDENTIFIERS: Final = 50
"""Limit for all speakers together (specification, SpeakerDiarizationConfig)."""
_AGENT_MODEL: Final = "linden-1"
"""The model of Agent STT, which is at another address."""
_ENCODINGS: Final[dict[Encoding, str]] = {"linear16": "pcm_s16le", "mulaw": "mulaw"}
_ENGLISH_LOCALES: Final = ("en-AU", "en-GB", "en-US")
"""Speechmatics docs, "Output locale"."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Word(Strict):
    """An entry of the custom dictionary (specification, AdditionalVocabObject)."""

    content: Text
    sounds_like: Annotated[list[Text], Field(min_length=1)] | None = None


class Speaker(Strict):
    """A known voice (specification, SpeakersInputItem). Its label must differ from the engine's
    labels."""

    label: Annotated[str, Field(pattern=r"^\S(.*\S)?$")]
    speaker_identifiers: Annotated[list[Text], Field(min_length=1)]


def _bounded(speakers: list[Speaker]) -> list[Speaker]:
    if sum(len(speaker.speaker_identifiers) for speaker in speakers) > _MAX_SPEAKER_IDENTIFIERS:
        raise ValueError(f"more than {_MAX_SPEAKER_IDENTIFIERS} speaker identifiers")
    for speaker in speakers:
        if speaker.label == "UU" or (speaker.label[0] == "S" and speaker.label[1:].isdigit()):
            raise ValueError(f"the label {speaker.label!r} is reserved for the engine")
    return speakers


class SpeakerDiarization(Strict):
    max_speakers: Annotated[int, Field(ge=2)] | None = None
    speaker_sensitivity: Share | None = None
    prefer_current_speaker: bool | None = None
    speakers: Annotated[list[Speaker], AfterValidator(_bounded)] | None = None


class AudioFiltering(Strict):
    volume_threshold: Annotated[float, Field(ge=0, le=100)]


class Replacement(Strict):
    from_: Annotated[str, Field(alias="from")]
    to: str


class TranscriptFiltering(Strict):
    remove_disfluencies: bool | None = None
    replacements: list[Replacement] | None = None


class Punctuation(Strict):
    permitted_marks: list[Annotated[str, Field(pattern="^(.|all)$")]] | None = None
    sensitivity: Share | None = None


class Conversation(Strict):
    end_of_utterance_silence_trigger: Annotated[float, Field(ge=0, le=2)]


class Changes(Strict):
    """Settings that can change on an open stream (specification, MidSessionTranscriptionConfig).
    The message may also name the language but not change it."""

    max_delay: Annotated[float, Field(ge=0.7, le=4)] | None = None
    max_delay_mode: Literal["flexible", "fixed"] | None = None
    enable_partials: bool | None = None
    audio_filtering_config: AudioFiltering | None = None
    conversation_config: Conversation | None = None


class Options(Changes):
    """Schema of `StreamRequest.options`. Types are strict: `"true"` is not a boolean."""

    language: Text | None = None
    model: Model | None = None
    operating_point: Model | None = None
    domain: Text | None = None
    output_locale: Text | None = None
    additional_vocab: list[Text | Word] = []
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
    return plain(parse_options(NAME, Changes, changes, "configure"))


def recognition(settings: SpeechmaticsSettings, request: StreamRequest) -> Recognition:
    """Build the configuration of a stream. Raises: RequestRefused."""
    if _AGENT_MODEL in (request.options.get("model"), request.model):
        raise refused(f"model {_AGENT_MODEL} is one of the provider speechmatics-agent: use that")
    options = parse_options(NAME, Options, request.options)
    encoding, sample_rate, _ = request.format
    if encoding not in _ENCODINGS:
        raise refused(f"encoding {encoding} is not supported")
    language, locale = split_language(options.language or request.language or settings.language)
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
    if words := vocabulary(options.additional_vocab, request.keyterms):
        config["additional_vocab"] = words
    given = plain(options)
    for name in ("language", "model", "operating_point", "additional_vocab"):
        given.pop(name, None)
    config.update(given)
    add_speakers(NAME, config, options.speaker_diarization_config, settings.max_speakers)
    return Recognition(
        audio_format={
            "type": "raw",
            "encoding": _ENCODINGS[encoding],
            "sample_rate": sample_rate,
        },
        transcription_config=config,
        format=request.format,
    )


def plain(model: BaseModel) -> dict[str, Any]:
    """The values that were given, under the vendor's names."""
    return model.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)


def split_language(tag: str) -> tuple[str, str | None]:
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


def vocabulary(given: Iterable[str | Word], keyterms: Iterable[str]) -> list[str | dict[str, Any]]:
    """The custom dictionary: the session's keyterms, overridden by the option's entries."""
    entries: dict[str, str | dict[str, Any]] = {term: term for term in keyterms if term}
    for entry in given:
        if isinstance(entry, str):
            entries.setdefault(entry, entry)
        else:
            entries[entry.content] = plain(entry)
    return list(entries.values())


def add_speakers(
    provider: str,
    config: dict[str, Any],
    given: SpeakerDiarization | None,
    max_speakers: int | None,
) -> None:
    """Add the configuration of diarization, which is only allowed with diarization. Raises:
    RequestRefused."""
    if config["diarization"] == "none":
        if given is not None:
            what = "option 'speaker_diarization_config': needs 'diarization'"
            raise RequestRefused(provider, "request", what)
        return
    if max_speakers is not None:
        own = config.get("speaker_diarization_config", {})
        config["speaker_diarization_config"] = {"max_speakers": max_speakers, **own}

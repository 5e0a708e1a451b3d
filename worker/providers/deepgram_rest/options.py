"""Options of a session for the `deepgram-rest` provider, and the query built from them.

Names and rules are those of the vendor's query parameters (Deepgram docs, "Pre-recorded audio"). An
option overrides the session's own fields, which override the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from natterjack.plugin.options import parse_options
from natterjack.plugin.provider import StreamRequest

from ..deepgram.settings import listed
from ..deepgram.vendor import MAX_CHANNELS, as_list, diarize, either, refused, terms
from .settings import DeepgramRestSettings

NAME: Final = "deepgram-rest"

__all__ = ["MAX_CHANNELS", "NAME", "Options", "Plan", "plan"]

_Redact = Literal["pci", "pii", "numbers"]
_Tag = Annotated[str, Field(min_length=1, max_length=128)]
_Pair = Annotated[str, Field(pattern=r"^[^:]+:", max_length=2048)]


class Options(BaseModel):
    """Schema of `StreamRequest.options`. Types are strict: `"true"` is not a boolean."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    version: str | None = None
    language: str | None = None
    detect_language: bool | list[str] | None = None
    """A list restricts detection to these languages."""
    smart_format: bool | None = None
    punctuate: bool | None = None
    keyterm: str | list[str] = []
    keywords: str | list[str] = []
    replace: str | list[str] = []
    diarize: bool | None = None
    diarize_model: Literal["latest", "v1", "v2"] | None = None
    filler_words: bool | None = None
    numerals: bool | None = None
    measurements: bool = False
    dictation: bool = False
    profanity_filter: bool = False
    redact: bool | _Redact | list[_Redact] | None = None
    tag: _Tag | list[_Tag] | None = None
    extra: _Pair | list[_Pair] = []
    mip_opt_out: bool | None = None
    channels: int | None = None
    multichannel: bool | None = None


class Plan(BaseModel):
    """Parameters of a stream's requests, merged from options, session and settings."""

    model_config = ConfigDict(frozen=True)

    query: tuple[tuple[str, str], ...]
    channels: int
    """Number of channels that are transcribed separately."""


def plan(settings: DeepgramRestSettings, request: StreamRequest) -> Plan:
    """Build the query of a stream's requests. Raises: RequestRefused."""
    options = parse_options(NAME, Options, _without_streaming(request.options))
    channels = request.format.channels
    if options.channels not in (None, channels):
        raise refused(NAME, f"option 'channels': the audio has {channels} channels")
    multichannel = either(options.multichannel, settings.multichannel) and channels > 1
    model = options.model or request.model or settings.model
    query: list[tuple[str, str]] = [("model", model)]
    if options.version is not None:
        query.append(("version", options.version))
    query += _language(options, settings, request)
    flags = {
        "multichannel": multichannel,
        "smart_format": either(options.smart_format, settings.smart_format),
        "punctuate": either(options.punctuate, settings.punctuate),
        "filler_words": either(options.filler_words, settings.filler_words),
        "numerals": either(options.numerals, settings.numerals),
        "measurements": options.measurements,
        "dictation": options.dictation,
        "profanity_filter": options.profanity_filter,
        "mip_opt_out": either(options.mip_opt_out, settings.mip_opt_out),
    }
    query += [(name, "true") for name, on in flags.items() if on]
    query += diarize(NAME, options.diarize_model, options.diarize, settings.diarize)
    query += terms(NAME, model, request.keyterms, options.keyterm, options.keywords)
    redact = listed(settings.redact) if options.redact is None else options.redact
    tags = listed(settings.tag) if options.tag is None else options.tag
    repeated = {"redact": redact, "tag": tags, "replace": options.replace, "extra": options.extra}
    query += [(name, value) for name, values in repeated.items() for value in as_list(values)]
    return Plan(query=tuple(query), channels=channels if multichannel else 1)


def _without_streaming(options: Mapping[str, Any]) -> dict[str, Any]:
    """Drop options that only the streaming provider has, so that a session may name both
    providers."""
    return {name: value for name, value in options.items() if name not in _STREAMING}


_STREAMING: Final = frozenset(
    {"interim_results", "endpointing", "utterance_end_ms", "vad_events", "no_delay"}
)


def _language(
    options: Options, settings: DeepgramRestSettings, request: StreamRequest
) -> list[tuple[str, str]]:
    """The language parameters (Deepgram docs, "Language Detection": replaces a language)."""
    language = options.language or request.language
    detect: bool | list[str] | None = options.detect_language
    if detect and language not in (None, "multi"):
        raise refused(NAME, f"option 'detect_language': the session sets the language {language!r}")
    if detect is None:
        detect = settings.detect_language and language is None
    if detect:
        return [("detect_language", value) for value in as_list(detect)]
    language = language or settings.language
    return [] if language is None else [("language", language)]

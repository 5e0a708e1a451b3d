"""Options of a session for the `deepgram` provider, and the query built from them.

Names and rules are those of the vendor's query parameters (Deepgram docs, "Live audio", query
parameters). An option overrides the session's own fields, which override the settings.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from natterjack.plugin.errors import RequestRefused
from natterjack.plugin.options import parse_options
from natterjack.plugin.provider import StreamRequest

from . import vendor
from .settings import DeepgramSettings, listed
from .vendor import MAX_CHANNELS, as_list, either

NAME: Final = "deepgram"

__all__ = ["MAX_CHANNELS", "NAME", "Listen", "Options", "listen", "refused"]

_Redact = Literal["pci", "numbers", "aggressive_numbers", "ssn"]
_Tag = Annotated[str, Field(min_length=1, max_length=128)]


class Options(BaseModel):
    """Schema of `StreamRequest.options`. Types are strict: `"true"` is not a boolean."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    language: str | None = None
    language_hint: _Tag | list[_Tag] = []
    """Languages to expect with `language=multi` (Nova-3)."""
    detect_language: bool = False
    """Sent as `language=multi`: Deepgram accepts `detect_language` only for recordings."""
    interim_results: bool | None = None
    smart_format: bool | None = None
    punctuate: bool | None = None
    endpointing: Annotated[int, Field(ge=0)] | Literal[False] | None = None
    utterance_end_ms: Annotated[int, Field(ge=1000, le=5000)] | Literal[False] | None = None
    vad_events: bool | None = None
    keyterm: str | list[str] = []
    keywords: str | list[str] = []
    diarize: bool | None = None
    diarize_model: Literal["latest", "v1"] | None = None
    filler_words: bool | None = None
    numerals: bool | None = None
    profanity_filter: bool = False
    redact: bool | _Redact | list[_Redact] | None = None
    tag: _Tag | list[_Tag] | None = None
    mip_opt_out: bool | None = None
    channels: int | None = None
    multichannel: bool | None = None


def refused(message: str) -> RequestRefused:
    """The error for a request that this provider cannot serve."""
    return vendor.refused(NAME, message)


class Listen(BaseModel):
    """Parameters of a stream, merged from options, session and settings."""

    model_config = ConfigDict(frozen=True)

    query: tuple[tuple[str, str], ...]
    interim_results: bool
    channels: int
    """Number of channels that are transcribed separately."""


def listen(settings: DeepgramSettings, request: StreamRequest) -> Listen:
    """Build the query of a stream. Raises: RequestRefused."""
    options = parse_options(NAME, Options, request.options)
    encoding, sample_rate, channels = request.format
    if options.channels not in (None, channels):
        raise refused(f"option 'channels': the audio has {channels} channels")
    multichannel = either(options.multichannel, settings.multichannel) and channels > 1
    model = options.model or request.model or settings.model
    interims = either(options.interim_results, settings.interim_results)
    query: list[tuple[str, str]] = [
        ("model", model),
        ("encoding", encoding),
        ("sample_rate", str(sample_rate)),
        ("channels", str(channels)),
    ]
    language = _language(options, settings, request)
    if language is not None:
        query.append(("language", language))
    if options.language_hint:
        if not model.startswith("nova-3") or language != "multi":
            # Deepgram ignores it with other languages.
            raise refused("option 'language_hint': needs a Nova-3 model and the language 'multi'")
        query += [("language_hint", hint) for hint in as_list(options.language_hint)]
    flags = {
        "multichannel": multichannel,
        "interim_results": interims,
        "smart_format": either(options.smart_format, settings.smart_format),
        "punctuate": either(options.punctuate, settings.punctuate),
        "vad_events": either(options.vad_events, settings.vad_events),
        "filler_words": either(options.filler_words, settings.filler_words),
        "numerals": either(options.numerals, settings.numerals),
        "profanity_filter": options.profanity_filter,
        "mip_opt_out": either(options.mip_opt_out, settings.mip_opt_out),
    }
    # All are off by default. Deepgram docs: booleans are lowercase `true` and `false`.
    query += [(name, "true") for name, on in flags.items() if on]
    query.append(("endpointing", _endpointing(options, settings)))
    query += _utterance_end(options, settings, interims)
    query += vendor.diarize(NAME, options.diarize_model, options.diarize, settings.diarize)
    query += vendor.terms(NAME, model, request.keyterms, options.keyterm, options.keywords)
    redact = listed(settings.redact) if options.redact is None else options.redact
    query += [("redact", kind) for kind in as_list(redact)]
    tags = listed(settings.tag) if options.tag is None else options.tag
    query += [("tag", tag) for tag in as_list(tags)]
    return Listen(
        query=tuple(query), interim_results=interims, channels=channels if multichannel else 1
    )


def _language(options: Options, settings: DeepgramSettings, request: StreamRequest) -> str | None:
    language = options.language or request.language
    if options.detect_language:
        if language not in (None, "multi"):
            raise refused(f"option 'detect_language': the session sets the language {language!r}")
        return "multi"
    return language or settings.language


def _endpointing(options: Options, settings: DeepgramSettings) -> str:
    silence = settings.endpointing_ms or False
    if options.endpointing is not None:
        silence = options.endpointing
    # `is False`: an explicit 0 ms is a duration, and 0 == False.
    return "false" if silence is False else str(silence)


def _utterance_end(
    options: Options, settings: DeepgramSettings, interims: bool
) -> list[tuple[str, str]]:
    """The parameter `utterance_end_ms`, if on (Deepgram docs, "Utterance End": needs interims)."""
    gap = settings.utterance_end_ms if interims else 0
    if options.utterance_end_ms is not None:
        gap = options.utterance_end_ms
        if gap and not interims:
            raise refused("option 'utterance_end_ms': needs 'interim_results'")
    return [("utterance_end_ms", str(gap))] if gap else []

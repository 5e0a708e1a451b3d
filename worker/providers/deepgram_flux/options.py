"""Options of a session for the `deepgram-flux` provider, and the query built from them.

Names and rules are those of the vendor's query parameters (Deepgram docs, "Flux configuration",
"Keyterm Prompting", "Language Prompting"). An option overrides the session's own fields, which
override the settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from natterjack.plugin.errors import RequestRefused
from natterjack.plugin.options import parse_options
from natterjack.plugin.provider import StreamRequest

from ..deepgram import vendor
from ..deepgram.settings import listed
from ..deepgram.vendor import as_list, either
from .settings import DeepgramFluxSettings

NAME: Final = "deepgram-flux"
SAMPLE_RATES: Final = (8000, 16000, 24000, 44100, 48000)
"""Deepgram docs, "Flux configuration"."""

_MULTILINGUAL: Final = "flux-general-multi"
_MODELS: Final = ("flux-general-en", _MULTILINGUAL)
_REDACT: Final = ("numbers", "aggressive_numbers")
_LANGUAGES: Final = ("de", "en", "es", "fr", "hi", "it", "ja", "nl", "pt", "ru")
_MAX_KEYTERMS: Final = 100
_MAX_TOKENS: Final = 500

ValueT = TypeVar("ValueT")


def _plain_term(term: str) -> str:
    """Check a keyterm ("Keyterm Prompting": plain terms, without weights; a list repeats the
    parameter)."""
    if not term.strip():
        raise ValueError("empty keyterm")
    if any(mark in term for mark in ",;\r\n"):
        raise ValueError(
            f"{term!r} contains a comma, semicolon or line break; pass a list of terms"
        )
    weight = term.rpartition(":")[2]
    if ":" in term and weight.strip().replace(".", "", 1).lstrip("+-").isdigit():
        raise ValueError(f"{term!r} has a weight, which Flux does not support")
    return term


def _not_too_many(terms: list[str]) -> list[str]:
    """Check the number of keyterms. A word is at least one token, so more than 500 words always
    exceed the limit of tokens."""
    if len(terms) > _MAX_KEYTERMS:
        raise ValueError(f"at most {_MAX_KEYTERMS} keyterms")
    if sum(len(term.split()) for term in terms) > _MAX_TOKENS:
        raise ValueError(f"at most {_MAX_TOKENS} tokens")
    return terms


_Term = Annotated[str, AfterValidator(_plain_term)]
_Terms = Annotated[list[_Term], AfterValidator(_not_too_many)]
_Language = Literal["de", "en", "es", "fr", "hi", "it", "ja", "nl", "pt", "ru"]
_Eot = Annotated[float, Field(ge=0.5, le=1.0)]
_Eager = Annotated[float, Field(ge=0.3, le=0.9)]
_TimeoutMs = Annotated[int, Field(ge=500, le=60_000)]
_Tag = Annotated[str, Field(min_length=1, max_length=128)]


class Options(BaseModel):
    """Schema of `StreamRequest.options`. Types are strict: `"true"` is not a boolean.

    `keyterms` and `language_hints`, the names that `configure` also takes, replace those of the
    session and the settings; `keyterm` adds to the keyterms.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Literal["flux-general-en", "flux-general-multi"] | None = None
    eot_threshold: _Eot | None = None
    eager_eot_threshold: _Eager | Literal[False] | None = None
    """False turns it off regardless of the settings."""
    eot_timeout_ms: _TimeoutMs | None = None
    keyterm: _Term | list[_Term] = []
    keyterms: _Terms | None = None
    language_hint: _Language | list[_Language] | None = None
    language_hints: list[_Language] | None = None
    numerals: bool | None = None
    profanity_filter: bool | None = None
    redact: Literal["numbers", "aggressive_numbers"] | Literal[False] | None = None
    tag: _Tag | list[_Tag] | None = None
    mip_opt_out: bool | None = None


class Changes(BaseModel):
    """Schema of the changes that `configure` accepts (Deepgram docs, "Configure")."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    eot_threshold: _Eot = 0.7
    eager_eot_threshold: _Eager = 0.5
    eot_timeout_ms: _TimeoutMs = 5000
    keyterms: _Terms = []
    """Replaces the previous list; may be empty."""
    language_hints: list[_Language] = []
    """Replaces the previous list; if empty, the model detects the language."""
    numerals: bool = False


CONFIGURABLE: Final = frozenset(Changes.model_fields)
"""Names of the settings that `configure` changes."""


def refused(message: str) -> RequestRefused:
    """The error for a request that this provider cannot serve."""
    return vendor.refused(NAME, message)


def parse_changes(changes: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Check the changes for `configure`. Raises: RequestRefused that names the invalid one."""
    listed_changes = {k: list(v) if isinstance(v, tuple) else v for k, v in changes.items()}
    parsed = parse_options(NAME, Changes, listed_changes, what="configure")
    found = parsed.model_dump(include=set(changes))
    if "language_hints" in found and model != _MULTILINGUAL:
        raise refused(f"configure 'language_hints': only with {_MULTILINGUAL}")
    return found


class Listen(BaseModel):
    """Parameters of a stream, merged from options, session and settings."""

    model_config = ConfigDict(frozen=True)

    query: tuple[tuple[str, str], ...]
    model: str
    rewrites_numbers: bool = False
    """Whether words of a number may later merge into one."""


def listen(settings: DeepgramFluxSettings, request: StreamRequest) -> Listen:
    """Build the query of a stream. Raises: RequestRefused."""
    options = parse_options(NAME, Options, request.options)
    encoding, sample_rate, channels = request.format
    if channels != 1 or sample_rate not in SAMPLE_RATES:
        # "Flux configuration": mono only; the server does not detect interleaved channels.
        raise refused(f"audio of {channels} channels at {sample_rate} Hz is not supported")
    model = options.model or request.model or settings.flux_model
    if model not in _MODELS:
        raise refused(f"unknown model {model!r}; use one of {', '.join(_MODELS)}")
    query: list[tuple[str, str]] = [
        ("model", model),
        ("encoding", encoding),
        ("sample_rate", str(sample_rate)),
    ]
    query += _thresholds(options, settings)
    query += [("keyterm", term) for term in _terms(options, request)]
    query += [("language_hint", hint) for hint in _hints(options, settings, request, model)]
    flags = {
        "numerals": either(options.numerals, settings.flux_numerals),
        "profanity_filter": either(options.profanity_filter, settings.flux_profanity_filter),
        "mip_opt_out": either(options.mip_opt_out, settings.flux_mip_opt_out),
    }
    # All are off by default. Deepgram docs: booleans are lowercase `true` and `false`.
    query += [(name, "true") for name, on in flags.items() if on]
    redact = settings.flux_redact if options.redact is None else options.redact
    if redact and redact not in _REDACT:
        raise refused(f"DEEPGRAM_FLUX_REDACT: {redact!r} is not one of {', '.join(_REDACT)}")
    if redact:
        query.append(("redact", redact))
    tags = listed(settings.flux_tag) if options.tag is None else options.tag
    query += [("tag", tag) for tag in as_list(tags)]
    rewrites_numbers = flags["numerals"] or bool(redact)
    return Listen(query=tuple(query), model=model, rewrites_numbers=rewrites_numbers)


def _or(option: ValueT | None, setting: ValueT) -> ValueT:
    return setting if option is None else option


def _thresholds(options: Options, settings: DeepgramFluxSettings) -> list[tuple[str, str]]:
    """The query parameters for the end of a turn ("Flux configuration": an eager threshold turns
    eager ends on and must not exceed eot_threshold)."""
    threshold = _or(options.eot_threshold, settings.flux_eot_threshold)
    timeout = _or(options.eot_timeout_ms, settings.flux_eot_timeout_ms)
    eager = settings.flux_eager_eot_threshold
    if options.eager_eot_threshold is not None:
        eager = options.eager_eot_threshold or None
    query = [("eot_threshold", f"{threshold:g}"), ("eot_timeout_ms", str(timeout))]
    if eager is not None:
        if eager > threshold:
            raise refused(
                f"option 'eager_eot_threshold': {eager:g} is above eot_threshold, {threshold:g}"
            )
        query.append(("eager_eot_threshold", f"{eager:g}"))
    return query


def _terms(options: Options, request: StreamRequest) -> Sequence[str]:
    terms = list(request.keyterms) if options.keyterms is None else options.keyterms
    found = list(dict.fromkeys([*terms, *as_list(options.keyterm)]))
    try:
        return _not_too_many([_plain_term(term) for term in found])
    except ValueError as error:
        raise refused(f"keyterms: {error}") from None


def _hints(
    options: Options, settings: DeepgramFluxSettings, request: StreamRequest, model: str
) -> list[str]:
    """The language hints of a stream ("Language Prompting": for the multilingual model only; the
    other one supports English only). The session's language is a hint if no hints are given."""
    language = (request.language or "").partition("-")[0].lower()
    given = options.language_hints
    if given is None and options.language_hint is not None:
        given = [hint for hint in _LANGUAGES if hint in as_list(options.language_hint)]
    if model != _MULTILINGUAL:
        if given:
            raise refused(f"option 'language_hints': only with {_MULTILINGUAL}")
        if language not in ("", "en"):
            raise refused(f"language {request.language!r}: {model} supports English only")
        return []
    if given is not None:
        return list(given)
    if language and language != "multi":
        if language not in _LANGUAGES:
            raise refused(
                f"unknown language {request.language!r}; use one of {', '.join(_LANGUAGES)}"
            )
        return [language]
    hints = listed(settings.flux_language_hints)
    for hint in hints:
        if hint not in _LANGUAGES:
            raise refused(f"DEEPGRAM_FLUX_LANGUAGE_HINTS: unknown language {hint!r}")
    return hints

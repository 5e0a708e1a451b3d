"""The query of a listen v1 client: what it sends, and what it wants back.

Rules, codes and texts follow the vendor's pages "Live audio" and "Errors". Unknown parameters are
ignored, as the service does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

from natterjack.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

Encoding = Literal[
    "linear16", "linear32", "flac", "alaw", "mulaw", "amr-nb", "amr-wb", "opus", "ogg-opus",
    "speex", "g729",
]  # fmt: skip
_RAW = ("linear16", "linear32", "mulaw", "alaw")
_CONTAINERS = ("flac", "ogg-opus")
"""Encodings that have headers of their own, by which they are recognized."""
_UNSUPPORTED = ("amr-nb", "amr-wb", "speex", "g729")
MAX_CHANNELS = 20
""""Multichannel"."""
MAX_KEYTERM_TOKENS = 500
_MAX_LABELS = 32
_PASSED_BOOLEANS = ("filler_words", "numerals", "profanity_filter", "mip_opt_out")
"""Parameters that only the backend can obey; the session gets them as options."""
_BOOLEANS = (
    "multichannel", "interim_results", "vad_events", "smart_format", "punctuate", "diarize",
    "dictation", "detect_entities", "no_delay", *_PASSED_BOOLEANS,
)  # fmt: skip
_REDACT = ("pci", "numbers", "aggressive_numbers", "ssn")
_UNFULFILLED = (
    "dictation", "detect_entities", "replace", "search", "redact", "keywords", "alternatives",
    "version",
)  # fmt: skip
"""Parameters whose effect a client would miss if nobody obeys them."""


class BadQuery(Exception):
    """A query that the service would refuse, with its HTTP status and code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class Query:
    """A valid query."""

    encoding: Encoding | None
    """None for a container, which is recognized by its first bytes."""
    sample_rate: int | None
    """Frames per second of raw audio."""
    channels: int
    """Interleaved channels of raw audio; 1 without `encoding`."""
    multichannel: bool
    """Whether each channel is transcribed apart."""
    model: str
    language: str | None
    interim_results: bool
    endpointing: bool
    """Whether pauses end an utterance (`speech_final`)."""
    utterance_end_seconds: float | None
    vad_events: bool
    punctuated: bool
    diarize: bool
    keyterms: tuple[str, ...]
    keywords: tuple[str, ...]
    """Terms for older models, without their intensifiers."""
    tags: tuple[str, ...]
    extra: Mapping[str, str]
    conversation: str | None
    """Not of the service: the conversation of the session."""
    speaker: str | None
    """Not of the service: its speaker."""
    options: Mapping[str, Any]
    """Options for the provider `deepgram`."""
    unfulfilled: tuple[str, ...]
    """Parameters that neither the gateway obeys nor other providers than Deepgram."""

    @property
    def streams(self) -> int:
        """The number of channels that have results of their own."""
        return self.channels if self.multichannel else 1


def parse(query: Mapping[str, Sequence[str]]) -> Query:
    """Parse a query, given as the values of each parameter. Raises BadQuery."""
    flags = {name: _boolean(query, name) for name in _BOOLEANS}
    encoding, sample_rate, channels = _audio(query)
    multichannel = flags["multichannel"] and channels > 1
    if multichannel and channels > MAX_CHANNELS:
        _bad(f"at most {MAX_CHANNELS} channels are supported.")
    model, language = _one(query, "model") or "base", _one(query, "language") or None
    _check_features(query, model)
    endpointing = _endpointing(query)
    utterance_end = _integer(query, "utterance_end_ms")
    if utterance_end is not None and not flags["interim_results"]:
        _bad("`utterance_end_ms` needs `interim_results=true`.")
    diarizer = _one(query, "diarize_model")
    keyterms = tuple(term for term in query.get("keyterm", ()) if term.strip())
    keywords = (word.rpartition(":")[0] or word for word in query.get("keywords", ()))
    extra = dict(pair.split(":", 1) for pair in query.get("extra", ()) if ":" in pair)
    return Query(
        encoding=encoding,
        sample_rate=sample_rate,
        channels=channels,
        multichannel=multichannel,
        model=model,
        language=language,
        interim_results=flags["interim_results"],
        endpointing=endpointing is not False,
        utterance_end_seconds=None if utterance_end is None else utterance_end / 1000,
        vad_events=flags["vad_events"],
        punctuated=flags["punctuate"] or flags["smart_format"],
        diarize=flags["diarize"] or diarizer is not None,
        keyterms=keyterms,
        keywords=tuple(keywords),
        tags=tuple(query.get("tag", ())),
        extra=dict(list(extra.items())[:_MAX_LABELS]),
        conversation=_one(query, "conversation"),
        speaker=_one(query, "speaker"),
        options=_options(query, flags, model, language, endpointing, utterance_end),
        unfulfilled=tuple(name for name in _UNFULFILLED if flags.get(name, name in query)),
    )


def _audio(query: Mapping[str, Sequence[str]]) -> tuple[Encoding | None, int | None, int]:
    """Encoding, sample rate and channels. `channels` counts only together with `encoding`."""
    encoding = _one(query, "encoding")
    sample_rate = _integer(query, "sample_rate")
    channels = _integer(query, "channels")
    if encoding is None:
        return None, None, 1
    if encoding not in get_args(Encoding):
        known = ", ".join(f"`{name}`" for name in get_args(Encoding))
        _malformed(f"encoding: unknown variant `{encoding[:100]}`, expected one of {known}")
    if encoding in _UNSUPPORTED:
        _bad(f"this gateway cannot decode {encoding}; send linear16, mulaw, alaw, opus or a "
             "container")  # fmt: skip
    if encoding in _RAW and sample_rate is None:
        _bad("`sample_rate` is required when `encoding` is given.")
    if sample_rate is not None and not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        _bad(f"sample_rate: {sample_rate} is not from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}")
    if channels is None:
        channels = 1
    if not 1 <= channels <= 32:
        _bad("channels: at most 32 channels are supported.")
    return encoding, sample_rate, channels  # type: ignore[return-value]


def _check_features(query: Mapping[str, Sequence[str]], model: str) -> None:
    """Refuse what the service refuses on a stream. Models are the backend's."""
    if model.startswith("flux"):
        _bad("Flux models are served on /v2/listen.")
    if "summarize" in query:
        _bad("Summarization is not available for streaming.")
    if "topics" in query or "intents" in query:
        raise BadQuery(403, "UNAUTHORIZED_FEATURES_REQUESTED", "Features are not allowed.")
    if "callback" in query:
        _bad("this gateway sends no results to a callback; read them from the stream")
    if sum(len(term.split()) for term in query.get("keyterm", ())) > MAX_KEYTERM_TOKENS:
        _bad(f"Keyterm limit exceeded. The maximum number of tokens is {MAX_KEYTERM_TOKENS}.")
    diarizer = _one(query, "diarize_model")
    if diarizer is not None and "diarize" in query:
        _bad("diarize_model cannot be used together with diarize or diarize_version.")
    if diarizer not in (None, "latest", "v1"):
        _bad(f"diarize_model: `{diarizer[:100]}` is not supported for streaming.")


def _options(
    query: Mapping[str, Sequence[str]],
    flags: Mapping[str, bool],
    model: str,
    language: str | None,
    endpointing: int | Literal[False] | None,
    utterance_end: int | None,
) -> dict[str, Any]:
    """The options of the provider `deepgram` for the same results."""
    options: dict[str, Any] = {
        name: flags[name]
        for name in ("smart_format", "punctuate", "vad_events", *_PASSED_BOOLEANS)
        if name in query
    }
    if "model" in query:
        options["model"] = model
    if language is not None:
        options["language"] = language
    if language == "multi" and model.startswith("nova-3") and query.get("language_hint"):
        options["language_hint"] = list(query["language_hint"])
    if endpointing is not None:
        options["endpointing"] = endpointing
    if utterance_end is not None:
        options["utterance_end_ms"] = utterance_end
    if "diarize" in query:
        options["diarize"] = flags["diarize"]
    if diarizer := _one(query, "diarize_model"):
        options["diarize_model"] = diarizer
    if redact := [kind for kind in query.get("redact", ()) if kind in _REDACT]:
        options["redact"] = redact
    if query.get("tag"):
        options["tag"] = [tag[:128] for tag in query["tag"] if tag]
    if query.get("keywords"):
        options["keywords"] = list(query["keywords"])
    return options


def _malformed(detail: str) -> NoReturn:
    message = f"Failed to deserialize query parameters: {detail}"
    raise BadQuery(400, "INVALID_QUERY_PARAMETER", message)


def _bad(detail: str) -> NoReturn:
    raise BadQuery(400, "Bad Request", f"Bad Request: {detail}")


def _one(query: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = query.get(name)
    return values[0] if values else None


def _boolean(query: Mapping[str, Sequence[str]], name: str) -> bool:
    value = _one(query, name)
    if value not in (None, "", "true", "false"):
        _malformed(f"{name}: provided string was not `true` or `false`")
    return value == "true"


def _integer(query: Mapping[str, Sequence[str]], name: str) -> int | None:
    value = _one(query, name)
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        _malformed(f"{name}: invalid digit found in string")
    return int(value)


def _endpointing(query: Mapping[str, Sequence[str]]) -> int | Literal[False] | None:
    """Milliseconds; False if it is off, None if the client leaves it to the backend."""
    value = _one(query, "endpointing")
    if value == "false":
        return False
    if value == "true":
        return None
    return _integer(query, "endpointing")

"""Validation of Deepgram listen v1 handshakes.

Error codes and texts follow the vendor's documentation ("Errors", "Live audio").
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from aiohttp import web

from ..session import Refusal

ENCODINGS: Final = (
    "linear16",
    "linear32",
    "flac",
    "alaw",
    "mulaw",
    "amr-nb",
    "amr-wb",
    "opus",
    "ogg-opus",
    "speex",
    "g729",
)
_NOVA_2: Final = (
    "general meeting finance conversationalai voicemail video medical drivethru automotive"
)
MODELS: Final = frozenset(
    [
        *("nova-3", "nova-3-general", "nova-3-medical", "nova-2"),
        *(f"nova-2-{name}" for name in _NOVA_2.split()),
        *("nova", "nova-general", "nova-phonecall", "nova-medical", "enhanced"),
        *(f"enhanced-{name}" for name in ("general", "meeting", "phonecall", "finance")),
        *("base", "meeting", "phonecall", "finance", "conversationalai", "voicemail", "video"),
        "custom",
    ]
)
_BOOLEANS: Final = (
    *("multichannel", "interim_results", "vad_events", "smart_format", "punctuate", "numerals"),
    *("profanity_filter", "dictation", "diarize", "detect_entities", "mip_opt_out"),
    *("filler_words", "no_delay"),
)
_REDACT: Final = ("true", "false", "pci", "numbers", "aggressive_numbers", "ssn")
KEYTERM_TOKENS: Final = 500
ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    401: ("INVALID_AUTH", "Invalid credentials."),
    402: (
        "ASR_PAYMENT_REQUIRED",
        "Project does not have enough credits for an ASR request and does not have an "
        "overage agreement.",
    ),
    403: (
        "INSUFFICIENT_PERMISSIONS",
        "Project does not have access to the requested model.",
    ),
    429: ("TOO_MANY_REQUESTS", "Too many requests. Please try again later"),
    503: ("Service Unavailable", "Please try again later"),
}
"""Code and text of each HTTP error."""


@dataclass(frozen=True)
class Listen:
    """A valid query."""

    encoding: str | None
    sample_rate: int
    channels: int
    multichannel: bool
    model: str
    interim_results: bool
    endpointing_ms: int | None
    utterance_end_ms: int | None
    vad_events: bool
    punctuated: bool
    diarize: bool
    extra: dict[str, str]
    keyterms: tuple[str, ...]
    language_hints: tuple[str, ...] | None = None
    """None without `language=multi` on Nova-3, where hints are ignored."""


def refuse(status: int, code: str, message: str) -> Refusal:
    """Return an HTTP error in Deepgram's form, with the text also in the `dg-error` header."""
    request_id = str(uuid.uuid4())
    body = {"err_code": code, "err_msg": message, "request_id": request_id}
    return Refusal(status, body, {"dg-request-id": request_id, "dg-error": message})


def check_auth(request: web.Request, api_key: str | None) -> str | None:
    """Check the key and return the WebSocket subprotocol if it carried the key. Raises Refusal.

    API keys use the scheme `Token`, short-lived JWTs use `Bearer`.
    """
    subprotocol = None
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    offered = [
        part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    ]
    if not scheme and len(offered) == 2:
        scheme, secret = offered
        subprotocol = scheme
    is_jwt = secret.count(".") == 2
    right_shape = {"token": not is_jwt, "bearer": is_jwt}.get(scheme.lower(), False)
    if not secret or not right_shape or (api_key is not None and not is_jwt and secret != api_key):
        raise refuse(401, "INVALID_AUTH", "Invalid credentials.")
    return subprotocol


def parse(query: Mapping[str, Sequence[str]]) -> Listen:
    """Parse a query by parameter name. Raises Refusal."""
    flags = {name: boolean(query, name) for name in _BOOLEANS}
    encoding = one(query, "encoding")
    sample_rate = _integer(query, "sample_rate")
    channels = _integer(query, "channels") or 1
    if encoding is not None and encoding not in ENCODINGS:
        malformed(f"unknown variant `{encoding}`, expected one of {', '.join(ENCODINGS)}")
    if encoding in ("linear16", "linear32", "mulaw", "alaw") and sample_rate is None:
        bad("`sample_rate` is required when `encoding` is given.")
    if channels < 1 or (flags["multichannel"] and channels > 20):
        bad("at most 20 channels are supported.")
    model = one(query, "model") or "base"
    _check_model(model, query)
    for value in query.get("redact", ()):
        if value not in _REDACT:
            malformed(f"redact: unknown variant `{value}`")
    if "summarize" in query:
        bad("Summarization is not available for streaming.")
    if "topics" in query or "intents" in query:
        raise refuse(403, "UNAUTHORIZED_FEATURES_REQUESTED", "Features are not allowed.")
    utterance_end = _integer(query, "utterance_end_ms")
    if utterance_end is not None:
        if not 1000 <= utterance_end <= 5000:
            malformed("utterance_end_ms: expected a value between 1000 and 5000")
        if not flags["interim_results"]:
            bad("`utterance_end_ms` needs `interim_results=true`.")
    return Listen(
        encoding=encoding,
        sample_rate=sample_rate or 0,
        channels=channels,
        multichannel=flags["multichannel"],
        model=model,
        interim_results=flags["interim_results"],
        endpointing_ms=_endpointing(query),
        utterance_end_ms=utterance_end,
        vad_events=flags["vad_events"],
        punctuated=flags["punctuate"] or flags["smart_format"],
        diarize=flags["diarize"] or "diarize_model" in query,
        extra=dict(pair.split(":", 1) for pair in query.get("extra", ()) if ":" in pair),
        keyterms=tuple(query.get("keyterm", ())),
        language_hints=_hints(model, query),
    )


def count_tokens(keyterms: Sequence[str]) -> int:
    """Count the tokens of keyterms; the emulator counts words."""
    return sum(len(term.split()) for term in keyterms)


def _hints(model: str, query: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
    if not model.startswith("nova-3") or one(query, "language") != "multi":
        return None
    hints = tuple(query.get("language_hint", ()))
    for hint in hints:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*", hint):
            bad(f"language_hint: `{hint}` is not supported.")
    return hints


def _check_model(model: str, query: Mapping[str, Sequence[str]]) -> None:
    if model.startswith("flux"):
        bad("Flux models are served on /v2/listen.")
    if model not in MODELS and not re.fullmatch(r"[0-9a-f-]{36}", model):
        # An unknown name gets the same answer as a model without access.
        message = "Project does not have access to the requested model."
        raise refuse(403, "INSUFFICIENT_PERMISSIONS", message)
    nova_3 = model.startswith("nova-3")
    if one(query, "language") == "multi" and not model.startswith(("nova-2", "nova-3")):
        bad("No such model/language/tier combination found.")
    if query.get("keyterm") and not nova_3:
        bad("Keyterms are only supported for Nova-3 and Flux.")
    if query.get("keywords") and nova_3:
        bad("Keywords are not supported for Nova-3, use keyterm.")
    if count_tokens(query.get("keyterm", ())) > KEYTERM_TOKENS:
        bad(f"Keyterm limit exceeded. The maximum number of tokens is {KEYTERM_TOKENS}.")
    diarizer = one(query, "diarize_model")
    if diarizer is not None and "diarize" in query:
        bad("diarize_model cannot be used together with diarize or diarize_version.")
    if diarizer not in (None, "latest", "v1"):
        bad(f"diarize_model: `{diarizer}` is not supported for streaming.")


def malformed(detail: str) -> NoReturn:
    """Refuse a parameter of the wrong type. Raises Refusal."""
    message = f"Failed to deserialize query parameters: {detail}"
    raise refuse(400, "INVALID_QUERY_PARAMETER", message)


def bad(detail: str) -> NoReturn:
    """Refuse a well-formed request. Raises Refusal."""
    raise refuse(400, "Bad Request", f"Bad Request: {detail}")


def one(query: Mapping[str, Sequence[str]], name: str) -> str | None:
    """Return the first value of a parameter, or None."""
    return query[name][0] if query.get(name) else None


def boolean(query: Mapping[str, Sequence[str]], name: str) -> bool:
    """Parse a flag, false by default. Raises Refusal."""
    value = one(query, name)
    if value not in (None, "true", "false"):
        malformed(f"{name}: provided string was not `true` or `false`")
    return value == "true"


def _integer(query: Mapping[str, Sequence[str]], name: str) -> int | None:
    value = one(query, name)
    if value is not None and not value.isdecimal():
        malformed(f"{name}: invalid digit found in string")
    return None if value is None else int(value)


def _endpointing(query: Mapping[str, Sequence[str]]) -> int | None:
    """Return the endpointing in milliseconds, 10 by default, or None if it is off."""
    if one(query, "endpointing") == "false":
        return None
    value = _integer(query, "endpointing")
    return 10 if value is None else value

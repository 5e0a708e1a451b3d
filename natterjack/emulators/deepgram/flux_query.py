"""Validation of Deepgram listen v2 (Flux) parameters, in the handshake and in Configure.

Error codes and texts follow the vendor's documentation ("Errors", "Flux configuration",
"Configure"); undocumented ones are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from .query import KEYTERM_TOKENS, bad, boolean, count_tokens, malformed, one

ENCODINGS: Final = ("linear16", "linear32", "mulaw", "alaw", "opus", "ogg-opus")
SAMPLE_RATES: Final = (8000, 16000, 24000, 44100, 48000)
LANGUAGES: Final = ("de", "en", "es", "fr", "hi", "it", "ja", "nl", "pt", "ru")
MULTILINGUAL: Final = "flux-general-multi"
MODELS: Final = ("flux-general-en", MULTILINGUAL)
_KEYTERMS: Final = 100
_THRESHOLDS: Final = ("eager_eot_threshold", "eot_threshold", "eot_timeout_ms")
_CONFIGURE_FIELDS: Final = ("type", "thresholds", "keyterms", "language_hints", "numerals")


class Invalid(Exception):
    """Refused values, with a code and a description."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(code, description)
        self.code = code
        self.description = description


class Unparsable(Exception):
    """A message that matches none of the expected formats."""


@dataclass(frozen=True)
class Config:
    """The settings that Configure can change."""

    eager_eot_threshold: float | None = None
    eot_threshold: float = 0.7
    eot_timeout_ms: int = 5000
    keyterms: tuple[str, ...] = ()
    language_hints: tuple[str, ...] = ()
    numerals: bool = False

    def as_message(self) -> dict[str, Any]:
        """Return the settings in the form of ConfigureSuccess."""
        thresholds = {name: getattr(self, name) for name in _THRESHOLDS}
        if self.eager_eot_threshold is None:
            del thresholds["eager_eot_threshold"]
        return {
            "thresholds": thresholds,
            "keyterms": list(self.keyterms),
            "language_hints": list(self.language_hints),
            "numerals": self.numerals,
        }


@dataclass(frozen=True)
class FluxListen:
    """A valid query."""

    model: str
    encoding: str | None
    sample_rate: int
    config: Config
    tags: tuple[str, ...]


def parse(query: Mapping[str, Sequence[str]]) -> FluxListen:
    """Parse a query by parameter name, ignoring unknown names. Raises Refusal."""
    model, encoding = one(query, "model"), one(query, "encoding")
    if model not in MODELS:
        malformed(f"model: unknown variant `{model}`, expected one of {', '.join(MODELS)}")
    if encoding is not None and encoding not in ENCODINGS:
        malformed(f"unknown variant `{encoding}`, expected one of {', '.join(ENCODINGS)}")
    rate = _number(query, "sample_rate", int)
    if encoding in ("linear16", "linear32", "mulaw", "alaw") and rate is None:
        bad("`sample_rate` is required when `encoding` is given.")
    if rate is not None and rate not in SAMPLE_RATES:
        bad(f"`sample_rate` must be one of {', '.join(map(str, SAMPLE_RATES))}.")
    for name in ("profanity_filter", "mip_opt_out"):
        boolean(query, name)
    redact = one(query, "redact")
    if redact not in (None, "numbers", "aggressive_numbers"):
        bad(f"redact: `{redact}` is not supported for Flux.")
    hints = tuple(query.get("language_hint", ()))
    if "" in hints:
        bad("language_hint must not be empty.")
    defaults = Config()
    threshold = _number(query, "eot_threshold", float)
    timeout = _number(query, "eot_timeout_ms", int)
    config = Config(
        eager_eot_threshold=_number(query, "eager_eot_threshold", float),
        eot_threshold=defaults.eot_threshold if threshold is None else threshold,
        eot_timeout_ms=defaults.eot_timeout_ms if timeout is None else int(timeout),
        keyterms=tuple(query.get("keyterm", ())),
        language_hints=hints,
        numerals=boolean(query, "numerals"),
    )
    try:
        check(config, model)
    except Invalid as invalid:
        bad(invalid.description)
    return FluxListen(model, encoding, int(rate or 0), config, tuple(query.get("tag", ())))


def configured(config: Config, message: Mapping[str, Any], model: str) -> Config:
    """Apply a Configure message to `config`. Raises Unparsable or Invalid."""
    if set(message) - set(_CONFIGURE_FIELDS):
        raise Unparsable
    changes: dict[str, Any] = {}
    thresholds = message.get("thresholds")
    if thresholds is not None:
        if not isinstance(thresholds, dict) or set(thresholds) - set(_THRESHOLDS):
            raise Unparsable
        for name, value in thresholds.items():
            if value is not None:
                changes[name] = _threshold(name, value)
    keyterms = message.get("keyterms")
    if keyterms is not None:
        changes["keyterms"] = _texts([keyterms] if isinstance(keyterms, str) else keyterms)
    hints = message.get("language_hints")
    if hints is not None:
        changes["language_hints"] = _texts(hints)
    numerals = message.get("numerals")
    if numerals is not None:
        if not isinstance(numerals, bool):
            raise Unparsable
        changes["numerals"] = numerals
    changed = replace(config, **changes)
    check(changed, model)
    return changed


def check(config: Config, model: str) -> None:
    """Validate `config` for `model`. Raises Invalid."""
    eager, threshold = config.eager_eot_threshold, config.eot_threshold
    if not 0.5 <= threshold <= 1.0:
        raise Invalid("INVALID_THRESHOLD", "eot_threshold must be between 0.5 and 1.0")
    if eager is not None and not 0.3 <= eager <= 0.9:
        raise Invalid("INVALID_THRESHOLD", "eager_eot_threshold must be between 0.3 and 0.9")
    if eager is not None and eager > threshold:
        raise Invalid(
            "INVALID_THRESHOLD", "eager_eot_threshold must be less than or equal to eot_threshold"
        )
    if not 500 <= config.eot_timeout_ms <= 60_000:
        raise Invalid("INVALID_TIMEOUT", "eot_timeout_ms must be between 500 and 60000")
    if len(config.keyterms) > _KEYTERMS or count_tokens(config.keyterms) > KEYTERM_TOKENS:
        raise Invalid("INVALID_KEYTERMS", "Keyterm limit exceeded.")
    if any(mark in term for term in config.keyterms for mark in ",;\n"):
        raise Invalid("INVALID_KEYTERMS", "A keyterm must not hold commas or line breaks.")
    if config.language_hints and model != MULTILINGUAL:
        raise Invalid(
            "INVALID_LANGUAGE_HINTS", f"language_hint is only supported with {MULTILINGUAL}."
        )
    if unknown := set(config.language_hints) - set(LANGUAGES):
        raise Invalid("INVALID_LANGUAGE_HINTS", f"unknown language hint: {sorted(unknown)[0]}")


def _threshold(name: str, value: Any) -> float | int:
    """Parse a number, or a string with a number, as in one of the vendor's examples."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unparsable
    try:
        return int(value) if name == "eot_timeout_ms" else float(value)
    except ValueError:
        raise Unparsable from None


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Unparsable
    return tuple(value)


def _number(
    query: Mapping[str, Sequence[str]], name: str, kind: type[int] | type[float]
) -> float | None:
    value = one(query, name)
    try:
        return None if value is None else kind(value)
    except ValueError:
        malformed(f"{name}: invalid {kind.__name__} literal")

"""Validation of Deepgram speak v2 (Flux) parameters and messages.

Codes of speed and expressivity follow the vendor's documentation ("Speed", "Expressivity"); texts,
and the other codes, are our choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from natterjack.audio import Encoding

from .query import bad, boolean, malformed, one, refuse

MODELS: Final = ("flux-alexis-en", "flux-haley-en", "flux-kit-en")
SAMPLE_RATES: Final[Mapping[str, tuple[int, ...]]] = {
    "linear16": (8000, 16_000, 24_000, 32_000, 44_100, 48_000),
    "mulaw": (8000, 16_000),
    "alaw": (8000, 16_000),
}
_NATIVE_RATE: Final = 24_000
"""Our choice: the model's own rate is not documented."""
_PARAMETERS: Final = (
    *("model", "encoding", "sample_rate", "speed", "expressivity", "mip_opt_out", "tag"),
)
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "Speak": ("type", "text"),
    "Flush": ("type",),
    "Interrupt": ("type", "playback_offset"),
    "Configure": ("type", "speed"),
    "Close": ("type",),
}
"""All fields of each message: an unknown type or field is fatal."""


class Unparsable(Exception):
    """A message that matches none of the expected formats."""


class BadSpeed(Exception):
    """A refused speed, with its code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class FluxSpeak:
    """A valid query."""

    model: str
    encoding: Encoding
    sample_rate: int
    speed: float | None
    expressivity: int
    tags: tuple[str, ...]


def parse(query: Mapping[str, Sequence[str]]) -> FluxSpeak:
    """Parse a query by parameter name. Raises Refusal, also for an unknown parameter."""
    if unknown := sorted(set(query) - set(_PARAMETERS)):
        malformed(f"unknown field `{unknown[0]}`")
    model = one(query, "model")
    if model is None:
        malformed("missing field `model`")
    if not model.startswith("flux-"):
        bad("Aura models are served on /v1/speak.")
    if model not in MODELS:
        bad("No such model/version combination found.")
    encoding = one(query, "encoding") or "linear16"
    if encoding not in SAMPLE_RATES:
        malformed(f"unknown variant `{encoding}`, expected one of {', '.join(SAMPLE_RATES)}")
    given = one(query, "sample_rate")
    rate = _NATIVE_RATE if given is None else int(given) if given.isdecimal() else 0
    if given is None and rate not in SAMPLE_RATES[encoding]:
        rate = SAMPLE_RATES[encoding][0]
    if rate not in SAMPLE_RATES[encoding]:
        bad(f"`sample_rate` must be one of {', '.join(map(str, SAMPLE_RATES[encoding]))}.")
    boolean(query, "mip_opt_out")
    return FluxSpeak(
        model,
        cast(Encoding, encoding),
        rate,
        _speed(one(query, "speed")),
        _expressivity(one(query, "expressivity")),
        tuple(query.get("tag", ())),
    )


def check_speed(speed: float) -> None:
    """Check the range and the increment of a speed. Raises BadSpeed."""
    if not 0.5 <= speed <= 1.5:
        raise BadSpeed("SPEED_OUT_OF_RANGE")
    if abs(speed / 0.05 - round(speed / 0.05)) > 1e-6:
        raise BadSpeed("SPEED_INCREMENT_INVALID")


def parse_message(message: str) -> dict[str, Any]:
    """Parse a message of the client. Raises Unparsable."""
    try:
        content = json.loads(message)
    except ValueError:
        raise Unparsable from None
    if not isinstance(content, dict) or not isinstance(kind := content.get("type"), str):
        raise Unparsable
    if set(content) - set(_FIELDS.get(kind, ())):
        raise Unparsable
    valid = True
    if kind == "Speak":
        valid = isinstance(content.get("text"), str)
    elif "playback_offset" in content:
        valid = _is_offset(content["playback_offset"])
    elif "speed" in content:
        valid = _is_number(content["speed"])
    if not valid:
        raise Unparsable
    return content


def _is_offset(offset: Any) -> bool:
    return (
        isinstance(offset, dict)
        and set(offset) == {"type", "value"}
        and offset["type"] == "time_ms"
        and type(offset["value"]) is int
        and offset["value"] >= 0
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _speed(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        speed = float(given)
        check_speed(speed)
    except ValueError:
        malformed("speed: invalid float literal")
    except BadSpeed as wrong:
        _refuse(wrong.code, f"speed: {given} is not supported.")
    return speed


def _expressivity(given: str | None) -> int:
    try:
        value = float(given or 0)
    except ValueError:
        malformed("expressivity: invalid float literal")
    if not -2 <= value <= 2:
        _refuse("EXPRESSIVITY_OUT_OF_RANGE", f"expressivity: {given} is not in [-2, 2].")
    if value != int(value):
        _refuse("EXPRESSIVITY_INCREMENT_INVALID", f"expressivity: {given} is not an integer.")
    return int(value)


def _refuse(code: str, message: str) -> NoReturn:
    raise refuse(400, code, message)

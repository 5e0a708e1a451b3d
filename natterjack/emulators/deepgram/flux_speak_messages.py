"""Warnings and failures of Deepgram's speak v2 (Flux), by code.

Codes follow the vendor's documentation ("Server Messages"). Close codes are undocumented (our
choice).
"""

from __future__ import annotations

from typing import Any, Final

_WARNINGS: Final = {
    "NO_ACTIVE_SPEECH": "There is no active turn. The request will be ignored.",
    "NO_SYNTHESIZABLE_TEXT": "The text of the turn cannot be spoken.",
    "SYNTHESIS_RETRYING": "Synthesis failed and is retried.",
    "INPUT_MARKUP_STRIPPED": "Markup was removed from the text.",
    "NO_AUDIO_GENERATED": "There is no audio to interrupt.",
    "INTERRUPT_IN_PROGRESS": "An earlier Interrupt is in progress.",
    "INVALID_INTERRUPT_OFFSET": "playback_offset must advance.",
}
_CLOSE_CODES: Final = {"MESSAGE": 1008, "DATA": 1008, "BIG": 1009}
"""Close codes, by the first word of the error's code."""


def warning(code: str) -> dict[str, Any]:
    """Return a Warning."""
    return {
        "type": "Warning",
        "code": code,
        "description": _WARNINGS.get(code, "A condition on demand."),
    }


def configure_failure(code: str, speed: float | None) -> dict[str, Any]:
    """Return the answer to a Configure with this speed that was not applied."""
    failure: dict[str, Any] = {"type": "ConfigureFailure", "code": code}
    if code != "INTERNAL_ERROR":
        failure["field"] = "speed"
    if code not in ("INTERNAL_ERROR", "SPEED_NOT_SUPPORTED"):
        failure["value"] = speed
    return {**failure, "description": "The change was not applied."}


def close_code(code: str) -> int:
    """Return the close code after an Error with this code."""
    return _CLOSE_CODES.get(code.partition("-")[0], 1011)

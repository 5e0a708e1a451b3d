"""Options of a session for the `deepgram-aura` voice, and the query built from them.

Names and rules are those of the vendor's query parameters (Deepgram docs, "Streaming text to
speech"). An option overrides the session's own fields, which override the settings.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from natterjack.plugin.errors import RequestRefused
from natterjack.plugin.options import parse_options
from natterjack.plugin.voice import VoiceStreamRequest
from worker.providers.deepgram import vendor
from worker.providers.deepgram.vendor import either

from .settings import DeepgramSpeakSettings

NAME: Final = "deepgram-aura"
SAMPLE_RATES: Final = (24_000, 8000, 16_000, 32_000, 48_000)
"""Rates of linear16, the voices' own first."""

_MODEL: Final = re.compile(r"aura-(?P<second>2-)?(?P<voice>[a-z0-9]+)-(?P<language>[a-z]{2,3})")
_BOTH: Final = {"aquila", "carina", "diana", "javier", "selena"}
"""Spanish voices that speak English too ("Voices and languages")."""
_SPEEDS: Final = {"en": 0.7, "es": 0.9}
"""The least `speed` for each language that has it; Spanish below that is disfluent ("Speed")."""


class Options(BaseModel):
    """Schema of `VoiceStreamRequest.options`. Types are strict: `"true"` is not a boolean."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    speed: Annotated[float, Field(ge=0.7, le=1.5)] | None = None
    mip_opt_out: bool | None = None


def refused(message: str) -> RequestRefused:
    """The error for a request that this voice cannot serve."""
    return vendor.refused(NAME, message)


def query(settings: DeepgramSpeakSettings, request: VoiceStreamRequest) -> list[tuple[str, str]]:
    """Build the query of a stream. Raises: RequestRefused."""
    options = parse_options(NAME, Options, request.options)
    if request.encoding != "linear16" or request.sample_rate not in SAMPLE_RATES:
        raise refused(f"{request.encoding} at {request.sample_rate} Hz is not supported")
    model = options.model or request.model or settings.speak_model
    matched = _MODEL.fullmatch(model)
    if matched is None:
        raise refused(
            f"unknown voice {model!r}: speak v1 has voices aura-2-<voice>-<language>, such as "
            "aura-2-thalia-en"
        )
    _check_language(request.language, matched)
    found = [
        ("model", model),  # always sent: the default is a voice of the first generation
        ("encoding", request.encoding),
        ("sample_rate", str(request.sample_rate)),
    ]
    found += _speed(options.speed, settings.speak_speed, matched)
    if either(options.mip_opt_out, settings.speak_mip_opt_out):
        found.append(("mip_opt_out", "true"))
    return found


def _check_language(language: str | None, model: re.Match[str]) -> None:
    wanted = (language or "").partition("-")[0].lower()
    speaks = {model["language"]}
    if model["second"] and model["language"] == "es" and model["voice"] in _BOTH:
        speaks.add("en")
    if wanted and wanted not in speaks:
        raise refused(f"language {language!r}: {model[0]} speaks {' and '.join(sorted(speaks))}")


def _speed(
    option: float | None, setting: float | None, model: re.Match[str]
) -> list[tuple[str, str]]:
    """The parameter `speed`, if any. A setting that the voice does not have is left out, since it
    is for all voices; an option is refused."""
    speed = setting if option is None else option
    if speed is None:
        return []
    least = _SPEEDS.get(model["language"]) if model["second"] else None
    if least is not None and speed >= least:
        return [("speed", f"{speed:g}")]
    if option is None:
        return []
    if least is None:
        raise refused(f"option 'speed': {model[0]} does not support it")
    raise refused(f"option 'speed': {model[0]} supports {least:g} to 1.5")

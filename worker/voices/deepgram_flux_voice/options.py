"""Options of a session for the `deepgram-flux-voice` voice, and the query built from them.

Names and rules are those of the vendor's query parameters (Deepgram docs, "Flux TTS"). An option
overrides the session's own fields, which override the settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from natterjack.plugin.errors import RequestRefused
from natterjack.plugin.options import parse_options
from natterjack.plugin.voice import VoiceStreamRequest
from worker.providers.deepgram import vendor
from worker.providers.deepgram.settings import listed
from worker.providers.deepgram.vendor import as_list, either

from .settings import DeepgramFluxVoiceSettings, checked_speed

NAME: Final = "deepgram-flux-voice"
SAMPLE_RATES: Final = (8000, 16_000, 24_000, 32_000, 44_100, 48_000)
"""Rates of linear16."""

_MODEL: Final = re.compile(r"flux-[a-z0-9-]+-(?P<language>[a-z]{2,3})")
_Speed = Annotated[float, AfterValidator(checked_speed)]
_Tag = Annotated[str, Field(min_length=1, max_length=128)]


class Options(BaseModel):
    """Schema of `VoiceStreamRequest.options`. Types are strict: `"true"` is not a boolean."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    speed: _Speed | None = None
    expressivity: Annotated[int, Field(ge=-2, le=2)] | None = None
    tag: _Tag | list[_Tag] | None = None
    mip_opt_out: bool | None = None


class Changes(BaseModel):
    """Schema of the changes that `configure` accepts: `Configure` has no other field."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    speed: _Speed = 1.0


CONFIGURABLE: Final = frozenset(Changes.model_fields)
"""Names of the settings that `configure` changes."""


def refused(message: str) -> RequestRefused:
    """The error for a request that this voice cannot serve."""
    return vendor.refused(NAME, message)


def parse_changes(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the changes for `configure`. Raises: RequestRefused that names the invalid one."""
    parsed = parse_options(NAME, Changes, changes, what="configure")
    return parsed.model_dump(include=set(changes))


def query(
    settings: DeepgramFluxVoiceSettings, request: VoiceStreamRequest
) -> list[tuple[str, str]]:
    """Build the query of a stream. Raises: RequestRefused."""
    options = parse_options(NAME, Options, request.options)
    if request.encoding != "linear16" or request.sample_rate not in SAMPLE_RATES:
        raise refused(f"{request.encoding} at {request.sample_rate} Hz is not supported")
    found = [
        ("model", _model(options.model or request.model or settings.flux_voice_model, request)),
        ("encoding", request.encoding),
        # Always sent: the default is the model's own rate, which the documentation does not name.
        ("sample_rate", str(request.sample_rate)),
    ]
    speed = settings.flux_voice_speed if options.speed is None else options.speed
    if speed != 1.0:  # a model without the control refuses it (SPEED_NOT_SUPPORTED)
        found.append(("speed", f"{speed:g}"))
    expressivity = options.expressivity
    if expressivity is None:
        expressivity = settings.flux_voice_expressivity
    if expressivity:
        found.append(("expressivity", str(expressivity)))
    if either(options.mip_opt_out, settings.flux_voice_mip_opt_out):
        found.append(("mip_opt_out", "true"))
    tags = listed(settings.flux_voice_tag) if options.tag is None else options.tag
    return found + [("tag", tag) for tag in as_list(tags)]


def _model(model: str, request: VoiceStreamRequest) -> str:
    """Check the name of the voice, which ends with its language."""
    matched = _MODEL.fullmatch(model)
    if matched is None:
        raise refused(
            f"unknown voice {model!r}: speak v2 has voices flux-<voice>-<language>, such as "
            "flux-haley-en"
        )
    language = (request.language or "").partition("-")[0].lower()
    if language and language != matched["language"]:
        raise refused(f"language {request.language!r}: {model} speaks {matched['language']!r}")
    return model

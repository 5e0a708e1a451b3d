"""Settings of the `deepgram-flux` provider. Key and address are those of `deepgram`."""

from __future__ import annotations

from pydantic import ValidationInfo, field_validator

from natterjack.settings import described

from ..deepgram.settings import DeepgramAccount


class DeepgramFluxSettings(DeepgramAccount):
    """Deepgram's turn-based streaming speech-to-text (listen v2, Flux models)."""

    flux_model: str = described(
        "flux-general-en",
        "model, unless the session names one: flux-general-en or flux-general-multi",
    )
    flux_eot_threshold: float = described(
        0.7, "confidence that ends a turn, 0.5 to 1; 1: the model never ends one", ge=0.5, le=1
    )
    flux_eager_eot_threshold: float | None = described(
        None,
        "confidence that ends a turn for the time being, 0.3 to 0.9; none: no such ends",
        ge=0.3,
        le=0.9,
    )
    flux_eot_timeout_ms: int = described(
        5000, "silence that ends a turn in any case, in milliseconds", ge=500, le=60_000
    )
    flux_language_hints: str = described(
        "", "languages to expect, with commas between (flux-general-multi)"
    )
    flux_numerals: bool = described(False, "write numbers as digits")
    flux_profanity_filter: bool = described(False, "replace or remove profanity")
    flux_redact: str = described("", "what to redact: numbers or aggressive_numbers; none: nothing")
    flux_tag: str = described("", "tags for the vendor's usage reports, with commas between")
    flux_mip_opt_out: bool = described(
        False, "opt out of the vendor's model improvement programme (changes the price)"
    )
    flux_commit_updates: int = described(
        3,
        "messages in a row that must say the same words before the head of an open turn is made "
        "final; 0: it never is",
        ge=0,
    )
    flux_commit_seconds: float = described(
        3, "seconds of audio over which they must say the same", ge=0
    )
    flux_commit_length_seconds: float = described(
        5, "the head of a turn is made final in pieces of at least so many seconds", ge=0
    )
    flux_silence_seconds: float = described(
        0.5,
        "when audio stops in a turn, between sounds, silence is sent after so many seconds",
        gt=0,
    )
    flux_keepalive_seconds: float = described(
        5, "a frame of silence is sent after so many seconds without audio", gt=0, lt=60
    )
    flux_finish_silence_seconds: float = described(
        0.8, "silence sent behind the end of the audio, in seconds", ge=0.4
    )
    flux_ping_seconds: float = described(
        15, "a WebSocket ping is sent after so long without a message, in seconds", gt=0, lt=60
    )
    flux_connect_timeout_seconds: float = described(
        10, "bound of connecting, handshake included, in seconds", gt=0
    )
    flux_connected_timeout_seconds: float = described(
        5, "how long the provider may take to greet after the handshake, in seconds", gt=0
    )
    flux_configure_timeout_seconds: float = described(
        5, "how long the provider may take to answer a change of settings, in seconds", gt=0
    )
    flux_catch_up_rate: float = described(
        1.25, "times real time at which recorded audio is sent; Flux consumes no more", ge=1
    )
    flux_price_per_hour: float = described(
        0.39,
        "USD an hour of audio, silence included (0.0065 a minute: flux-general-en; "
        "flux-general-multi: 0.0078; price lists of November 2026)",
        ge=0,
    )

    @field_validator("flux_eager_eot_threshold")
    @classmethod
    def _not_above(cls, eager: float | None, info: ValidationInfo) -> float | None:
        threshold = info.data.get("flux_eot_threshold")
        if eager is not None and threshold is not None and eager > threshold:
            raise ValueError(f"must not be above eot_threshold, {threshold:g}")
        return eager

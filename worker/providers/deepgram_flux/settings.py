"""Settings of the `deepgram-flux` provider. It shares the key and the address with `deepgram`."""

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
        0.7, "confidence that ends a turn, 0.5 to 1; at 1 the model never ends one", ge=0.5, le=1
    )
    flux_eager_eot_threshold: float | None = described(
        None,
        "confidence that ends a turn provisionally, 0.3 to 0.9 and at most eot_threshold; if "
        "unset, turns never do",
        ge=0.3,
        le=0.9,
    )
    flux_eot_timeout_ms: int = described(
        5000, "silence that always ends a turn, in milliseconds, 500 to 60000", ge=500, le=60_000
    )
    flux_language_hints: str = described(
        "", "languages to expect, separated by commas (flux-general-multi)"
    )
    flux_numerals: bool = described(False, "write numbers as digits")
    flux_profanity_filter: bool = described(False, "replace or remove profanity")
    flux_redact: str = described("", "what to redact: numbers or aggressive_numbers")
    flux_tag: str = described("", "tags for Deepgram's usage reports, separated by commas")
    flux_mip_opt_out: bool = described(
        False, "opt out of Deepgram's model improvement program (changes the price)"
    )
    flux_commit_updates: int = described(
        3,
        "consecutive messages that must agree on the head of an open turn before it is made final; "
        "0 turns this off",
        ge=0,
    )
    flux_commit_seconds: float = described(
        3, "seconds of audio over which the messages must agree", ge=0
    )
    flux_commit_length_seconds: float = described(
        5, "minimum length of a head that is made final, in seconds", ge=0
    )
    flux_silence_seconds: float = described(
        0.5,
        "time without audio after which silence is sent in an open turn, in seconds",
        gt=0,
    )
    flux_keepalive_seconds: float = described(
        5, "time without audio after which a frame of silence is sent, in seconds", gt=0, lt=60
    )
    flux_finish_silence_seconds: float = described(
        0.8, "silence sent after the end of the audio, in seconds", ge=0.4
    )
    flux_ping_seconds: float = described(
        15,
        "time without a message after which a WebSocket ping is sent, in seconds; the pong must "
        "arrive within half that time",
        gt=0,
        lt=60,
    )
    flux_connect_timeout_seconds: float = described(
        10, "timeout for connecting, including the handshake, in seconds", gt=0
    )
    flux_connected_timeout_seconds: float = described(
        5, "timeout for the message Connected after the handshake, in seconds", gt=0
    )
    flux_configure_timeout_seconds: float = described(
        5, "timeout for the response to a change of settings, in seconds", gt=0
    )
    flux_catch_up_rate: float = described(
        1.25,
        "rate at which recorded audio is sent, as a multiple of real time; Flux accepts no more",
        ge=1,
    )
    flux_price_per_hour: float = described(
        0.39,
        "USD per hour of audio, including silence (0.0065 per minute: flux-general-en; "
        "flux-general-multi: 0.0078; November 2026)",
        ge=0,
    )

    @field_validator("flux_eager_eot_threshold")
    @classmethod
    def _not_above(cls, eager: float | None, info: ValidationInfo) -> float | None:
        threshold = info.data.get("flux_eot_threshold")
        if eager is not None and threshold is not None and eager > threshold:
            raise ValueError(f"must not exceed eot_threshold, {threshold:g}")
        return eager

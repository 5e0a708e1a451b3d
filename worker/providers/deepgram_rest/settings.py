"""Settings of the `deepgram-rest` provider."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import described


def _shared(default: Any, name: str, help: str) -> Any:
    """A field that falls back to the variable of the `deepgram` provider."""
    names = AliasChoices(f"DEEPGRAM_REST_{name.upper()}", f"DEEPGRAM_{name.upper()}")
    return Field(default=default, description=help, validation_alias=names)


class DeepgramRestSettings(BaseSettings):
    """Deepgram's speech-to-text for recordings (POST /v1/listen), one segment of speech at a
    time."""

    model_config = SettingsConfigDict(
        env_prefix="DEEPGRAM_REST_", frozen=True, extra="ignore", populate_by_name=True
    )

    api_key: SecretStr | None = _shared(None, "api_key", "API key; if unset, DEEPGRAM_API_KEY")
    url: str = _shared(
        "https://api.deepgram.com",
        "url",
        "base address (https:// or http://); /v1/listen is appended; if unset, DEEPGRAM_URL, "
        "so that audio goes to the same region",
    )
    model: str = described("nova-3", "model, unless the session names one")
    language: str | None = described(
        None,
        "language (BCP 47, or `multi`), unless the session names one; if unset, Deepgram's default "
        "(en)",
    )
    detect_language: bool = described(False, "detect the language of each segment, if none is set")
    smart_format: bool = described(True, "format numbers, dates and similar text, and punctuate")
    punctuate: bool = described(False, "punctuate when smart_format is off")
    diarize: bool = described(False, "distinguish speakers, within each segment")
    multichannel: bool = described(
        False, "transcribe up to 20 channels separately instead of mixing them"
    )
    filler_words: bool = described(False, "keep `uh` and `um`")
    numerals: bool = described(False, "write numbers as digits")
    redact: str = described("", "what to redact, separated by commas: pci, pii, numbers")
    tag: str = described("", "tags for Deepgram's usage reports, separated by commas")
    mip_opt_out: bool = described(
        False, "opt out of Deepgram's model improvement program (changes the price)"
    )
    pause_seconds: float = described(
        0.6, "silence that ends a segment of speech, in seconds, 0.1 to 5", ge=0.1, le=5
    )
    max_segment_seconds: float = described(
        15, "maximum length of a segment of speech, in seconds, 2 to 120", ge=2, le=120
    )
    max_requests: int = described(
        4, "requests of one stream in flight; at the limit, no more audio is accepted", ge=1, le=50
    )
    connect_timeout_seconds: float = described(10, "timeout for connecting, in seconds", gt=0)
    answer_timeout_seconds: float = described(
        30, "timeout for a request, including connecting, in seconds", gt=0
    )
    catch_up_rate: float = described(
        10, "rate at which recorded audio is sent, as a multiple of real time", ge=1
    )
    price_per_hour: float = described(
        0.258,
        "USD per hour of speech and channel (0.0043 per minute: Nova-3 monolingual; price lists "
        "disagree, so set your own)",
        ge=0,
    )

    @field_validator("url")
    @classmethod
    def _http_address(cls, url: str) -> str:
        scheme, _, rest = url.partition("://")
        # For DEEPGRAM_URL: Deepgram serves both APIs on the same host and path.
        scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
        if scheme not in ("http", "https") or not rest:
            raise ValueError("must start with https:// (or http:// for an emulator or a proxy)")
        return f"{scheme}://{rest.rstrip('/')}"

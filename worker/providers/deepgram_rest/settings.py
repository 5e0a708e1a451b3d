"""Settings of the `deepgram-rest` provider."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import described


def _shared(default: Any, name: str, help: str) -> Any:
    """A field that is also read from the variable of the `deepgram` provider."""
    names = AliasChoices(name, f"DEEPGRAM_REST_{name.upper()}", f"DEEPGRAM_{name.upper()}")
    return Field(default=default, description=help, validation_alias=names)


class DeepgramRestSettings(BaseSettings):
    """Deepgram's speech-to-text of recordings (POST /v1/listen), a stretch of speech at a time."""

    model_config = SettingsConfigDict(
        env_prefix="DEEPGRAM_REST_", frozen=True, extra="ignore", populate_by_name=True
    )

    api_key: SecretStr | None = _shared(None, "api_key", "API key; none: that of DEEPGRAM_API_KEY")
    url: str = _shared(
        "https://api.deepgram.com",
        "url",
        "base address (https:// or http://); /v1/listen is appended; none: that of DEEPGRAM_URL, "
        "so that audio goes to the same region",
    )
    model: str = described("nova-3", "model, unless the session names one")
    language: str | None = described(
        None, "language (BCP 47, or `multi`), unless the session names one; none: Deepgram's (en)"
    )
    detect_language: bool = described(
        False, "let Deepgram find out the language of each stretch, where none is named"
    )
    smart_format: bool = described(True, "format numbers, dates and the like, and punctuate")
    punctuate: bool = described(False, "punctuate, where smart_format is off")
    diarize: bool = described(False, "tell speakers apart, within each stretch of speech")
    multichannel: bool = described(
        False, "transcribe up to 20 channels apart, instead of mixing them"
    )
    filler_words: bool = described(False, "keep `uh` and `um`")
    numerals: bool = described(False, "write numbers as digits")
    redact: str = described("", "what to redact, with commas between: pci, pii, numbers")
    tag: str = described("", "tags for the vendor's usage reports, with commas between")
    mip_opt_out: bool = described(
        False, "opt out of the vendor's model improvement programme (changes the price)"
    )
    pause_seconds: float = described(
        0.6, "silence that ends a stretch of speech, in seconds", ge=0.1, le=5
    )
    max_segment_seconds: float = described(
        15, "a stretch of speech without a pause is cut after so many seconds", ge=2, le=120
    )
    max_requests: int = described(
        4, "stretches of a stream that may be unanswered; then no more audio is taken", ge=1, le=50
    )
    connect_timeout_seconds: float = described(10, "bound of connecting, in seconds", gt=0)
    answer_timeout_seconds: float = described(
        30, "bound of a request, connecting included, in seconds", gt=0
    )
    catch_up_rate: float = described(
        10, "times real time at which recorded audio is cut up and sent", ge=1
    )
    price_per_hour: float = described(
        0.258,
        "USD an hour of speech and channel (0.0043 a minute: Nova-3 monolingual; price lists "
        "disagree, so set your own)",
        ge=0,
    )

    @field_validator("url")
    @classmethod
    def _http_address(cls, url: str) -> str:
        scheme, _, rest = url.partition("://")
        # Of DEEPGRAM_URL: Deepgram serves both interfaces on one host, under one path.
        scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
        if scheme not in ("http", "https") or not rest:
            raise ValueError("must start with https:// (or http:// for an emulator or a proxy)")
        return f"{scheme}://{rest.rstrip('/')}"

"""Settings of the `speechmatics` provider."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import described

Model = Literal["standard", "enhanced", "melia-1"]


class SpeechmaticsSettings(BaseSettings):
    """Speechmatics' realtime speech-to-text (WebSocket, version 2)."""

    model_config = SettingsConfigDict(env_prefix="SPEECHMATICS_", frozen=True, extra="ignore")

    api_key: SecretStr | None = described(None, "API key; there is no default")
    url: str = described(
        "wss://eu2.rt.speechmatics.com/v2", "whole endpoint (wss:// or ws://), region included"
    )
    temporary_key: SecretStr | None = described(
        None, "temporary key (JWT) to use instead of the API key"
    )
    temporary_keys: bool = described(
        False, "obtain temporary keys with the API key, and connect with those"
    )
    temporary_key_ttl_seconds: int = described(
        3600, "life of the temporary keys obtained, in seconds, 60 to 86400", ge=60, le=86_400
    )
    management_url: str = described(
        "https://mp.speechmatics.com", "base address that gives temporary keys"
    )
    app: str = described("", "name of the application in the vendor's usage reports (`sm-app`)")
    language: str = described("en", "language (ISO code), unless the session names one")
    model: Model = described("enhanced", "model, unless the session names one")
    operating_point: Model | None = described(
        None, "older name of `model`, for servers that know no other; goes out instead of it"
    )
    domain: str | None = described(None, "specialised language pack, such as finance or medical")
    output_locale: str | None = described(
        None, "spelling of the transcript, such as en-GB; none: the session's language says"
    )
    max_delay_seconds: float = described(
        2.0, "longest time from the end of a word to its final, in seconds, 0.7 to 4", ge=0.7, le=4
    )
    max_delay_mode: Literal["flexible", "fixed"] = described(
        "flexible", "flexible: a number or date that is being said may take longer; fixed: never"
    )
    enable_partials: bool = described(True, "give interims, several a second")
    enable_entities: bool = described(True, "format numbers, dates and the like as one")
    diarization: Literal["none", "speaker"] = described("none", "speaker: tell speakers apart")
    max_speakers: int | None = described(
        None, "most speakers told apart, at least 2; none: the vendor's limit", ge=2
    )
    end_of_utterance_silence_seconds: float = described(
        0.6,
        "silence that ends a turn, in seconds, up to 2; keep it under max_delay_seconds; 0: off",
        ge=0,
        le=2,
    )
    max_unacknowledged_seconds: float = described(
        10, "audio sent and not acknowledged before sending waits, in seconds", gt=0
    )
    max_unacknowledged_frames: int = described(
        512, "frames sent and not acknowledged before sending waits", ge=1
    )
    final_timeout_seconds: float = described(
        30,
        "words in an interim that are not final after so much acknowledged audio fail the stream, "
        "in seconds; 0: off",
        ge=0,
    )
    silence_margin_seconds: float = described(
        5,
        "audio so much older than the end of an interim without words is taken as silence for "
        "good, in seconds; 0: off",
        ge=0,
    )
    connect_timeout_seconds: float = described(
        10, "bound of connecting, handshake included, in seconds", gt=0
    )
    start_timeout_seconds: float = described(
        20, "bound of the wait for RecognitionStarted; a long vocabulary takes up to 15 s", gt=0
    )
    retry_seconds: float = described(
        5,
        "least wait of a session after a full quota or an error of the server, in seconds; the "
        "vendor asks for 5 to 10",
        ge=0,
    )
    ping_seconds: float = described(
        20,
        "a WebSocket ping is sent after so long without a message, in seconds; it keeps an idle "
        "connection alive (the server waits 3 minutes)",
        gt=0,
        le=120,
    )
    catch_up_rate: float = described(
        1.25, "times real time at which recorded audio is sent; the server reads no faster", ge=1
    )
    price_per_hour: float = described(
        0.0, "USD an hour of audio in your contract; the vendor's documents name no price", ge=0
    )

    @field_validator("url")
    @classmethod
    def _websocket_address(cls, url: str) -> str:
        if not url.startswith(("ws://", "wss://")):
            raise ValueError("must start with wss:// (or ws:// for an emulator or a proxy)")
        return url

    @field_validator("management_url")
    @classmethod
    def _http_address(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with https:// (or http:// for an emulator or a proxy)")
        return url.rstrip("/")

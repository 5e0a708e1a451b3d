"""Settings of the `speechmatics` provider, and those it shares with `speechmatics-agent`."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.plugin.errors import PluginError
from natterjack.settings import described


def websocket_address(url: str) -> str:
    """Return the address. Raises: ValueError if it is not one of a WebSocket."""
    if not url.startswith(("ws://", "wss://")):
        raise ValueError("must start with wss:// (or ws:// for an emulator or a proxy)")
    return url


Model = Literal["standard", "enhanced", "melia-1"]


class SpeechmaticsAccount(BaseSettings):
    """The account at Speechmatics, and connections to it."""

    model_config = SettingsConfigDict(env_prefix="SPEECHMATICS_", frozen=True, extra="ignore")

    api_key: SecretStr | None = described(None, "API key; required unless there is a temporary key")
    temporary_key: SecretStr | None = described(
        None, "temporary key (JWT) to use instead of the API key"
    )
    temporary_keys: bool = described(
        False, "obtain temporary keys with the API key, and connect with them"
    )
    temporary_key_ttl_seconds: int = described(
        3600, "lifetime of obtained temporary keys, in seconds, 60 to 86400", ge=60, le=86_400
    )
    management_url: str = described(
        "https://mp.speechmatics.com", "base address for temporary keys"
    )
    app: str = described("", "name of the application in Speechmatics' usage reports (`sm-app`)")
    max_unacknowledged_seconds: float = described(
        10, "limit of audio that is not acknowledged, in seconds; at the limit, sending waits", gt=0
    )
    max_unacknowledged_frames: int = described(
        512, "limit of frames that are not acknowledged; at the limit, sending waits", ge=1
    )
    connect_timeout_seconds: float = described(
        10,
        "timeout for connecting, including the handshake, and for obtaining a temporary key, in "
        "seconds",
        gt=0,
    )
    start_timeout_seconds: float = described(
        20, "timeout for RecognitionStarted, in seconds; a long vocabulary takes up to 15 s", gt=0
    )
    retry_seconds: float = described(
        5,
        "minimum wait of a session after a full quota or a server error, in seconds; the "
        "vendor recommends 5 to 10",
        ge=0,
    )
    ping_seconds: float = described(
        20,
        "time without a message after which a WebSocket ping is sent, in seconds; the pong must "
        "arrive within half that time; pings keep an idle connection open (the server waits 3 "
        "minutes)",
        gt=0,
        le=120,
    )

    @field_validator("management_url")
    @classmethod
    def _http_address(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with https:// (or http:// for an emulator or a proxy)")
        return url.rstrip("/")

    def checked_key(self) -> SecretStr:
        """Return the API key, or the temporary key instead. Raises: PluginError."""
        key = self.api_key or self.temporary_key
        if key is None or not key.get_secret_value().strip():
            raise PluginError("SPEECHMATICS_API_KEY is not set; set it to a Speechmatics API key")
        if self.temporary_keys and self.api_key is None:
            what = "SPEECHMATICS_API_KEY is not set; it is needed to obtain temporary keys"
            raise PluginError(what)
        return key


class SpeechmaticsSettings(SpeechmaticsAccount):
    """Speechmatics' realtime speech-to-text (WebSocket, version 2)."""

    url: str = described(
        "wss://eu2.rt.speechmatics.com/v2", "full address, including the region (wss:// or ws://)"
    )
    language: str = described("en", "language (ISO code), unless the session names one")
    model: Model = described("enhanced", "model, unless the session names one")
    operating_point: Model | None = described(
        None, "older name of `model`, sent instead of it, for servers that support only this name"
    )
    domain: str | None = described(None, "specialized language pack, such as finance or medical")
    output_locale: str | None = described(
        None,
        "spelling of the transcript, such as en-GB; if unset, from the session's language if "
        "that is en-AU, en-GB or en-US",
    )
    max_delay_seconds: float = described(
        2.0, "maximum time from the end of a word to its final, in seconds, 0.7 to 4", ge=0.7, le=4
    )
    max_delay_mode: Literal["flexible", "fixed"] = described(
        "flexible", "flexible allows more time while a number or date is spoken; fixed does not"
    )
    enable_partials: bool = described(True, "send interims, several per second")
    enable_entities: bool = described(True, "format numbers, dates and similar text as one word")
    diarization: Literal["none", "speaker"] = described("none", "speaker distinguishes speakers")
    max_speakers: int | None = described(
        None, "maximum number of speakers, at least 2; if unset, the vendor's limit", ge=2
    )
    end_of_utterance_silence_seconds: float = described(
        0.6,
        "silence that ends a turn, in seconds, up to 2 and below max_delay_seconds; 0 turns it "
        "off, and a turn ends with the stream",
        ge=0,
        le=2,
    )
    final_timeout_seconds: float = described(
        30,
        "acknowledged audio after which words of an interim that are not final fail the stream, "
        "in seconds; 0 turns it off",
        ge=0,
    )
    silence_margin_seconds: float = described(
        5,
        "age, relative to the end of an interim without words, at which audio counts as silence, "
        "in seconds; 0 turns it off",
        ge=0,
    )
    catch_up_rate: float = described(
        1.25,
        "rate at which recorded audio is sent, as a multiple of real time; the server reads no "
        "faster",
        ge=1,
    )
    price_per_hour: float = described(
        0.0, "USD per hour of audio in your contract; the vendor publishes no price", ge=0
    )

    @field_validator("url")
    @classmethod
    def _websocket_address(cls, url: str) -> str:
        return websocket_address(url)

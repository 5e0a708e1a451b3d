"""Settings of the `managed` provider."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.settings import described

Extensions = Literal["auto", "on", "off"]


class ManagedSettings(BaseSettings):
    """A proxy that holds the provider's key and counts credit (`/ws/transcribe`)."""

    model_config = SettingsConfigDict(env_prefix="MANAGED_", frozen=True, extra="ignore")

    url: str = described(
        "",
        "base address of the proxy (wss:// by default, or ws://); /ws/transcribe is appended; "
        "required",
    )
    token: SecretStr | None = described(None, "token of an account of the proxy; required")
    model: str = described("nova-2", "model, unless the session names one")
    language: str = described("en-US", "language, unless the session names one")
    interim_results: bool = described(True, "send interims")
    extensions: Extensions = described(
        "auto",
        "whether the proxy supports `end` and `finalize`; auto: if its `ready` names a session",
    )
    connect_timeout_seconds: float = described(
        10, "timeout for connecting, including the handshake, in seconds", gt=0
    )
    ready_timeout_seconds: float = described(
        15, "timeout for `ready` after the token was sent, in seconds", gt=0
    )
    ping_seconds: float = described(
        20,
        "time without a message after which a WebSocket ping is sent, in seconds; the pong must "
        "arrive within half that time",
        gt=0,
    )
    hold_seconds: float = described(
        10,
        "maximum time that a text without times waits, in seconds of audio, until a pause shows "
        "where it ends; until then it is an interim",
        ge=0,
    )
    quiet_seconds: float = described(
        30,
        "seconds (both of audio and of time) without a text, despite speech, after which the proxy "
        "counts as mute",
        ge=1,
    )
    end_silence_seconds: float = described(
        2,
        "silence sent after the end of audio to a proxy without `end`, in seconds; the proxy "
        "counts it",
        ge=0,
        le=10,
    )
    end_settle_seconds: float = described(
        1.5, "time without a new text after which the stream has ended, in seconds", gt=0
    )
    end_wait_seconds: float = described(
        8, "timeout for the last texts after the end of audio, in seconds", gt=0
    )
    catch_up_rate: float = described(
        1.25, "rate at which recorded audio is sent, as a multiple of real time", ge=1
    )
    price_per_hour: float = described(0, "price per hour of audio", ge=0)
    currency: str = described("USD", "currency of the price (ISO 4217)", pattern=r"^[A-Z]{3}$")

    @field_validator("url")
    @classmethod
    def _websocket_address(cls, url: str) -> str:
        # Fact sheet, 1: no slash at the end, and wss:// by default. The known client turns https://
        # into wss://https://, so other schemes are refused here.
        scheme, separator, _ = url.partition("://")
        if separator and scheme not in ("ws", "wss"):
            raise ValueError("must start with wss:// or ws://, or have no scheme")
        url = url.rstrip("/")
        return url if separator or not url else f"wss://{url}"
